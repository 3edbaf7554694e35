package mtasts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/keep"
)

// TXT looks text records up; *dns.Resolver does.
type TXT interface {
	TXT(ctx context.Context, name string) (*dns.Answer, error)
}

// Config is what Policies need. A zero field means the usual.
type Config struct {
	DNS       TXT           // required
	Fetcher   Fetcher       // required
	Store     keep.Keeper   // by domain; nil: policies are forgotten when the process ends
	MaxCached int           // policies in memory; 4096
	Patience  time.Duration // of a caller with a policy server; 20 s
	Now       func() time.Time
}

const (
	maxFetches = 16 // at once, further ones wait
	// retry is the time between fetches for a domain: after a failure (RFC 8461
	// section 3.3 suggests 5 minutes or longer), and of policies with a lesser max_age.
	retry = 5 * time.Minute
	// refreshAge is the age at which a policy is fetched again in the background, if
	// half of its max_age is not over before.
	refreshAge = 24 * time.Hour
	// patience is how long mail waits for a policy that is not known yet. A fetch that
	// takes longer goes on, for the mail to come.
	patience = 20 * time.Second
	// loadTimeout bounds the reading of a policy that is kept.
	loadTimeout = 10 * time.Second
)

// ErrUnknown says that it is not known whether a policy is in force, because those
// that are kept cannot be read. No mail may be sent without knowing.
var ErrUnknown = errors.New("policies that are kept cannot be read")

// Policies knows the policies of domains. Its methods may be called concurrently.
// Close ends it.
type Policies struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{} // one element for each fetch under way
	wg     sync.WaitGroup

	mu     sync.Mutex
	cache  map[string]*kept   // guarded by mu; at most cfg.MaxCached
	calls  map[string]*call   // guarded by mu
	failed map[string]failure // guarded by mu; at most cfg.MaxCached
	closed bool               // guarded by mu
}

// kept is a policy in memory.
type kept struct {
	Entry
	policy *Policy
}

// call is a fetch under way; the others may be read once done is closed.
type call struct {
	done chan struct{}
	kept *kept
	err  error
}

// failure is a fetch that failed lately.
type failure struct {
	id    string
	until time.Time // not tried again before
	err   error
}

