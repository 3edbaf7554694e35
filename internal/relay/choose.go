package relay

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// hop is a host of a relay with its turn among those of equal preference.
type hop struct {
	*Host
	addrs  []netip.Addr // usable ones, in the order to try
	second int          // index of the first address of the other family, when one is preferred
	weight int
	turn   int
}

// hops returns the hosts of a route in the order of preference.
func hops(r *Route) []*hop {
	out := make([]*hop, 0, len(r.Hosts))
	heaviest := uint16(1)
	for i := range r.Hosts {
		heaviest = max(heaviest, r.Hosts[i].Weight)
	}
	for i := range r.Hosts {
		h := &hop{Host: &r.Hosts[i], weight: max(int(r.Hosts[i].Weight), 1)}
		if heaviest > 100 {
			h.weight = max(h.weight*100/int(heaviest), 1)
		}
		h.order(r.Limits.Family)
		out = append(out, h)
	}
	slices.SortStableFunc(out, func(a, b *hop) int { return cmp.Compare(a.Preference, b.Preference) })
	// Start anywhere in the cycle: RFC 5321 section 5.1 wants hosts of one preference
	// to be tried in random order.
	for level := out; len(level) > 0; {
		n := sameLevel(level)
		total := 0
		for _, h := range level[:n] {
			total += h.weight
		}
		for range rand.IntN(min(total, 200)) {
			heaviestTurn(level[:n])
		}
		level = level[n:]
	}
	return out
}

// order sorts out the addresses by family.
func (h *hop) order(f Family) {
	var four, six []netip.Addr
	for _, a := range h.Addrs {
		if a = a.Unmap(); a.Is4() {
			four = append(four, a)
		} else if a.IsValid() {
			six = append(six, a)
		}
	}
	switch f {
	case Inet4Only:
		h.addrs = four
	case Inet6Only:
		h.addrs = six
	case PreferInet4:
		h.addrs = append(four, six...)
		h.second = len(four)
	case PreferInet6:
		h.addrs = append(six, four...)
		h.second = len(six)
	default:
		for _, a := range h.Addrs {
			if a.IsValid() {
				h.addrs = append(h.addrs, a.Unmap())
			}
		}
	}
	if h.second == 0 {
		h.second = len(h.addrs)
	}
}

func (h *hop) port() uint16 {
	if h.Port == 0 {
		return 25
	}
	return h.Port
}

// sameLevel returns how many hops at the start have the preference of the first.
func sameLevel(hops []*hop) int {
	n := 1
	for n < len(hops) && hops[n].Preference == hops[0].Preference {
		n++
	}
	return n
}

// heaviestTurn picks a hop such that each gets its share of the picks, spread evenly.
func heaviestTurn(hops []*hop) *hop {
	var best *hop
	total := 0
	for _, h := range hops {
		h.turn += h.weight
		total += h.weight
		if best == nil || h.turn > best.turn {
			best = h
		}
	}
	best.turn -= total
	return best
}

// choice is where the next connection of a relay goes.
type choice struct {
	src  Source
	hop  *hop
	link *link
}

// refusal is why there is no choice.
type refusal struct {
	wait bool      // until something changes, or until at
	at   time.Time // zero: unknown
	why  string    // for the operator

	// When there is nothing to wait for:
	text       string
	enhanced   smtp.EnhancedCode
	retryAfter time.Duration
	failed     *failure // what is behind it, may be nil
}

// later notes another reason to wait; the earliest time counts.
func (f *refusal) later(at time.Time, why string) {
	if !f.wait || f.why == "" {
		f.why = why
	}
	f.wait = true
	if !at.IsZero() && (f.at.IsZero() || at.Before(f.at)) {
		f.at = at
	}
}

// choose picks source and host of the next connection of r. A connection goes to a
// less preferred host only when all better ones are disabled, not because of limits.
func (e *Relayer) choose(r *relay, now time.Time) (choice, *refusal) {
	var no refusal
	if len(r.hops) == 0 {
		return choice{}, &refusal{text: "No MX found for destination", enhanced: smtp.EnhancedCode{4, 4, 4}}
	}
	l := &r.limits
	for _, u := range []struct {
		use   *use
		max   int
		delay time.Duration
		what  string
	}{
		{&r.use, l.MaxConnPerRelay, l.ConnDelayRelay, "relay"},
		{e.domains[r.domain], l.MaxConnPerDomain, l.ConnDelayDomain, "domain " + r.domain},
	} {
		if at, why := u.use.may(now, u.max, u.delay, u.what); why != "" {
			no.later(at, why)
			return choice{}, &no
		}
	}
	var seen survey
	for range r.sources {
		src := r.sources[r.nextSource%len(r.sources)]
		r.nextSource++
		at, why := e.sources[src.Addr].may(now, l.MaxConnPerSource, l.ConnDelaySource, "source "+sourceName(src.Addr))
		if why == "" {
			at, why = r.connectors[src.Addr].may(now, l.MaxConnPerConnector, l.ConnDelayConnector, "connector of source "+sourceName(src.Addr))
		}
		if why != "" {
			no.later(at, why)
			continue
		}
		if c, ok := e.chooseHost(r, src, now, &no, &seen); ok {
			return c, nil
		}
	}
	if !no.wait {
		seen.conclude(now, &no)
	}
	return choice{}, &no
}

