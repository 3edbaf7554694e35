package relay

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// How the number of connections of a relay finds its measure. The window is their
// upper bound: it grows by one a message until the first trouble, then by one a
// windowful, and is halved on trouble, at most once in shrinkPause. Below it there
// are as many connections as get what waits away in the time that it takes to open
// another one, or in worthwhile.
const (
	startWindow = 5
	firstConns  = 2 // before anything is known of the times
	shrinkPause = time.Second
	worthwhile  = 100 * time.Millisecond
	lookAgain   = time.Second // while connections are busy and messages wait
)

// dispatch sets connections of a relay to work and opens more, or gives back what
// waits when there is no way. The mutex is held.
func (e *Relayer) dispatch(r *relay) {
	if e.ctx == nil || e.ended {
		return
	}
	now := time.Now()
	if r.place == nil {
		r.why = ""
	}
	if !e.connect(r, now) {
		e.feed(r)
	}
}

// connect does the work of dispatch. It tells whether the relay is starved.
func (e *Relayer) connect(r *relay, now time.Time) bool {
	if r.tasks.ready == 0 {
		return false
	}
	if at := e.nextSend(r); now.Before(at) {
		r.why = fmt.Sprintf("limit of %d messages a minute", r.limits.RatePerMinute)
		if len(r.conns) == 0 {
			e.alarmBy(r, at)
			return false
		}
	}
	free := r.wakeIdle(now)
	for {
		standing := len(r.conns) - r.leaving
		if r.opening+r.between+free >= r.pendingSends() {
			return false
		}
		if standing >= r.maxWindow() {
			r.why = "relay has the connections it may have now"
			return false
		}
		if standing >= e.want(r, now) {
			e.alarmBy(r, now.Add(lookAgain)) // what runs may turn out slow
			return false
		}
		if r.place != nil {
			return true // until a connection ends
		}
		if e.sessions >= e.o.MaxSessions || e.overShare(r, standing+1) {
			e.evict(func(*conn) bool { return true })
			e.starve(r, "all sessions are in use", true)
			return true
		}
		c, no := e.choose(r, now)
		if no == nil {
			e.open(r, c, now)
			continue
		}
		r.why = no.why
		switch {
		case !no.wait && len(r.conns) == 0:
			e.giveUp(r, no)
		case !no.wait:
			// The connections that stand do what they can.
		case !no.at.IsZero():
			e.alarmBy(r, no.at)
		default:
			if len(r.conns) == 0 {
				e.evict(func(c *conn) bool { return r.shares(c) })
			}
			e.starve(r, no.why, false)
			return true
		}
		return false
	}
}

// shares tells whether a connection counts in what limits the connections of r.
func (r *relay) shares(c *conn) bool {
	if c.relay.domain == r.domain || slices.ContainsFunc(r.sources, func(s Source) bool { return s.Addr == c.source.Addr }) {
		return true
	}
	return slices.ContainsFunc(r.hops, func(h *hop) bool { return slices.Contains(h.addrs, c.link.host.addr) })
}

// wakeIdle wakes an idle connection for each transaction that waits and returns how
// many it woke.
func (r *relay) wakeIdle(now time.Time) int {
	n := 0
	for i := len(r.parked) - 1; i >= 0 && n < r.pendingSends(); i-- {
		if c := r.parked[i]; !now.Before(c.ready()) {
			c.nudge()
			n++
		}
	}
	return n
}

// pendingSends estimates the transactions that wait.
func (r *relay) pendingSends() int {
	return max(r.tasks.ready, (r.tasks.waiting+r.limits.MaxRcpt-1)/r.limits.MaxRcpt)
}

func (r *relay) maxWindow() int { return min(int(r.window), r.limits.MaxConnPerRelay) }

// want returns how many connections what waits is worth.
func (e *Relayer) want(r *relay, now time.Time) int {
	window := r.maxWindow()
	if r.held && r.sendTime > 0 {
		return window // there is no end of it
	}
	took := r.sendTime
	for c := range r.conns {
		if !c.sending.IsZero() {
			took = max(took, now.Sub(c.sending))
		}
	}
	if took == 0 {
		if r.limits.RatePerMinute > 0 {
			return 1
		}
		return min(firstConns, window)
	}
	need := int(time.Duration(r.pendingSends())*took/max(r.dialTime, worthwhile)) + 1
	if rate := r.limits.RatePerMinute; rate > 0 {
		need = min(need, 1+int(took*time.Duration(rate)/time.Minute))
	}
	return min(need, window)
}

// starve notes that limits keep a relay from connecting; it gets another chance when
// a connection ends, in turn.
func (e *Relayer) starve(r *relay, why string, full bool) {
	r.why = why
	e.full = e.full || full
	r.unseated = full && len(r.conns) == 0
	if r.place == nil {
		r.place = e.starved.PushBack(r)
	}
}

// feed takes a relay off the starved ones.
func (e *Relayer) feed(r *relay) {
	if r.place != nil {
		e.starved.Remove(r.place)
		r.place = nil
	}
}

