package filterchain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Hello is what a filter program is told at its start.
type Hello struct {
	Version        string // of this software
	SessionTimeout time.Duration
	ADMD           string
	Incoming       bool // listeners use it
	Outgoing       bool // relay actions use it
}

// lines returns the handshake.
func (h *Hello) lines() []byte {
	b := wire.AppendConfig(nil, "smtpd-version", h.Version)
	b = wire.AppendConfig(b, "protocol", wire.Current.String())
	b = wire.AppendConfig(b, "smtp-session-timeout", strconv.Itoa(int(h.SessionTimeout/time.Second)))
	if h.Incoming {
		b = wire.AppendConfig(b, "subsystem", wire.In.String())
	}
	if h.Outgoing {
		b = wire.AppendConfig(b, "subsystem", wire.Out.String())
	}
	b = wire.AppendConfig(b, "admd", h.ADMD)
	for _, x := range []wire.Extension{wire.ExtOut, wire.ExtDNS, wire.ExtResults} {
		b = wire.AppendConfig(b, "extension", string(x))
	}
	return wire.AppendConfigReady(b)
}

// Times of a process's life.
const (
	registerTimeout = 30 * time.Second // for the registration
	readyWait       = 10 * time.Second // of a session for a process that is being started
	firstPause      = 50 * time.Millisecond
	maxPause        = 10 * time.Second
	settled         = 10 * time.Second // a life as long as that was none that failed …
	proven          = 100              // … nor was one with as many answers
)

// Resolve answers a filter's question to the DNS. found is false when it is proven that
// there is no answer.
type Resolve func(ctx context.Context, q wire.Query, name string) (values []string, found bool, err error)

// Process is a filter program. Run keeps it running.
type Process struct {
	Name  string
	Hello Hello
	// Start runs the program and returns the pipe to it. The earlier one is ended.
	Start   func(ctx context.Context) (conn net.Conn, pid int, err error)
	Resolve Resolve
	Warnf   func(format string, args ...any)

	stats stats

	mu       sync.Mutex // guards what follows
	life     *life      // nil before the first
	state    State
	pid      int
	since    time.Time
	changed  chan struct{} // closed and replaced at each change; nil until somebody needs it
	restarts int64
	soon     bool       // the pause before the next start is short: it is worth waiting for
	err      error      // why the last life ended
	phases   *[3]uint32 // registered by the last life that came so far
}

// State is what a process does.
type State uint8

// The states.
const (
	Starting State = iota // not registered yet
	Ready
	Waiting // for the end of the pause before the next start
)

// String returns the word for lists.
func (s State) String() string { return [...]string{"starting", "ready", "waiting"}[min(s, Waiting)] }

// stats counts what a process does over all its lives.
type stats struct {
	asked, failed, nonsense, latency, slowest atomic.Int64
	sessions                                  atomic.Int64
}

// answered counts a verdict that took so long.
func (s *stats) answered(took time.Duration) {
	s.asked.Add(1)
	s.latency.Add(int64(took))
	for {
		old := s.slowest.Load()
		if int64(took) <= old || s.slowest.CompareAndSwap(old, int64(took)) {
			return
		}
	}
}

// Status is a snapshot of a process.
type Status struct {
	State     State
	PID       int
	Since     time.Time // in this state
	Restarts  int64
	Sessions  int64
	Phases    []string // registered, such as "smtp-in mail-from"
	Events    int      // registered, over both directions
	Asked     int64
	Failed    int64         // verdicts that did not come
	Nonsense  int64         // lines without sense
	Latency   time.Duration // of all verdicts together
	Slowest   time.Duration
	LastError error
}

