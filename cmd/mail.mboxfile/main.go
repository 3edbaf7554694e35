// Command mail.mboxfile appends a message to a file in mbox format; see mail.mboxfile(8).
package main

import (
	"context"
	"os"

	"github.com/opensmtpd/opensmtpd/mda/program"
)

func main() {
	os.Exit(program.MboxFile(context.Background(), program.OS("mail.mboxfile")))
}
