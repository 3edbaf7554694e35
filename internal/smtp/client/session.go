package client

import (
	"context"
	"crypto/tls"
	"net"
)

// Session is one connection to a server. It is used by one goroutine at a time,
// except for Close. Each call ends when its ctx does; the session is over then.
type Session struct {
	cfg Config
}

// New returns a session over conn, which it owns from now on. Nothing is sent or
// read before Open.
func New(conn net.Conn, cfg Config) *Session { panic("todo") }

// Open takes the session to where messages can be sent: greeting, EHLO, TLS,
// AUTH. Its error is an *Error or a *ConnError; the session is over then.
func (s *Session) Open(ctx context.Context) error { panic("todo") }

// Send runs one transaction. Its result is one per recipient. Whatever it is, the
// next transaction may follow if the session is Usable.
func (s *Session) Send(ctx context.Context, t *Transaction) Results { panic("todo") }

// Reset abandons what a refused transaction left (RSET). Send does so by itself.
func (s *Session) Reset(ctx context.Context) error { panic("todo") }

// Noop asks whether the server is still there.
func (s *Session) Noop(ctx context.Context) error { panic("todo") }

// Quit ends the session in order and closes the connection. It waits a short time
// for the reply, whose absence is no error.
func (s *Session) Quit(ctx context.Context) error { panic("todo") }

// Close closes the connection. It may be called from another goroutine, to end
// what is being waited for, and more than once.
func (s *Session) Close() error { panic("todo") }

// Usable tells whether another transaction can follow in this session.
func (s *Session) Usable() bool { panic("todo") }

// Messages returns the number of messages that the server took.
func (s *Session) Messages() int { panic("todo") }

// Extensions returns what the server offers.
func (s *Session) Extensions() Extensions { panic("todo") }

// TLS returns the state of TLS, nil without.
func (s *Session) TLS() *tls.ConnectionState { panic("todo") }

// Verified tells whether the server proved who it is.
func (s *Session) Verified() bool { panic("todo") }

// Extensions are what a server offers in its reply to EHLO or LHLO.
type Extensions struct {
	Extended   bool // EHLO or LHLO was taken
	Pipelining bool
	Chunking   bool
	EightBit   bool // 8BITMIME
	UTF8       bool // SMTPUTF8
	DSN        bool
	Enhanced   bool // ENHANCEDSTATUSCODES
	StartTLS   bool
	RequireTLS bool
	Size       bool
	MaxSize    int64    // bytes of a message, 0: not said
	Auth       []string // mechanisms, upper case
	MaxMails   int      // LIMITS MAILMAX, transactions in a session; 0: not said
	MaxRcpts   int      // LIMITS RCPTMAX, recipients in a transaction; 0: not said
	MaxDomains int      // LIMITS RCPTDOMAINMAX, domains in a transaction; 0: not said
}

// String returns the word of the stage in texts.
func (s Stage) String() string {
	return [...]string{"", "BANNER", "EHLO", "STARTTLS", "TLS", "AUTH", "RSET", "MAIL", "RCPT", "DATA", "EOM", "NOOP", "QUIT"}[s]
}
