// Package envelope is one recipient of one message after expansion: who it is
// from and for, by which action it leaves, and how its attempts went. Its text
// form is the file an operator reads in the spool.
package envelope

import (
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// InlineMax is the largest message text, in bytes, that travels and is stored
// together with its envelopes; larger ones are files of their own.
const InlineMax = 256 << 10

// MsgID names one stored message, 32 bits, never zero, printed as 8 hex digits.
type MsgID uint32

// String returns 8 lower-case hex digits.
func (m MsgID) String() string { return fmt.Sprintf("%08x", uint32(m)) }

// ID names one envelope: the MsgID in the upper 32 bits, a non-zero number in the
// lower ones. Printed as 16 hex digits.
type ID uint64

// NewID joins a message and the number of one of its envelopes.
func NewID(m MsgID, n uint32) ID { return ID(uint64(m)<<32 | uint64(n)) }

// MsgID returns the message the envelope belongs to.
func (id ID) MsgID() MsgID { return MsgID(id >> 32) }

// String returns 16 lower-case hex digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// Type says which way an envelope leaves.
type Type uint8

// The ways an envelope leaves: local delivery, relay, or a report to its sender.
const (
	MDA    Type = iota + 1 // delivered locally
	MTA                    // relayed
	Bounce                 // to be turned into a DSN
)

// String returns the word of the file format: mda, mta or bounce.
func (t Type) String() string {
	switch t {
	case MDA:
		return "mda"
	case MTA:
		return "mta"
	case Bounce:
		return "bounce"
	}
	return "invalid"
}

// Flags of an envelope.
type Flags uint8

// Flags that are stored with an envelope.
const (
	Authenticated Flags = 1 << iota // came over an authenticated session
	IsBounce                        // the message is a DSN of ours
	Internal                        // address obtained by expansion, or made by us
	EightBit                        // body declared 8BITMIME (RFC 6152)
	UTF8                            // MAIL carried SMTPUTF8 (RFC 6531)
	RequireTLS                      // MAIL carried REQUIRETLS (RFC 8689)
	TLSOptional                     // the message has a field "TLS-Required: No" (RFC 8689)
)

// Notify is the set of DSN notifications asked for (RFC 3461 section 4.1). Zero
// means the default: failure, and delay where the server reports delays.
type Notify uint8

// The NOTIFY keywords.
const (
	NotifySuccess Notify = 1 << iota
	NotifyFailure
	NotifyDelay
	NotifyNever
)

// BounceType says what a Bounce envelope reports.
type BounceType uint8

// What a DSN reports.
const (
	BounceFailed BounceType = iota + 1
	BounceDelayed
	BounceDelivered
)

// Envelope is one recipient of one message.
//
// Times have second resolution on disk (Unix seconds, UTC). Strings never hold
// line breaks or NUL; the text form refuses them on writing and on reading.
type Envelope struct {
	ID       ID
	Type     Type
	Flags    Flags
	Action   string // name of the action, looked up at each attempt; file key "dispatcher"
	Tag      string // listener tag
	SMTPName string // our name on the session's listener
	HELO     string
	Hostname string // the client's reverse name, "<unknown>" without one
	Source   string // client address: "local", "192.0.2.1" or "[2001:db8::1]"; file key "sockaddr"
	Username string // AUTH identity

	Sender smtp.Path // reverse-path; zero is null
	Rcpt   smtp.Path // as in RCPT TO
	Dest   smtp.Path // after expansion

	// Local delivery.
	User       string // userbase name, empty for a command or file straight from an alias
	Exec       string // "|command" or "/file" out of an alias or .forward; empty: the action's own method
	Subaddress string // the tag of user+tag

	// DSN (RFC 3461).
	Notify      Notify
	Ret         string // "FULL", "HDRS" or empty
	EnvID       string
	OrigRcpt    string // ORCPT as received, type;xtext
	BounceType  BounceType
	BounceDelay time.Duration // of a delayed bounce: how long the mail has waited
	BounceTTL   time.Duration // of a delayed bounce: how long it may wait in all

	Created    time.Time
	TTL        time.Duration // stored at creation; expiry is Created+TTL
	LastTry    time.Time
	NextTry    time.Time // when it is due again; zero: at once
	LastBounce time.Time // last delay notice
	Retry      uint32    // temporary failures so far
	Status     smtp.EnhancedCode
	ErrorLine  string // the last failure in the peer's or agent's words
	Relay      string // host of the last attempt to relay it, as logs have it: "ADDR (NAME)", or the domain when none was reached
	Held       string // which host, rule or limit held it back, for the operator; may be empty
}

// Expires returns when the envelope is given up.
func (e *Envelope) Expires() time.Time { return e.Created.Add(e.TTL) }