// New returns Policies.
func New(cfg Config) *Policies {
	if cfg.MaxCached <= 0 {
		cfg.MaxCached = 4096
	}
	if cfg.Patience <= 0 {
		cfg.Patience = patience
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Policies{
		cfg:    cfg,
		slots:  make(chan struct{}, maxFetches),
		cache:  make(map[string]*kept),
		calls:  make(map[string]*call),
		failed: make(map[string]failure),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close ends the fetches under way and waits for them.
func (p *Policies) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
	return nil
}

// Policy returns the policy in force for a domain in ASCII, nil when it has none. A
// policy that is not known yet is fetched while the caller waits. An error tells
// that a policy is announced but cannot be had, or, beside a policy, not its newest
// edition: mail goes on by what is known (RFC 8461 section 5.1), unless the error is
// ErrUnknown.
func (p *Policies) Policy(ctx context.Context, domain string) (*Policy, error) {
	domain = strings.ToLower(domain)
	known, err := p.known(ctx, domain)
	if err != nil {
		return nil, fmt.Errorf("MTA-STS policy of %s: %w: %w", domain, ErrUnknown, err)
	}
	id, err := p.announced(ctx, domain)
	if err != nil {
		// A record that is missing or cannot be read does not end a policy.
		return known.get(), nil
	}
	if known != nil && known.ID == id {
		if p.stale(known) {
			p.fetch(domain, id)
		}
		return known.get(), nil
	}
	if err := p.failedLately(domain, id); err != nil {
		return known.get(), err
	}
	c := p.fetch(domain, id)
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Patience)
	defer cancel()
	select {
	case <-c.done:
	case <-ctx.Done():
		return known.get(), fmt.Errorf("fetch MTA-STS policy of %s: %w", domain, ctx.Err())
	}
	if c.err != nil {
		return known.get(), c.err
	}
	return c.kept.policy, nil
}

// get returns the policy of k, which may be nil.
func (k *kept) get() *Policy {
	if k == nil {
		return nil
	}
	return k.policy
}

// announced returns the id of the TXT record of a domain.
func (p *Policies) announced(ctx context.Context, domain string) (string, error) {
	a, err := p.cfg.DNS.TXT(ctx, "_mta-sts."+domain)
	if err != nil {
		return "", err
	}
	return parseRecord(a.Text)
}

// known returns the policy kept for a domain, nil for none that is in force.
func (p *Policies) known(ctx context.Context, domain string) (*kept, error) {
	p.mu.Lock()
	k := p.cache[domain]
	p.mu.Unlock()
	if k == nil {
		var err error
		if k, err = p.load(ctx, domain); err != nil {
			return nil, err
		}
	}
	if k == nil || !p.cfg.Now().Before(k.Fetched.Add(max(k.policy.MaxAge, retry))) {
		return nil, nil
	}
	return k, nil
}

// load reads the policy of a domain from the store. What is damaged is as good as
// nothing: the policy is fetched again.
func (p *Policies) load(ctx context.Context, domain string) (*kept, error) {
	if p.cfg.Store == nil || !storable(domain) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	b, err := p.cfg.Store.Get(ctx, domain)
	if errors.Is(err, keep.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := ParseEntry(b)
	if err != nil || e.Domain != domain {
		return nil, nil
	}
	policy, err := ParsePolicy(e.Text)
	if err != nil {
		return nil, nil
	}
	k := &kept{Entry: e, policy: policy}
	p.keep(k)
	return k, nil
}

// stale tells whether a policy in force should be fetched again.
func (p *Policies) stale(k *kept) bool {
	now := p.cfg.Now()
	if now.Before(k.Fetched.Add(max(retry, min(refreshAge, k.policy.MaxAge/2)))) {
		return false
	}
	return p.failedLately(k.Domain, k.ID) == nil
}

// failedLately returns why the fetch of an edition failed a short while ago.
func (p *Policies) failedLately(domain, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.failed[domain]
	if !ok || f.id != id || !p.cfg.Now().Before(f.until) {
		return nil
	}
	return f.err
}

// keep puts a policy into memory; when that is full others make room.
func (p *Policies) keep(k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.cache[k.Domain]; !ok {
		makeRoom(p.cache, p.cfg.MaxCached)
	}
	p.cache[k.Domain] = k
}

// makeRoom drops arbitrary entries until one more fits.
func makeRoom[V any](m map[string]V, limit int) {
	for key := range m {
		if len(m) < limit {
			return
		}
		delete(m, key)
	}
}

// fetch starts a fetch, or returns the one under way. Its goroutine ends within
// fetchTimeout of having its turn, or with Close.
func (p *Policies) fetch(domain, id string) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.calls[domain]; c != nil {
		return c
	}
	c := &call{done: make(chan struct{})}
	if p.closed || len(p.calls) >= p.cfg.MaxCached {
		c.err = fmt.Errorf("fetch MTA-STS policy of %s: too many at once", domain)
		close(c.done)
		return c
	}
	p.calls[domain] = c
	p.wg.Go(func() {
		c.kept, c.err = p.get(domain, id)
		p.mu.Lock()
		delete(p.calls, domain)
		if c.err != nil && !errors.Is(c.err, context.Canceled) {
			makeRoom(p.failed, p.cfg.MaxCached)
			p.failed[domain] = failure{id, p.cfg.Now().Add(retry), c.err}
		} else {
			delete(p.failed, domain)
		}
		p.mu.Unlock()
		close(c.done)
	})
	return c
}

// get fetches the policy of a domain and keeps it.
func (p *Policies) get(domain, id string) (*kept, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
	defer func() { <-p.slots }()
	ctx, cancel := context.WithTimeout(p.ctx, fetchTimeout)
	defer cancel()
	text, err := p.cfg.Fetcher.Fetch(ctx, domain)
	if err != nil {
		return nil, fmt.Errorf("fetch MTA-STS policy of %s: %w", domain, err)
	}
	policy, err := ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("MTA-STS policy of %s: %w", domain, err)
	}
	k := &kept{Entry{Domain: domain, ID: id, Fetched: p.cfg.Now(), Text: text}, policy}
	p.keep(k)
	if p.cfg.Store != nil && storable(domain) {
		// What cannot be stored is in memory; that is how a process without a store works.
		_ = p.cfg.Store.Put(ctx, domain, k.Entry.Append(nil))
	}
	return k, nil
}
