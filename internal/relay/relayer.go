package relay

import (
	"container/heap"
	"container/list"
	"context"
	"encoding/hex"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// sweepEvery is how often what is not used is forgotten, and what waited too long
// given back.
const sweepEvery = 30 * time.Second

// Relayer relays.
type Relayer struct {
	router Router
	dialer Dialer
	bodies Bodies
	desk   Desk
	events report.Sink
	wake   chan struct{} // one slot: the time of the next alarm may have changed
	mail   chan struct{} // one slot: the outbox has something
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	o        Options
	ctx      context.Context // of Run; nil before
	sending  context.Context // of transactions: outlives ctx by the grace
	ended    bool
	outbox   []done // results that no connection reports
	relays   map[key]*relay
	alarms   alarms
	starved  list.List // *relay: those that limits keep from connecting
	full     bool      // one of them for want of sessions
	sessions int
	active   int       // relays with connections
	evicting int       // idle connections told to end for others
	idle     list.List // *conn, the one that is idle longest first
	pending  int
	running  int
	paused   map[Block]bool

	turn       int // of the sources of new relays
	lookups    int
	generation int
	answers    int // of the router, so far
	routes     map[routeKey]*known
	queries    map[routeKey]*query
	asking     list.List // *query, in the order of their turns

	lastLink uint64
	links    map[linkKey]*link
	hosts    map[netip.Addr]*host
	sources  map[netip.Addr]*use
	domains  map[string]*use
	stats    stats
}

// done is a result on its way to the desk.
type done struct {
	a *Attempt
	r Result
}

// relay is where mail goes, and how. It is guarded by the Relayer's mutex.
type relay struct {
	use        // connections, opening ones included
	key        key
	id         string
	domain     string
	name       string
	route      *Route
	answer     int // number of the answer that route is from
	limits     Limits
	sources    []Source
	nextSource int
	connectors map[netip.Addr]*use
	hops       []*hop
	tasks      tasks
	conns      map[*conn]struct{}
	parked     []*conn              // idle ones, the one that was idle last at the end
	opening    int                  // connections that are not ready yet
	between    int                  // that look for their next task just now
	leaving    int                  // that are to end
	bad        map[linkKey]*penalty // routes that are of no use to this relay
	failed     *failure             // the last one since a success

	window   float64 // connections it may have now
	growing  bool    // by one a message, since nothing went wrong yet
	shrunk   time.Time
	dialTime time.Duration // how long a connection takes to get ready, on average
	sendTime time.Duration // and a transaction

	held  bool // some attempts were held
	asked int  // attempts asked for, not yet here
	why   string
	place *list.Element // in starved

	unseated bool // starved for want of a session, without any

	alarm time.Time // when to look again; zero: never
	index int       // in alarms
}

// failure is the last trouble of a relay.
type failure struct {
	text     string
	enhanced smtp.EnhancedCode
	host     string
	addr     netip.Addr
	source   netip.Addr
	stage    Stage
	session  report.Session
	at       time.Time
	cause    error

	rejecting bool // the host refused one message after the other
}

// New returns a Relayer. It does nothing until Run is called. events may be nil.
func New(o Options, rt Router, d Dialer, b Bodies, desk Desk, events report.Sink) *Relayer {
	if events == nil {
		events = report.Sinks{}
	}
	return &Relayer{
		o: o.withDefaults(), router: rt, dialer: d, bodies: b, desk: desk, events: events,
		wake: make(chan struct{}, 1), mail: make(chan struct{}, 1),
		relays: map[key]*relay{}, paused: map[Block]bool{},
		routes: map[routeKey]*known{}, queries: map[routeKey]*query{},
		links: map[linkKey]*link{}, hosts: map[netip.Addr]*host{}, sources: map[netip.Addr]*use{}, domains: map[string]*use{},
		stats: stats{},
	}
}

// Run serves until ctx ends; then it lets running transactions end for Options.Grace.
// It returns when every goroutine has ended; it is called once.
func (e *Relayer) Run(ctx context.Context) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	e.mu.Lock()
	e.ctx, e.sending = ctx, sending
	e.ask()
	e.mu.Unlock()

	clerk := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // ends when all others have
		defer close(clerk)
		for {
			select {
			case <-e.mail:
				e.post()
			case <-stopped:
				e.post()
				return
			}
		}
	}()
	e.watch(ctx)

	e.mu.Lock()
	e.ended = true // from here on nothing begins
	grace := e.o.Grace
	for _, r := range e.relays {
		for c := range r.conns {
			c.nudge()
		}
	}
	e.mu.Unlock()
	cut := time.AfterFunc(grace, stop)
	e.tasks.Wait()
	cut.Stop()
	close(stopped)
	<-clerk
	return context.Cause(ctx)
}

// watch looks after what is due until ctx ends.
func (e *Relayer) watch(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		swept := false
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			swept = true
		case <-e.wake:
		case <-timer.C:
		}
		now := time.Now()
		e.mu.Lock()
		if swept {
			e.giveBack(now)
			e.sweep(now)
		}
		for len(e.alarms) > 0 && !e.alarms[0].alarm.After(now) {
			r := e.alarms[0]
			e.setAlarm(r, time.Time{})
			e.dispatch(r)
		}
		var next time.Time
		if len(e.alarms) > 0 {
			next = e.alarms[0].alarm
		}
		e.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// Add takes attempts, or has Desk.Hold called for them. It does not wait. Those that
// are due together are best added together.
func (e *Relayer) Add(as ...*Attempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(as)
}

