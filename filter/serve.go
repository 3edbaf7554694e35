package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// maxPending is how many bytes of answers may wait for the daemon to read them before
// those who have more to say wait too.
const maxPending = 1 << 20

// conn is a filter at work.
type conn struct {
	f       *Filter
	ctx     context.Context
	cancel  context.CancelCauseFunc
	r       *wire.Reader
	w       *wire.Writer
	daemon  *Daemon
	working sync.WaitGroup // workers
	work    chan *Session  // to a worker that has nothing to do
	idle    atomic.Int32   // workers that wait for work
	runs    sync.Pool      // of *run

	// Of the goroutine that reads.
	sessions [3]map[uint64]*Session // by direction and id
	last     *Session               // of the previous line
	pending  *run                   // lines of last that are not handed over

	endMu sync.Mutex
	over  bool // guarded by endMu; no worker begins any more

	roomMu sync.Mutex
	room   sync.Cond // signalled when waitForRoom should look again; on roomMu

	log     sync.Mutex   // around writes to Filter.Log
	asking  atomic.Int32 // answers of the daemon's resolver that are waited for
	answers answers
}

// Serve talks to a daemon that writes to r and reads from w, as long as the filter has
// work: until r ends, which is no error, or ctx does. It returns when no function of f
// runs any more. When ctx ends first, the goroutine that reads r ends with the next
// line or the end of r.
func (f *Filter) Serve(ctx context.Context, r io.Reader, w io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	c := &conn{f: f, r: wire.NewReader(r), w: wire.NewWriter(w, maxPending),
		daemon: &Daemon{Config: map[string]string{}, extensions: map[wire.Extension]bool{}}}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	defer c.cancel(nil)
	c.room.L = &c.roomMu
	defer context.AfterFunc(c.ctx, c.wakeReader)()
	c.work = make(chan *Session)
	for d := range c.sessions {
		c.sessions[d] = make(map[uint64]*Session)
	}
	c.answers.waiting = make(map[uint64]*question)

	done := make(chan error, 1)
	go func() { done <- c.serve() }()
	select {
	case err := <-done:
		c.cancel(nil)
		c.end()
		return err
	case <-ctx.Done():
		c.end()
		return ctx.Err()
	}
}

// end waits for the workers.
func (c *conn) end() {
	c.answers.fail()
	c.endMu.Lock()
	c.over = true
	c.endMu.Unlock()
	c.working.Wait()
}

// resume has f called in the place of the next function for s.
func (c *conn) resume(s *Session, f func()) {
	c.endMu.Lock()
	defer c.endMu.Unlock()
	if !c.over {
		s.enqueue(&run{then: f})
	}
}

// serve shakes hands and then reads until the end.
func (c *conn) serve() error {
	if err := c.greet(); err != nil {
		return err
	}
	if c.f.Start != nil {
		if err := c.f.Start(c.daemon); err != nil {
			return err
		}
	}
	if err := c.w.Send(c.registrations()); err != nil {
		return err
	}
	for {
		line, err := c.r.Line()
		if err != nil {
			return ended(err)
		}
		m, err := wire.ParseToFilter(line)
		if err != nil {
			return err
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		c.dispatch(m)
		if !c.r.More() {
			c.handOver()
		}
	}
}

// ended is the error of a reader that can read no more.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return fmt.Errorf("filter: read from the daemon: %w", err)
}

// greet reads what the daemon tells of itself.
func (c *conn) greet() error {
	d := c.daemon
	for {
		line, err := c.r.Line()
		if err != nil {
			return ended(err)
		}
		m, err := wire.ParseToFilter(line)
		if err != nil {
			return err
		}
		switch m.Kind {
		case wire.KindReady:
			return nil
		case wire.KindConfig:
			d.set(string(m.Key), string(m.Text))
		case wire.KindUnknown:
		default:
			return fmt.Errorf("filter: line before config|ready: %q", line)
		}
	}
}

// set takes over one line of configuration.
func (d *Daemon) set(key, value string) {
	d.Config[key] = value
	switch key {
	case "smtpd-version":
		d.Version = value
	case "protocol":
		d.Protocol = value
	case "admd":
		d.Admd = value
	case "smtp-session-timeout":
		if n, err := strconv.Atoi(value); err == nil {
			d.SessionTimeout = n
		}
	case "subsystem":
		d.In = d.In || value == wire.In.String()
		d.Out = d.Out || value == wire.Out.String()
	case "extension":
		d.extensions[wire.Extension(value)] = true
	}
}

// registrations returns what the daemon is to ask and report.
func (c *conn) registrations() []byte {
	var b []byte
	register := func(d wire.Direction, f *Filter) {
		if f == nil || !f.used() {
			return
		}
		for e := wire.Event(1); e < wire.Events; e++ {
			if f.wants(e) {
				b = wire.AppendRegisterReport(b, d, e)
			}
		}
		for p := wire.Phase(1); p < wire.Phases; p++ {
			if !f.decides(p) {
				continue
			}
			if d == wire.Out && !c.daemon.extensions[wire.ExtOut] {
				if c.daemon.Out {
					c.logf("this daemon does not ask about outgoing mail: %v is ignored", p)
				}
				continue
			}
			b = wire.AppendRegisterFilter(b, d, p)
		}
	}
	register(wire.In, c.f)
	register(wire.Out, c.f.Out)
	return wire.AppendRegisterReady(b)
}

