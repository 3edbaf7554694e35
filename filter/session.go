package filter

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Session is one SMTP session, as far as it is known. A filter that is started while
// sessions are open knows only what happened since. The fields belong to the functions
// of the Filter while they run; nothing but Data and Tx.Data is to be changed.
type Session struct {
	ID       uint64
	Outgoing bool      // with a next hop, not of a client
	Time     time.Time // of the line that is being handled

	RDNS        string         // name of the peer, "" without one
	FCrDNS      Result         // Pass when that name was confirmed; Fail, Error; "" when unknown
	Source      netip.AddrPort // the connecting end; invalid for local sessions; port 0 at Connect before OpenSMTPD tells it
	Destination netip.AddrPort
	Local       bool // over the local socket

	Hostname string // of the server, as it greets
	Method   string // HELO, EHLO or LHLO
	Identity string // what the client called itself
	TLS      string // VERSION:CIPHER:BITS, "" without TLS
	User     string // who authenticated, "" if nobody

	// Tx is the transaction under way, from MailFrom to OnTxReset; else nil.
	Tx *Transaction

	// Data is for the filter's own use.
	Data any

	c       *conn
	f       *Filter
	version wire.Version // of the line that is being handled
	out     []byte       // lines to be sent
	lines   Lines        // what is given to DataLine
	message inMessage

	queued atomic.Int64 // bytes of queue and of the run at work

	mu      sync.Mutex
	queue   []*run             // guarded by mu
	taken   []*run             // guarded by mu; was queue before, to be used again
	running bool               // guarded by mu; a worker works on queue
	ctx     context.Context    // guarded by mu; made when first asked for
	cancel  context.CancelFunc // guarded by mu
	ended   bool               // guarded by mu; the session has disconnected
}

// Transaction is one mail transaction.
type Transaction struct {
	ID         uint32   // of the message; zero until the daemon has given one
	Sender     string   // without <>
	Recipients []string // those that were accepted, without <>
	Envelopes  []uint64 // that they gave

	// Data is for the filter's own use.
	Data any
}

// String returns the id of the session as logs have it.
func (s *Session) String() string { return fmt.Sprintf("%016x", s.ID) }

// Daemon returns what the daemon told of itself.
func (s *Session) Daemon() *Daemon { return s.c.daemon }

// Context returns a context that ends with the session or with Serve.
func (s *Session) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(s.c.ctx)
		if s.ended {
			s.cancel()
		}
	}
	return s.ctx
}

// end ends the context of the session.
func (s *Session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.cancel != nil {
		s.cancel()
	}
}

// Logf writes a line to the log, with the session in front.
func (s *Session) Logf(format string, args ...any) {
	s.c.logf("%016x "+format, append([]any{s.ID}, args...)...)
}

// Report tells text to whoever asked for filter reports. Where the daemon cannot do
// that, text is logged.
func (s *Session) Report(text string) {
	if !s.c.daemon.extensions[wire.ExtResults] {
		s.Logf("report: %s", text)
		return
	}
	s.c.send(wire.AppendRemark(nil, time.Now(), s.direction(), s.ID, text))
}

func (s *Session) direction() wire.Direction {
	if s.Outgoing {
		return wire.Out
	}
	return wire.In
}

// run is lines of one session that arrived together.
type run struct {
	lines []wire.ToFilter
	text  []byte // what the lines point into, with those that append left behind
	size  int    // bytes
	then  func() // behind the lines; nil: nothing
}

// add keeps a copy of m.
func (r *run) add(m wire.ToFilter) {
	start := len(r.text)
	r.text = append(r.text, m.Text...)
	m.Text = r.text[start:len(r.text):len(r.text)]
	r.lines = append(r.lines, m)
	r.size += len(m.Text) + perLine
}

// Bounds of what waits for the functions of one session.
const (
	perLine   = 160      // bytes a line counts besides its text
	maxRun    = 64 << 10 // bytes of a run
	maxQueued = 1 << 20  // bytes; the daemon is not read while a session has more
)

// enqueue hands lines to the worker of the session and finds one if it has none.
func (s *Session) enqueue(r *run) {
	s.queued.Add(int64(r.size))
	s.mu.Lock()
	s.queue = append(s.queue, r)
	idle := !s.running
	s.running = true
	s.mu.Unlock()
	if idle {
		s.c.employ(s)
	}
}

