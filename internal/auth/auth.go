// Package auth decides whether a user is who he says, against a table, and which
// sender addresses he may use. It slows down guessing: hashes are computed by a
// bounded number of goroutines, an unknown user takes as long as a known one, and
// the Limiter delays and finally refuses sources that fail often.
package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/platform/password"
	"github.com/opensmtpd/opensmtpd/table"
)

// Causes of a refusal, for errors.Is. What Check and Limiter return are *smtp.Error
// values that wrap them.
var (
	ErrDenied = errors.New("wrong user name or password")
	ErrBusy   = errors.New("too many password checks are waiting")
	ErrSource = errors.New("too many failed attempts from this source")
)

// maxText bounds a user name and a password, in bytes.
const maxText = 1023

// Options bound a Checker.
type Options struct {
	Parallel int // hashes computed at the same time; 0 means one for each processor
	Waiting  int // checks that may wait for that; 0 means 100
}

// Checker checks passwords. It may be used from many goroutines.
type Checker struct {
	verifier *password.Verifier
	queue    chan struct{}          // one for each check under way or waiting
	seen     atomic.Pointer[string] // a hash of the kind in use
}

// New returns a Checker.
func New(o Options) (*Checker, error) {
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Waiting <= 0 {
		o.Waiting = 100
	}
	v, err := password.New(o.Parallel)
	if err != nil {
		return nil, err
	}
	c := &Checker{verifier: v, queue: make(chan struct{}, o.Parallel+o.Waiting)}
	first := password.Dummy
	c.seen.Store(&first)
	return c, nil
}

// denied and temporary make the replies (RFC 4954 section 6).
func denied(cause error) error {
	return &smtp.Error{Code: 535, Enhanced: smtp.EnhancedCode{5, 7, 8}, Text: "Authentication failed", Err: cause}
}

func temporary(cause error) error {
	return &smtp.Error{Code: 454, Enhanced: smtp.EnhancedCode{4, 7, 0}, Text: "Temporary authentication failure", Err: cause}
}

// Check tells whether password is the one of user: by asking a table that offers
// Auth, else by comparing with the hash that its Credentials hold. User and password
// reach the table as they are. A wrong password and an unknown user give the same
// error, which wraps ErrDenied; any other error is temporary.
func (c *Checker) Check(ctx context.Context, t table.Table, user, secret string) error {
	if !validText(user) || !validText(secret) || strings.Contains(user, ":") {
		return denied(ErrDenied)
	}
	_, err := t.Lookup(ctx, table.Auth, user+":"+secret)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, table.ErrNotFound):
		return denied(ErrDenied)
	case !errors.Is(err, table.ErrUnsupported):
		return temporary(err)
	}
	value, err := t.Lookup(ctx, table.Credentials, user)
	if errors.Is(err, table.ErrNotFound) {
		if _, err := c.compare(ctx, *c.seen.Load(), secret); isLimit(err) {
			return temporary(err)
		}
		return denied(ErrDenied)
	}
	if err != nil {
		return temporary(err)
	}
	cred, err := ParseCredentials(user, value)
	if err != nil {
		return temporary(err)
	}
	ok, err := c.compare(ctx, cred.Password, secret)
	if err != nil {
		return temporary(fmt.Errorf("user %q: %w", user, err))
	}
	if strings.HasPrefix(cred.Password, "$") && cred.Password != *c.seen.Load() {
		c.seen.Store(&cred.Password)
	}
	if !ok {
		return denied(ErrDenied)
	}
	return nil
}

// isLimit tells an end of patience from a hash that cannot be computed.
func isLimit(err error) bool {
	return errors.Is(err, ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// compare waits for its turn and computes the hash.
func (c *Checker) compare(ctx context.Context, hash, secret string) (bool, error) {
	select {
	case c.queue <- struct{}{}:
		defer func() { <-c.queue }()
	default:
		return false, ErrBusy
	}
	return c.match(ctx, hash, secret)
}

// validText refuses what no user name or password holds, and what would be two
// lines to a table program.
func validText(s string) bool {
	return s != "" && len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsAny(s, "\x00\r\n")
}

// Credentials are a user name and a password or its hash.
type Credentials struct{ User, Password string }

// ParseCredentials reads the value of a Credentials lookup: "user:password", or a
// password alone, whose user is the key.
func ParseCredentials(key, value string) (Credentials, error) {
	if len(value) < 3 || len(value) >= 2048 {
		return Credentials{}, errors.New("credentials: want from 3 to 2047 bytes")
	}
	user, password, ok := strings.Cut(value, ":")
	if !ok {
		user, password = key, value
	}
	if user == "" || password == "" {
		return Credentials{}, errors.New("credentials: empty user name or password")
	}
	return Credentials{user, password}, nil
}

// MaySend tells whether an authenticated user may send as sender: the MailAddrMap
// entry of the user in table t is a comma list of address patterns. A user who is
// not in the table may not send, and the null sender fits "@" only.
func MaySend(ctx context.Context, t table.Table, user string, sender smtp.Path, delim string) (bool, error) {
	value, err := t.Lookup(ctx, table.MailAddrMap, user)
	if errors.Is(err, table.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	patterns, err := table.SplitList(value)
	if err != nil {
		return false, fmt.Errorf("user %q: %w", user, err)
	}
	addr := sender.Local + "@" + sender.Domain
	for _, p := range patterns {
		if table.MatchMailAddr(unquoteLocal(p), addr, delim) {
			return true, nil
		}
	}
	return false, nil
}

// unquoteLocal removes the quotes around the user of an address pattern.
func unquoteLocal(p string) string {
	user, domain := table.SplitAddr(p)
	if len(user) > 2 && user[0] == '"' && user[len(user)-1] == '"' {
		return user[1:len(user)-1] + "@" + domain
	}
	return p
}
