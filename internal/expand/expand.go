// Package expand turns one recipient into envelopes. It asks the rules for an
// action, then follows aliases, virtual users, the userbase and ~/.forward until
// only deliveries are left. It reads no file itself: tables and the content of
// files come through what the Expander is given.
//
// The walk is first in, first out over nodes. A node is an address, a user name, a
// file, a command or an error. Every address below the first is looked up in the
// rules again, flagged internal. One node that fails fails the whole recipient,
// so that the sender learns of it; nothing is half delivered.
//
// Bounds: MaxDepth generations, MaxNodes nodes, of which MaxForwardNodes may stem
// from ~/.forward files.
package expand

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/ruleset"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/srs"
	"github.com/opensmtpd/opensmtpd/table"
)

// Bounds of one expansion.
const (
	MaxDepth        = 10    // generations from the recipient to a delivery
	MaxNodes        = 10000 // all nodes, a :include: list among them
	MaxForwardNodes = 100   // nodes that ~/.forward files brought in
	maxInclude      = 4 << 20
)

// ForwardRequest asks for the ~/.forward of a user, as the userbase describes him.
type ForwardRequest struct {
	User     string
	UID, GID int
	Home     string
}

// Expander holds what an expansion asks. Expand may be called at the same time
// from many goroutines; the fields are not changed after the first call.
type Expander struct {
	Rules   []*policy.Rule
	Actions map[string]*policy.Action // by name
	Tables  ruleset.Tables

	// Users is the userbase of actions that name none, the users of the system.
	Users table.Table

	// Forward returns the content of a user's ~/.forward, and false when he has
	// none. A failure that the sender may learn of is an *smtp.Error, any other is
	// temporary. Nil: no user has one.
	Forward func(context.Context, ForwardRequest) (content []byte, found bool, err error)

	// ReadFile returns the content of a file named by :include:. A missing file is
	// fs.ErrNotExist and counts as an empty list. Nil: includes are refused.
	ReadFile func(ctx context.Context, path string) ([]byte, error)

	// Delim parts a user name from its tag; empty means "+".
	Delim string

	// SRS decodes rewritten senders that bounces come back to. Nil: none are.
	SRS *srs.Rewriter

	// Warn is told what deserves a log line but stops nothing. May be nil.
	Warn func(error)
}

// ErrNoRule is the private cause when no rule matches the recipient itself. That
// none matches an address it expands to is another matter.
var ErrNoRule = errors.New("no rule matches")

// Error is a failed expansion and the rule that led there. It wraps an
// *smtp.Error that may be told to the client.
type Error struct {
	Pos policy.Position // zero when no rule was reached
	Err error
}

// Error returns the text of the wrapped error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the *smtp.Error.
func (e *Error) Unwrap() error { return e.Err }

// Rule returns FILE:LINE of the rule, or "" when no rule matched.
func (e *Error) Rule() string {
	if e.Pos == (policy.Position{}) {
		return ""
	}
	return e.Pos.String()
}

// Expand returns the envelopes of one recipient: at least one when the error is
// nil. They carry Type, Flags (Internal only), Action, TTL (zero: the default),
// Sender, Rcpt, Dest, User, Exec and Subaddress; the caller adds identifiers and
// the facts of the session. The error is an *Error.
func (x *Expander) Expand(ctx context.Context, f *policy.Facts) ([]*envelope.Envelope, error) {
	w := walk{x: x, facts: f, delim: x.Delim}
	if w.delim == "" {
		w.delim = "+"
	}
	err := w.run(ctx)
	if err == nil {
		return w.out, nil
	}
	e := &Error{Pos: w.pos}
	var te *ruleset.TableError
	if errors.As(err, &te) {
		e.Pos = te.Pos
	}
	if se, ok := errors.AsType[*smtp.Error](err); ok {
		e.Err = se
	} else {
		e.Err = w.fail(temporary, err)
	}
	return nil, e
}

// failure is one of the answers to RCPT.
type failure struct {
	code     int
	enhanced smtp.EnhancedCode
	text     string
}

var (
	refused   = failure{550, smtp.EnhancedCode{5, 7, 1}, "Invalid recipient"}
	unknown   = failure{550, smtp.EnhancedCode{5, 1, 1}, "Invalid recipient"}
	malformed = failure{550, smtp.EnhancedCode{5, 1, 3}, "Invalid recipient"}
	temporary = failure{451, smtp.EnhancedCode{4, 3, 0}, "Temporary failure"}
	listTemp  = failure{424, smtp.EnhancedCode{4, 2, 4}, "Mailing list expansion problem"}
	listPerm  = failure{524, smtp.EnhancedCode{5, 2, 4}, "Mailing list expansion problem"}
)

// fail makes the answer; cause is for the log.
func (w *walk) fail(f failure, cause error) *smtp.Error {
	return &smtp.Error{Code: f.code, Enhanced: f.enhanced, Text: f.text + w.suffix(), Err: cause}
}

// suffix ends each reply: the recipient, without what could end the line.
func (w *walk) suffix() string {
	return ": <" + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, w.facts.Rcpt.String()) + ">"
}

// failf is fail with a formatted cause.
func (w *walk) failf(f failure, format string, args ...any) *smtp.Error {
	return w.fail(f, fmt.Errorf(format, args...))
}

func (x *Expander) warn(err error) {
	if x.Warn != nil {
		x.Warn(err)
	}
}

// include returns the targets a :include: file lists.
func (w *walk) include(ctx context.Context, path string) ([]Target, error) {
	if w.x.ReadFile == nil {
		return nil, w.failf(listTemp, "include %s: includes are not available", path)
	}
	data, err := w.x.ReadFile(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.x.warn(fmt.Errorf("include %s: %w", path, err))
		return nil, nil
	case err != nil:
		return nil, w.failf(listTemp, "include %s: %w", path, err)
	case len(data) > maxInclude:
		return nil, w.failf(listTemp, "include %s: %d bytes, at most %d are read", path, len(data), maxInclude)
	}
	targets, err := parseFile(string(data), w.delim)
	if err != nil {
		return nil, w.failf(listTemp, "include %s: %w", path, err)
	}
	return targets, nil
}
