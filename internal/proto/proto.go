// Package proto lists every call between the processes of the daemon, and between
// smtpctl and the daemon: one file per service, data only. A call is declared once
// and used by both ends. The frames and the encoding are package imsg's.
//
// Whoever serves a call treats its contents as hostile: the caller may be a
// process that a stranger has taken over. A handler never takes a path, a uid or a
// command from a request unless the comment of the call says so.
package proto

import (
	"bytes"
	"errors"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Role names a process. It is also the argument of -x and part of the title.
type Role string

// The roles.
const (
	Parent     Role = "parent"
	Dispatcher Role = "dispatcher"
	Lookup     Role = "lookup"
	Queue      Role = "queue"
	Key        Role = "key"
	Control    Role = "control"
	Worker     Role = "worker"  // delivers as one user
	Enqueue    Role = "enqueue" // re-injects one user's offline mail
)

// Empty is a request or reply without content.
type Empty struct{}

// refusal is a refusal on its way to another process, with the place of the rule
// that refused.
type refusal struct {
	smtp *smtp.Error
	rule string
	err  error
}

// Error returns the private cause: code and text travel beside it.
func (r *refusal) Error() string {
	if r.smtp.Err == nil {
		return ""
	}
	return r.smtp.Err.Error()
}

// Unwrap returns the error as it was.
func (r *refusal) Unwrap() error { return r.err }

// IMsgError gives the form on the wire: code, enhanced code and text, then the
// rule behind a NUL.
func (r *refusal) IMsgError() (kind string, data []byte) {
	kind, data = r.smtp.IMsgError()
	return kind, append(append(data, 0), r.rule...)
}

// Refuse prepares an error for the caller of a handler: when it is or wraps an
// *smtp.Error, the caller gets that back from SMTPError, and the place of the rule
// that refused, if an error in the chain has a method Rule() string.
func Refuse(err error) error {
	e, ok := errors.AsType[*smtp.Error](err)
	if !ok {
		return err
	}
	r := &refusal{smtp: e, err: err}
	var ruled interface {
		error
		Rule() string
	}
	if errors.As(err, &ruled) {
		r.rule = ruled.Rule()
	}
	return r
}

// Cause is the private part of a refusal that came from another process.
type Cause struct {
	text string
	rule string
}

// Error returns the other process's text.
func (c *Cause) Error() string { return c.text }

// Rule returns FILE:LINE of the rule that refused, or "".
func (c *Cause) Rule() string { return c.rule }

// SMTPError returns the refusal that a call came back with, or nil when err is
// anything else, which callers treat as temporary. Its Err is a *Cause when it came
// from another process.
func SMTPError(err error) *smtp.Error {
	if remote, ok := errors.AsType[*imsg.RemoteError](err); ok {
		if remote.Kind != "smtp" {
			return nil
		}
		data, rule, _ := bytes.Cut(remote.Data, []byte{0})
		e, perr := smtp.ErrorFromIMsg(data)
		if perr != nil {
			return nil
		}
		// The text begins with the reply, which e has.
		e.Err = &Cause{text: strings.TrimPrefix(remote.Text, e.Reply()+": "), rule: string(rule)}
		return e
	}
	if e, ok := errors.AsType[*smtp.Error](err); ok {
		return e
	}
	return nil
}
