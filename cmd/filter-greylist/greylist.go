package main

import (
	"cmp"
	"io"
	"io/fs"
	"log"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
)

// maxAddress bounds an address that is kept, in bytes; of a longer one the beginning
// counts. RFC 5321 section 4.5.3.1 allows 64 for the local part and 255 for the domain.
const maxAddress = 320

// tuple is what has to come again. Addresses are in lower case.
type tuple struct {
	network           string // of the client
	sender, recipient string
}

// entry is what is known of a tuple.
type entry struct {
	first, last int64 // seconds since 1970: of the first attempt; of the last that passed
	passed      bool
}

// origin is what is known of a network that has delivered.
type origin struct {
	deliveries int
	last       int64 // seconds since 1970
}

// greylist is the filter.
type greylist struct {
	*rules
	file string // of the state; "": only in memory
	log  *log.Logger
	now  func() time.Time

	mu      sync.Mutex
	tuples  map[tuple]entry   // guarded by mu
	origins map[string]origin // guarded by mu; by network
	changed bool              // guarded by mu; since it was written
	seen    fs.FileInfo       // of the goroutine that saves: the file that is known, nil if none is
	failed  bool              // of the goroutine that saves: the last time failed
}

func newGreylist(r *rules, file string, w io.Writer) *greylist {
	return &greylist{rules: r, file: file, log: log.New(w, "", 0), now: time.Now,
		tuples: make(map[tuple]entry), origins: make(map[string]origin)}
}

func (g *greylist) filter() *filter.Filter {
	return &filter.Filter{RcptTo: g.rcptTo, OnTxCommit: g.delivered, Log: g.log.Writer()}
}

// network returns what counts as one client: a host may send again from another address
// nearby.
func network(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

func normal(address string) string {
	return strings.ToLower(address[:min(len(address), maxAddress)])
}

// rcptTo lets a recipient pass or has the client come again.
func (g *greylist) rcptTo(s *filter.Session, address string) filter.Verdict {
	t := tuple{network: network(s.Source.Addr()), recipient: normal(address)}
	if s.Tx != nil {
		t.sender = normal(s.Tx.Sender)
	}
	if g.exemptClient(s) || g.exemptRecipient(t.recipient) {
		return filter.Proceed()
	}
	wait, event := g.attempt(t)
	if event != "" {
		s.Logf("%s: %s, from %q to %q", event, t.network, t.sender, t.recipient)
	}
	if wait <= 0 {
		return filter.Proceed()
	}
	return filter.Reject(451, "4.7.1", "Greylisted, try again in "+wait.String())
}

// attempt notes that a tuple came and returns how long it has to wait, and what is to
// be logged.
func (g *greylist) attempt(t tuple) (wait time.Duration, event string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Unix()
	if o, ok := g.origins[t.network]; ok && g.auto > 0 && o.deliveries >= g.auto && !g.old(o.last, now) {
		return 0, ""
	}
	e, known := g.tuples[t]
	switch {
	case !known || g.gone(e, now):
		if !known && len(g.tuples) >= g.entries {
			g.forgetTuples(now)
		}
		g.tuples[t] = entry{first: now, last: now}
		g.changed = true
		return g.delay, "has to come again"
	case !e.passed && now < e.first+int64(g.delay/time.Second):
		return time.Duration(e.first+int64(g.delay/time.Second)-now) * time.Second, ""
	case !e.passed:
		event = "came again after " + (time.Duration(now-e.first) * time.Second).String()
	}
	e.passed, e.last = true, now
	g.tuples[t] = e
	g.changed = true
	return 0, event
}

// old tells whether what was used last at a time is to be forgotten.
func (g *greylist) old(last, now int64) bool { return now-last > int64(g.expire/time.Second) }

// gone tells whether a tuple is as good as unknown. One that waits since the future is:
// the clock was wrong, and it would wait for long.
func (g *greylist) gone(e entry, now int64) bool {
	if e.passed {
		return g.old(e.last, now)
	}
	return e.first > now || now-e.first > int64(g.window/time.Second)
}

// delivered counts a message for its network.
func (g *greylist) delivered(s *filter.Session, _ int64) {
	if g.auto == 0 || g.exemptClient(s) {
		return
	}
	name := network(s.Source.Addr())
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Unix()
	o, known := g.origins[name]
	if !known && len(g.origins) >= g.entries {
		g.forgetOrigins(now)
	}
	if g.old(o.last, now) {
		o.deliveries = 0
	}
	o.deliveries, o.last = min(o.deliveries+1, maxDeliveries), now
	g.origins[name] = o
	g.changed = true
}

// forgetTuples makes room for a tenth: what is gone, then what waits, then what passed,
// each the oldest first. Those that wait are many when somebody tries to fill the list.
func (g *greylist) forgetTuples(now int64) {
	var rest []tuple
	for t, e := range g.tuples {
		if g.gone(e, now) {
			delete(g.tuples, t)
		} else {
			rest = append(rest, t)
		}
	}
	slices.SortFunc(rest, func(a, b tuple) int {
		x, y := g.tuples[a], g.tuples[b]
		if x.passed != y.passed {
			if y.passed {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.last, y.last)
	})
	for _, t := range rest[:max(0, len(rest)-g.entries*9/10)] {
		delete(g.tuples, t)
	}
}

// forgetOrigins makes room for a tenth, of the oldest.
func (g *greylist) forgetOrigins(now int64) {
	var rest []string
	for name, o := range g.origins {
		if g.old(o.last, now) {
			delete(g.origins, name)
		} else {
			rest = append(rest, name)
		}
	}
	slices.SortFunc(rest, func(a, b string) int { return cmp.Compare(g.origins[a].last, g.origins[b].last) })
	for _, name := range rest[:max(0, len(rest)-g.entries*9/10)] {
		delete(g.origins, name)
	}
}
