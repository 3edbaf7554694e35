package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Reasons of report.Disconnected.
const (
	reasonQuit       = "quit" // by QUIT, or closed by us after a last reply
	reasonTimeout    = "timeout"
	reasonDisconnect = "disconnect"
	reasonTLS        = "tls-accept-failed"
)

// session is the state of one dialogue. Only its own goroutine uses it, except
// for buffered.drain.
type session struct {
	Session
	cfg     *Config
	buffers *sync.Pool // of *[]byte, for message text
	wire    buffered
	backend Backend
	filter  Filter // nil: none

	tx           *Transaction // nil outside of a transaction
	msg          *message     // nil before DATA or the first BDAT; else &collector
	collector    message
	cmd          []byte // the current command as logged, secrets masked
	mails        int    // transactions so far
	errors       int    // refusals since the last accepted message
	authFailures int
	end          string // why the session ends; "" while it goes on
	quit         bool   // the client said QUIT
	junkAll      bool   // messages are marked as spam …
	junkNext     bool   // … or the one that MAIL begins now

	rcpts []Recipient // reused by RCPT, see rcpt.go
	errs  []error
	asked []askedRcpt
}

// newSession prepares a session over conn. client and local are the addresses of
// its ends, invalid ones for the local socket.
func newSession(conn net.Conn, cfg *Config, buffers *sync.Pool, client, local netip.AddrPort) *session {
	s := &session{cfg: cfg.withDefaults(), buffers: buffers}
	s.wire = buffered{raw: conn, conn: conn, buf: make([]byte, readSize), timeout: s.cfg.Timeout}
	s.Session = Session{
		ID:        report.Session(rand.Uint64()),
		Local:     cfg.Local,
		Addr:      client.Addr().Unmap().WithZone(""),
		LocalAddr: local.Addr().Unmap().WithZone(""),
		Port:      client.Port(),
		LocalPort: local.Port(),
		Name:      cfg.Name,
		RDNS:      "<unknown>",
		FCrDNS:    wire.Fail,
		Tag:       cfg.Tag,
	}
	s.Source = sourceText(s.Addr)
	if s.Local {
		s.Source, s.RDNS, s.FCrDNS, s.Authenticated = "local", s.Name, wire.Pass, true
	}
	return s
}

// sourceText returns an address as rules and logs have it.
func sourceText(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// run holds the dialogue. It returns when the session has ended; the caller
// closes the connection. When ctx ends the backend's calls end with it, and the
// caller has closed the connection.
func (s *session) run(ctx context.Context) {
	s.lookUpNames(ctx)
	s.cfg.Events.Report(report.Connected{Session: s.ID, Address: s.Source, Host: s.RDNS})
	s.backend = s.cfg.Backend(&s.Session)
	if s.cfg.Filter != nil {
		s.filter = s.cfg.Filter(ctx, &s.Session)
	}
	s.greet(ctx)
	for s.end == "" {
		s.next(ctx)
	}
	s.reset()
	if s.filter != nil {
		if s.end == reasonTimeout {
			s.filter.Report(wire.Timeout{})
		}
		s.filter.Close()
	}
	if err := s.wire.flush(); err != nil && s.end == reasonQuit {
		s.fail(err)
	}
	if s.end == reasonQuit {
		s.wire.hangUp(!s.quit || s.wire.buffered() > 0)
	}
	s.cfg.Events.Report(report.Disconnected{Session: s.ID, Reason: s.end})
}

// lookUpNames sets our name and the client's.
func (s *session) lookUpNames(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RDNSTimeout)
	defer cancel()
	if s.cfg.NameFor != nil {
		if name := s.cfg.NameFor(ctx, s.LocalAddr); name != "" {
			s.Name = name
		}
	}
	if s.Local {
		s.RDNS = s.Name
	} else if s.cfg.RDNS != nil && s.Addr.IsValid() {
		name, fcrdns := s.cfg.RDNS(ctx, s.Addr)
		s.FCrDNS = fcrdns
		if smtp.IsHostName(name) {
			s.RDNS = name
		}
	}
}

// greet opens the dialogue, with TLS first where the listener is of that kind.
func (s *session) greet(ctx context.Context) {
	// Filters decide before the handshake, which is not worth its price for a client
	// that is to go; what they have to say can only be told after it.
	v := Verdict{Kind: wire.VerdictProceed}
	if s.filter != nil {
		v = s.filter.Decide(ctx, wire.PhaseConnect, "")
	}
	if s.cfg.TLSMode == ImmediateTLS && !s.startTLS(ctx) {
		return
	}
	s.junkAll = v.Junk
	if v.Refusal != nil {
		s.refuseWith(v.Refusal)
		s.end = reasonQuit
		return
	}
	s.say(220, smtp.EnhancedCode{}, s.Name+" ESMTP OpenSMTPD")
	s.tell(wire.LinkGreeting{Hostname: s.Name})
}