// survey is what was found about the routes of a relay.
type survey struct {
	disabled, mismatch int
	soonest            time.Time // when the first one is enabled
	first              *link     // that one
	failed             *failure  // the last one of those that are disabled
}

func (s *survey) down(p *penalty, l *link) {
	s.disabled++
	if s.soonest.IsZero() || p.until.Before(s.soonest) {
		s.soonest, s.first = p.until, l
	}
	if p.failed != nil && (s.failed == nil || p.failed.at.After(s.failed.at)) {
		s.failed = p.failed
	}
}

// conclude says why a relay has no route at all.
func (s *survey) conclude(now time.Time, no *refusal) {
	no.enhanced = smtp.EnhancedCode{4, 4, 4}
	no.failed = s.failed
	switch {
	case s.failed != nil && s.failed.rejecting:
		no.text, no.enhanced = "Destination seem to reject all mails", smtp.EnhancedCode{4, 4, 1}
	case s.failed != nil:
		no.text, no.enhanced = "Network error on destination MXs", smtp.EnhancedCode{4, 4, 1}
	case s.disabled > 0:
		no.text, no.enhanced = "No valid route to destination", smtp.EnhancedCode{4, 4, 1}
	case s.mismatch > 0:
		no.text = "Address family mismatch on destination MXs"
	default:
		no.text = "No MX found for destination"
	}
	if s.disabled > 0 {
		no.retryAfter = s.soonest.Sub(now)
		no.why = fmt.Sprintf("route %s disabled until %s", s.first, s.soonest.UTC().Format(time.RFC3339))
	}
}

// chooseHost picks a host for connections from src.
func (e *Relayer) chooseHost(r *relay, src Source, now time.Time, no *refusal, seen *survey) (choice, bool) {
	for level := r.hops; len(level) > 0; {
		n := sameLevel(level)
		var open []*hop
		links := map[*hop]*link{}
		limited := false
		for _, h := range level[:n] {
			l, wait := e.chooseAddr(r, h, src, now, no, seen)
			if l != nil {
				open = append(open, h)
				links[h] = l
			}
			limited = limited || wait
		}
		if len(open) > 0 {
			h := heaviestTurn(open)
			return choice{src, h, links[h]}, true
		}
		if limited {
			return choice{}, false
		}
		level = level[n:]
	}
	return choice{}, false
}

// chooseAddr picks an address of h: the one with the fewest connections, of the
// preferred family if it can be had. wait says that limits alone are in the way.
func (e *Relayer) chooseAddr(r *relay, h *hop, src Source, now time.Time, no *refusal, seen *survey) (best *link, wait bool) {
	for i, addr := range h.addrs {
		if i == h.second && (best != nil || wait) {
			break
		}
		if src.Addr.IsValid() && src.Addr.Unmap().Is4() != addr.Is4() {
			seen.mismatch++
			continue
		}
		dst := netip.AddrPortFrom(addr, h.port())
		l := e.link(src.Addr, dst, h.Name)
		if p := r.down(l, now); p != nil {
			seen.down(p, l)
			continue
		}
		if at, why := e.linkLimit(r, l, now); why != "" {
			no.later(at, why)
			wait = true
			continue
		}
		if best == nil || l.conns < best.conns {
			best = l
		}
	}
	if len(h.addrs) == 0 && len(h.Addrs) > 0 {
		seen.mismatch++
	}
	return best, wait
}

// down returns why a route is disabled, for all or for this relay, or nil.
func (r *relay) down(l *link, now time.Time) *penalty {
	if l.active(now) {
		return &l.penalty
	}
	if p := r.bad[l.key]; p != nil && p.active(now) {
		return p
	}
	return nil
}

// linkLimit tells whether limits forbid another connection over l.
func (e *Relayer) linkLimit(r *relay, l *link, now time.Time) (at time.Time, why string) {
	lim := &r.limits
	if at, why = l.host.may(now, lim.MaxConnPerHost, lim.ConnDelayHost, "host "+l.host.addr.String()); why != "" {
		return at, why
	}
	if at, why = l.may(now, lim.MaxConnPerRoute, lim.ConnDelayRoute, "route "+l.String()); why != "" {
		return at, why
	}
	if !l.proven && l.conns > 0 {
		return time.Time{}, "route " + l.String() + " is being tried"
	}
	if at = l.ended.Add(lim.ReconnDelayRoute); lim.ReconnDelayRoute > 0 && now.Before(at) {
		return at, "route " + l.String() + " waits between connections"
	}
	if now.Before(l.pause) {
		return l.pause, "host " + l.host.addr.String() + " wants no more connections"
	}
	return time.Time{}, ""
}

// String returns "source <-> address (name)"; see hostText.
func (l *link) String() string {
	return sourceName(l.key.src) + " <-> " + hostText(l.key.dst.Addr(), l.name)
}
