package tlsrpt

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Bounds of what is counted.
const (
	maxDomains  = 20000    // of all days kept
	maxPolicies = 32       // of a domain and day
	maxDetails  = 100      // of a policy
	maxStrings  = 64       // of a policy
	maxString   = 1024     // bytes
	maxDays     = 7        // older summaries are dropped
	maxMemory   = 64 << 20 // bytes of policies and details, about; beyond it sessions are counted without
)

// Summary is what was counted for a domain on a day.
type Summary struct {
	Domain   string          `json:"domain"`
	Day      time.Time       `json:"day"` // its beginning, UTC
	Policies []PolicySummary `json:"policies"`
	Reported bool            `json:"reported"` // the report was sent, or nobody wants it
}

// PolicySummary is what was counted under one policy.
type PolicySummary struct {
	Policy   Policy   `json:"policy"`
	Success  int64    `json:"success"`
	Failure  int64    `json:"failure"`
	Failures []Detail `json:"failures,omitempty"` // together at most Failure
}

// Detail is a kind of failure and how often it was seen.
type Detail struct {
	Result Result     `json:"result"`
	Source netip.Addr `json:"source,omitzero"`
	MX     string     `json:"mx,omitempty"`
	HELO   string     `json:"helo,omitempty"`
	Addr   netip.Addr `json:"address,omitzero"`
	Reason string     `json:"reason,omitempty"`
	Count  int64      `json:"count"`
}

// Counter counts sessions. Its methods may be called concurrently.
type Counter struct {
	store keep.Keeper // by day; nil: counts are lost when the process ends
	now   func() time.Time

	mu     sync.Mutex
	counts map[period]*Summary // guarded by mu; at most maxDomains
	dirty  map[int64]bool      // guarded by mu; days that the store does not have as they are
	size   int                 // guarded by mu; bytes of policies and details, about
}

// period is what one report is about.
type period struct {
	domain string
	day    int64 // Unix time of its beginning
}

// NewCounter returns a Counter. store may be nil; now tells the time, nil means
// time.Now.
func NewCounter(store keep.Keeper, now func() time.Time) *Counter {
	if now == nil {
		now = time.Now
	}
	return &Counter{store: store, now: now, counts: make(map[period]*Summary), dirty: make(map[int64]bool)}
}

// today returns the beginning of the day.
func (c *Counter) today() time.Time { return c.now().UTC().Truncate(24 * time.Hour) }

// countable tells whether domain, in lower case, is a name in ASCII.
func countable(domain string) bool {
	return smtp.IsHostName(domain) && smtp.Path{Domain: domain}.ASCII()
}

// Add counts an event. When the bounds are reached, new domains are not counted,
// further policies of a domain neither, and further kinds of failures without their
// details.
func (c *Counter) Add(e Event) {
	domain := strings.ToLower(e.Domain)
	if !countable(domain) {
		return
	}
	day := c.today()
	c.mu.Lock()
	defer c.mu.Unlock()
	k := period{domain, day.Unix()}
	s := c.counts[k]
	if s == nil {
		if len(c.counts) >= maxDomains {
			return
		}
		s = &Summary{Domain: domain, Day: day}
		c.counts[k] = s
	}
	p := c.policy(s, e.Policy)
	if p == nil {
		return
	}
	c.dirty[k.day] = true
	if e.Failure == "" {
		p.Success++
		return
	}
	p.Failure++
	c.detail(p, Detail{
		Result: e.Failure, Source: e.Source, MX: clean(e.MX, 255), HELO: clean(e.HELO, 255),
		Addr: e.Addr, Reason: clean(e.Reason, maxReason), Count: 1,
	})
}

// policy returns the counts of a policy, nil when there are too many. The mutex is
// held.
func (c *Counter) policy(s *Summary, p Policy) *PolicySummary {
	p = bounded(p)
	if c.size >= maxMemory {
		p.Strings, p.MX = nil, nil
	}
	for i := range s.Policies {
		if o := &s.Policies[i].Policy; o.Type == p.Type && o.Domain == p.Domain &&
			slices.Equal(o.Strings, p.Strings) && slices.Equal(o.MX, p.MX) {
			return &s.Policies[i]
		}
	}
	if len(s.Policies) >= maxPolicies {
		return nil
	}
	c.size += p.size()
	s.Policies = append(s.Policies, PolicySummary{Policy: p})
	return &s.Policies[len(s.Policies)-1]
}

// bounded returns p with cleaned and bounded texts.
func bounded(p Policy) Policy {
	list := func(in []string) []string {
		var out []string
		for _, s := range in[:min(len(in), maxStrings)] {
			out = append(out, clean(s, maxString))
		}
		return out
	}
	return Policy{Type: p.Type, Domain: clean(p.Domain, 255), Strings: list(p.Strings), MX: list(p.MX)}
}

// size returns about how much memory a policy takes, in bytes.
func (p *Policy) size() int {
	n := 200
	for _, s := range slices.Concat(p.Strings, p.MX) {
		n += len(s) + 16
	}
	return n
}

// size returns about how much memory a detail takes, in bytes.
func (d *Detail) size() int { return 200 + len(d.MX) + len(d.HELO) + len(d.Reason) }

// size returns about how much memory a summary takes, in bytes.
func (s *Summary) size() int {
	n := 0
	for i := range s.Policies {
		n += s.Policies[i].Policy.size()
		for j := range s.Policies[i].Failures {
			n += s.Policies[i].Failures[j].size()
		}
	}
	return n
}

// detail counts failures of a kind, d.Count of them. The mutex is held.
func (c *Counter) detail(p *PolicySummary, d Detail) {
	for i := range p.Failures {
		o := p.Failures[i]
		if o.Count = d.Count; o == d {
			p.Failures[i].Count += d.Count
			return
		}
	}
	if len(p.Failures) < maxDetails && c.size < maxMemory {
		c.size += d.size()
		p.Failures = append(p.Failures, d)
	}
}

// clone returns a copy that shares nothing that changes.
func (s *Summary) clone() Summary {
	out := *s
	out.Policies = slices.Clone(s.Policies)
	for i := range out.Policies {
		out.Policies[i].Failures = slices.Clone(out.Policies[i].Failures)
	}
	return out
}

// List returns summaries that come after one in the order of days and domains, as
// many as take about size bytes, but at least one if there is one; the zero Summary
// comes before all.
func (c *Counter) List(after Summary, size int) []Summary {
	return c.list(func(s *Summary) bool { return compare(s, &after) > 0 }, size)
}

// Finished returns the summaries of days that are over and not yet reported, oldest
// first, by domain.
func (c *Counter) Finished() []Summary {
	today := c.today()
	return c.list(func(s *Summary) bool { return s.Day.Before(today) && !s.Reported }, math.MaxInt)
}

// compare orders summaries by day and domain.
func compare(a, b *Summary) int {
	return cmp.Or(a.Day.Compare(b.Day), strings.Compare(a.Domain, b.Domain))
}

// list returns copies of the first summaries that which accepts, in order, of about
// size bytes together.
func (c *Counter) list(which func(*Summary) bool, size int) []Summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*Summary
	for _, s := range c.counts {
		if which(s) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, compare)
	var out []Summary
	for _, s := range found {
		if size -= s.size() + 100; size < 0 && len(out) > 0 {
			break
		}
		out = append(out, s.clone())
	}
	return out
}

// Reported notes that the report of a domain and day was sent, or that nobody wants
// it. The summary stays until it is a week old.
func (c *Counter) Reported(domain string, day time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.counts[period{domain, day.Unix()}]; s != nil {
		s.Reported = true
		c.dirty[day.Unix()] = true
	}
}
