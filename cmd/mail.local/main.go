// Command mail.local delivers a message to system mailboxes; see mail.local(8).
package main

import (
	"context"
	"os"

	"github.com/opensmtpd/opensmtpd/mda/program"
)

// mailDir is where system mailboxes are.
const mailDir = "/var/mail"

func main() {
	os.Exit(program.Local(context.Background(), program.OS("mail.local"), mailDir, program.SystemUser))
}
