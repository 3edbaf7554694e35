package password

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Format is the form of a file of accounts.
type Format int

// The formats of account files.
const (
	Shadow Format = iota // shadow(5) of Linux: 9 fields, dates in days
	Master               // master.passwd(5) of the BSDs: 10 fields, dates in seconds
)

// maxAccountLine bounds a line of an account file, in bytes.
const maxAccountLine = 64 << 10

// Accounts checks the passwords of the users in one file. Its methods may be
// called concurrently. The file is read anew for each check, so that a changed
// password holds at once.
type Accounts struct {
	Path   string
	Format Format
	Verify *Verifier
	Now    func() time.Time // nil: time.Now
}

// Check returns nil when password is that of the account called user, and the
// account may be used. A wrong password, an unknown user, a locked or expired
// account or password wrap platform.ErrBadPassword; the text, meant for the log
// only, tells which. All of them take about the same time. Other errors are
// temporary.
func (a *Accounts) Check(ctx context.Context, user, password string) error {
	now := time.Now()
	if a.Now != nil {
		now = a.Now()
	}
	acct, other, err := a.find(user)
	if err != nil {
		return err
	}
	if acct == nil || Locked(acct.hash) {
		why := "no such account"
		if acct != nil {
			why = "account has no usable password"
		}
		// Any hash of the file will do to spend the time; its outcome is nothing.
		if err := a.Verify.Verify(ctx, other, password); ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: %s", platform.ErrBadPassword, why)
	}
	switch err := a.Verify.Verify(ctx, acct.hash, password); {
	case errors.Is(err, ErrMismatch):
		return platform.ErrBadPassword
	case err != nil:
		return fmt.Errorf("account %q: %w", user, err)
	}
	if why := acct.refused(now); why != "" {
		return fmt.Errorf("%w: %s", platform.ErrBadPassword, why)
	}
	return nil
}

// Class returns the login class of the account called user, and why that account may
// not be used, "" when it may. Both are empty when there is no such account, and the
// class is in files of other formats than Master. It does not look at the password.
func (a *Accounts) Class(user string) (class, why string, err error) {
	acct, _, err := a.find(user)
	if err != nil || acct == nil {
		return "", "", err
	}
	now := time.Now()
	if a.Now != nil {
		now = a.Now()
	}
	return acct.class, acct.refused(now), nil
}

// find returns the account called user, nil when there is none, and the hash to
// verify in its stead: that of the first account that has one, else Dummy.
func (a *Accounts) find(user string) (acct *account, other string, err error) {
	file, err := os.Open(a.Path)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	other = Dummy
	s := bufio.NewScanner(file)
	s.Buffer(make([]byte, 0, 4096), maxAccountLine)
	for s.Scan() {
		name, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		if user != "" && name == user {
			if acct, err = parseAccount(rest, a.Format); err != nil {
				return nil, "", fmt.Errorf("%s: account %q: %w", a.Path, name, err)
			}
			return acct, other, nil
		}
		if hash, _, _ := strings.Cut(rest, ":"); other == Dummy && strings.HasPrefix(hash, "$") {
			other = hash
		}
	}
	if err := s.Err(); err != nil {
		return nil, "", fmt.Errorf("read %s: %w", a.Path, err)
	}
	return nil, other, nil
}

// account is one account, without its name.
type account struct {
	hash    string
	class   string    // login class
	mustSet bool      // the password must be changed before anything else
	aged    time.Time // the password is valid before this; zero: for ever
	expires time.Time // the account is valid before this; zero: for ever
}

// refused returns why the account may not be used, or "".
func (a *account) refused(now time.Time) string {
	switch {
	case !a.expires.IsZero() && !now.Before(a.expires):
		return "account has expired"
	case a.mustSet:
		return "password must be changed first"
	case !a.aged.IsZero() && !now.Before(a.aged):
		return "password has expired"
	}
	return ""
}

// parseAccount reads a line without its first field.
func parseAccount(rest string, f Format) (*account, error) {
	fields := strings.Split(rest, ":")
	if f == Master {
		return parseMaster(fields)
	}
	return parseShadow(fields)
}

// parseShadow reads the fields of shadow(5) behind the name: hash, day of the last
// change, minimum and maximum age, warning and inactivity period, day of expiry.
// Days count from 1970-01-01 UTC; an empty or negative number says nothing.
func parseShadow(f []string) (*account, error) {
	if len(f) != 8 {
		return nil, fmt.Errorf("%d fields instead of 9", len(f)+1)
	}
	changed, err1 := number(f[1])
	maximum, err2 := number(f[3])
	expire, err3 := number(f[6])
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	a := &account{hash: f[0], mustSet: changed == 0}
	if changed > 0 && maximum >= 0 {
		a.aged = day(changed + maximum + 1)
	}
	if expire >= 0 {
		a.expires = day(expire)
	}
	return a, nil
}

// parseMaster reads the fields of master.passwd(5) behind the name: hash, uid, gid,
// class, time by which the password must be changed, time of expiry, gecos, home,
// shell. Times are seconds since 1970-01-01 UTC; 0 or empty says nothing.
func parseMaster(f []string) (*account, error) {
	if len(f) != 9 {
		return nil, fmt.Errorf("%d fields instead of 10", len(f)+1)
	}
	change, err1 := number(f[4])
	expire, err2 := number(f[5])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	a := &account{hash: f[0], class: f[3]}
	if change > 0 {
		a.aged = time.Unix(change, 0)
	}
	if expire > 0 {
		a.expires = time.Unix(expire, 0)
	}
	return a, nil
}

// maxNumber bounds the numbers of an account, so that sums of them do not
// overflow. It reaches far beyond any date.
const maxNumber = 1 << 40

// number reads a decimal number; -1 stands for an empty field.
func number(s string) (int64, error) {
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxNumber || n < -maxNumber {
		return 0, fmt.Errorf("bad number %q", s)
	}
	return n, nil
}

// day returns the instant at which the given day since 1970-01-01 UTC begins.
func day(n int64) time.Time {
	return time.Unix(n*24*60*60, 0)
}