// add finds the relays of attempts and sets them going. The mutex is held.
func (e *Relayer) add(as []*Attempt) {
	now := time.Now()
	var touched []*relay
	for _, a := range as {
		if a.since.IsZero() {
			a.since = now
		}
		if r := e.sort(a, now); r != nil && (len(touched) == 0 || touched[len(touched)-1] != r) {
			touched = append(touched, r)
		}
	}
	for _, r := range touched {
		e.dispatch(r)
	}
	e.ask()
}

// enqueue puts an attempt in the relay of a route. It returns nil when it is held.
func (e *Relayer) enqueue(a *Attempt, rt *Route, answer int, k key, now time.Time) *relay {
	r := e.relays[k]
	if r == nil {
		r = newRelay(rt, k)
		r.nextSource = e.turn
		e.turn++
		e.relays[k] = r
	}
	if answer > r.answer {
		r.answer = answer
		r.renew(rt)
		e.feed(r)
	}
	sender := a.Envelope.Sender
	if rt.PerSender {
		sender = rt.Sender
	}
	r.touched = now
	r.asked = max(r.asked-1, 0)
	tk := taskKey{a.Envelope.ID.MsgID(), sender}
	if r.tasks.all[tk] == nil && len(r.tasks.all) >= r.limits.HiWat || r.tasks.waiting >= r.limits.HiWat*r.limits.MaxRcpt {
		r.held, r.asked = true, 0
		a.since = time.Time{}
		e.desk.Hold(a, r.holdName())
		return nil
	}
	r.tasks.add(tk, a, false)
	e.pending++
	return r
}

func newRelay(rt *Route, k key) *relay {
	return &relay{
		key: k, id: hex.EncodeToString(k[:8]), connectors: map[netip.Addr]*use{}, tasks: newTasks(), conns: map[*conn]struct{}{},
		bad: map[linkKey]*penalty{}, window: startWindow, growing: true, index: -1, domain: strings.ToLower(rt.Name), name: rt.String(),
	}
}

// renew takes over a newer answer for the same relay: other addresses.
func (r *relay) renew(rt *Route) {
	r.route = rt
	r.limits = rt.Limits.withDefaults()
	r.sources = rt.Sources
	if len(r.sources) == 0 {
		r.sources = []Source{{}}
	}
	turns := map[string]int{}
	for _, h := range r.hops {
		turns[h.Name] = h.turn
	}
	known := r.hops != nil
	r.hops = hops(rt)
	if known {
		for _, h := range r.hops {
			h.turn = turns[h.Name]
		}
	}
}

// holdName returns the name of the relay's hold queue.
func (r *relay) holdName() string { return "mta|" + r.id }

// settle asks for held attempts after a message left the relay.
func (e *Relayer) settle(r *relay) {
	if !r.held || e.ended {
		return
	}
	switch n := len(r.tasks.all); {
	case n == 0:
		r.held, r.asked = false, 0
		e.desk.Release(r.holdName(), -1)
	case n+r.asked <= r.limits.LoWat:
		r.asked += r.limits.Release
		e.desk.Release(r.holdName(), r.limits.Release)
	}
}

// keepRelay is how long a relay without work is kept, with what it learned.
const keepRelay = time.Minute

// drop forgets a relay that has nothing to do and nothing to remember.
func (e *Relayer) drop(k key, r *relay, now time.Time) {
	if len(r.tasks.all) > 0 || r.held || len(r.bad) > 0 || !r.idle(now.Add(-keepRelay)) {
		return
	}
	e.setAlarm(r, time.Time{})
	e.feed(r)
	delete(e.relays, k)
}

// giveBack ends the wait of attempts that found no connection for too long.
func (e *Relayer) giveBack(now time.Time) {
	since := now.Add(-e.o.MaxWait)
	for _, r := range e.relays {
		old := r.tasks.remove(func(a *Attempt) bool { return a.since.Before(since) })
		if len(old) == 0 {
			continue
		}
		e.pending -= len(old)
		res := Result{
			Outcome: TempFail, Enhanced: smtp.EnhancedCode{4, 4, 5}, Text: "Waited too long for a connection to destination",
			Host: r.route.Name, Held: r.why,
		}
		for _, a := range old {
			e.report(a, res)
		}
		e.settle(r)
	}
}

// report puts a result in the outbox. The mutex is held.
func (e *Relayer) report(a *Attempt, r Result) {
	e.stats.note(a, &r, time.Now(), e.o.MaxDeferred)
	e.outbox = append(e.outbox, done{a, r})
	select {
	case e.mail <- struct{}{}:
	default:
	}
}

// post delivers the outbox.
func (e *Relayer) post() {
	e.mu.Lock()
	out := e.outbox
	e.outbox = nil
	e.mu.Unlock()
	for _, d := range out {
		e.desk.Done(d.a, d.r)
	}
}

// setAlarm sets when a relay is looked at again; zero: not at all.
func (e *Relayer) setAlarm(r *relay, at time.Time) {
	if r.alarm.Equal(at) {
		return
	}
	r.alarm = at
	switch {
	case at.IsZero():
		heap.Remove(&e.alarms, r.index)
		return
	case r.index >= 0:
		heap.Fix(&e.alarms, r.index)
	default:
		heap.Push(&e.alarms, r)
	}
	if e.alarms[0] == r {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// alarmBy sees that a relay is looked at again by then.
func (e *Relayer) alarmBy(r *relay, at time.Time) {
	if r.alarm.IsZero() || at.Before(r.alarm) {
		e.setAlarm(r, at)
	}
}

// alarms are the relays to be looked at, the first one first; see container/heap.
type alarms []*relay

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].alarm.Before(a[j].alarm) }
func (a alarms) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *alarms) Push(x any) {
	r := x.(*relay)
	r.index = len(*a)
	*a = append(*a, r)
}

// Pop implements heap.Interface.
func (a *alarms) Pop() any {
	last := len(*a) - 1
	r := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	r.index = -1
	return r
}
