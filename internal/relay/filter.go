package relay

import (
	"context"
	"net/netip"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

// Filter takes part in one outgoing session. Its methods are called by one goroutine at
// a time.
type Filter interface {
	client.Trace

	// Begin is asked about a transaction before the host is: it may change the sender,
	// the recipients' addresses and the body, which Finish gives back. refused holds, for
	// each recipient, why it is not to be sent to, or nil.
	Begin(ctx context.Context, t *Transaction) (changed *Transaction, refused []*smtp.Error)
	// Finish is told that the transaction that Begin returned is over.
	Finish()

	Close()
}

// filtered makes a transaction with the say of a filter.
func (s *netSession) filtered(ctx context.Context, t *Transaction) ([]Answer, error) {
	changed, refused := s.filter.Begin(ctx, t)
	defer s.filter.Finish()
	out := make([]Answer, len(t.Rcpts))
	rest := *changed
	rest.Rcpts = nil
	for i, e := range refused {
		if e == nil {
			rest.Rcpts = append(rest.Rcpts, changed.Rcpts[i])
			continue
		}
		out[i] = Answer{Code: e.Code, Enhanced: e.Enhanced, Text: e.Text, Stage: Rcpt, Local: true}
		if e.Enhanced == (smtp.EnhancedCode{}) {
			out[i].Enhanced[0] = uint8(e.Code / 100)
		}
	}
	if len(rest.Rcpts) == 0 {
		return out, nil
	}
	answers, err := s.send(ctx, &rest)
	for i, e := range refused {
		if e == nil {
			out[i], answers = answers[0], answers[1:]
		}
	}
	return out, err
}

// addrPort returns the address of an end of a connection, an invalid one when it has
// none.
func addrPort(s string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(s) // the zero value says it all
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