// dispatch adds a line to those of its session, which are handed over when a line of
// another comes.
func (c *conn) dispatch(m wire.ToFilter) {
	switch m.Kind {
	case wire.KindDNS:
		c.answers.take(&m)
		return
	case wire.KindReport, wire.KindRequest:
	default:
		return
	}
	s := c.session(&m)
	if s != c.last || c.pending != nil && c.pending.size > maxRun {
		c.handOver()
		c.last = s
	}
	if c.pending == nil {
		c.pending, _ = c.runs.Get().(*run)
		if c.pending == nil {
			c.pending = new(run)
		}
	}
	c.pending.add(m)
	if m.Event == wire.EventLinkDisconnect {
		c.handOver()
		delete(c.sessions[m.Direction], m.Session)
		s.end()
		c.last = nil
	}
}

// session returns the session that a line is about.
func (c *conn) session(m *wire.ToFilter) *Session {
	outgoing := m.Direction == wire.Out
	if s := c.last; s != nil && s.ID == m.Session && s.Outgoing == outgoing {
		return s
	}
	s := c.sessions[m.Direction][m.Session]
	if s == nil {
		f := c.f
		if outgoing && f.Out != nil {
			f = f.Out
		}
		s = &Session{ID: m.Session, Outgoing: outgoing, c: c, f: f}
		c.sessions[m.Direction][m.Session] = s
	}
	return s
}

// handOver gives the collected lines to their session.
func (c *conn) handOver() {
	if r := c.pending; r != nil {
		c.pending = nil
		c.last.enqueue(r)
		if c.last.queued.Load() > maxQueued {
			c.waitForRoom(c.last)
		}
	}
}

// maxIdle bounds the workers that wait for work.
const maxIdle = 64

// employ has a worker call the functions for a session. There are as many workers as
// sessions whose functions run; some are kept when they have nothing to do, for a new
// one costs more.
func (c *conn) employ(s *Session) {
	select {
	case c.work <- s:
	default:
		c.working.Go(func() { c.worker(s) })
	}
}

// worker works for one session after another, until there are too many of its kind or
// the end comes.
func (c *conn) worker(s *Session) {
	for {
		s.work()
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case s = <-c.work:
			c.idle.Add(-1)
		case <-c.ctx.Done():
			return
		}
	}
}

// waitForRoom waits while too much waits for the functions of s, unless answers are
// waited for, which must be read.
func (c *conn) waitForRoom(s *Session) {
	c.roomMu.Lock()
	defer c.roomMu.Unlock()
	for s.queued.Load() > maxQueued && c.asking.Load() == 0 && c.ctx.Err() == nil {
		c.room.Wait()
	}
}

// wakeReader has waitForRoom look again.
func (c *conn) wakeReader() {
	c.roomMu.Lock()
	c.room.Broadcast()
	c.roomMu.Unlock()
}

// recycle keeps a run for later use.
func (c *conn) recycle(r *run) {
	if cap(r.text) > 2*maxRun {
		return
	}
	clear(r.lines)
	r.then = nil
	r.lines, r.text, r.size = r.lines[:0], r.text[:0], 0
	c.runs.Put(r)
}

// send writes lines to the daemon. When that fails, the filter ends with the next line
// that it reads, or the end of input.
func (c *conn) send(lines []byte) {
	if err := c.w.Send(lines); err != nil {
		c.cancel(fmt.Errorf("filter: write to the daemon: %w", err))
	}
}

// decided sends a verdict that was made later.
func (c *conn) decided(s *Session, m wire.ToFilter, v Verdict) {
	if v.later != nil {
		v.later.to(func(v Verdict) { c.decided(s, m, v) })
		return
	}
	c.send(c.appendVerdict(nil, s, &m, v))
}

// appendVerdict appends the answer to a request, in terms that the daemon understands.
func (c *conn) appendVerdict(dst []byte, s *Session, m *wire.ToFilter, v Verdict) []byte {
	kind, text := v.kind, v.text
	if !c.daemon.extensions[wire.ExtResults] {
		switch {
		case kind == wire.VerdictReport:
			s.Logf("report: %s", text)
			kind = wire.VerdictProceed
		case kind == wire.VerdictBypass, kind == wire.VerdictJunk && m.Phase == wire.PhaseCommit:
			kind = wire.VerdictProceed
		}
	}
	switch kind {
	case 0:
		kind = wire.VerdictProceed
	case wire.VerdictRewrite:
		text = argument(m.Phase, text)
	}
	return wire.AppendResult(dst, m.Version, m.Session, m.Token, kind, text)
}

// logf writes one line to the log.
func (c *conn) logf(format string, args ...any) {
	w := c.f.Log
	if w == nil {
		w = os.Stderr
	}
	line := strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintf(format, args...), "\n"), "\n", " ") + "\n"
	c.log.Lock()
	defer c.log.Unlock()
	_, _ = io.WriteString(w, line) // there is nobody to tell
}
