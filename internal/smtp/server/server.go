// Package server is the server side of SMTP sessions: the dialogue, its limits
// and its timeouts, and the form in which a message is handed over. It holds no
// policy: who may send what to whom is the Backend's answer.
//
// One session is one goroutine running straight-line code (see session.go and the
// files named after the commands); Server in listener.go accepts connections and
// bounds how many there are.
//
// Standards: RFC 5321 (SMTP), RFC 1870 (SIZE), RFC 2034 (ENHANCEDSTATUSCODES),
// RFC 2920 (PIPELINING), RFC 3030 (CHUNKING), RFC 3207 (STARTTLS), RFC 3461 (DSN),
// RFC 4954 (AUTH), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 9422 (LIMITS).
//
// A message as it is stored: LF line ends, no dot-stuffing, the trace header in
// front.
//
//	Received: from HELO (RDNS [IP])
//	<TAB>by NAME (OpenSMTPD) with ESMTPS id MSGID (TLSv1.3:TLS_AES_128_GCM_SHA256:128:NO)
//	<TAB>for <RCPT>;
//	<TAB>Mon, 23 Nov 2026 22:22:02 +0000 (UTC)
//
// Lines of message text end with CRLF and nothing else, and only CRLF . CRLF ends
// a message. A bare CR, a bare LF or a NUL makes the message refused once its true
// end was read, or is repaired where Config.BareNewline says so; it is never
// passed on. A command line may also end with a bare LF, for people with nc(1),
// unless more input has already arrived behind it.
package server

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Backend decides and stores for one session. Its methods are called from the
// session's goroutine, one at a time, in the order of the dialogue.
//
// An error that is (or wraps) an *smtp.Error becomes the reply; its Err is logged
// as the cause, and when Err has a method Rule() string the result is logged as
// the place of the rule that refused. Any other error is temporary: 451, or 421
// where it comes from Commit. A reply of 421 ends the session.
type Backend interface {
	// Authenticate checks a user name and password. A permanent *smtp.Error means
	// wrong credentials; the reply is always 535 5.7.8 then.
	Authenticate(ctx context.Context, user, password string) error

	// Mail begins a transaction and sets t.ID. Each Mail that succeeded is followed
	// by exactly one Commit or Reset.
	Mail(ctx context.Context, t *Transaction) error

	// Rcpt decides on the recipients that the client has sent so far, one or, when
	// it pipelines, several at once. It sets errs[i] for each rcpts[i] that is
	// refused and rcpts[i].Envelopes for each that is not; t.Rcpts holds the ones
	// accepted before.
	Rcpt(ctx context.Context, t *Transaction, rcpts []Recipient, errs []error)

	// Data is asked before the message text is taken.
	Data(ctx context.Context, t *Transaction) error

	// Spill opens where the body goes when it outgrows Config.InlineMax. The
	// session closes it, before Commit or Reset. With filters it is called from another
	// goroutine, while no other method is.
	Spill(ctx context.Context, t *Transaction) (File, error)

	// Commit makes the message durable; nil is the promise of RFC 5321 section
	// 4.2.5. body is nil when it was spilled, and is reused after the call. size is
	// that of the stored body in bytes.
	Commit(ctx context.Context, t *Transaction, body []byte, size int64) error

	// Reset abandons the transaction.
	Reset(t *Transaction)
}

// File takes a body. What was written can be read and changed until it is closed.
type File interface {
	io.WriteCloser
	io.ReaderAt
	io.WriterAt
}

// Session is what is known of a client. The session's goroutine writes it; the
// backend may read it during its calls.
type Session struct {
	ID            report.Session
	Local         bool        // over the local socket
	Addr          netip.Addr  // the client's; invalid for a local session
	LocalAddr     netip.Addr  // ours; invalid for a local session
	Port          uint16      // the client's
	LocalPort     uint16      // ours
	Source        string      // Addr as rules and logs have it: "192.0.2.1", "[2001:db8::1]", "local"
	RDNS          string      // "<unknown>" when there is none
	FCrDNS        wire.Result // whether that name has the client's address
	Name          string      // ours, as greeted
	Tag           string      // of the listener
	HELO          string      // as given, "" before
	Extended      bool        // said EHLO
	TLS           *tls.ConnectionState
	Ciphers       string // VERSION:CIPHER:BITS, "" without TLS
	Verified      bool   // the client's certificate verified
	Authenticated bool
	Username      string // of AUTH; empty for a local session
}

