package nexthop

import (
	"errors"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/srs"
)

// MailFrom is the argument of a relay's mail-from option: a user, "@domain", or
// both. The part that is empty stays as the sender has it.
type MailFrom struct{ Local, Domain string }

// ParseMailFrom parses the argument of mail-from; empty text gives the zero value,
// which replaces nothing.
func ParseMailFrom(s string) (MailFrom, error) {
	if s == "" {
		return MailFrom{}, nil
	}
	if s[0] == '@' {
		p, err := smtp.ParseMailbox("x" + s)
		if err != nil {
			return MailFrom{}, errors.New("malformed domain")
		}
		return MailFrom{Domain: p.Domain}, nil
	}
	p, err := smtp.ParseMailbox(s)
	if err != nil {
		return MailFrom{}, err
	}
	return MailFrom(p), nil
}

// Sender is how a relay rewrites the envelope sender.
type Sender struct {
	MailFrom MailFrom
	SRS      *srs.Rewriter // nil: none
}

// Rewrite returns the sender to give to the next hop for mail of sender that was
// addressed to rcpt and goes to dest. The null sender stays what it is (RFC 5321
// section 4.5.5). A domain given by mail-from is the operator's own and is not
// rewritten by SRS, which is for forwarded mail only: rcpt differs from dest.
func (s Sender) Rewrite(sender, rcpt, dest smtp.Path) smtp.Path {
	if sender.IsNull() {
		return sender
	}
	if s.MailFrom.Local != "" {
		sender.Local = s.MailFrom.Local
	}
	if s.MailFrom.Domain != "" {
		sender.Domain = s.MailFrom.Domain
		return sender
	}
	if s.SRS != nil && rcpt != dest {
		return s.SRS.Forward(sender, rcpt.Domain)
	}
	return sender
}
