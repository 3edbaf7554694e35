package filterchain

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Session is one session's part in a chain. Its methods are called from one goroutine.
type Session struct {
	c       *Chain
	id      uint64
	facts   policy.Facts
	fcrdns  wire.Result
	members []*member // one for each filter of the chain

	inTransaction bool          // from TxBegin to TxReset
	wanted        uint32        // events that a member wants
	known         []wire.Report // who the session is, for a process that comes later
	line          []byte        // scratch
}

// member is a filter's part in a session.
type member struct {
	f    *Filter
	s    *Session
	life *life // of a process; nil: it was not there, or is lost to this session

	answer chan answer // room for one
	timer  *time.Timer

	// What the reader of the life looks at, guarded by life.mu.
	token    uint64 // of the question that is open
	stale    uint64 // of the one before
	stage    *stage // of the message that passes through
	remarks  []string
	remarked atomic.Bool // there are some; may be read without the lock
}

// answer is a verdict of a process.
type answer struct {
	verdict wire.Verdict
	param   string
}

// Open begins a session. f says what is known of it at its start. Processes that are
// being started are waited for, for a while.
func (c *Chain) Open(ctx context.Context, id uint64, f policy.Facts, connect wire.LinkConnect) *Session {
	s := &Session{c: c, id: id, facts: f, fcrdns: connect.FCrDNS}
	for _, f := range c.Filters {
		m := &member{f: f, s: s}
		if f.Process != nil {
			m.answer = make(chan answer, 1)
			m.attach(f.Process.current(ctx, true))
		}
		s.members = append(s.members, m)
	}
	s.want()
	s.Report(connect)
	return s
}

// Close ends the session.
func (s *Session) Close() {
	s.pass()
	s.Report(wire.LinkDisconnect{})
	for _, m := range s.members {
		if m.life != nil && s.wanted != 0 {
			_ = m.life.ask(nil) // what was held back need not wait any longer; it has ended the life, if it failed
		}
		m.detach()
		if m.timer != nil {
			m.timer.Stop()
		}
	}
}

// attach makes the session known to a life.
func (m *member) attach(l *life) {
	if l != nil && l.join(m.s.id, m) {
		m.life = l
	}
}

// detach is its reverse.
func (m *member) detach() {
	if m.life != nil {
		m.life.leave(m.s.id)
		m.life = nil
	}
}

// want sums up which events are to be told.
func (s *Session) want() {
	s.wanted = 0
	for _, m := range s.members {
		if m.life != nil {
			s.wanted |= m.life.events[s.c.Direction]
		}
	}
}

// Wants tells whether an event is worth reporting. Those that say who the session is
// always are.
func (s *Session) Wants(e wire.Event) bool { return s.wanted&(1<<e) != 0 }

// Report tells the filters what happened.
func (s *Session) Report(r wire.Report) {
	switch r := r.(type) {
	case wire.LinkConnect, wire.LinkGreeting:
		s.known = append(s.known, r)
	case wire.LinkIdentify:
		s.facts.HELO = r.Identity
		s.identify(r)
	case wire.LinkTLS:
		s.facts.TLS, s.facts.HELO = true, ""
		s.known = append(s.known, r)
	case wire.LinkAuth:
		if r.Result == wire.Pass {
			s.facts.Authenticated, s.facts.Username = true, r.User
			s.known = append(s.known, r)
		}
	case wire.TxBegin:
		s.inTransaction = true
	case wire.TxReset:
		s.inTransaction = false
	}
	e := r.Event()
	if !s.Wants(e) {
		return
	}
	s.line = wire.AppendReport(s.line[:0], time.Now(), s.c.Direction, s.id, r)
	for _, m := range s.members {
		if m.life != nil && m.life.wants(s.c.Direction, e) {
			m.life.tell(s.line)
		}
	}
}

// identify remembers how the session introduced itself last.
func (s *Session) identify(r wire.LinkIdentify) {
	for i, k := range s.known {
		if k.Event() == wire.EventLinkIdentify {
			s.known = append(s.known[:i], s.known[i+1:]...)
			break
		}
	}
	s.known = append(s.known, r)
}

// revive gives the session a process that has come back, outside of transactions, and
// tells it who the session is. It returns false when the process is not there.
func (m *member) revive(ctx context.Context, patient bool) bool {
	if m.life != nil && !m.life.ended() {
		return true
	}
	if m.s.inTransaction {
		return false
	}
	m.detach()
	m.attach(m.f.Process.current(ctx, patient))
	m.s.want()
	if m.life == nil {
		return false
	}
	d := m.s.c.Direction
	for _, r := range m.s.known {
		if m.life.wants(d, r.Event()) {
			m.s.line = wire.AppendReport(m.s.line[:0], time.Now(), d, m.s.id, r)
			m.life.tell(m.s.line)
		}
	}
	return true
}

// Ready gives the session the processes that have come back, and waits a while for those
// that are being started. It is called before a transaction whose begin is reported
// before filters are asked about it: whoever is not there then has no part in it.
func (s *Session) Ready(ctx context.Context) {
	for _, m := range s.members {
		if m.f.Process != nil {
			m.revive(ctx, true)
		}
	}
}

// pass passes on what filters remarked by themselves.
func (s *Session) pass() {
	for _, m := range s.members {
		if m.life == nil || !m.remarked.Load() {
			continue
		}
		m.life.mu.Lock()
		remarks := m.remarks
		m.remarks = nil
		m.remarked.Store(false)
		m.life.mu.Unlock()
		for _, text := range remarks {
			s.remark("proc", m.f.Name, text)
		}
	}
}

// remark tells filters and the log what one of them has to say.
func (s *Session) remark(kind, filter, text string) {
	s.c.Events.Report(report.FilterRemark{Session: report.Session(s.id), Kind: kind, Filter: filter, Text: text})
	s.Report(wire.FilterReport{Type: kind, Name: filter, Message: text})
}

// hasName tells whether the client has a reverse name that is one.
func (s *Session) hasName() bool {
	if s.facts.RDNS == "" || s.facts.RDNS == "<unknown>" {
		return false
	}
	_, err := netip.ParseAddr(s.facts.RDNS)
	return err != nil
}
