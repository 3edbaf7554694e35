package client

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// Session is one connection to a server. It is used by one goroutine at a time,
// except for Close. Each call ends when its ctx does; the session is over then.
type Session struct {
	cfg  Config
	wire wire

	name     string // the server's, as it greeted
	ext      Extensions
	tls      *tls.ConnectionState
	verified bool
	over     bool // no further transaction
	stale    bool // RSET is due before the next transaction

	transactions int
	messages     int
	rcptFailures int // in a row
}

// New returns a session over conn, which it owns from now on. Nothing is sent or
// read before Open.
func New(conn net.Conn, cfg Config) *Session {
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	return &Session{cfg: cfg, over: true, wire: wire{
		raw: conn, conn: conn, r: bufio.NewReaderSize(conn, readSize),
		block: cfg.Timeouts.Block, trace: cfg.Trace,
	}}
}

// withDefaults returns t with zero values replaced.
func (t Timeouts) withDefaults() Timeouts {
	for _, d := range [...]struct {
		p *time.Duration
		d time.Duration
	}{
		{&t.Greeting, 5 * time.Minute}, {&t.Hello, 5 * time.Minute}, {&t.TLS, 2 * time.Minute},
		{&t.Mail, 5 * time.Minute}, {&t.Rcpt, 5 * time.Minute}, {&t.Data, 2 * time.Minute},
		{&t.Block, 3 * time.Minute}, {&t.Dot, 10 * time.Minute}, {&t.Quit, 10 * time.Second},
		{&t.Open, 10 * time.Minute}, {&t.Transaction, 2 * time.Hour},
	} {
		if *d.p == 0 {
			*d.p = d.d
		}
	}
	return t
}

// Open takes the session to where messages can be sent: greeting, EHLO, TLS,
// AUTH. Its error is an *Error or a *ConnError; only Quit and Close may follow.
func (s *Session) Open(ctx context.Context) error {
	end := s.wire.begin(ctx, s.cfg.Timeouts.Open)
	defer end()
	if s.cfg.TLSMode == ImmediateTLS {
		if err := s.handshake(ctx); err != nil {
			return err
		}
	}
	if err := s.greeting(ctx); err != nil {
		return err
	}
	if err := s.hello(ctx); err != nil {
		return err
	}
	if s.cfg.TLSMode == OpportunisticTLS || s.cfg.TLSMode == RequireTLS {
		if err := s.startTLS(ctx); err != nil {
			return err
		}
	}
	if s.cfg.Credentials != nil {
		if err := s.authenticate(ctx); err != nil {
			return err
		}
	}
	s.over = false
	return nil
}

// greeting reads the server's first words (RFC 5321 section 4.3.1).
func (s *Session) greeting(ctx context.Context) error {
	r, err := s.read(ctx, Banner, s.cfg.Timeouts.Greeting, nil)
	if err == nil && r.Code != 220 {
		err = s.refused(Banner, r)
	}
	if err == nil {
		s.name, _, _ = strings.Cut(r.Text, " ")
		s.report(report.RelayConnected{Session: s.cfg.ID})
	}
	s.done(Banner, s.name, err)
	return err
}

// hello introduces us and learns what the server offers. A server that knows no
// EHLO is told HELO (RFC 5321 section 3.2), unless it has to offer something.
func (s *Session) hello(ctx context.Context) error {
	word := "EHLO"
	if s.cfg.LMTP {
		word = "LHLO"
	}
	s.ext = Extensions{}
	var ext Extensions
	first := true
	err := s.helloCommand(ctx, word, func(text string) {
		if !first { // the first line holds the server's name
			ext.add(text)
		}
		first = false
	})
	if err == nil {
		ext.Extended = true
		s.ext = ext
		return nil
	}
	e, refused := errors.AsType[*Error](err)
	needed := s.cfg.TLSMode == RequireTLS || s.cfg.Credentials != nil || s.tls != nil
	if !refused || e.Code < 500 || s.cfg.LMTP || needed {
		return err
	}
	return s.helloCommand(ctx, "HELO", nil)
}

