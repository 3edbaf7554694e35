// Command mail.mda gives a message to a shell command; see mail.mda(8).
package main

import (
	"context"
	"os"

	"github.com/opensmtpd/opensmtpd/mda/program"
)

func main() {
	os.Exit(program.MDA(context.Background(), program.OS("mail.mda")))
}
