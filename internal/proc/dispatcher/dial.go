package dispatcher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dane"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
	"github.com/opensmtpd/opensmtpd/internal/tlsconf"
)

// connectTimeout bounds a TCP connection, the kernel's own being minutes.
const connectTimeout = 30 * time.Second

// dialer makes the connections of the relayer.
type dialer struct{ d *Dispatcher }

// Dial implements relay.Dialer.
func (x dialer) Dial(ctx context.Context, t *relay.Target) (relay.Session, error) {
	cfg, err := x.config(t)
	if err != nil {
		return nil, &relay.DialError{Stage: relay.StartTLS, Text: "Cannot set up TLS", Err: err}
	}
	nd := net.Dialer{Timeout: connectTimeout}
	nd.SetMultipathTCP(false)
	if t.Source.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Source, 0))
	}
	conn, err := nd.DialContext(ctx, "tcp", t.Addr.String())
	if err != nil {
		return nil, &relay.DialError{Stage: relay.Connect, Text: "Connection failed: " + plain(err), Err: err}
	}
	s := client.New(conn, cfg)
	if err := s.Open(ctx); err != nil {
		s.Close()
		return nil, dialError(err)
	}
	local, _ := netip.ParseAddrPort(conn.LocalAddr().String())
	return &outgoing{s: s, local: local.Addr().Unmap()}, nil
}

// plain returns what went wrong with a connection, without addresses.
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return "timed out"
		}
		err = op.Err
	}
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:]
}

// dialError tells the relayer how far a connection came.
func dialError(err error) error {
	out := &relay.DialError{Stage: relay.Connect, Text: err.Error(), Err: err}
	if e, ok := errors.AsType[*client.Error](err); ok {
		out.Stage = stageOf(e.Stage)
		out.Reply = &smtp.Error{Code: e.Code, Enhanced: e.Enhanced, Text: e.Text}
	}
	if e, ok := errors.AsType[*client.ConnError](err); ok {
		out.Stage = stageOf(e.Stage)
		out.TLSBroke = e.Stage == client.Handshake
	}
	return out
}

// stageOf translates a stage of the client.
func stageOf(s client.Stage) relay.Stage {
	switch s {
	case client.Banner:
		return relay.Banner
	case client.Hello:
		return relay.Hello
	case client.StartTLS, client.Handshake:
		return relay.StartTLS
	case client.Auth:
		return relay.Auth
	case client.Rcpt:
		return relay.Rcpt
	case client.Data:
		return relay.Data
	case client.Dot:
		return relay.Dot
	}
	return relay.Mail
}

// config translates a target into the settings of a session.
func (x dialer) config(t *relay.Target) (client.Config, error) {
	cfg := client.Config{
		Name: t.HELO, LMTP: t.LMTP, MaxRcptFailures: t.MaxFailures, ID: t.Session, Events: x.d.events,
	}
	if t.Auth != nil {
		cfg.Credentials = &client.Credentials{User: t.Auth.User, Password: t.Auth.Password}
	}
	switch {
	case t.TLS.Mode == relay.NoTLS:
		return cfg, nil
	case t.TLS.Implicit:
		cfg.TLSMode = client.ImmediateTLS
	case t.TLS.Mode == relay.Opportunistic:
		cfg.TLSMode = client.OpportunisticTLS
	default:
		cfg.TLSMode = client.RequireTLS
	}
	keys := x.d.current.Load().keys
	tc := tlsconf.Client{ServerName: t.TLS.SNI, Protocols: t.Protocols, Ciphers: t.Ciphers}
	if t.PKI != "" {
		cert, ok := keys.certificates[t.PKI]
		if !ok {
			return cfg, fmt.Errorf("no certificate %q", t.PKI)
		}
		tc.Certificate = &cert
	}
	names := t.TLS.Names
	if len(names) == 0 {
		names = []string{strings.Trim(t.Host, "[]")}
	}
	if tc.ServerName == "" {
		if _, err := netip.ParseAddr(names[0]); err != nil {
			tc.ServerName = names[0]
		}
	}
	tlsCfg, err := tc.Config()
	if err != nil {
		return cfg, err
	}
	cfg.TLS = tlsCfg
	switch t.TLS.Mode {
	case relay.Verified, relay.STS:
		roots, err := keys.roots(t.CA)
		if err != nil {
			return cfg, err
		}
		tlsCfg.InsecureSkipVerify = true // verified below, for any of several names
		tlsCfg.VerifyConnection = func(st tls.ConnectionState) error { return verify(st.PeerCertificates, roots, names) }
		cfg.Verified = func(*tls.ConnectionState) bool { return true }
	case relay.DANE:
		records := make([]dane.Record, len(t.TLS.TLSA))
		for i, r := range t.TLS.TLSA {
			records[i] = dane.Record(r)
		}
		dane.Configure(tlsCfg, records, names, nil)
		cfg.Verified = func(*tls.ConnectionState) bool { return true }
	default:
		cfg.Verified = func(*tls.ConnectionState) bool { return false }
	}
	return cfg, nil
}

// verify checks a chain up to one of roots, nil for the system's, for one of names.
func verify(chain []*x509.Certificate, roots *x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("server shows no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return err
	}
	var err error
	for _, n := range names {
		if err = chain[0].VerifyHostname(n); err == nil {
			return nil
		}
	}
	return err
}

// outgoing adapts a session of the client to the relayer.
type outgoing struct {
	s     *client.Session
	local netip.Addr
}

// Caps implements relay.Session.
func (o *outgoing) Caps() relay.Caps {
	x := o.s.Extensions()
	return relay.Caps{Size: x.MaxSize, DSN: x.DSN, MailMax: x.MaxMails, RcptMax: x.MaxRcpts, RcptDomainMax: x.MaxDomains, LocalAddr: o.local}
}

// Send implements relay.Session.
func (o *outgoing) Send(ctx context.Context, t *relay.Transaction) ([]relay.Answer, error) {
	first := t.Rcpts[0]
	tx := &client.Transaction{
		Sender: t.Sender, Rcpts: make([]client.Recipient, len(t.Rcpts)),
		Body: io.NewSectionReader(t.Body, 0, t.Body.Size()), Size: t.Body.Size(),
		EightBit: first.Flags&envelope.EightBit != 0, UTF8: first.Flags&envelope.UTF8 != 0, Ret: first.Ret, EnvID: first.EnvID,
	}
	for i, e := range t.Rcpts {
		tx.Rcpts[i] = client.Recipient{Path: e.Dest, Notify: e.Notify, OrigRcpt: e.OrigRcpt}
	}
	results := o.s.Send(ctx, tx)
	answers := make([]relay.Answer, len(results))
	var broken error
	for i, r := range results {
		a := relay.Answer{Code: r.Reply.Code, Enhanced: r.Reply.Enhanced, Text: r.Reply.Text, Stage: stageOf(r.Stage)}
		if e, ok := errors.AsType[*client.Error](r.Err); ok {
			a.Local, a.Again = e.Local, errors.Is(e, client.ErrNextTransaction)
			a.Code, a.Enhanced, a.Text = e.Code, e.Enhanced, e.Text
		}
		if e, ok := errors.AsType[*client.ConnError](r.Err); ok {
			broken = e
		}
		answers[i] = a
	}
	if broken == nil && !o.s.Usable() {
		broken = client.ErrNotUsable
	}
	return answers, broken
}

// Quit implements relay.Session.
func (o *outgoing) Quit(ctx context.Context) error { return o.s.Quit(ctx) }

// Done implements relay.Session: what a host says unasked is noticed at the next
// command.
func (o *outgoing) Done() <-chan struct{} { return nil }
