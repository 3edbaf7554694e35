package relay

import (
	"net/netip"
	"time"
)

// penaltyBase and maxPenalty give the time for which a route is disabled after its
// n-th failure in a row: 15·n² seconds, at most an hour.
const (
	penaltyBase = 15 * time.Second
	maxPenalty  = time.Hour
)

// busyPause is how long no further connection is opened on a route where one was
// refused while others stand: the host has enough of them.
const busyPause = 15 * time.Second

// plainTime is for how long an address is remembered whose TLS does not work.
const plainTime = time.Hour

// The bounds of learned spacing between messages.
const (
	firstSpacing = time.Second
	maxSpacing   = time.Minute
)

// memory is how long the penalties of what is not used any more are remembered.
const memory = 2 * time.Hour

// Bounds of what is remembered.
const (
	maxLinks  = 20_000
	maxStats  = 10_000
	maxRoutes = 10_000
)

// penalty keeps account of failures.
type penalty struct {
	n      int // in a row
	until  time.Time
	failed *failure // the last one; nil: the operator
}

// fail counts a failure and returns how long to stay away.
func (p *penalty) fail(now time.Time, f *failure) time.Duration {
	p.n = min(p.n+1, 100)
	p.failed = f
	d := min(penaltyBase*time.Duration(p.n*p.n), maxPenalty)
	p.until = now.Add(d)
	return d
}

func (p *penalty) active(now time.Time) bool { return now.Before(p.until) }

// use is connections of one kind: how many there are and since when.
type use struct {
	conns   int
	last    time.Time // of the last connect
	touched time.Time // of the last change
	next    time.Time // of a domain with a rate: of its next message
}

// may tells whether another connection may be opened now. It returns when, or why
// not, if it may not.
func (u *use) may(now time.Time, max int, delay time.Duration, what string) (at time.Time, why string) {
	if u == nil {
		return at, ""
	}
	if u.conns >= max {
		return at, what + " has all connections it may have"
	}
	if due := u.last.Add(delay); delay > 0 && now.Before(due) {
		return due, what + " waits between connections"
	}
	return at, ""
}

// open and shut count a connection.
func (u *use) open(now time.Time) { u.conns++; u.last, u.touched = now, now }
func (u *use) shut(now time.Time) { u.conns--; u.touched = now }

// idle tells whether nothing was here since the given time.
func (u *use) idle(since time.Time) bool { return u.conns == 0 && u.touched.Before(since) }

// linkKey names a route: source and the service at a remote address.
type linkKey struct {
	src netip.Addr
	dst netip.AddrPort
}

// link is a route: a source and a remote address. It is shared by relays.
type link struct {
	use
	penalty
	id      uint64
	key     linkKey
	host    *host
	name    string // of the host, as last used
	proven  bool   // a connection was ready
	errors  int
	ended   time.Time     // end of the last connection
	pause   time.Time     // no further connections before
	plain   time.Time     // TLS is not tried before
	spacing time.Duration // between messages
	next    time.Time     // time of the next message, with spacing
	rcptMax int           // recipients the host takes at a time, learned; 0: not known
}

// host is a remote address.
type host struct {
	use
	addr netip.Addr
	name string
	refs int // links
}

// slow answers a complaint about the rate of messages.
func (l *link) slow(now time.Time) {
	l.spacing = min(max(2*l.spacing, firstSpacing), maxSpacing)
	l.next = now.Add(l.spacing)
}

// well notes that a message went through.
func (l *link) well() {
	l.n = 0 // what the operator disabled stays so
	l.spacing = l.spacing * 9 / 10
	if l.spacing < firstSpacing/10 {
		l.spacing = 0
	}
}

// link returns the route from src to dst, which is made if need be.
func (e *Relayer) link(src netip.Addr, dst netip.AddrPort, name string) *link {
	k := linkKey{src, dst}
	l := e.links[k]
	if l == nil {
		h := e.hosts[dst.Addr()]
		if h == nil {
			h = &host{addr: dst.Addr()}
			e.hosts[dst.Addr()] = h
		}
		e.lastLink++
		h.refs++
		l = &link{id: e.lastLink, key: k, host: h}
		l.touched = time.Now()
		e.links[k] = l
	}
	l.name, l.host.name = name, name
	return l
}

// sweep forgets what was not used for long.
func (e *Relayer) sweep(now time.Time) {
	since := now.Add(-memory)
	if len(e.links) > maxLinks {
		since = now.Add(-time.Minute)
	}
	for k, l := range e.links {
		unused := l.idle(since) || l.n == 0 && l.spacing == 0 && !l.plain.After(now) && l.idle(now.Add(-10*time.Minute))
		if unused && !l.active(now) {
			delete(e.links, k)
			if l.host.refs--; l.host.refs == 0 {
				delete(e.hosts, l.host.addr)
			}
		}
	}
	for d, u := range e.domains {
		if u.idle(now.Add(-10 * time.Minute)) {
			delete(e.domains, d)
		}
	}
	for s, u := range e.sources {
		if u.idle(now.Add(-10 * time.Minute)) {
			delete(e.sources, s)
		}
	}
	for k, r := range e.relays {
		for hop, p := range r.bad {
			if now.After(p.until.Add(10 * time.Minute)) {
				delete(r.bad, hop)
			}
		}
		e.drop(k, r, now)
	}
	for k, c := range e.routes {
		if !now.Before(c.expires) {
			delete(e.routes, k)
		}
	}
	e.stats.sweep(now)
}
