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
}

// Error returns the text for the log and the sender: the reply, behind what was
// rejected where that is the session.
func (e *Error) Error() string {
	if e.Local {
		return e.Text
	}
	switch e.Stage {
	case Banner, Hello, StartTLS, Auth:
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

// Errors that a ConnError may wrap, besides those of the network and of TLS.
var (
	ErrLineTooLong  = errors.New("Bad response: line too long")           //nolint // text of the log
	ErrLineTooShort = errors.New("Bad response: line too short")          //nolint
	ErrReplyCode    = errors.New("Bad response: reply code out of range") //nolint
	ErrReplyTooLong = errors.New("Bad response: too many lines")          //nolint
	ErrTooMuchData  = errors.New("Remote host sent too much data")        //nolint
	ErrBody         = errors.New("Error reading content file")            //nolint
	ErrNotUsable    = errors.New("Session has ended")                     //nolint
)

// Error returns the text for the log and the sender.
func (e *ConnError) Error() string {
	var netErr net.Error
	switch {
	case errors.Is(e.Err, ErrBody):
		return ErrBody.Error()
	case errors.Is(e.Err, context.Canceled):
		return "Session ended: " + e.Err.Error()
	case errors.Is(e.Err, os.ErrDeadlineExceeded), errors.Is(e.Err, context.DeadlineExceeded),
		errors.As(e.Err, &netErr) && netErr.Timeout():
		return "Connection timeout"
	case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF), errors.Is(e.Err, io.ErrClosedPipe),
		errors.Is(e.Err, syscall.ECONNRESET), errors.Is(e.Err, syscall.EPIPE):
		return "Connection closed unexpectedly"
	case e.protocol():
		return e.Err.Error()
	case e.Stage == Handshake:
		return "TLS handshake failed: " + e.Err.Error()
	}
	return "IO Error: " + e.Err.Error()
}

// protocol tells whether the server broke the protocol.
func (e *ConnError) protocol() bool {
	for _, err := range [...]error{ErrLineTooLong, ErrLineTooShort, ErrReplyCode, ErrReplyTooLong, ErrTooMuchData, ErrNotUsable} {
		if errors.Is(e.Err, err) {
			return true
		}
	}
	return false
}

// Unwrap returns Err.
func (e *ConnError) Unwrap() error { return e.Err }

// Certificate tells whether TLS failed over the server's certificate.
func (e *ConnError) Certificate() bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](e.Err)
	return ok
}
