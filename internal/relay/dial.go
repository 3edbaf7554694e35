package relay

import (
	"context"
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Stage is how far a conversation was.
type Stage uint8

// The stages, in order.
const (
	Routing  Stage = iota // no host was chosen
	Connect               // TCP
	Banner                // the greeting of the host
	Hello                 // EHLO, HELO or LHLO
	StartTLS              // STARTTLS, the handshake, the verification
	Auth                  // AUTH
	Mail                  // MAIL
	Rcpt                  // RCPT
	Data                  // DATA, or the text
	Dot                   // the final dot was sent: the host may have the message
)

// String returns a word for lists.
func (s Stage) String() string {
	return [...]string{"routing", "connect", "banner", "helo", "tls", "auth", "mail", "rcpt", "data", "dot"}[min(s, Dot)]
}

// Target is one connection to be made.
type Target struct {
	Session   report.Session
	Relay     string // name of the relay
	Host      string // the name to verify and to show
	Addr      netip.AddrPort
	Source    netip.Addr // local address; invalid: the system's choice
	HELO      string
	LMTP      bool
	TLS       TLS
	Auth      *Credentials
	PKI       string
	CA        string
	Ciphers   string
	Protocols string
	Filter    string

	MaxFailures int // recipients refused in a row that end the session
}

// Scheme returns the scheme of relay URLs that the target amounts to.
func (t *Target) Scheme() string {
	switch {
	case t.LMTP:
		return "lmtp"
	case t.TLS.Implicit:
		return "smtps"
	case t.TLS.Mode == NoTLS:
		return "smtp+notls"
	case t.TLS.Mode == Opportunistic:
		return "smtp"
	}
	return "smtp+tls"
}

// Dialer makes connections. It is called from several goroutines.
type Dialer interface {
	// Dial connects, greets, starts TLS and authenticates as the target demands, and
	// returns a session that is ready for MAIL. It bounds its own waits and ends when
	// ctx does. It emits report.RelayConnected, RelayTLS and RelayCertCheck, and the
	// session RelayDisconnected; the other events are emitted here. Errors that are or
	// wrap a *DialError tell how far it came.
	Dial(ctx context.Context, t *Target) (Session, error)
}

// DialError is a connection that did not become ready.
type DialError struct {
	Stage    Stage
	Reply    *smtp.Error // the host's refusal; nil when it did not answer
	Text     string      // our words, with the reply: "BANNER rejected: 554 no"; may be told to the sender
	TLSBroke bool        // the handshake failed: worth another try in clear where TLS is not demanded
	Err      error       // private cause, may be nil
}

// Error returns Text and what the cause adds to it.
func (e *DialError) Error() string {
	if e.Err == nil || strings.Contains(e.Text, e.Err.Error()) {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the private cause.
func (e *DialError) Unwrap() error { return e.Err }

// Session is a connection that is ready. Its methods are called one after the other,
// but Done at any time.
type Session interface {
	// Caps tells what the host announced.
	Caps() Caps

	// Send makes one transaction and returns an answer for each recipient, in order;
	// LMTP gives each its own. Where the host did not answer any more, the answer has
	// code 0 and the stage that was reached, and the error tells why. After an error
	// the session is of no use. After a failed transaction without an error, it has
	// made itself ready for the next one (RSET). It bounds its own waits and ends when
	// ctx does.
	Send(ctx context.Context, t *Transaction) ([]Answer, error)

	// Usable tells whether another transaction can follow.
	Usable() bool

	// Quit says goodbye if the connection still stands, waits for the answer a short
	// time, and closes. It is called once, last.
	Quit(ctx context.Context) error

	// Done is closed when the host has ended the connection, or said 421, while nothing
	// was asked. A session that cannot tell returns nil.
	Done() <-chan struct{}
}

// Caps is what a host announced. Zero means no limit.
type Caps struct {
	Size          int64 // bytes (RFC 1870)
	DSN           bool  // RFC 3461
	MailMax       int   // transactions in a connection (RFC 9422)
	RcptMax       int   // recipients in a transaction
	RcptDomainMax int   // recipient domains in a transaction
	LocalAddr     netip.Addr
	Name          string // of the host, as it greeted
	Secure        bool   // TLS is in use
	Doubt         error  // what a policy under test has against the certificate
}

// Transaction is one message for some of its recipients.
type Transaction struct {
	MsgID  envelope.MsgID
	Sender smtp.Path
	Rcpts  []*envelope.Envelope // not empty; all of the message, which also tell 8BITMIME, SMTPUTF8 and DSN parameters
	Body   Body
}

// Answer is what the host said about one recipient.
type Answer struct {
	Code     int // reply code; 0: none
	Enhanced smtp.EnhancedCode
	Text     string // of the reply, one line, without the codes
	Stage    Stage  // which command it answers
	Local    bool   // our own verdict, not the host's: no extension that the message needs, too large
	Again    bool   // not refused, but left for another transaction, which may follow at once
}
