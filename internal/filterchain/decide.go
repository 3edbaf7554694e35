package filterchain

import (
	"context"
	"errors"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Decide asks the filters about a command before it is obeyed. param is the parameter
// of the phase: the name of HELO and EHLO, the argument of AUTH, the address of MAIL
// and RCPT without its brackets; connect asks about what Open was told.
func (s *Session) Decide(ctx context.Context, phase wire.Phase, param string) Verdict {
	s.pass()
	s.learn(phase, param)
	d := decision{s: s, phase: phase, param: param, v: Verdict{Kind: wire.VerdictProceed}}
	for _, m := range s.members {
		if d.ask(ctx, m) {
			break
		}
	}
	s.pass()
	if s.Wants(wire.EventFilterResponse) {
		s.Report(d.response())
	}
	return d.v
}

// learn notes what a command is about, for the conditions of built-in filters.
func (s *Session) learn(phase wire.Phase, param string) {
	switch phase {
	case wire.PhaseHelo, wire.PhaseEhlo:
		s.facts.HELO = param
	case wire.PhaseMailFrom:
		s.facts.Sender = path(param)
	case wire.PhaseRcptTo:
		s.facts.Rcpt = path(param)
	}
}

// path reads an address of a command.
func path(address string) smtp.Path {
	p, _, err := smtp.ParsePath("<" + address + ">")
	if err != nil {
		return smtp.Path{}
	}
	return p
}

// decision is one that is being made.
type decision struct {
	s     *Session
	phase wire.Phase
	param string // as the next filter is asked
	v     Verdict
}

// ask asks one filter; true ends the chain.
func (d *decision) ask(ctx context.Context, m *member) (end bool) {
	if m.f.Builtin != nil {
		return d.builtin(ctx, m.f)
	}
	if !m.revive(ctx, d.phase == wire.PhaseMailFrom) {
		return d.missing(m)
	}
	if !m.life.answers(d.s.c.Direction, d.phase) {
		return false
	}
	param := d.param
	if d.phase == wire.PhaseAuth && !m.f.Secrets {
		param = masked(param)
	}
	a, err := m.ask(ctx, d.phase, param)
	if err != nil {
		m.f.Process.failedAnswer()
		return d.missing(m)
	}
	return d.apply(m.f, "proc", a.verdict, a.param) || a.verdict == wire.VerdictRewrite && m.f.RewriteEnds
}

// apply takes a filter's verdict into account; true ends the chain.
func (d *decision) apply(f *Filter, kind string, v wire.Verdict, param string) (end bool) {
	switch v {
	case wire.VerdictJunk:
		d.v.Junk = true
	case wire.VerdictReport:
		d.s.remark(kind, f.Name, param)
	case wire.VerdictBypass:
		return true
	case wire.VerdictRewrite:
		d.rewrite(param)
	case wire.VerdictReject, wire.VerdictDisconnect:
		d.v.Kind, d.v.Refusal = v, refusal(f.Name, param)
		return true
	}
	return false
}

// rewrite replaces the argument, in the phases that have one.
func (d *decision) rewrite(param string) {
	switch d.phase {
	case wire.PhaseMailFrom, wire.PhaseRcptTo:
		d.v.Argument = bracketed(param)
		d.param = address(d.v.Argument)
	case wire.PhaseHelo, wire.PhaseEhlo, wire.PhaseAuth:
		d.v.Argument, d.param = param, param
	default:
		return
	}
	d.v.Kind = wire.VerdictRewrite
	d.s.learn(d.phase, d.param)
}

// missing decides where a process does not answer; true ends the chain. Commands that
// bring a message no further are obeyed all the same.
func (d *decision) missing(m *member) (end bool) {
	if m.f.Bypass || !m.f.Process.decides(d.s.c.Direction) {
		return false
	}
	e := &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary failure, please try again",
		Err: &errRefused{m.f.Name, errUnavailable}}
	switch d.phase {
	case wire.PhaseMailFrom, wire.PhaseRcptTo, wire.PhaseData, wire.PhaseCommit:
	case wire.PhaseAuth, wire.PhaseStartTLS:
		e.Code = 454
	default:
		return false
	}
	d.v.Kind, d.v.Refusal = wire.VerdictReject, e
	return true
}

// response is the report of the decision.
func (d *decision) response() wire.FilterResponse {
	r := wire.FilterResponse{Phase: d.phase.Reported(), Response: d.v.Kind.String()}
	switch {
	case d.v.Refusal != nil:
		r.Param = d.v.Refusal.Reply()
	case d.v.Kind == wire.VerdictRewrite:
		if r.Param = d.v.Argument; d.phase == wire.PhaseAuth {
			r.Param = masked(r.Param) // filters with auth-secrets know it, others must not
		}
	case d.v.Junk:
		r.Response = wire.VerdictJunk.String()
	}
	return r
}

