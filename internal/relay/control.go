package relay

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Reload forgets every route that was looked up and asks anew, also for what waits:
// nothing lives on that was learned under the old configuration. Connections end
// after the transactions they have.
func (e *Relayer) Reload(o Options) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.o = o.withDefaults()
	e.generation++
	clear(e.routes)
	for _, r := range e.relays {
		for c := range r.conns {
			c.retired = true
			c.enter(leaving)
			c.nudge()
		}
	}
	e.resort(nil)
}

// resort finds the relays anew of what waits and is chosen by which; nil chooses all.
func (e *Relayer) resort(which func(*Attempt) bool) {
	var as []*Attempt
	for _, r := range e.relays {
		out := r.tasks.remove(which)
		if len(out) == 0 {
			continue
		}
		e.pending -= len(out)
		as = append(as, out...)
		e.settle(r)
	}
	e.add(as)
}

// Pause lets no mail for domain leave from source; an invalid source means all, an
// empty domain too. It returns false when that is so already. What waits is given
// back, or leaves from other sources of its route.
func (e *Relayer) Pause(source netip.Addr, domain string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	domain = strings.ToLower(domain)
	b := Block{source, domain}
	if e.paused[b] {
		return false
	}
	e.paused[b] = true
	e.resort(func(a *Attempt) bool { return domain == "" || strings.ToLower(a.Envelope.Dest.Domain) == domain })
	return true
}

// Resume undoes Pause. It returns false when there is nothing to undo.
func (e *Relayer) Resume(source netip.Addr, domain string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := Block{source, strings.ToLower(domain)}
	if !e.paused[b] {
		return false
	}
	delete(e.paused, b)
	return true
}

// Paused lists what Pause made, in order.
func (e *Relayer) Paused() []Block {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Block
	for b := range e.paused {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Block) int { return cmp.Or(a.Source.Compare(b.Source), strings.Compare(a.Domain, b.Domain)) })
	return out
}

// EnableRoute lets a disabled route be tried again. It returns false when there is
// no such route or it is not disabled.
func (e *Relayer) EnableRoute(id uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for k, l := range e.links {
		if l.id != id {
			continue
		}
		found := l.active(now)
		l.penalty, l.pause = penalty{}, time.Time{}
		for _, r := range e.relays {
			if p := r.bad[k]; p != nil {
				found = found || p.active(now)
				delete(r.bad, k)
			}
		}
		if found {
			e.events.Report(l.event(0, "per admin request"))
			e.feedAll()
		}
		return found
	}
	return false
}

// RetryRoutes lets all routes be tried again that failures have disabled; what the
// operator disabled stays so.
func (e *Relayer) RetryRoutes() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	changed := false
	for _, l := range e.links {
		enabled := false
		for _, p := range e.penalties(l) {
			if p.active(now) && p.failed != nil {
				p.until, enabled = time.Time{}, true
			}
		}
		if enabled {
			e.events.Report(l.event(0, "mail is to be tried now"))
			changed = true
		}
	}
	if changed {
		e.feedAll()
	}
}

// DisableRoute takes a route out of use for new connections. It returns false when
// there is no such route.
func (e *Relayer) DisableRoute(id uint64, d time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.links {
		if l.id == id {
			l.penalty = penalty{n: l.n, until: time.Now().Add(d)}
			l.touched = time.Now()
			e.events.Report(l.event(d, "per admin request"))
			return true
		}
	}
	return false
}

// event tells of a route that was disabled for d, or enabled.
func (l *link) event(d time.Duration, reason string) report.RelayRoute {
	return report.RelayRoute{Source: sourceName(l.key.src), Relay: hostText(l.key.dst.Addr(), l.name), Disabled: d, Reason: reason}
}

// Counts returns what is going on.
func (e *Relayer) Counts() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := Counts{
		Relays: len(e.relays), Pending: e.pending, Running: e.running, Sessions: e.sessions, Idle: e.idle.Len(), Lookups: e.lookups,
		Routes: len(e.links), Hosts: len(e.hosts), Sources: len(e.sources), Domains: len(e.domains),
	}
	for _, r := range e.relays {
		c.Messages += len(r.tasks.all)
		for t := range r.conns {
			if !t.sending.IsZero() {
				c.Transactions++
			}
		}
		c.Connectors += len(r.connectors)
	}
	return c
}

