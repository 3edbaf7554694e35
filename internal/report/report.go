// Package report holds the typed events of sessions and deliveries. Mail code
// emits them; maillog turns them into log lines, stats into counters, the filter
// chain into filter reports.
package report

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Session identifies an SMTP session in events, printed as 16 hex digits.
type Session uint64

// Event is one thing that happened. The concrete types are below.
type Event interface{ event() }

// Sink takes events. It may be called at the same time from many goroutines and
// must not block for long.
type Sink interface{ Report(Event) }

// Sinks passes each event to all of its members, in order.
type Sinks []Sink

// Report implements Sink.
func (s Sinks) Report(e Event) {
	for _, sink := range s {
		sink.Report(e)
	}
}

// Connected: a client connected.
type Connected struct {
	Session Session
	Address string // as in logs: "192.0.2.1", "[2001:db8::1]", "local"
	Host    string // reverse name, "<unknown>" without one
}

// TLS: a handshake succeeded.
type TLS struct {
	Session Session
	Ciphers string // VERSION:CIPHER:BITS
}

// CertCheck: the client presented a certificate.
type CertCheck struct {
	Session     Session
	Result      string // "verified" or "unchecked"
	Fingerprint string // "SHA256:" and hex digits
}

// Authentication: an AUTH exchange ended.
type Authentication struct {
	Session Session
	User    string
	Result  string // ok, permfail, tempfail
}

// Message: a message was accepted.
type Message struct {
	Session Session
	MsgID   envelope.MsgID
	Size    int64
	Rcpts   int
	Proto   string // ESMTP or SMTP
}

// Envelope: a recipient was accepted.
type Envelope struct {
	Session Session
	ID      envelope.ID
	From    smtp.Path
	To      smtp.Path
}

// FailedCommand: a command was refused.
type FailedCommand struct {
	Session Session
	Command string // secrets masked
	Result  string
	Rule    string // file:line of the match line that refused, if one did
	Cause   string // private cause, if any
}

// BadInput: the session broke the protocol and was ended or refused.
type BadInput struct {
	Session Session
	Result  string
}

// Disconnected: the session ended.
type Disconnected struct {
	Session Session
	Reason  string // quit, timeout, disconnect, tls-accept-failed, io-error: TEXT
}

// Proxied: a PROXY header named the client.
type Proxied struct {
	Session Session
	Address string
}

// The values of Delivery.Result, and the Stat of a delivery that found a loop.
const (
	OK       = "Ok"
	TempFail = "TempFail"
	PermFail = "PermFail"

	LoopDetected = "Loop detected"
)

// FilterRemark: a filter had something to say about a session.
type FilterRemark struct {
	Session Session
	Kind    string // builtin or proc
	Filter  string
	Text    string
}

// Refused: a connection was turned away before its session began.
type Refused struct {
	Address string // of the peer, as in Connected
	Reason  string // such as "too many connections" or "PROXY header: protocol error (invalid signature)"
}

// Delivery: an attempt at a local delivery or a relay ended.
type Delivery struct {
	Session  Session
	Envelope *envelope.Envelope
	Relay    string // for relays: host, else empty
	Source   string
	Delay    time.Duration // since creation
	Result   string        // Ok, TempFail, PermFail
	Stat     string
	Next     time.Time // next attempt after a temporary failure
}

// QueueEnd: an envelope left the queue without an attempt.
type QueueEnd struct {
	Envelope *envelope.Envelope
	Verb     string // Expire or Remove
	Delay    time.Duration
	Stat     string
}

func (Connected) event()      {}
func (TLS) event()            {}
func (CertCheck) event()      {}
func (Authentication) event() {}
func (Message) event()        {}
func (Envelope) event()       {}
func (FailedCommand) event()  {}
func (BadInput) event()       {}
func (Disconnected) event()   {}
func (Proxied) event()        {}
func (FilterRemark) event()   {}
func (Refused) event()        {}
func (Delivery) event()       {}
func (QueueEnd) event()       {}