// work handles lines until none are left.
func (s *Session) work() {
	for {
		s.mu.Lock()
		taken := s.queue
		s.queue, s.taken = s.taken[:0], taken
		s.running = len(taken) > 0
		s.mu.Unlock()
		if len(taken) == 0 {
			return
		}
		for _, r := range taken {
			s.obey(r)
		}
		clear(taken)
	}
}

// obey handles lines that arrived together.
func (s *Session) obey(r *run) {
	for i := range r.lines {
		s.handle(&r.lines[i])
		if len(s.out) > maxRun {
			s.flush()
		}
	}
	if r.then != nil {
		r.then()
	}
	s.flush()
	if left := s.queued.Add(-int64(r.size)); left+int64(r.size) > maxQueued {
		s.c.wakeReader()
	}
	s.c.recycle(r)
}

// flush sends what the session has written.
func (s *Session) flush() {
	if len(s.out) > 0 {
		s.c.send(s.out)
		s.out = s.out[:0]
	}
}

// handle takes one line.
func (s *Session) handle(m *wire.ToFilter) {
	s.Time, s.version = m.Time, m.Version
	switch {
	case m.Kind == wire.KindReport:
		s.report(m)
	case m.Phase == wire.PhaseDataLine:
		s.dataLine(m)
	default:
		s.request(m)
	}
}

// request answers a question.
func (s *Session) request(m *wire.ToFilter) {
	v := s.decide(m.Phase, string(m.Text))
	if v.later == nil {
		s.out = s.c.appendVerdict(s.out, s, m, v)
		return
	}
	q := *m // what points into the line is not used below
	q.Text = nil
	v.later.to(func(v Verdict) { s.c.decided(s, q, v) })
}

// decide asks the function for a phase.
func (s *Session) decide(p wire.Phase, param string) Verdict {
	f := s.f
	if !f.decides(p) {
		return Proceed()
	}
	switch p {
	case wire.PhaseConnect:
		rdns, address, _ := strings.Cut(param, "|")
		s.connectFrom(rdns, address)
		return f.Connect(s)
	case wire.PhaseHelo:
		return f.Helo(s, param)
	case wire.PhaseEhlo:
		return f.Ehlo(s, param)
	case wire.PhaseStartTLS:
		return f.StartTLS(s)
	case wire.PhaseAuth:
		return f.Auth(s, param)
	case wire.PhaseMailFrom:
		s.Tx = &Transaction{Sender: param}
		return f.MailFrom(s, param)
	case wire.PhaseRcptTo:
		return f.RcptTo(s, param)
	case wire.PhaseData:
		return f.Data(s)
	case wire.PhaseCommit:
		return s.commit()
	case wire.PhaseRset:
		return f.Rset(s)
	case wire.PhaseNoop:
		return f.Noop(s)
	case wire.PhaseQuit:
		return f.Quit(s)
	case wire.PhaseHelp:
		return f.Help(s)
	}
	return f.Wiz(s)
}

// commit answers what Message has decided, or asks Commit when that is to let it pass.
func (s *Session) commit() Verdict {
	v := s.message.verdict
	s.message.verdict = Verdict{}
	if v != (Verdict{}) || s.f.Commit == nil {
		return v
	}
	return s.f.Commit(s)
}

// connectFrom takes over what the connect request tells, for filters that are asked
// before link-connect is reported.
func (s *Session) connectFrom(rdns, address string) {
	s.setRDNS(rdns)
	if s.Source.IsValid() || s.Local {
		return
	}
	s.Source, s.Local = parseEnd(address)
}

func (s *Session) setRDNS(name string) {
	if name == "<unknown>" {
		name = ""
	}
	s.RDNS = name
}

// parseEnd reads one end of a connection, with or without port.
func parseEnd(text string) (end netip.AddrPort, local bool) {
	if strings.HasPrefix(text, "unix:") || text == "local" {
		return netip.AddrPort{}, true
	}
	if end, err := netip.ParseAddrPort(text); err == nil {
		return end, false
	}
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	text = strings.TrimPrefix(text, "IPv6:")
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, 0), false
	}
	return netip.AddrPort{}, false
}