// Transaction is one MAIL and what follows it.
type Transaction struct {
	ID          envelope.MsgID // set by Backend.Mail
	Sender      smtp.Path
	Size        int64 // declared by SIZE, 0 when not
	EightBit    bool  // BODY=8BITMIME
	UTF8        bool  // SMTPUTF8
	RequireTLS  bool  // REQUIRETLS
	TLSOptional bool  // the header says "TLS-Required: No"; known at Commit
	Ret         string
	EnvID       string      // as received, xtext
	Rcpts       []Recipient // accepted so far
	Junk        bool        // set by the backend or a filter: the message is marked X-Spam: Yes
}

// Recipient is one RCPT.
type Recipient struct {
	Path     smtp.Path
	Notify   envelope.Notify
	OrigRcpt string // ORCPT as received: type;xtext

	Envelopes []envelope.ID // set by Backend.Rcpt, those made
}

// lastEnvelope is the one that the log names.
func (r *Recipient) lastEnvelope() envelope.ID {
	if n := len(r.Envelopes); n > 0 {
		return r.Envelopes[n-1]
	}
	return 0
}

// TLSMode says how a listener speaks TLS.
type TLSMode uint8

// The TLS modes.
const (
	NoTLS        TLSMode = iota
	OfferTLS             // STARTTLS is offered
	RequireTLS           // STARTTLS is needed before MAIL
	ImmediateTLS         // from the first byte
)

// AuthMode says whether clients may or must authenticate.
type AuthMode uint8

// The authentication modes.
const (
	NoAuth AuthMode = iota
	OfferAuth
	RequireAuth
)

// BareNewline says what happens to a message with a bare CR or a bare LF in it.
type BareNewline uint8

// The ways to treat bare CR and LF.
const (
	RefuseBare BareNewline = iota // 550 5.5.2 at the end of the message
	// NormalizeBare makes a line end of a bare LF, drops CRs in front of CRLF, and
	// makes one space of other bare CRs. A dot after a repaired line end is text: it
	// neither ends the message nor is it removed. NUL is refused all the same.
	NormalizeBare
)

// Config is what a listener asks of its sessions. It is not changed while a
// session uses it. Zero limits and times mean the defaults in parentheses.
type Config struct {
	Name    string                                             // our name in greeting and trace
	NameFor func(ctx context.Context, local netip.Addr) string // name by local address; nil or "": Name
	// RDNS returns the client's reverse name and whether it has the client's address. It
	// is asked before the greeting; nil or "": "<unknown>".
	RDNS    func(ctx context.Context, client netip.Addr) (name string, fcrdns wire.Result)
	Filter  func(ctx context.Context, s *Session) Filter // takes part in a session; nil, also when called: none
	Backend func(s *Session) Backend                     // makes the backend of a session
	Events  report.Sink

	Local bool // the local socket: clients count as authenticated
	Tag   string

	TLS     *tls.Config // certificates, client CAs, session tickets disabled; needed unless NoTLS
	TLSMode TLSMode

	Auth            AuthMode
	AuthInClear     bool                             // AUTH without TLS
	AuthDelay       func(failures int) time.Duration // pause before the reply to a failed AUTH; nil: none
	MaxAuthFailures int                              // then 421 (5)

	// Submission completes what a user agent left out: Date, Message-ID, domains of
	// header addresses; and drops Bcc. Authenticated sessions are submissions too.
	Submission bool
	Masquerade bool // replace the addresses of From by the sender of an authenticated client

	MaskSource   bool // no client in the trace header
	ReceivedAuth bool // say in the trace header who authenticated
	NoDSN        bool
	BareNewline  BareNewline

	InlineMax int   // bytes of body kept in memory (256 KiB)
	MaxSize   int64 // bytes of message text (36700160)
	MaxRcpt   int   // recipients a message (1000)
	MaxMails  int   // messages a session (100)
	MaxErrors int   // 5yz replies between two accepted messages, then 421 (50)
	MaxHops   int   // Received fields (100)

	Timeout     time.Duration // for a command line, a write, a TLS handshake (300 s)
	RDNSTimeout time.Duration // for NameFor and RDNS together (10 s)
	MinRate     int64         // bytes a second that message text must reach (64) …
	RateGrace   time.Duration // … after this long (Timeout)
}

// withDefaults returns a copy of c with zero limits replaced.
func (c *Config) withDefaults() *Config {
	d := *c
	setDefault(&d.MaxAuthFailures, 5)
	setDefault(&d.InlineMax, 256<<10)
	setDefault(&d.MaxSize, 36700160)
	setDefault(&d.MaxRcpt, 1000)
	setDefault(&d.MaxMails, 100)
	setDefault(&d.MaxErrors, 50)
	setDefault(&d.MaxHops, 100)
	setDefault(&d.Timeout, 300*time.Second)
	setDefault(&d.RDNSTimeout, 10*time.Second)
	setDefault(&d.MinRate, 64)
	setDefault(&d.RateGrace, d.Timeout)
	return &d
}

// setDefault replaces a zero value.
func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
