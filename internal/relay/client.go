package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

// connectTimeout bounds the wait for a TCP connection. A host that does not answer
// in this time is as good as down, and others may be up.
const connectTimeout = 30 * time.Second

// NetDialer is the Dialer that talks to real hosts.
type NetDialer struct {
	// TLS returns how to do TLS with a target, and for a target that TLS itself does
	// not verify, as with DANE, whether it proved who it is; see client.Config. It is
	// not called for targets without TLS. Its error is temporary.
	TLS func(t *Target) (*tls.Config, func(*tls.ConnectionState) bool, error)

	// Doubt tells what a policy under test has against the certificate of a target; nil:
	// there are none.
	Doubt func(t *Target, state *tls.ConnectionState) error

	// Connect makes the connection; nil: from Target.Source by TCP.
	Connect func(ctx context.Context, t *Target) (net.Conn, error)

	// Filter makes the filter part of a session, when the connection is there, for a
	// target that has filters. Its error is temporary.
	Filter func(ctx context.Context, t *Target, local, remote netip.AddrPort) (Filter, error)

	Events   report.Sink // may be nil
	Timeouts client.Timeouts
}

// Dial implements Dialer.
func (d *NetDialer) Dial(ctx context.Context, t *Target) (Session, error) {
	cfg, err := d.config(t)
	if err != nil {
		return nil, &DialError{Stage: StartTLS, Text: "Cannot prepare TLS", Err: err}
	}
	connect := d.Connect
	if connect == nil {
		connect = connectTCP
	}
	conn, err := connect(ctx, t)
	if err != nil {
		return nil, connectError(err)
	}
	s := &netSession{}
	local := addrPort(conn.LocalAddr().String())
	s.local = local.Addr()
	if t.Filter != "" && d.Filter != nil {
		if s.filter, err = d.Filter(ctx, t, local, addrPort(conn.RemoteAddr().String())); err != nil {
			_ = conn.Close() // nothing was said
			return nil, &DialError{Stage: Connect, Text: "Filters are not available", Err: err}
		}
		cfg.Trace = s.filter
	}
	s.c = client.New(conn, cfg)
	if err := s.c.Open(ctx); err != nil {
		_ = s.Quit(ctx) // a word of goodbye where that can be said; closes
		return nil, dialError(err)
	}
	if state := s.c.TLS(); state != nil && t.TLS.Testing && d.Doubt != nil {
		s.doubt = d.Doubt(t, state)
	}
	return s, nil
}

// connectTCP connects to a target from its source.
func connectTCP(ctx context.Context, t *Target) (net.Conn, error) {
	nd := net.Dialer{Timeout: connectTimeout}
	nd.SetMultipathTCP(false)
	if t.Source.IsValid() {
		nd.LocalAddr = &net.TCPAddr{IP: t.Source.AsSlice(), Zone: t.Source.Zone()}
	}
	return nd.DialContext(ctx, "tcp", t.Addr.String())
}

// connectError tells why there is no connection, in words that may be told to the
// sender: those of the system, where it has some.
func connectError(err error) *DialError {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return &DialError{Stage: Connect, Text: "Connection timeout"}
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return &DialError{Stage: Connect, Text: "Connection failed: " + e.Error()}
	}
	return &DialError{Stage: Connect, Text: "Connection failed", Err: err}
}

// config translates a target.
func (d *NetDialer) config(t *Target) (client.Config, error) {
	cfg := client.Config{
		Name: t.HELO, LMTP: t.LMTP, MaxRcptFailures: t.MaxFailures, Timeouts: d.Timeouts, ID: t.Session, Events: d.Events,
	}
	if a := t.Auth; a != nil {
		cfg.Credentials = &client.Credentials{User: a.User, Password: a.Password, Bearer: a.Mechanism == XOAUTH2}
	}
	switch {
	case t.TLS.Implicit:
		cfg.TLSMode = client.ImmediateTLS
	case t.TLS.Mode == NoTLS:
		return cfg, nil
	case t.TLS.Mode == Opportunistic:
		cfg.TLSMode = client.OpportunisticTLS
	default:
		cfg.TLSMode = client.RequireTLS
	}
	if d.TLS == nil {
		return cfg, errors.New("no TLS configured")
	}
	var err error
	cfg.TLS, cfg.Verified, err = d.TLS(t)
	return cfg, err
}

