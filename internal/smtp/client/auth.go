package client

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

const (
	maxAuthLine   = 512 // bytes of an AUTH command, with its end (RFC 5321 section 4.5.3.1.4)
	maxAuthRounds = 8   // challenges
)

// mechanism is a SASL mechanism (RFC 4422). Its methods are called in the order of
// the exchange.
type mechanism interface {
	// start returns the initial response; ok is false when there is none.
	start() (response []byte, ok bool)
	// next answers a challenge.
	next(challenge []byte) ([]byte, error)
	// end tells whether the server has proved what it had to.
	end() error
}

// errChallenge says that a server does not keep to the mechanism.
var errChallenge = errors.New("unexpected challenge")

// authenticate authenticates the session (RFC 4954).
func (s *Session) authenticate(ctx context.Context) error {
	err := s.authExchange(ctx)
	s.done(Auth, s.cfg.Credentials.User, err)
	return err
}

// authExchange holds the exchange.
func (s *Session) authExchange(ctx context.Context) error {
	code := smtp.EnhancedCode{4, 7, 0}
	switch {
	case s.tls == nil && !s.cfg.AuthInClear:
		return local(Auth, 454, code, "Refuse to AUTH over insecure channel")
	case len(s.ext.Auth) == 0:
		return local(Auth, 454, code, "AUTH not advertised")
	case strings.ContainsAny(s.cfg.Credentials.User+s.cfg.Credentials.Password, "\x00\x01\r\n"):
		return local(Auth, 454, code, "credentials cannot be sent")
	}
	name, m := s.chooseMechanism()
	if m == nil {
		return local(Auth, 454, code, "no supported AUTH method")
	}
	line, first := "AUTH "+name, ""
	initial, ok := m.start()
	if ok {
		first = encodeResponse(initial)
		if len(line)+len(first)+len(" \r\n") <= maxAuthLine {
			line, first, ok = line+" "+first, "", false
		}
	}
	s.wire.command(line, "AUTH "+name+" ********")
	for range maxAuthRounds {
		if err := s.wire.flush(ctx); err != nil {
			return s.fail(Auth, err)
		}
		r, err := s.read(ctx, Auth, s.cfg.Timeouts.Hello, nil)
		if err != nil {
			return err
		}
		if r.Code == 235 {
			if err := m.end(); err != nil {
				return local(Auth, 454, code, "AUTH "+name+": "+err.Error())
			}
			return nil
		}
		if r.Code != 334 {
			return s.refused(Auth, r)
		}
		if ok { // the initial response did not fit in the command
			s.wire.command(first, "********")
			ok = false
			continue
		}
		challenge, err := base64.StdEncoding.DecodeString(r.Text)
		var response []byte
		if err == nil {
			response, err = m.next(challenge)
		}
		if err != nil {
			return s.cancelAuth(ctx, name, err)
		}
		s.wire.command(base64.StdEncoding.EncodeToString(response), "********")
	}
	return s.fail(Auth, ErrTooMuchData)
}

// cancelAuth ends an exchange that leads nowhere (RFC 4954 section 4).
func (s *Session) cancelAuth(ctx context.Context, name string, reason error) error {
	if _, err := s.ask(ctx, Auth, "*", s.cfg.Timeouts.Hello, nil); err != nil {
		return err
	}
	return local(Auth, 454, smtp.EnhancedCode{4, 7, 0}, "AUTH "+name+": "+reason.Error())
}

// encodeResponse returns an initial response; an empty one is a "=".
func encodeResponse(p []byte) string {
	if len(p) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(p)
}

// chooseMechanism returns the first mechanism that the server offers. A server that
// has proved its name is given the password, which spares the work of SCRAM; others
// are not, if that can be helped.
func (s *Session) chooseMechanism() (string, mechanism) {
	c := s.cfg.Credentials
	order := []string{"SCRAM-SHA-256", "PLAIN", "LOGIN"}
	switch {
	case c.Bearer:
		order = []string{"XOAUTH2"}
	case s.verified:
		order = []string{"PLAIN", "LOGIN", "SCRAM-SHA-256"}
	}
	for _, name := range order {
		if !slices.Contains(s.ext.Auth, name) {
			continue
		}
		switch name {
		case "PLAIN":
			return name, &plain{c}
		case "LOGIN":
			return name, &login{c: c}
		case "XOAUTH2":
			return name, &xoauth2{c}
		case "SCRAM-SHA-256":
			return name, newScram(c)
		}
	}
	return "", nil
}

// plain is PLAIN (RFC 4616).
type plain struct{ *Credentials }

func (m *plain) start() ([]byte, bool)       { return []byte("\x00" + m.User + "\x00" + m.Password), true }
func (m *plain) next([]byte) ([]byte, error) { return nil, errChallenge }
func (m *plain) end() error                  { return nil }

// login is LOGIN, which no standard describes: the server asks for the name, then
// for the password. What it says then differs.
type login struct {
	c     *Credentials
	asked int
}

func (m *login) start() ([]byte, bool) { return nil, false }

func (m *login) next([]byte) ([]byte, error) {
	m.asked++
	switch m.asked {
	case 1:
		return []byte(m.c.User), nil
	case 2:
		return []byte(m.c.Password), nil
	}
	return nil, errChallenge
}

func (m *login) end() error { return nil }

// xoauth2 is XOAUTH2, of Google and Microsoft. A challenge holds the reason of a
// failure, which an empty response confirms.
type xoauth2 struct{ *Credentials }

func (m *xoauth2) start() ([]byte, bool) {
	return []byte("user=" + m.User + "\x01auth=Bearer " + m.Password + "\x01\x01"), true
}

func (m *xoauth2) next([]byte) ([]byte, error) { return nil, nil }
func (m *xoauth2) end() error                  { return nil }
