package server

import (
	"context"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// mail answers MAIL.
func (s *session) mail(ctx context.Context, arg string) {
	switch {
	case s.HELO == "" || s.tx != nil:
		s.notNow()
		return
	case s.cfg.TLSMode == RequireTLS && s.TLS == nil:
		s.invalid(530, "Must issue a STARTTLS command first")
		return
	case s.cfg.Auth == RequireAuth && !s.Authenticated:
		s.invalid(530, "Must issue an AUTH command first")
		return
	case s.mails >= s.cfg.MaxMails:
		s.refuse(452, smtp.EnhancedCode{4, 5, 3}, "Too many recipients: Too many messages sent")
		return
	}
	t, err := s.parseMail(arg)
	if err != nil {
		s.refuseErr(err)
		return
	}
	s.junkNext = false
	rewritten, ok := s.decide(ctx, wire.PhaseMailFrom, t.Sender.String(), arg)
	if !ok {
		return
	}
	if rewritten != arg {
		if t, err = s.parseMail(withParams(rewritten, arg)); err != nil {
			s.refuseErr(err)
			return
		}
	}
	t.Junk = s.junkAll || s.junkNext
	if err := s.backend.Mail(ctx, t); err != nil {
		s.refuseErr(err)
		return
	}
	s.tx = t
	s.mails++
	s.say(250, smtp.EnhancedCode{2, 0, 0}, "Ok")
	s.tellTransaction()
}

// parseMail makes a transaction of the argument of MAIL. The error is an
// *smtp.Error.
func (s *session) parseMail(arg string) (*Transaction, error) {
	sender, rest, err := smtp.ParsePath(arg)
	if err != nil || rest != "" && rest[0] != ' ' {
		return nil, &smtp.Error{Code: 553, Enhanced: smtp.EnhancedCode{5, 1, 0}, Text: "Sender address syntax error"}
	}
	p, err := smtp.ParseMailParams(rest, !s.cfg.NoDSN)
	if err != nil {
		return nil, err
	}
	if p.Size > s.cfg.MaxSize {
		return nil, &smtp.Error{Code: 552, Enhanced: smtp.EnhancedCode{5, 3, 4},
			Text: "Message too big for system: Declared size exceeds the limit"}
	}
	if !p.UTF8 && !sender.ASCII() {
		return nil, &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 6, 7}, Text: "Sender address needs SMTPUTF8"}
	}
	if p.RequireTLS && s.TLS == nil {
		return nil, &smtp.Error{Code: 530, Enhanced: smtp.EnhancedCode{5, 7, 10}, Text: "REQUIRETLS needs a session with TLS"}
	}
	if sender.Domain == "" && !sender.IsNull() {
		sender.Domain = s.Name
	}
	return &Transaction{Sender: sender, Size: p.Size, EightBit: p.EightBit, UTF8: p.UTF8, RequireTLS: p.RequireTLS, Ret: p.Ret, EnvID: p.EnvID}, nil
}
