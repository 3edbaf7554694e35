// Package mda makes one local delivery as the recipient: the loop check, the
// delivery headers, the environment and exit codes of commands. Mailbox formats
// and LMTP are in the packages below it.
package mda

import (
	"context"
	"io"

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

// Result is the outcome and, in one line, why.
type Result struct {
	Outcome  Outcome
	Enhanced smtp.EnhancedCode
	Text     string // "Delivered", or the agent's last words
}

// Delivery is one message for one recipient.
type Delivery struct {
	Sender     smtp.Path
	Rcpt       smtp.Path // as in RCPT TO
	Dest       smtp.Path // after expansion
	User       string    // userbase name
	Home       string
	Subaddress string
	Body       io.ReadSeeker // LF line ends; read from its start
	Size       int64         // bytes
}

// Agent delivers to one kind of mailbox. Deliver may be called at the same time
// from several goroutines; it returns Delivered only when the message is durable.
type Agent interface {
	Deliver(ctx context.Context, d *Delivery) Result
	// Close frees connections and files.
	Close() error
}