// helloCommand sends EHLO, HELO or LHLO.
func (s *Session) helloCommand(ctx context.Context, word string, each func(string)) error {
	r, err := s.ask(ctx, Hello, word+" "+s.cfg.Name, s.cfg.Timeouts.Hello, each)
	if err == nil && r.Code/100 != 2 {
		e := s.refused(Hello, r)
		e.command = word
		err = e
	}
	s.done(Hello, word+"|"+s.cfg.Name, err)
	return err
}

// startTLS secures the session (RFC 3207), or leaves it in clear text where that
// is allowed and all that the server can do.
func (s *Session) startTLS(ctx context.Context) error {
	required := s.cfg.TLSMode == RequireTLS
	if !s.ext.StartTLS {
		if !required {
			return nil
		}
		return local(StartTLS, 450, smtp.EnhancedCode{4, 7, 10}, "TLS required but not supported by remote host")
	}
	r, err := s.ask(ctx, StartTLS, "STARTTLS", s.cfg.Timeouts.TLS, nil)
	if err == nil && r.Code != 220 {
		err = s.refused(StartTLS, r)
	}
	if err == nil && s.wire.r.Buffered() > 0 {
		// It came in the clear and would be taken for part of the secured dialogue.
		err = s.fail(StartTLS, ErrTooMuchData)
	}
	s.done(StartTLS, "", err)
	if err != nil {
		if _, refused := errors.AsType[*Error](err); refused && !required && r.Code != 421 {
			return nil
		}
		return err
	}
	if err := s.handshake(ctx); err != nil {
		return err
	}
	return s.hello(ctx)
}

// handshake begins TLS.
func (s *Session) handshake(ctx context.Context) error {
	conn := tls.Client(s.wire.raw, s.cfg.TLS)
	err := s.wire.within(ctx, s.cfg.Timeouts.TLS)
	if err == nil {
		err = conn.Handshake() // ctx ends it by the deadline
	}
	if err != nil {
		err = s.fail(Handshake, cause(ctx, err))
		s.done(Handshake, "", err)
		return err
	}
	state := conn.ConnectionState()
	s.tls = &state
	s.wire.conn = conn
	s.wire.r.Reset(conn)
	s.verified = len(state.VerifiedChains) > 0
	if s.cfg.Verified != nil {
		s.verified = s.cfg.Verified(&state)
	}
	ciphers := tlsconf.Describe(&state)
	s.report(report.RelayTLS{Session: s.cfg.ID, Ciphers: ciphers})
	s.reportCertificate()
	s.done(Handshake, ciphers, nil)
	return nil
}

// reportCertificate reports what became of the server's certificate.
func (s *Session) reportCertificate() {
	if s.cfg.Events == nil {
		return
	}
	check := report.RelayCertCheck{Session: s.cfg.ID, Result: "no certificate presented"}
	if len(s.tls.PeerCertificates) > 0 {
		check.Result = "unverified"
		if s.verified {
			check.Result = "valid"
		}
		check.Fingerprint = fmt.Sprintf("SHA256:%x", sha256.Sum256(s.tls.PeerCertificates[0].Raw))
	}
	s.report(check)
}

// Reset abandons what a refused transaction left (RSET). Send does so by itself.
func (s *Session) Reset(ctx context.Context) error {
	if err := s.simple(ctx, Rset, "RSET"); err != nil {
		return err
	}
	s.stale = false
	return nil
}

// Noop asks whether the server is still there.
func (s *Session) Noop(ctx context.Context) error { return s.simple(ctx, Noop, "NOOP") }

// simple sends a command that must be answered by 2yz; a session where it is not
// is over.
func (s *Session) simple(ctx context.Context, stage Stage, line string) error {
	if s.over {
		return &ConnError{Stage: stage, Err: ErrNotUsable}
	}
	end := s.wire.begin(ctx, s.cfg.Timeouts.Mail)
	defer end()
	r, err := s.ask(ctx, stage, line, s.cfg.Timeouts.Mail, nil)
	if err == nil && r.Code/100 != 2 {
		err = s.refused(stage, r)
		s.over = true
	}
	s.done(stage, "", err)
	return err
}

