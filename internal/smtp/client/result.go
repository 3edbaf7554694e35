package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Results are the results of a transaction's recipients, in their order.
type Results []Result

// Result is what became of one recipient. Without Err the server has taken the
// message for it: Stage is Dot, and Reply what the server said.
type Result struct {
	Stage Stage // where it was decided
	Reply Reply // the server's; zero when there was none
	Err   error // an *Error or a *ConnError
}

// Permanent tells whether another attempt is pointless.
func (r Result) Permanent() bool {
	e, ok := errors.AsType[*Error](r.Err)
	return ok && e.Permanent()
}

// Reply is what a server answered.
type Reply struct {
	Code     int
	Enhanced smtp.EnhancedCode // zero when there is none
	// Text is all of the reply's text on one line: without repeated codes and
	// control characters, valid UTF-8, at most 2 KiB.
	Text string
}

// String returns "code enhanced text".
func (r Reply) String() string {
	if r.Enhanced != (smtp.EnhancedCode{}) {
		return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
	}
	return fmt.Sprintf("%d %s", r.Code, r.Text)
}

// ErrNextTransaction is wrapped by the error of a recipient that did not fail but
// needs a transaction of its own, or one with fewer recipients (RFC 5321 section
// 4.5.3.1.10, RFC 9422). It may follow at once, in the same session if that is
// Usable.
var ErrNextTransaction = errors.New("left for another transaction")

// Error is a refusal: by the server, or, when Local, by this side, since the
// message or session cannot be what is demanded.
type Error struct {
	Stage Stage
	Reply // of the server, or one that says the same
	Local bool
	Err   error // ErrNextTransaction or nil

	command string // the word, where Stage stands for several
}

// Error returns the text for the log and the sender: the reply, behind what was
// rejected where that is the session.
func (e *Error) Error() string {
	if e.Local {
		return e.Text
	}
	switch e.Stage {
	case Hello:
		return e.command + " rejected: " + e.Reply.String()
	case Banner, StartTLS, Auth:
		return e.Stage.String() + " rejected: " + e.Reply.String()
	}
	return e.Reply.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Permanent tells whether another attempt is pointless: a 5yz reply about the
// message or a recipient. What concerns the session is temporary, since another
// server, or this one later, may take it.
func (e *Error) Permanent() bool {
	return e.Stage >= Mail && e.Stage <= Dot && e.Code >= 500 && e.Code <= 599 && e.Err == nil
}

// ConnError is the end of a session by a failure of the connection, of TLS, or of
// the server to keep to the protocol. It is temporary. When Stage is Dot the
// server may have taken the message all the same.
type ConnError struct {
	Stage Stage
	Err   error
}

// Reason is a cause of a ConnError that is none of the network's or of TLS.
type Reason string

// The reasons.
const (
	ErrLineTooLong  Reason = "Bad response: line too long"
	ErrLineTooShort Reason = "Bad response: line too short"
	ErrReplyCode    Reason = "Bad response: reply code out of range"
	ErrReplyLines   Reason = "Bad response: lines of a reply do not belong together"
	ErrReplyTooLong Reason = "Bad response: too many lines"
	ErrTooMuchData  Reason = "Remote host sent too much data"
	ErrBody         Reason = "Error reading content file"
	ErrNotUsable    Reason = "Session has ended"
)

// Error returns the text of the reason.
func (r Reason) Error() string { return string(r) }

// Error returns the text for the log and the sender.
func (e *ConnError) Error() string {
	if r, ok := errors.AsType[Reason](e.Err); ok {
		return r.Error()
	}
	netErr, isNet := errors.AsType[net.Error](e.Err)
	switch {
	case errors.Is(e.Err, context.Canceled):
		return "Session ended: " + e.Err.Error()
	case errors.Is(e.Err, os.ErrDeadlineExceeded), isNet && netErr.Timeout():
		return "Connection timeout"
	case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF), errors.Is(e.Err, io.ErrClosedPipe),
		errors.Is(e.Err, syscall.ECONNRESET), errors.Is(e.Err, syscall.EPIPE):
		return "Connection closed unexpectedly"
	case e.Stage == Handshake:
		return "TLS handshake failed: " + e.Err.Error()
	}
	return "IO Error: " + e.Err.Error()
}

// Unwrap returns Err.
func (e *ConnError) Unwrap() error { return e.Err }

// Certificate tells whether TLS failed over the server's certificate.
func (e *ConnError) Certificate() bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](e.Err)
	return ok
}