// Status returns how the process is doing.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		State: p.state, PID: p.pid, Since: p.since, Restarts: p.restarts, LastError: p.err,
		Sessions: p.stats.sessions.Load(), Asked: p.stats.asked.Load(), Failed: p.stats.failed.Load(),
		Nonsense: p.stats.nonsense.Load(), Latency: time.Duration(p.stats.latency.Load()),
		Slowest: time.Duration(p.stats.slowest.Load()),
	}
	if p.life == nil || p.state == Starting {
		return s
	}
	for _, d := range []wire.Direction{wire.In, wire.Out} {
		for i := wire.Phase(1); i < wire.Phases; i++ {
			if p.life.phases[d]&(1<<i) != 0 {
				s.Phases = append(s.Phases, d.String()+" "+i.String())
			}
		}
		for i := wire.Event(1); i < wire.Events; i++ {
			if p.life.events[d]&(1<<i) != 0 {
				s.Events++
			}
		}
	}
	return s
}

// Run starts the program, and starts it again whenever it ends, until ctx does.
func (p *Process) Run(ctx context.Context) {
	var pause time.Duration
	for {
		p.enter(Starting, nil, 0, nil)
		began, asked := time.Now(), p.stats.asked.Load()
		err := p.live(ctx)
		if ctx.Err() != nil {
			p.enter(Waiting, nil, 0, errors.New("not needed any more"))
			return
		}
		if time.Since(began) >= settled || p.stats.asked.Load()-asked >= proven {
			pause = 0
		}
		p.Warnf("filter process %s: %v; starting it again in %v", p.Name, err, pause)
		p.mu.Lock()
		p.soon = pause < time.Second
		p.mu.Unlock()
		p.enter(Waiting, nil, 0, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(max(2*pause, firstPause), maxPause)
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
}

// enter notes a change and tells those who wait for one. A nil life leaves the last.
func (p *Process) enter(s State, l *life, pid int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.since = s, time.Now()
	if err != nil {
		p.err = err
	}
	if pid != 0 || s != Ready {
		p.pid = pid
	}
	if l != nil {
		p.life = l
		p.phases = &[3]uint32{0, l.phases[1], l.phases[2]}
	}
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

// live runs one life of the program, to its end. The error says why it ended.
func (p *Process) live(ctx context.Context) error {
	conn, pid, err := p.Start(ctx)
	if err != nil {
		return err
	}
	p.enter(Starting, nil, pid, nil)
	l := newLife(p, conn)
	defer context.AfterFunc(ctx, func() {
		l.farewell()
		l.end(ctx.Err())
	})()
	register := time.AfterFunc(registerTimeout, func() { l.end(errors.New("did not register in time")) })
	defer register.Stop()
	err = l.serve(ctx, func() {
		if register.Stop() {
			p.enter(Ready, l, pid, nil)
		}
	})
	l.end(err)
	l.dns.wg.Wait() // its writes fail now
	return l.err
}

// current returns the life that sessions may use, nil when there is none. It waits for
// one that is being started, within ctx and a bound.
func (p *Process) current(ctx context.Context, patient bool) *life {
	var expired <-chan time.Time
	for {
		l, state, changed, soon := p.look()
		switch {
		case state == Ready && !l.ended():
			return l
		case !patient || state == Waiting && !soon:
			return nil
		}
		if expired == nil {
			timer := time.NewTimer(readyWait)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-changed:
		case <-expired:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// look returns how the process is doing, and what is closed at the next change.
func (p *Process) look() (l *life, state State, changed chan struct{}, soon bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil { // Run has not begun
		p.changed = make(chan struct{})
	}
	return p.life, p.state, p.changed, p.soon
}

// decides tells whether the process has a say in sessions of a direction. Before it
// was ever there, it may have.
func (p *Process) decides(d wire.Direction) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phases == nil || p.phases[d] != 0
}

// failedAnswer counts a verdict that did not come.
func (p *Process) failedAnswer() { p.stats.failed.Add(1) }

// nonsense makes the error of a line that has none.
func nonsense(what string, line []byte) error {
	return fmt.Errorf("%s: %.120q", what, line)
}
