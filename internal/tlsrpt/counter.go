package tlsrpt

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Bounds of what is counted.
const (
	maxDomains  = 20000 // of all days kept
	maxPolicies = 32    // of a domain and day
	maxDetails  = 100   // of a policy
	maxStrings  = 64    // of a policy
	maxString   = 1024  // bytes
	maxDays     = 7     // older summaries are dropped unsent
)

// Summary is what was counted for a domain on a day.
type Summary struct {
	Domain   string
	Day      time.Time // its beginning, UTC
	Policies []PolicySummary
}

// PolicySummary is what was counted under one policy.
type PolicySummary struct {
	Policy   Policy
	Success  int64
	Failure  int64
	Failures []Detail // together at most Failure
}

// Detail is a kind of failure and how often it was seen.
type Detail struct {
	Result Result
	Source netip.Addr
	MX     string
	HELO   string
	Addr   netip.Addr
	Reason string
	Count  int64
}

// Store keeps summaries so that they outlive the process. Its methods may be called
// concurrently.
type Store interface {
	// Put keeps s instead of what there is for its domain and day.
	Put(ctx context.Context, s Summary) error
	// List returns all that is kept.
	List(ctx context.Context) ([]Summary, error)
	// Delete forgets what there is for a domain and day, which may be nothing.
	Delete(ctx context.Context, domain string, day time.Time) error
}

// Counter counts sessions. Its methods may be called concurrently.
type Counter struct {
	store Store // nil: counts are lost when the process ends
	now   func() time.Time

	mu     sync.Mutex
	counts map[period]*counted // guarded by mu; at most maxDomains
}

// period is what one report is about.
type period struct {
	domain string
	day    int64 // Unix time of its beginning
}

// counted is the summary of a period.
type counted struct {
	Summary
	dirty bool // the store does not have it
}

// NewCounter returns a Counter. store may be nil; now tells the time, nil means
// time.Now.
func NewCounter(store Store, now func() time.Time) *Counter {
	if now == nil {
		now = time.Now
	}
	return &Counter{store: store, now: now, counts: make(map[period]*counted)}
}

// today returns the beginning of the day.
func (c *Counter) today() time.Time { return c.now().UTC().Truncate(24 * time.Hour) }

// Load reads what the store has, to be called before anything is counted.
func (c *Counter) Load(ctx context.Context) error {
	if c.store == nil {
		return nil
	}
	all, err := c.store.List(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range all {
		if len(c.counts) >= maxDomains {
			break
		}
		if countable(s.Domain) && s.Day.Equal(s.Day.UTC().Truncate(24*time.Hour)) {
			c.counts[period{s.Domain, s.Day.Unix()}] = &counted{Summary: s}
		}
	}
	return nil
}

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
		s = &counted{Summary: Summary{Domain: domain, Day: day}}
		c.counts[k] = s
	}
	p := s.policy(e.Policy)
	if p == nil {
		return
	}
	s.dirty = true
	if e.Failure == "" {
		p.Success++
		return
	}
	p.Failure++
	p.detail(Detail{
		Result: e.Failure, Source: e.Source, MX: clean(e.MX, 255), HELO: clean(e.HELO, 255),
		Addr: e.Addr, Reason: clean(e.Reason, maxReason),
	})
}

// policy returns the counts of a policy, nil when there are too many.
func (s *counted) policy(p Policy) *PolicySummary {
	p = bounded(p)
	for i := range s.Policies {
		if o := &s.Policies[i].Policy; o.Type == p.Type && o.Domain == p.Domain &&
			slices.Equal(o.Strings, p.Strings) && slices.Equal(o.MX, p.MX) {
			return &s.Policies[i]
		}
	}
	if len(s.Policies) >= maxPolicies {
		return nil
	}
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

// detail counts a failure.
func (p *PolicySummary) detail(d Detail) {
	for i := range p.Failures {
		o := p.Failures[i]
		o.Count = 0
		if o == d {
			p.Failures[i].Count++
			return
		}
	}
	if len(p.Failures) < maxDetails {
		d.Count = 1
		p.Failures = append(p.Failures, d)
	}
}

// Save puts what changed since the last Save into the store.
func (c *Counter) Save(ctx context.Context) error {
	if c.store == nil {
		return nil
	}
	c.mu.Lock()
	var changed []Summary
	for _, s := range c.counts {
		if s.dirty {
			changed = append(changed, s.clone())
			s.dirty = false
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, s := range changed {
		if err := c.store.Put(ctx, s); err != nil {
			errs = append(errs, err)
			c.mu.Lock()
			if k := c.counts[period{s.Domain, s.Day.Unix()}]; k != nil {
				k.dirty = true
			}
			c.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// clone returns a copy that shares nothing that changes.
func (s *Summary) clone() Summary {
	out := Summary{Domain: s.Domain, Day: s.Day, Policies: slices.Clone(s.Policies)}
	for i := range out.Policies {
		out.Policies[i].Failures = slices.Clone(out.Policies[i].Failures)
	}
	return out
}

// Finished returns the summaries of days that are over, oldest first, by domain.
// Each is there until Forget, or until it is a week old.
func (c *Counter) Finished() []Summary {
	today := c.today()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Summary
	for _, s := range c.counts {
		if s.Day.Before(today) {
			out = append(out, s.clone())
		}
	}
	slices.SortFunc(out, func(a, b Summary) int {
		return cmp.Or(a.Day.Compare(b.Day), strings.Compare(a.Domain, b.Domain))
	})
	return out
}

// Forget drops a summary, after its report was sent or because nobody wants it.
func (c *Counter) Forget(ctx context.Context, domain string, day time.Time) error {
	c.mu.Lock()
	delete(c.counts, period{domain, day.Unix()})
	c.mu.Unlock()
	if c.store == nil {
		return nil
	}
	return c.store.Delete(ctx, domain, day)
}

// Expire drops summaries that are a week old, so that they do not keep new domains
// from being counted.
func (c *Counter) Expire(ctx context.Context) error {
	limit := c.today().Add(-maxDays * 24 * time.Hour)
	var errs []error
	for _, s := range c.Finished() {
		if s.Day.Before(limit) {
			errs = append(errs, c.Forget(ctx, s.Domain, s.Day))
		}
	}
	return errors.Join(errs...)
}
