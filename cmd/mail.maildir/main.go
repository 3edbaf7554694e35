// Command mail.maildir delivers a message to a Maildir; see mail.maildir(8).
package main

import (
	"context"
	"os"

	"github.com/opensmtpd/opensmtpd/mda/program"
)

func main() {
	os.Exit(program.Maildir(context.Background(), program.OS("mail.maildir")))
}