// feedAll gives the starved relays their chance after a connection ended: those with
// the fewest connections first, then those that wait longest.
func (e *Relayer) feedAll() {
	e.full = false
	if e.starved.Len() == 0 {
		return
	}
	hungry := make([]*relay, 0, e.starved.Len())
	for p := e.starved.Front(); p != nil; p = p.Next() {
		hungry = append(hungry, p.Value.(*relay))
	}
	slices.SortStableFunc(hungry, func(a, b *relay) int { return cmp.Compare(len(a.conns), len(b.conns)) })
	for _, r := range hungry {
		if r.place == nil {
			continue
		}
		e.feed(r)
		e.dispatch(r)
		if e.full {
			return
		}
	}
}

// evict ends the connection that is idle longest among those that which accepts;
// when it has ended, the starved relays get their chance. One goes at a time.
func (e *Relayer) evict(which func(*conn) bool) {
	if e.evicting > 0 {
		return
	}
	for p := e.idle.Front(); p != nil; p = p.Next() {
		if c := p.Value.(*conn); which(c) {
			c.evict = true
			e.evicting++
			e.unpark(c)
			c.nudge()
			return
		}
	}
}

// wanted tells whether an idle connection stands in the way of others.
func (e *Relayer) wanted(c *conn) bool {
	if e.full && e.starved.Len() > 0 {
		return true
	}
	for p := e.starved.Front(); p != nil; p = p.Next() {
		if r := p.Value.(*relay); r != c.relay && len(r.conns) == 0 && r.shares(c) {
			return true
		}
	}
	return false
}

// overShare tells whether n connections are more than the share of r while others
// have none and wait for a session.
func (e *Relayer) overShare(r *relay, n int) bool {
	if !e.full || e.starved.Len() == 0 {
		return false
	}
	hungry := 0
	for p := e.starved.Front(); p != nil; p = p.Next() {
		if o := p.Value.(*relay); o != r && o.unseated {
			hungry++
		}
	}
	return hungry > 0 && n > max(1, e.o.MaxSessions/(e.active+hungry))
}

// open starts a connection.
func (e *Relayer) open(r *relay, ch choice, now time.Time) {
	c := &conn{
		e: e, relay: r, link: ch.link, source: ch.src, hop: ch.hop, id: report.Session(rand.Uint64()), wake: make(chan struct{}, 1), opened: now,
	}
	if len(r.conns) == 0 {
		e.active++
	}
	r.conns[c] = struct{}{}
	c.enter(opening)
	e.sessions++
	for _, u := range e.usesOf(c) {
		u.open(now)
	}
	ctx, sending := e.ctx, e.sending
	e.tasks.Go(func() { c.run(ctx, sending) })
}

// usesOf returns the counters that a connection counts in.
func (e *Relayer) usesOf(c *conn) [6]*use {
	r, src := c.relay, c.source.Addr
	if e.sources[src] == nil {
		e.sources[src] = &use{}
	}
	if e.domains[r.domain] == nil {
		e.domains[r.domain] = &use{}
	}
	if r.connectors[src] == nil {
		r.connectors[src] = &use{}
	}
	return [6]*use{&r.use, r.connectors[src], e.sources[src], e.domains[r.domain], &c.link.use, &c.link.host.use}
}

// close ends the accounts of a connection and lets others have its place.
func (e *Relayer) close(c *conn) {
	now := time.Now()
	r := c.relay
	e.unpark(c)
	if delete(r.conns, c); len(r.conns) == 0 {
		e.active--
	}
	if c.evict {
		e.evicting--
	}
	c.enter(gone)
	e.sessions--
	for _, u := range e.usesOf(c) {
		u.shut(now)
	}
	c.link.ended = now
	e.feedAll()
	e.dispatch(r)
}

// giveUp gives back all that waits: there is no way to the destination now.
func (e *Relayer) giveUp(r *relay, no *refusal) {
	res := Result{Outcome: TempFail, Enhanced: no.enhanced, Text: no.text, Host: r.route.Name, Held: no.why, RetryAfter: no.retryAfter}
	if f := no.failed; f != nil && no.retryAfter > 0 {
		res.Text += ": " + f.text
		if f.enhanced != (smtp.EnhancedCode{}) {
			res.Enhanced = f.enhanced
		}
		res.Host, res.Addr, res.Source, res.Stage, res.Session, res.Cause = f.host, f.addr, f.source, f.stage, f.session, f.cause
	}
	all := r.tasks.remove(nil)
	e.pending -= len(all)
	for _, a := range all {
		e.report(a, res)
	}
	e.settle(r)
}

// grow and shrink move the window.
func (r *relay) grow() {
	switch {
	case int(r.window) > len(r.conns)-r.leaving+1 || int(r.window) >= r.limits.MaxConnPerRelay:
	case r.growing:
		r.window++
	default:
		r.window += 1 / r.window
	}
}

func (r *relay) shrink(now time.Time) {
	r.growing = false
	if now.Sub(r.shrunk) < shrinkPause {
		return
	}
	r.shrunk = now
	r.window = max(1, min(r.window, float64(len(r.conns)+1))/2)
}

// average moves a mean a quarter of the way to a new value.
func average(mean *time.Duration, d time.Duration) {
	d = max(d, time.Microsecond)
	if *mean == 0 {
		*mean = d
		return
	}
	*mean += (d - *mean) / 4
}