// next reads one command and obeys it.
func (s *session) next(ctx context.Context) {
	if !s.wire.rest(s.tx == nil) {
		s.bye(421, smtp.EnhancedCode{4, 3, 2}, "Service shutting down")
		return
	}
	line, bare, err := s.wire.line(maxCommand)
	s.wire.wake()
	if err != nil {
		s.readError(err)
		return
	}
	s.cmd = append(s.cmd[:0], line...)
	s.tellCommand(line)
	switch {
	case !smtp.ValidLine(line):
		s.refuse(500, smtp.EnhancedCode{5, 5, 2}, "Syntax error: Invalid character in command")
	case bare && s.wire.buffered() > 0:
		s.refuse(500, smtp.EnhancedCode{5, 5, 2}, "Syntax error: Lines end with CRLF")
	default:
		s.obey(ctx, smtp.ParseCommand(line))
	}
}

// obey runs one command.
func (s *session) obey(ctx context.Context, c smtp.Command) {
	switch c.Verb {
	case smtp.HELO, smtp.EHLO:
		s.hello(ctx, c)
	case smtp.STARTTLS:
		s.starttls(ctx, c.Arg)
	case smtp.AUTH:
		s.auth(ctx, c.Arg)
	case smtp.MAIL:
		s.mail(ctx, c.Arg)
	case smtp.RCPT:
		s.rcpt(ctx, c.Arg)
	case smtp.DATA:
		s.data(ctx, c.Arg)
	case smtp.BDAT:
		s.bdat(ctx, c.Arg)
	case smtp.RSET:
		s.rset(ctx, c.Arg)
	case smtp.NOOP:
		if _, ok := s.decide(ctx, wire.PhaseNoop, "", ""); ok {
			s.say(250, smtp.EnhancedCode{2, 0, 0}, "Ok")
		}
	case smtp.VRFY:
		s.vrfy(c.Arg)
	case smtp.HELP:
		if s.noArguments(c.Arg) {
			s.say(214, smtp.EnhancedCode{2, 0, 0}, "This is OpenSMTPD\nEnd of HELP info")
		}
	case smtp.QUIT:
		if !s.noArguments(c.Arg) {
			return
		}
		if _, ok := s.decide(ctx, wire.PhaseQuit, "", ""); ok {
			s.bye(221, smtp.EnhancedCode{2, 0, 0}, "Bye")
			s.quit = true
		}
	case smtp.WIZ:
		s.invalid(500, "this feature is not supported yet ;-)")
	default:
		s.unknown(c.Arg)
	}
}

// unknown answers what is no command. The words of other protocols end the
// session: somebody makes a browser or a proxy talk to us.
func (s *session) unknown(line string) {
	s.invalid(500, "Command unrecognized")
	word, _, _ := strings.Cut(line, " ")
	switch strings.ToUpper(word) {
	case "GET", "POST", "PUT", "CONNECT", "HEAD", "OPTIONS":
		s.badInput("500 5.5.1 Invalid command: Command unrecognized")
	}
}

// rset abandons the transaction.
func (s *session) rset(ctx context.Context, arg string) {
	switch {
	case !s.noArguments(arg):
	case s.HELO == "":
		s.notNow()
	default:
		if _, ok := s.decide(ctx, wire.PhaseRset, "", ""); ok {
			s.reset()
			s.say(250, smtp.EnhancedCode{2, 0, 0}, "Reset state")
		}
	}
}

// vrfy neither confirms nor denies (RFC 5321 section 3.5.3).
func (s *session) vrfy(arg string) {
	if arg == "" {
		s.badArgument("VRFY requires an address")
		return
	}
	s.say(252, smtp.EnhancedCode{2, 0, 0}, "Addresses are not verified, send the message to find out")
}

// reset ends the transaction, if there is one.
func (s *session) reset() {
	if s.msg != nil {
		s.msg.discard()
		s.msg = nil
	}
	if s.tx != nil {
		s.backend.Reset(s.tx)
		s.tell(wire.TxRollback{Message: uint32(s.tx.ID)})
		s.tell(wire.TxReset{Message: uint32(s.tx.ID)})
		s.tx = nil
	}
}

// say collects a reply.
func (s *session) say(code int, enhanced smtp.EnhancedCode, text string) {
	before := len(s.wire.out)
	s.wire.out = smtp.AppendReply(s.wire.out, code, enhanced, text)
	if s.wants(wire.EventProtocolServer) {
		s.tellReply(s.wire.out[before:])
	}
	if len(s.wire.out) < maxPending {
		return
	}
	if err := s.wire.flush(); err != nil {
		s.fail(err)
	}
}

