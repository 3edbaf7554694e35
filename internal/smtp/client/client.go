// Package client is the client side of SMTP and LMTP sessions: the dialogue, its
// limits and its timeouts. It holds no policy: where to connect, which TLS to ask
// for and what to do about a failure is its caller's business.
//
// One session is straight-line code in its caller's goroutine:
//
//	s := client.New(conn, cfg)
//	defer s.Close()
//	if err := s.Open(ctx); err != nil { … }
//	for s.Usable() && more {
//		results := s.Send(ctx, &transaction)
//	}
//	s.Quit(ctx)
//
// Where the server offers PIPELINING, the commands of a transaction leave in one
// write; where it offers CHUNKING too, a small message leaves with them, so that a
// transaction takes one round trip. Otherwise the text of a message and the dot
// that ends it leave together.
//
// The server is taken to be hostile: every line, every reply and all that it says
// in a session are bounded, each step has a deadline that no trickle of bytes
// moves, and what it says out of turn ends the session.
//
// Standards: RFC 5321 (SMTP), RFC 2033 (LMTP), RFC 1870 (SIZE), RFC 2034
// (ENHANCEDSTATUSCODES), RFC 2920 (PIPELINING), RFC 3030 (CHUNKING), RFC 3207
// (STARTTLS), RFC 3461 (DSN), RFC 4954 (AUTH), RFC 6152 (8BITMIME), RFC 6531
// (SMTPUTF8), RFC 8689 (REQUIRETLS), RFC 9422 (LIMITS).
package client

import (
	"crypto/tls"
	"io"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// TLSMode says how a session is secured.
type TLSMode uint8

// The TLS modes.
const (
	NoTLS            TLSMode = iota
	OpportunisticTLS         // STARTTLS where it is offered and not refused
	RequireTLS               // STARTTLS or no session
	ImmediateTLS             // from the first byte
)

// Credentials are what a session authenticates with.
type Credentials struct {
	User     string
	Password string
	Bearer   bool // Password is an OAuth 2.0 access token, for XOAUTH2
}

// Config is what a session needs to know. It is not changed while a session uses
// it and may serve several.
type Config struct {
	Name string // ours, for EHLO, HELO and LHLO
	LMTP bool   // say LHLO, expect a reply per recipient behind a message

	TLSMode TLSMode
	TLS     *tls.Config // see tlsconf.Client; needed unless NoTLS
	// Verified tells whether the server is who it should be, where TLS does not
	// check that itself, as with DANE. Nil: its certificate was verified by TLS.
	Verified func(*tls.ConnectionState) bool

	Credentials *Credentials // nil: no AUTH
	AuthInClear bool         // AUTH without TLS

	NoPipelining bool // one command at a time, whatever the server offers
	NoChunking   bool // DATA, whatever the server offers

	// MaxRcptFailures refused recipients in a row make the session end: those left
	// are not tried. 0: no limit.
	MaxRcptFailures int

	Timeouts Timeouts

	ID     report.Session // for Events
	Events report.Sink    // told of RelayConnected, RelayTLS, RelayCertCheck, RelayDisconnected; may be nil
	Trace  Trace          // told of the dialogue; may be nil
}

// Timeouts bound the steps of a session, each from the sending of a command to
// the end of its reply. Zero means the default in parentheses, which is that of
// RFC 5321 section 4.5.3.2 where it has one.
type Timeouts struct {
	Greeting time.Duration // (5 min)
	Hello    time.Duration // EHLO, HELO, LHLO, AUTH (5 min)
	TLS      time.Duration // STARTTLS, and the handshake (2 min)
	Mail     time.Duration // MAIL, RSET, NOOP (5 min)
	Rcpt     time.Duration // RCPT (5 min)
	Data     time.Duration // DATA (2 min)
	Block    time.Duration // the sending of up to 64 KiB (3 min)
	Dot      time.Duration // the end of a message (10 min)
	Quit     time.Duration // (10 s)

	Open        time.Duration // all of Open (10 min)
	Transaction time.Duration // all of a Send (2 h)
}

// Transaction is one message for some recipients.
type Transaction struct {
	Sender smtp.Path
	Rcpts  []Recipient

	// Body is the message with LF line ends, from its start. It is read twice when
	// the server lacks 8BITMIME.
	Body io.ReadSeeker
	Size int64 // of Body in bytes

	EightBit   bool   // declared BODY=8BITMIME
	UTF8       bool   // needs SMTPUTF8: address or header hold UTF-8
	RequireTLS bool   // REQUIRETLS was asked for
	Ret        string // "FULL", "HDRS" or ""
	EnvID      string // xtext
}

// Recipient is one recipient of a transaction. Notify and OrigRcpt are passed on
// to a server that offers DSN.
type Recipient struct {
	Path     smtp.Path
	Notify   envelope.Notify
	OrigRcpt string // type;xtext
}

// Stage says where in the dialogue something happened.
type Stage uint8

// The stages, in order.
const (
	Banner Stage = iota + 1
	Hello        // EHLO, HELO or LHLO
	StartTLS
	Handshake // of TLS
	Auth
	Rset
	Mail
	Rcpt
	Data
	Dot // the end of the message, be it by a dot or by BDAT
	Noop
	Quit
)

// Trace is told of a session's dialogue, from its goroutine, in order.
type Trace interface {
	// Sent is given each command line without its end, secrets masked, and "." at
	// the end of a message. The text of messages is left out.
	Sent(line string)
	// Received is given each line of a reply, cleaned of control characters.
	Received(line string)
	// Done says how a step ended, behind the last line of its reply. about is the
	// name of the server for Banner, "EHLO|name" for Hello, VERSION:CIPHER:BITS for
	// Handshake, the user for Auth, the address for Mail and Rcpt, else empty.
	Done(stage Stage, about string, err error)
}

// String returns the word of the stage, as in texts and logs.
func (s Stage) String() string {
	words := [...]string{"", "BANNER", "EHLO", "STARTTLS", "TLS", "AUTH", "RSET", "MAIL", "RCPT", "DATA", "EOM", "NOOP", "QUIT"}
	if int(s) >= len(words) {
		return ""
	}
	return words[s]
}
