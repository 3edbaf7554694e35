// Command mail.lmtp delivers a message to an LMTP server; see mail.lmtp(8).
package main

import (
	"context"
	"os"

	"github.com/opensmtpd/opensmtpd/mda/program"
)

func main() {
	os.Exit(program.LMTP(context.Background(), program.OS("mail.lmtp")))
}
