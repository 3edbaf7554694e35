// Package proto lists every call between the processes of the daemon, and between
// smtpctl and the daemon: one file per service, data only. A call is declared once
// and used by both ends. The frames and the encoding are package imsg's.
//
// Whoever serves a call treats its contents as hostile: the caller may be a
// process that a stranger has taken over. A handler never takes a path, a uid or a
// command from a request unless the comment of the call says so.
package proto

import (
	"errors"

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

// SMTPError returns the refusal that a call came back with, or nil when err is
// anything else, which callers treat as temporary.
func SMTPError(err error) *smtp.Error {
	var local *smtp.Error
	if errors.As(err, &local) {
		return local
	}
	var remote *imsg.RemoteError
	if errors.As(err, &remote) && remote.Kind == "smtp" {
		if e, perr := smtp.ErrorFromIMsg(remote.Data); perr == nil {
			return e
		}
	}
	return nil
}