// dialError translates the failure of a session to open.
func dialError(err error) *DialError {
	d := &DialError{Text: err.Error(), Err: err}
	var stage client.Stage
	if e, ok := errors.AsType[*client.Error](err); ok {
		stage = e.Stage
		if !e.Local {
			d.Reply = &smtp.Error{Code: e.Code, Enhanced: e.Enhanced, Text: e.Text}
		}
		d.Err = nil
	}
	if e, ok := errors.AsType[*client.ConnError](err); ok {
		stage = e.Stage
		d.TLSBroke = stage == client.Handshake
	}
	d.Stage = stageOf(stage)
	return d
}

// stageOf translates a stage.
func stageOf(s client.Stage) Stage {
	switch s {
	case client.Banner:
		return Banner
	case client.Hello:
		return Hello
	case client.StartTLS, client.Handshake:
		return StartTLS
	case client.Auth:
		return Auth
	case client.Rset, client.Mail, client.Noop, client.Quit:
		return Mail
	case client.Rcpt:
		return Rcpt
	case client.Data:
		return Data
	case client.Dot:
		return Dot
	}
	return Connect
}

// netSession is a Session over a connection.
type netSession struct {
	c      *client.Session
	local  netip.Addr
	doubt  error  // of a policy under test
	filter Filter // nil: none
}

// Caps implements Session.
func (s *netSession) Caps() Caps {
	x := s.c.Extensions()
	return Caps{
		Size: x.MaxSize, DSN: x.DSN, MailMax: x.MaxMails, RcptMax: x.MaxRcpts, RcptDomainMax: x.MaxDomains, LocalAddr: s.local,
		Name: s.c.Name(), Secure: s.c.TLS() != nil, Doubt: s.doubt,
	}
}

// Send implements Session.
func (s *netSession) Send(ctx context.Context, t *Transaction) ([]Answer, error) {
	if s.filter != nil {
		return s.filtered(ctx, t)
	}
	return s.send(ctx, t)
}

func (s *netSession) send(ctx context.Context, t *Transaction) ([]Answer, error) {
	first := t.Rcpts[0]
	ct := client.Transaction{
		Sender: t.Sender, Rcpts: make([]client.Recipient, len(t.Rcpts)), Body: io.NewSectionReader(t.Body, 0, t.Body.Size()), Size: t.Body.Size(),
		EightBit: first.Flags&envelope.EightBit != 0, UTF8: first.Flags&envelope.UTF8 != 0,
		RequireTLS: first.Flags&envelope.RequireTLS != 0, Ret: first.Ret, EnvID: first.EnvID,
	}
	for i, e := range t.Rcpts {
		ct.Rcpts[i] = client.Recipient{Path: e.Dest, Notify: e.Notify, OrigRcpt: e.OrigRcpt}
	}
	out := make([]Answer, len(t.Rcpts))
	var broken error
	for i, r := range s.c.Send(ctx, &ct) {
		out[i] = answer(r)
		if c, ok := errors.AsType[*client.ConnError](r.Err); ok {
			broken = c
		}
	}
	return out, broken
}

// answer translates a result.
func answer(r client.Result) Answer {
	a := Answer{Code: r.Reply.Code, Enhanced: r.Reply.Enhanced, Text: r.Reply.Text, Stage: stageOf(r.Stage)}
	if r.Err == nil {
		return a
	}
	a.Again = errors.Is(r.Err, client.ErrNextTransaction)
	switch e, ok := errors.AsType[*client.Error](r.Err); {
	case ok:
		a.Code, a.Enhanced, a.Text, a.Local = e.Code, e.Enhanced, e.Text, e.Local
	case !a.Again:
		a.Code, a.Text = 0, r.Err.Error()
	}
	return a
}

// Usable implements Session.
func (s *netSession) Usable() bool { return s.c.Usable() }

// Quit implements Session.
func (s *netSession) Quit(ctx context.Context) error {
	err := s.c.Quit(ctx)
	if s.filter != nil {
		s.filter.Close()
	}
	return err
}

// Done implements Session: whether the host is still there is seen when it is asked.
func (s *netSession) Done() <-chan struct{} { return nil }
