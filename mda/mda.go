// Package mda makes one local delivery as the recipient: the loop check, the
// delivery headers, the environment and exit codes of commands. Mailbox formats,
// LMTP and commands are in the packages below it; package agent joins them into
// what an action line of smtpd.conf asks for.
//
// # Delivery headers
//
// Final delivery puts two lines before the message (RFC 5321 section 4.4):
//
//	Return-Path: <sender@example.org>
//	Delivered-To: recipient@example.net
//
// Return-Path is written for the null sender too, as <>: vacation programs and
// Sieve know a bounce by it.
//
// Delivered-To holds the address of RCPT TO, the one the sender used, because
// that is what people filter by, and because the members behind an alias are
// not shown to a program that forwards the message. The loop check looks for the
// same address. A message that goes round, through whatever commands, aliases
// and hosts, comes back to one of its recipient addresses after finitely many
// steps, and is stopped at the first address it meets twice. Aliases and
// .forward files that lead to other hosts write no Delivered-To, as they make no
// final delivery; a cycle of only those ends at the limit on Received lines
// (RFC 5321 section 6.3).
package mda

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Outcome of a delivery.
type Outcome uint8

// The outcomes. The zero value is a temporary failure: what is not proven
// permanent is tried again.
const (
	TempFail Outcome = iota
	Delivered
	PermFail
	Loop
)

// String returns the word of the log: TempFail, Ok, PermFail or Loop.
func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "Ok"
	case PermFail:
		return "PermFail"
	case Loop:
		return "Loop"
	}
	return "TempFail"
}

// Result is the outcome and, in one line, why.
type Result struct {
	Outcome  Outcome
	Enhanced smtp.EnhancedCode
	Text     string // "Delivered", or the agent's last words; may be told to the sender
	Exit     int    // exit status of a command that failed, else 0
	Err      error  // private cause for the log (paths, errno), may be nil
}

// Stat returns the text of the log: "Delivered", "Loop detected", or
// "Error (TEXT)" with the meaning of the exit status, if it has one, before TEXT.
func (r Result) Stat() string {
	switch r.Outcome {
	case Delivered:
		return r.Text
	case Loop:
		return "Loop detected"
	}
	if word := sysexit(r.Exit); word != "" {
		return "Error (" + word + ": " + r.Text + ")"
	}
	return "Error (" + r.Text + ")"
}

// Delivery is one message for one recipient.
type Delivery struct {
	Sender     smtp.Path
	Rcpt       smtp.Path // as in RCPT TO
	Dest       smtp.Path // after expansion
	User       string    // userbase name; empty for a command or file straight from an alias
	Home       string
	Subaddress string
	Exec       string        // "|command" or "/file" out of an alias or .forward; empty: the action's own method
	Prefix     []byte        // header lines written before the body; package agent sets it to Headers
	Body       io.ReadSeeker // LF line ends; read from its start
	Size       int64         // of Body, bytes; a Body of another size is a temporary failure
}

// Agent delivers to one kind of mailbox. Deliver may be called at the same time
// from several goroutines; it returns Delivered only when the message is durable.
type Agent interface {
	Deliver(ctx context.Context, d *Delivery) Result
	// Close frees connections and files.
	Close() error
}

// OK is the result of a successful delivery.
func OK() Result {
	return Result{Outcome: Delivered, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "Delivered"}
}

// Fail returns a temporary failure for an error of the system: text says in
// public words what was being done, err stays private. Full disks and exhausted
// quotas (RFC 3463 codes X.3.1 and X.2.2) are named. No error of a file system
// is permanent: someone can repair it while the message waits.
func Fail(text string, err error) Result {
	r := Result{Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: text, Err: err}
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.EDQUOT):
		r.Enhanced = smtp.EnhancedCode{4, 2, 2}
		r.Text += ": disk quota of the mailbox exceeded"
	case errors.Is(err, syscall.ENOSPC):
		r.Enhanced = smtp.EnhancedCode{4, 3, 1}
		r.Text += ": no space left for the mailbox"
	case errors.As(err, &errno):
		r.Text += ": " + errno.Error()
	case errors.Is(err, context.DeadlineExceeded):
		r.Text += ": timed out"
	case errors.Is(err, context.Canceled):
		r.Text += ": interrupted"
	}
	return r
}

// Refuse returns a permanent failure.
func Refuse(code smtp.EnhancedCode, text string) Result {
	return Result{Outcome: PermFail, Enhanced: code, Text: text}
}

// Check refuses deliveries whose facts cannot be passed on: control characters
// would add header lines, commands or variables of their own.
func (d *Delivery) Check() error {
	for _, f := range [...]struct{ name, value string }{
		{"sender", d.Sender.Local}, {"sender", d.Sender.Domain},
		{"recipient", d.Rcpt.Local}, {"recipient", d.Rcpt.Domain},
		{"destination", d.Dest.Local}, {"destination", d.Dest.Domain},
		{"user", d.User}, {"home", d.Home}, {"subaddress", d.Subaddress}, {"command", d.Exec},
	} {
		if i := strings.IndexFunc(f.value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			return fmt.Errorf("%s holds a control character", f.name)
		}
	}
	return nil
}