// Relays lists the relays by name.
func (e *Relayer) Relays() []RelayInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]RelayInfo, 0, len(e.relays))
	for _, r := range e.relays {
		i := RelayInfo{
			ID: r.id, Name: r.name, Domain: r.domain, Messages: len(r.tasks.all), Envelopes: r.tasks.waiting, Sessions: len(r.conns),
			Idle: len(r.parked), Window: r.maxWindow(), Held: r.held, Why: r.why, LastConn: r.last, Next: r.alarm,
		}
		if i.Messages == 0 {
			i.Why = "" // it was true when something waited
		}
		if r.failed != nil {
			i.LastError = r.failed.text
		}
		for src, u := range r.connectors {
			i.Connectors = append(i.Connectors, ConnectorInfo{Source: src, Sessions: u.conns, LastConn: u.last})
		}
		slices.SortFunc(i.Connectors, func(a, b ConnectorInfo) int { return a.Source.Compare(b.Source) })
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b RelayInfo) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return out
}

// Routes lists the routes by ID.
func (e *Relayer) Routes() []RouteInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	idle := map[*link]int{}
	for p := e.idle.Front(); p != nil; p = p.Next() {
		idle[p.Value.(*conn).link]++
	}
	out := make([]RouteInfo, 0, len(e.links))
	for k, l := range e.links {
		i := RouteInfo{
			ID: l.id, Source: k.src, Addr: k.dst, Host: l.name, New: !l.proven, Sessions: l.conns, Idle: idle[l], Errors: l.errors,
			Penalty: l.n, Spacing: l.spacing.Seconds(),
		}
		for n, p := range e.penalties(l) {
			if !p.active(now) {
				continue
			}
			if n == 0 {
				i.Disabled = true
			} else {
				i.DisabledFor++
			}
			if p.until.After(i.Until) {
				i.Until = p.until
				if p.failed != nil {
					i.LastError = p.failed.text
				}
			}
		}
		for _, at := range []time.Time{l.pause, l.next} {
			if at.After(now) && at.After(i.Next) {
				i.Next = at
			}
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b RouteInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// penalties returns the accounts of a route: for all, and those of single relays.
func (e *Relayer) penalties(l *link) []*penalty {
	out := []*penalty{&l.penalty}
	for _, r := range e.relays {
		if p := r.bad[l.key]; p != nil {
			out = append(out, p)
		}
	}
	return out
}

// Hosts lists the remote addresses in order.
func (e *Relayer) Hosts() []HostInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	plain := map[*host]bool{}
	for _, l := range e.links {
		plain[l.host] = plain[l.host] || now.Before(l.plain)
	}
	out := make([]HostInfo, 0, len(e.hosts))
	for _, h := range e.hosts {
		out = append(out, HostInfo{Addr: h.addr, Name: h.name, Refs: h.refs, Sessions: h.conns, LastConn: h.last, Plain: plain[h]})
	}
	slices.SortFunc(out, func(a, b HostInfo) int { return a.Addr.Compare(b.Addr) })
	return out
}

// HostStats lists the last words about recipient domains, by domain.
func (e *Relayer) HostStats() []HostStat {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]HostStat, 0, len(e.stats))
	for d, s := range e.stats {
		out = append(out, HostStat{Domain: d, Time: s.time, Status: s.text})
	}
	slices.SortFunc(out, func(a, b HostStat) int { return strings.Compare(a.Domain, b.Domain) })
	return out
}

