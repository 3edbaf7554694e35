package server

import (
	"context"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxBatch bounds the recipients that the backend is asked about at once.
const maxBatch = 64

// askedRcpt is a RCPT whose reply is due.
type askedRcpt struct {
	arg string
	err error // why it was refused without asking the backend
}

// rcpt answers RCPT, and with it the RCPT commands that have already arrived
// behind: the backend is asked about all of them in one call, so that a long list
// of recipients does not pay a round trip for each. The replies are in order.
func (s *session) rcpt(ctx context.Context, arg string) {
	if s.tx == nil || s.msg != nil {
		s.notNow()
		return
	}
	s.rcpts, s.errs, s.asked = s.rcpts[:0], s.errs[:0], s.asked[:0]
	for more := true; more; arg, more = s.nextRcpt() {
		r, err := s.parseRcpt(arg)
		if s.filter != nil && err == nil {
			rewritten, ok := s.decide(ctx, wire.PhaseRcptTo, r.Path.String(), arg)
			if !ok {
				return // filters are asked for one recipient at a time
			}
			if rewritten != arg {
				arg = withParams(rewritten, arg)
				r, err = s.parseRcpt(arg)
			}
		}
		s.asked = append(s.asked, askedRcpt{arg, err})
		if err == nil {
			s.rcpts = append(s.rcpts, r)
			s.errs = append(s.errs, nil)
		}
	}
	if len(s.rcpts) > 0 {
		s.backend.Rcpt(ctx, s.tx, s.rcpts, s.errs)
	}
	n := 0
	for _, a := range s.asked {
		s.cmd = append(append(s.cmd[:0], "RCPT TO:"...), a.arg...)
		err := a.err
		if err == nil {
			err = s.errs[n]
			if n++; err == nil {
				s.accept(s.rcpts[n-1])
				continue
			}
		}
		s.refuseErr(err)
		if a.err == nil {
			s.tellRcpt(s.rcpts[n-1].Path, err)
		}
		if s.end != "" {
			return
		}
	}
}

// accept adds a recipient to the transaction.
func (s *session) accept(r Recipient) {
	s.tx.Rcpts = append(s.tx.Rcpts, r)
	s.cfg.Events.Report(report.Envelope{Session: s.ID, ID: r.lastEnvelope(), From: s.tx.Sender, To: r.Path})
	if s.wants(wire.EventTxEnvelope) {
		for _, id := range r.Envelopes {
			s.filter.Report(wire.TxEnvelope{Message: uint32(s.tx.ID), Envelope: uint64(id)})
		}
	}
	s.say(250, smtp.EnhancedCode{2, 1, 5}, "Destination address valid: Recipient ok")
	s.tellRcpt(r.Path, nil)
}

// nextRcpt uses up the next command and returns its argument if it is a RCPT,
// complete and sound, and there is room for it in the batch. Filters see one command
// after the other.
func (s *session) nextRcpt() (arg string, ok bool) {
	if s.filter != nil || len(s.asked) == maxBatch || len(s.tx.Rcpts)+len(s.rcpts) >= s.cfg.MaxRcpt {
		return "", false
	}
	line, bare, ok := s.wire.peekLine()
	if !ok || bare || len(line) > maxCommand || !smtp.IsCommand(line, smtp.RCPT) || !smtp.ValidLine(line) {
		return "", false
	}
	s.wire.skipLine()
	return smtp.ParseCommand(line).Arg, true
}

// parseRcpt makes a recipient of the argument of RCPT. The error is an
// *smtp.Error.
func (s *session) parseRcpt(arg string) (Recipient, error) {
	if len(s.tx.Rcpts)+len(s.rcpts) >= s.cfg.MaxRcpt {
		return Recipient{}, &smtp.Error{Code: 452, Enhanced: smtp.EnhancedCode{4, 5, 3}, Text: "Too many recipients: Too many recipients"}
	}
	path, rest, err := smtp.ParsePath(arg)
	if err != nil || path.IsNull() || rest != "" && rest[0] != ' ' {
		return Recipient{}, &smtp.Error{Code: 501, Enhanced: smtp.EnhancedCode{5, 1, 3}, Text: "Recipient address syntax error"}
	}
	p, err := smtp.ParseRcptParams(rest, !s.cfg.NoDSN)
	if err != nil {
		return Recipient{}, err
	}
	if !s.tx.UTF8 && !path.ASCII() {
		return Recipient{}, &smtp.Error{Code: 553, Enhanced: smtp.EnhancedCode{5, 6, 7}, Text: "Recipient address needs SMTPUTF8"}
	}
	if path.Domain == "" {
		path.Domain = s.Name
	}
	return Recipient{Path: path, Notify: notify(p.Notify), OrigRcpt: p.OrigRcpt}, nil
}

// notify returns the set that is stored with an envelope.
func notify(n smtp.Notify) envelope.Notify {
	var set envelope.Notify
	for _, f := range []struct {
		asked bool
		bit   envelope.Notify
	}{
		{n.Success, envelope.NotifySuccess}, {n.Failure, envelope.NotifyFailure},
		{n.Delay, envelope.NotifyDelay}, {n.Never, envelope.NotifyNever},
	} {
		if f.asked {
			set |= f.bit
		}
	}
	return set
}
