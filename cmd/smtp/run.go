package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

// timeout bounds the connecting, and each step of the session.
const timeout = 100 * time.Second

// run sends the message. It returns whether every recipient was accepted; an error
// is about all of them.
func (p *program) run(ctx context.Context) (ok bool, err error) {
	var text []byte
	if !p.connectOnly {
		if text, err = io.ReadAll(p.stdin); err != nil {
			return false, fmt.Errorf("read message: %w", err)
		}
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	cfg, err := p.config()
	if err != nil {
		return false, err
	}
	s, err := p.connect(ctx, cfg)
	if err != nil {
		return false, err
	}
	defer s.Close()
	if ok = true; !p.connectOnly {
		ok = p.send(ctx, s, text)
	}
	if err := s.Quit(ctx); err != nil {
		return ok, fmt.Errorf("close connection: %w", err)
	}
	return ok, nil
}

// config returns the configuration of the session.
func (p *program) config() (client.Config, error) {
	cfg := client.Config{
		Name: p.name, LMTP: p.target.lmtp, TLSMode: p.target.mode, Credentials: p.credentials,
		Timeouts: client.Timeouts{
			Greeting: timeout, Hello: timeout, TLS: timeout, Mail: timeout, Rcpt: timeout,
			Data: timeout, Block: timeout, Dot: timeout,
		},
	}
	if p.verbose {
		cfg.Trace = &tracer{p.stderr}
	}
	if cfg.TLSMode == client.NoTLS {
		return cfg, nil
	}
	var err error
	if cfg.TLS, err = p.params.config(p.target.host); err != nil {
		return cfg, fmt.Errorf("TLS: %w", err)
	}
	cfg.Verified = func(*tls.ConnectionState) bool { return p.params.verify }
	return cfg, nil
}

// connect opens a session with the first address of the server that grants one.
func (p *program) connect(ctx context.Context, cfg client.Config) (*client.Session, error) {
	lookup, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(lookup, p.target.host)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, a := range addresses {
		address := net.JoinHostPort(a, p.target.port)
		s, err := p.open(ctx, address, cfg)
		if err == nil {
			return s, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", address, err))
	}
	return nil, failed
}

// open opens a session with one address.
func (p *program) open(ctx context.Context, address string, cfg client.Config) (*client.Session, error) {
	d := net.Dialer{Timeout: timeout}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := client.New(conn, cfg)
	if err := s.Open(ctx); err != nil {
		_ = s.Quit(ctx) // err is what counts
		return nil, err
	}
	return s, nil
}

// send sends the message to all recipients, in as many transactions as the server
// asks for, and prints what became of each. It returns whether all were accepted.
func (p *program) send(ctx context.Context, s *client.Session, text []byte) bool {
	ok := true
	eightBit := slices.ContainsFunc(text, func(c byte) bool { return c >= 0x80 })
	for left := p.rcpts; len(left) > 0; {
		t := &client.Transaction{Sender: p.sender, Body: bytes.NewReader(text), Size: int64(len(text)), EightBit: eightBit}
		for _, r := range left {
			t.Rcpts = append(t.Rcpts, client.Recipient{Path: r})
		}
		results := s.Send(ctx, t)
		var next []smtp.Path
		for i, r := range results {
			if errors.Is(r.Err, client.ErrNextTransaction) && s.Usable() {
				next = append(next, left[i])
				continue
			}
			what := r.Reply.String()
			if r.Err != nil {
				ok, what = false, r.Err.Error()
			}
			fmt.Fprintf(p.stdout, "%s: %s: %s\n", left[i], r.Stage, what)
		}
		left = next
	}
	return ok
}

// tracer prints the dialogue.
type tracer struct{ w io.Writer }

func (t *tracer) Sent(line string)     { fmt.Fprintf(t.w, ">>> %s\n", line) }
func (t *tracer) Received(line string) { fmt.Fprintf(t.w, "<<< %s\n", line) }
func (t *tracer) Done(s client.Stage, about string, err error) {
	if s == client.Handshake && err == nil {
		fmt.Fprintf(t.w, "--- TLS %s\n", about)
	}
}