// String returns the name of r's relay for logs and lists, as
// "[relay:example.org,port=587,smtp+tls,mx]"; "mx" means that the host is fixed.
// Credentials appear by their label only.
func (r *Route) String() string {
	var b strings.Builder
	b.WriteString("[relay:" + r.Name)
	if len(r.Hosts) > 0 {
		h := &r.Hosts[0]
		if h.Port != 0 && h.Port != 25 {
			b.WriteString(",port=" + strconv.Itoa(int(h.Port)))
		}
		t := Target{LMTP: h.LMTP, TLS: h.TLS}
		b.WriteString("," + t.Scheme())
		if h.Auth != nil {
			b.WriteString(",auth=" + h.Auth.Label)
		}
	}
	if r.PKI != "" {
		b.WriteString(",pki_name=" + r.PKI)
	}
	if r.Fixed {
		b.WriteString(",mx")
	}
	if r.HELO != "" {
		b.WriteString(",heloname=" + r.HELO)
	}
	b.WriteString("]")
	return b.String()
}

// Counts is a snapshot of what is going on.
type Counts struct {
	Relays                                      int
	Pending                                     int // envelopes waiting, for a route too
	Running                                     int // envelopes in transactions
	Messages                                    int // tasks, waiting and running
	Transactions                                int // that run
	Sessions                                    int // connections, idle and opening ones included
	Idle                                        int
	Lookups                                     int // routes being looked up
	Routes, Hosts, Sources, Domains, Connectors int
}

// Block is what Pause made.
type Block struct {
	Source netip.Addr `json:"source"` // invalid: all
	Domain string     `json:"domain"` // empty: all
}

// ConnectorInfo describes a connector.
type ConnectorInfo struct {
	Source   netip.Addr `json:"source"` // invalid: the system's choice
	Sessions int        `json:"connections"`
	LastConn time.Time  `json:"last_connect,omitzero"`
}

// RelayInfo describes a relay.
type RelayInfo struct {
	ID         string          `json:"id"`   // 16 hex digits; the hold queue is "mta|" and this
	Name       string          `json:"name"` // as in logs: "[relay:example.org,smtp]"
	Domain     string          `json:"domain"`
	Messages   int             `json:"messages"` // waiting and in transactions
	Envelopes  int             `json:"envelopes"`
	Sessions   int             `json:"connections"`
	Idle       int             `json:"idle"`
	Window     int             `json:"window"`                // connections it may have now
	Held       bool            `json:"held"`                  // more messages wait in the hold queue
	LastConn   time.Time       `json:"last_connect,omitzero"` // zero: never
	Next       time.Time       `json:"next_look,omitzero"`    // when it is looked at again; zero: when something happens
	Why        string          `json:"wait,omitempty"`        // it has not more connections
	LastError  string          `json:"error,omitempty"`       // since a success
	Connectors []ConnectorInfo `json:"connectors"`
}

// RouteInfo describes a route.
type RouteInfo struct {
	ID          uint64         `json:"id"`
	Source      netip.Addr     `json:"source"` // invalid: the system's choice
	Addr        netip.AddrPort `json:"address"`
	Host        string         `json:"host"`                      // name of the address
	New         bool           `json:"new"`                       // no connection was ready yet
	Disabled    bool           `json:"disabled"`                  // for all relays
	DisabledFor int            `json:"disabled_relays,omitempty"` // single relays that it is disabled for, as after a refused AUTH
	Sessions    int            `json:"connections"`
	Idle        int            `json:"idle"`
	Errors      int            `json:"errors"`
	Penalty     int            `json:"penalty"`
	Until       time.Time      `json:"disabled_until,omitzero"`
	Next        time.Time      `json:"spaced_until,omitzero"` // no connection or message before
	LastError   string         `json:"error,omitempty"`       // for which it is disabled
	Spacing     float64        `json:"spacing,omitempty"`     // seconds between messages, learned from the host's complaints
}

// HostInfo describes a remote address.
type HostInfo struct {
	Addr     netip.Addr `json:"address"`
	Name     string     `json:"name"`
	Refs     int        `json:"routes"`
	Sessions int        `json:"connections"`
	LastConn time.Time  `json:"last_connect,omitzero"`
	Plain    bool       `json:"plain"` // TLS failed here: tried in clear where that is allowed
}

// HostStat is the last word about a recipient domain.
type HostStat struct {
	Domain string    `json:"domain"`
	Time   time.Time `json:"time"`
	Status string    `json:"status"`
}
