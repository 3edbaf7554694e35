package server

import (
	"context"
	"fmt"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// hello answers HELO and EHLO. Either may come again and abandons a transaction
// then (RFC 5321 section 4.1.4).
func (s *session) hello(ctx context.Context, c smtp.Command) {
	switch {
	case c.Arg == "":
		s.invalid(501, c.Verb.String()+" requires domain name")
		return
	case !isHelloName(c.Arg):
		s.badArgument("Invalid domain name")
		return
	}
	phase := wire.PhaseHelo
	if c.Verb == smtp.EHLO {
		phase = wire.PhaseEhlo
	}
	name, ok := s.decide(ctx, phase, c.Arg, c.Arg)
	if !ok {
		return
	}
	s.reset()
	s.HELO, s.Extended = name, c.Verb == smtp.EHLO
	s.tell(wire.LinkIdentify{Method: c.Verb.String(), Identity: name})
	s.say(250, smtp.EnhancedCode{}, s.greeting())
}

// isHelloName tells whether arg is a host name or an address literal, in ASCII.
func isHelloName(arg string) bool {
	return smtp.Path{Domain: arg}.ASCII() && (smtp.IsHostName(arg) || smtp.IsAddressLiteral(arg))
}

// greeting returns the lines of the reply to HELO or EHLO.
func (s *session) greeting() string {
	text := fmt.Sprintf("%s Hello %s %s, pleased to meet you", s.Name, s.HELO, s.bracketed())
	if !s.Extended {
		return text
	}
	text += "\n8BITMIME\nENHANCEDSTATUSCODES"
	text += fmt.Sprintf("\nSIZE %d", s.cfg.MaxSize)
	if !s.cfg.NoDSN {
		text += "\nDSN"
	}
	text += "\nPIPELINING\nCHUNKING\nSMTPUTF8"
	text += fmt.Sprintf("\nLIMITS MAILMAX=%d RCPTMAX=%d", s.cfg.MaxMails, s.cfg.MaxRcpt)
	if s.offersTLS() && s.TLS == nil {
		text += "\nSTARTTLS"
	}
	if s.TLS != nil {
		text += "\nREQUIRETLS" // RFC 8689 section 2: under TLS only
	}
	if s.offersAuth() && s.Username == "" {
		text += "\nAUTH PLAIN LOGIN"
	}
	return text + "\nHELP"
}

// bracketed returns the client's address in brackets.
func (s *session) bracketed() string {
	if s.Addr.Is6() {
		return s.Source
	}
	return "[" + s.Source + "]"
}

// offersTLS tells whether STARTTLS is a command of this listener.
func (s *session) offersTLS() bool { return s.cfg.TLSMode == OfferTLS || s.cfg.TLSMode == RequireTLS }

// offersAuth tells whether AUTH is possible now.
func (s *session) offersAuth() bool {
	return s.cfg.Auth != NoAuth && (s.TLS != nil || s.cfg.AuthInClear)
}