// Quit ends the session in order and closes the connection. It waits a short time
// for the reply, whose absence is no error.
func (s *Session) Quit(ctx context.Context) error {
	s.over = true
	if !s.wire.broken {
		end := s.wire.begin(ctx, s.cfg.Timeouts.Quit)
		_, err := s.ask(ctx, Quit, "QUIT", s.cfg.Timeouts.Quit, nil)
		end()
		s.done(Quit, "", err)
		s.report(report.RelayDisconnected{Session: s.cfg.ID, Reason: "quit", Messages: s.messages})
		s.wire.broken = true
	}
	if s.tls != nil {
		_ = s.wire.raw.SetDeadline(time.Now().Add(s.cfg.Timeouts.Quit)) // fails on a closed connection only
		_ = s.wire.conn.Close()                                         // says goodbye; what counts is Close below
	}
	return s.Close()
}

// Close closes the connection. It may be called from another goroutine, to end
// what is being waited for, and more than once.
func (s *Session) Close() error {
	if err := s.wire.raw.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Usable tells whether another transaction can follow in this session.
func (s *Session) Usable() bool {
	return !s.over && !s.wire.broken && s.wire.r.Buffered() == 0 && s.wire.received < maxReceived/2 &&
		(s.ext.MaxMails == 0 || s.transactions < s.ext.MaxMails)
}

// Name returns the name the server greeted with. It is not to be trusted.
func (s *Session) Name() string { return s.name }

// Messages returns the number of messages that the server took.
func (s *Session) Messages() int { return s.messages }

// Extensions returns what the server offers.
func (s *Session) Extensions() Extensions { return s.ext }

// TLS returns the state of TLS, nil without.
func (s *Session) TLS() *tls.ConnectionState { return s.tls }

// Verified tells whether the server proved who it is.
func (s *Session) Verified() bool { return s.verified }

// ask sends a command and reads its reply. Its error is a *ConnError.
func (s *Session) ask(ctx context.Context, stage Stage, line string, d time.Duration, each func(string)) (Reply, error) {
	s.wire.command(line, "")
	if err := s.wire.flush(ctx); err != nil {
		return Reply{}, s.fail(stage, err)
	}
	return s.read(ctx, stage, d, each)
}

// read reads a reply. Its error is a *ConnError.
func (s *Session) read(ctx context.Context, stage Stage, d time.Duration, each func(string)) (Reply, error) {
	r, err := s.wire.reply(ctx, d, each)
	if err != nil {
		return r, s.fail(stage, err)
	}
	return r, nil
}

// fail ends the session over an error of the connection.
func (s *Session) fail(stage Stage, err error) error {
	s.over, s.wire.broken = true, true
	_ = s.Close() // the error that counts is err
	return &ConnError{Stage: stage, Err: err}
}

// refused returns the error for a reply. 421 at any time means that the server is
// closing the connection (RFC 5321 section 3.8).
func (s *Session) refused(stage Stage, r Reply) *Error {
	if r.Code == 421 {
		s.over = true
	}
	return &Error{Stage: stage, Reply: r}
}

// local returns a refusal by this side.
func local(stage Stage, code int, enhanced smtp.EnhancedCode, text string) *Error {
	return &Error{Stage: stage, Reply: Reply{Code: code, Enhanced: enhanced, Text: text}, Local: true}
}

// report reports an event.
func (s *Session) report(e report.Event) {
	if s.cfg.Events != nil {
		s.cfg.Events.Report(e)
	}
}

// done tells the trace how a step ended.
func (s *Session) done(stage Stage, about string, err error) {
	if s.cfg.Trace != nil {
		s.cfg.Trace.Done(stage, about, err)
	}
}
