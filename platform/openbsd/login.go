package openbsd

import (
	"cmp"
	"context"
	"fmt"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/bsdauth"
	"github.com/opensmtpd/opensmtpd/platform/password"
)

// kind is what login.conf(5) calls the service: a class with "auth-smtp" has styles of
// its own for it, as it has with OpenSMTPD.
const kind = "smtp"

// login checks passwords by BSD authentication.
type login struct {
	accounts  password.Accounts // for classes and dates of expiry; no hash is looked at
	programs  *bsdauth.Programs
	file, dir string // of login.conf(5)
}

// newLogin takes empty names for the usual places.
func newLogin(master, programs, file, dir string) login {
	return login{
		accounts: password.Accounts{Path: cmp.Or(master, "/etc/master.passwd"), Format: password.Master},
		programs: bsdauth.New(cmp.Or(programs, "/usr/libexec/auth")),
		file:     cmp.Or(file, "/etc/login.conf"),
		dir:      cmp.Or(dir, "/etc/login.conf.d"),
	}
}

// check asks the program of the user's style. A user who does not exist is asked for
// too, by the default style, which takes its time for those; and dates are looked at
// last, so that only who knows the password learns that the account has expired.
func (l *login) check(ctx context.Context, user, password string) error {
	class, why, err := l.accounts.Class(user)
	if err != nil {
		return err
	}
	style, err := bsdauth.Style(l.file, l.dir, class, kind)
	if err != nil {
		return err
	}
	if err := l.programs.Check(ctx, style, user, class, password); err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("%w: %s", platform.ErrBadPassword, why)
	}
	return nil
}
