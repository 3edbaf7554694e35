package program

import (
	"context"

	"github.com/opensmtpd/opensmtpd/mda"
	"github.com/opensmtpd/opensmtpd/mda/lmtp"
)

// LMTP is mail.lmtp: it delivers to an LMTP server. The sender is $SENDER unless
// -f says otherwise; recipients are $USER (-u), $RECIPIENT (-r) or arguments.
func LMTP(ctx context.Context, e *Environ) int {
	if e.refuseRoot() {
		return exitUsage
	}
	fs := e.flags()
	dest := fs.String("d", "", "")
	lhlo := fs.String("l", "", "")
	from := fs.String("f", e.Getenv("SENDER"), "")
	byUser := fs.Bool("u", false, "")
	byRcpt := fs.Bool("r", false, "")
	const usage = "-d destination [-l lhlo] [-f from] [-u | -r | recipient ...]"
	if fs.Parse(e.Args) != nil || *dest == "" || *byUser && *byRcpt {
		return e.usage(usage)
	}
	rcpts := fs.Args()
	switch {
	case *byUser:
		rcpts = append(rcpts, e.Getenv("USER"))
	case *byRcpt:
		rcpts = append(rcpts, e.Getenv("RECIPIENT"))
	}
	if len(rcpts) == 0 {
		return e.usage(usage)
	}
	d, done, err := e.message()
	if err != nil {
		return e.exit(mda.Fail("cannot read message", err))
	}
	defer done()
	d.Sender = parsePath(*from)
	client := lmtp.New(*lhlo)
	defer client.Close()
	status := 0
	for _, rcpt := range rcpts {
		one := e.exit(client.Deliver(ctx, *dest, rcpt, d))
		if status == 0 || one == exitTempFail {
			status = one
		}
	}
	return status
}