// Errors of a question.
var (
	errLate = errors.New("no answer in time")
	errLost = errors.New("it ended before it answered")
)

// ask asks the process of m and waits for its answer.
func (m *member) ask(ctx context.Context, phase wire.Phase, param string) (answer, error) {
	l, s, began := m.life, m.s, time.Now()
	token := l.open(m)
	if phase == wire.PhaseConnect {
		s.line = wire.AppendConnectRequest(s.line[:0], began, s.id, token, s.facts.RDNS, bare(s.facts.Source))
	} else {
		s.line = wire.AppendRequest(s.line[:0], began, s.c.Direction, phase, s.id, token, param)
	}
	heard := l.heard.Load()
	if err := l.ask(s.line); err != nil {
		return answer{}, err
	}
	limit := m.f.timeout(phase)
	if m.timer == nil {
		m.timer = time.NewTimer(limit)
	} else {
		m.timer.Reset(limit)
	}
	defer m.timer.Stop()
	select {
	case a := <-m.answer:
		l.p.stats.answered(time.Since(began))
		return a, nil
	case <-l.dead:
		return answer{}, errLost
	case <-ctx.Done():
		l.forget(m)
		return answer{}, ctx.Err()
	case <-m.timer.C:
	}
	l.forget(m)
	l.p.Warnf("filter process %s: %016x: no answer to %s within %v", l.p.Name, s.id, phase, limit)
	if l.heard.Load() == heard { // to nobody
		l.end(errHung)
	}
	return answer{}, errLate
}

// open begins a question and returns its token.
func (l *life) open(m *member) uint64 {
	token := l.newToken()
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-m.answer: // of an earlier one, in the moment it was given up
	default:
	}
	m.token = token
	return token
}

// forget gives up the question that is open.
func (l *life) forget(m *member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.token != 0 {
		m.stale, m.token = m.token, 0
	}
}

// bare returns an address of rules without brackets.
func bare(source string) string {
	if len(source) > 2 && source[0] == '[' {
		return source[1 : len(source)-1]
	}
	return source
}

// builtin applies a built-in filter; true ends the chain.
func (d *decision) builtin(ctx context.Context, f *Filter) (end bool) {
	b := f.Builtin
	if b.Phase != d.phase {
		return false
	}
	holds, err := b.holds(ctx, d.s)
	if err != nil {
		d.s.c.Warn(err)
		if b.Action != wire.VerdictReject && b.Action != wire.VerdictDisconnect {
			return false
		}
		// Whether it holds is not known: nobody is sent away for good.
		d.v.Kind, d.v.Refusal = wire.VerdictReject, &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0},
			Text: "Temporary failure, please try again", Err: &errRefused{f.Name, err}}
		return true
	}
	return holds && d.apply(f, "builtin", b.Action, b.Argument)
}

// Builtin is a filter of the configuration: one condition, one action.
type Builtin struct {
	Phase     wire.Phase
	Condition Condition
	Not       bool
	Table     string // empty: the bare condition
	Regex     bool
	Action    wire.Verdict // Reject, Disconnect, Rewrite, Report, Junk, Bypass
	Argument  string
}

// Condition is what a built-in filter asks.
type Condition uint8

// The conditions.
const (
	FCrDNS   Condition = iota // the client's name has its address
	RDNS                      // it has a name, in Table
	Src                       // its address is in Table
	HELO                      // the name it gave is in Table
	Auth                      // it has authenticated, as one in Table
	MailFrom                  // the sender is in Table
	RcptTo                    // the recipient is in Table
)

// holds tells whether the condition holds, its negation considered.
func (b *Builtin) holds(ctx context.Context, s *Session) (bool, error) {
	ok := false
	switch {
	case b.Condition == FCrDNS:
		ok = s.fcrdns == wire.Pass
	case b.Condition == RDNS && (b.Table == "" || !s.hasName()):
		ok = s.hasName()
	case b.Condition == Auth && (b.Table == "" || !s.facts.Authenticated):
		ok = s.facts.Authenticated
	default:
		c := policy.Condition{Kind: [...]policy.Kind{
			RDNS: policy.From, Src: policy.From, HELO: policy.HELO, Auth: policy.Auth, MailFrom: policy.MailFrom, RcptTo: policy.RcptTo,
		}[b.Condition], How: policy.InTable, RDNS: b.Condition == RDNS, Table: b.Table}
		if b.Regex {
			c.How = policy.RegexIn
		}
		var err error
		if ok, err = s.c.Match(ctx, &c, &s.facts); err != nil {
			return false, err
		}
	}
	return ok != b.Not, nil
}
