package main

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
)

// maxKeys bounds the users, sources or destinations that one limit keeps in memory.
// Beyond it, those that have been quiet are forgotten, then any.
const maxKeys = 100_000

// counter applies one limit to many keys. What a key has used flows back evenly: with
// 60 in an hour, one each minute, and 60 at once after an hour of silence.
type counter struct {
	limit
	full map[string]time.Time // by key, when everything will have flowed back
	told map[string]bool      // keys whose refusal was logged since they last passed
}

// step is the time in which one unit flows back.
func (c *counter) step() time.Duration { return c.period / time.Duration(c.count) }

// wait returns how long key has to wait for one more; zero or less when it need not.
func (c *counter) wait(key string, now time.Time) time.Duration {
	full := c.full[key]
	if !full.After(now) {
		return 0
	}
	return full.Sub(now) + c.step() - c.step()*time.Duration(c.count)
}

// use counts one for key.
func (c *counter) use(key string, now time.Time) {
	full, known := c.full[key]
	if !known && len(c.full) >= maxKeys {
		c.forget(now)
	}
	if full.Before(now) {
		full = now
	}
	c.full[key] = full.Add(c.step())
	delete(c.told, key)
}

// forget makes room: of all that have used nothing lately, or of a tenth of the others.
func (c *counter) forget(now time.Time) {
	for key, full := range c.full {
		if !full.After(now) {
			delete(c.full, key)
			delete(c.told, key)
		}
	}
	for key := range c.full {
		if len(c.full) < maxKeys*9/10 {
			break
		}
		delete(c.full, key)
		delete(c.told, key)
	}
}

// limiter is the state of all limits for one direction.
type limiter struct {
	*rules
	now func() time.Time

	mu       sync.Mutex
	counters []counter // guarded by mu, all of it
}

func newLimiter(r *rules) *limiter {
	l := &limiter{rules: r, now: time.Now}
	for _, limit := range r.limits {
		l.counters = append(l.counters, counter{limit, make(map[string]time.Time), make(map[string]bool)})
	}
	return l
}

// limited tells whether there is a limit on something.
func (l *limiter) limited(who, what string) bool {
	for _, c := range l.limits {
		if c.who == who && c.what == what {
			return true
		}
	}
	return false
}

// take counts one of what for the keys, by who they are, or returns the limit that
// refuses it: then nothing is counted. first is set once for each time that a key runs
// into its limit.
func (l *limiter) take(what string, keys map[string]string) (refused *limit, key string, wait time.Duration, first bool) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.counters {
		c := &l.counters[i]
		key := keys[c.who]
		if c.what != what || key == "" {
			continue
		}
		if wait := c.wait(key, now); wait > 0 {
			first := !c.told[key]
			c.told[key] = true
			return &c.limit, key, wait, first
		}
	}
	for i := range l.counters {
		c := &l.counters[i]
		if key := keys[c.who]; c.what == what && key != "" {
			c.use(key, now)
		}
	}
	return nil, "", 0, false
}

// network returns what counts as one source: an IPv4 address, an IPv6 network of 64 bits.
func network(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// domain returns what counts as one destination.
func domain(address string) string {
	return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
}

// keys returns whom something in a session is counted for. A source is counted while
// nobody has authenticated. A user is one in any case, as for tables of credentials.
func (l *limiter) keys(s *filter.Session) map[string]string {
	if s.User != "" {
		return map[string]string{"user": strings.ToLower(s.User)}
	}
	return map[string]string{"source": network(s.Source.Addr())}
}

// decide counts and answers.
func (l *limiter) decide(s *filter.Session, what string, keys map[string]string) filter.Verdict {
	if s.Local || !s.Outgoing && l.exempt(s.User, s.Source.Addr().Unmap()) {
		return filter.Proceed()
	}
	limit, key, wait, first := l.take(what, keys)
	if limit == nil {
		return filter.Proceed()
	}
	if first {
		s.Logf("%s %s: limit reached: %v", limit.who, key, limit)
	}
	wait = max(wait.Round(time.Second), time.Second)
	if what == "connections" {
		return filter.Disconnect(421, "4.7.0", "Too many connections, try again in "+wait.String())
	}
	return filter.Reject(450, "4.7.1", "Too many "+what+", try again in "+wait.String())
}

// newFilter returns the filter for the rules. Each direction has its own counts.
func newFilter(r *rules) *filter.Filter {
	f, out := functions(newLimiter(r)), newLimiter(r)
	if out.limited("destination", "recipients") {
		f.Out = &filter.Filter{RcptTo: func(s *filter.Session, address string) filter.Verdict {
			return out.decide(s, "recipients", map[string]string{"destination": domain(address)})
		}}
	}
	return f
}

// functions returns the functions for sessions of clients that the limits need.
func functions(l *limiter) *filter.Filter {
	f := new(filter.Filter)
	if l.limited("source", "connections") {
		f.Connect = func(s *filter.Session) filter.Verdict { return l.decide(s, "connections", l.keys(s)) }
	}
	if l.limited("source", "messages") || l.limited("user", "messages") {
		f.MailFrom = func(s *filter.Session, _ string) filter.Verdict { return l.decide(s, "messages", l.keys(s)) }
	}
	if l.limited("source", "recipients") || l.limited("user", "recipients") || l.limited("destination", "recipients") {
		f.RcptTo = func(s *filter.Session, address string) filter.Verdict {
			keys := l.keys(s)
			keys["destination"] = domain(address)
			return l.decide(s, "recipients", keys)
		}
	}
	return f
}