// bye collects a last reply.
func (s *session) bye(code int, enhanced smtp.EnhancedCode, text string) {
	s.say(code, enhanced, text)
	if s.end == "" {
		s.end = reasonQuit
	}
}

// refuse answers the current command with a 4yz or 5yz reply.
func (s *session) refuse(code int, enhanced smtp.EnhancedCode, text string) {
	s.refuseWith(&smtp.Error{Code: code, Enhanced: enhanced, Text: text})
}

// refuseWith answers the current command with e. A 421 ends the session, as RFC
// 5321 section 3.8 has it. A refusal without an enhanced code gets the one that
// says nothing more than its class.
func (s *session) refuseWith(e *smtp.Error) {
	if e.Enhanced == (smtp.EnhancedCode{}) {
		bare := *e
		bare.Enhanced = smtp.EnhancedCode{uint8(e.Code / 100), 0, 0}
		e = &bare
	}
	s.say(e.Code, e.Enhanced, e.Text)
	event := report.FailedCommand{Session: s.ID, Command: string(s.cmd), Result: e.Reply()}
	if e.Err != nil {
		event.Cause = e.Err.Error()
		var rule interface{ Rule() string }
		if errors.As(e.Err, &rule) {
			event.Rule = rule.Rule()
		}
	}
	s.cfg.Events.Report(event)
	if e.Code == 421 {
		s.end = reasonQuit
		return
	}
	if e.Permanent() {
		s.errors++
	}
	if s.errors >= s.cfg.MaxErrors && s.end == "" {
		s.bye(421, smtp.EnhancedCode{4, 7, 0}, "Too many errors")
		s.cfg.Events.Report(report.BadInput{Session: s.ID, Result: "421 4.7.0 Too many errors"})
	}
}

// replyTo returns the reply that the backend's error stands for, nil for one that is a
// failure of ours.
func replyTo(err error) *smtp.Error {
	if e, ok := errors.AsType[*smtp.Error](err); ok && e.Code >= 400 && e.Code <= 599 {
		return e
	}
	return nil
}

// refuseErr answers with what the backend returned, see Backend.
func (s *session) refuseErr(err error) {
	if e := replyTo(err); e != nil {
		s.refuseWith(e)
		return
	}
	s.refuseWith(&smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary Error", Err: err})
}

// invalid refuses a command with 5.5.1.
func (s *session) invalid(code int, text string) {
	s.refuse(code, smtp.EnhancedCode{5, 5, 1}, "Invalid command: "+text)
}

// notNow refuses a command that is out of sequence.
func (s *session) notNow() { s.invalid(503, "Command not allowed at this point.") }

// badArgument refuses the argument of a command.
func (s *session) badArgument(text string) {
	s.refuse(501, smtp.EnhancedCode{5, 5, 4}, "Invalid command arguments: "+text)
}

// noArguments refuses arguments of commands that have none.
func (s *session) noArguments(arg string) bool {
	if arg != "" {
		s.refuse(500, smtp.EnhancedCode{5, 5, 4}, "Invalid command arguments: command does not accept arguments.")
	}
	return arg == ""
}

// badInput ends a session that can not be followed any more. result is the reply
// that it got.
func (s *session) badInput(result string) {
	s.cfg.Events.Report(report.BadInput{Session: s.ID, Result: result})
	s.end = reasonQuit
}

// readError ends the session after a failed read, or the write before it.
func (s *session) readError(err error) {
	switch {
	case s.wire.stuck:
		s.fail(err)
	case errors.Is(err, errLineTooLong):
		s.say(500, smtp.EnhancedCode{5, 0, 0}, "Command line too long")
		s.badInput("500 5.0.0 Command line too long")
	case errors.Is(err, os.ErrDeadlineExceeded):
		if s.wire.drained() {
			s.bye(421, smtp.EnhancedCode{4, 3, 2}, "Service shutting down")
			return
		}
		s.timedOut()
	default:
		s.fail(err)
	}
}

// timedOut ends the session with a reply that does not wait for the peer long.
func (s *session) timedOut() {
	s.end = reasonTimeout
	s.wire.timeout = min(s.wire.timeout, 5*time.Second)
	s.say(421, smtp.EnhancedCode{4, 4, 2}, "Timeout")
}

// fail ends the session after an error of the connection.
func (s *session) fail(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end = reasonTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		s.end = reasonDisconnect
	default:
		s.end = fmt.Sprintf("io-error: %v", err)
	}
	s.wire.out = nil
}
