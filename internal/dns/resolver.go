package dns

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Config says how a Resolver asks. A zero field means the usual.
type Config struct {
	Servers    []string      // host:port; overrides those of ResolvConf
	ResolvConf string        // /etc/resolv.conf; "-": none
	Hosts      string        // /etc/hosts; "-": none
	Timeout    time.Duration // of one packet; overrides ResolvConf
	Total      time.Duration // of one question to all servers; 30 s
	MaxQueries int           // under way at once, further ones wait; 512
	MaxCached  int           // answers; 16384
}

// Resolver asks the DNS. Its methods may be called concurrently. Close ends it.
type Resolver struct {
	cfg    Config
	conf   watched[conf]
	hosts  watched[hosts]
	now    func() time.Time
	slots  chan struct{} // one element for each query under way
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	cache  map[key]kept         // guarded by mu
	calls  map[key]*call        // guarded by mu; at most cap(slots)
	failed map[string]time.Time // guarded by mu; by server, until when it is asked last
	closed bool                 // guarded by mu
}

// key is a question.
type key struct {
	name  string // lower case, no final dot
	qtype uint16
}

// kept is an outcome in the cache.
type kept struct {
	outcome
	expires time.Time
}

// call is a query under way; out may be read once done is closed.
type call struct {
	done chan struct{}
	out  outcome
}

// New returns a Resolver. It reads no file yet.
func New(cfg Config) (*Resolver, error) {
	for _, s := range cfg.Servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return nil, fmt.Errorf("name server %q: %w", s, err)
		}
	}
	file := func(path, usual string) string {
		switch path {
		case "":
			return usual
		case "-":
			return ""
		}
		return path
	}
	if cfg.Total <= 0 {
		cfg.Total = 30 * time.Second
	}
	if cfg.MaxQueries <= 0 {
		cfg.MaxQueries = 512
	}
	if cfg.MaxCached <= 0 {
		cfg.MaxCached = 16384
	}
	r := &Resolver{
		cfg:    cfg,
		conf:   watched[conf]{path: file(cfg.ResolvConf, "/etc/resolv.conf"), parse: parseConf},
		hosts:  watched[hosts]{path: file(cfg.Hosts, "/etc/hosts"), parse: parseHosts},
		now:    time.Now,
		slots:  make(chan struct{}, cfg.MaxQueries),
		cache:  make(map[key]kept),
		calls:  make(map[key]*call),
		failed: make(map[string]time.Time),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Close ends the queries under way and waits for them. Later questions fail.
func (r *Resolver) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	return nil
}

// servers returns the configuration in force.
func (r *Resolver) servers() (*conf, error) {
	c, err := r.conf.get(r.now())
	if err != nil {
		return nil, fmt.Errorf("resolver configuration: %w", err)
	}
	if len(r.cfg.Servers) == 0 && r.cfg.Timeout == 0 {
		return c, nil
	}
	own := *c
	if len(r.cfg.Servers) > 0 {
		own.servers = r.cfg.Servers
	}
	if r.cfg.Timeout > 0 {
		own.timeout = r.cfg.Timeout
	}
	return &own, nil
}

// lookup answers a question about the name of a host, following CNAMEs across answers.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*Answer, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("%w: %.80q", ErrBadName, name)
	}
	return r.follow(ctx, canonical(name), qtype)
}

// follow answers a question about a name as the library writes it.
func (r *Resolver) follow(ctx context.Context, name string, qtype uint16) (*Answer, error) {
	authentic := true
	for range maxCNAME {
		out := r.one(ctx, key{name, qtype})
		if out.err != nil {
			return nil, out.err
		}
		authentic = authentic && out.answer.Authentic
		if out.next != "" {
			name = out.next
			continue
		}
		if out.answer.Authentic && !authentic {
			a := *out.answer
			a.Authentic = false
			return &a, nil
		}
		return out.answer, nil
	}
	return nil, fmt.Errorf("%s: more than %d CNAMEs", name, maxCNAME)
}

// one answers a question from the cache, by the query under way for it, or by a
// new one. The query goes on when ctx ends, for the others who may wait for it.
func (r *Resolver) one(ctx context.Context, k key) outcome {
	c, out := r.find(k)
	if c == nil && out == nil {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return outcome{err: ctx.Err()}
		case <-r.ctx.Done():
			return outcome{err: net.ErrClosed}
		}
		c, out = r.start(k)
	}
	if out != nil {
		return *out
	}
	select {
	case <-c.done:
		return c.out
	case <-ctx.Done():
		return outcome{err: fmt.Errorf("look up %s: %w", k.name, ctx.Err())}
	}
}

// find returns the outcome kept for k, or the query under way, or neither.
func (r *Resolver) find(k key) (*call, *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.findLocked(k)
}

// findLocked is find for who holds mu.
func (r *Resolver) findLocked(k key) (*call, *outcome) {
	if e, ok := r.cache[k]; ok && r.now().Before(e.expires) {
		return nil, &e.outcome
	}
	return r.calls[k], nil
}

// start begins the query for k in a goroutine that ends within cfg.Total or with
// Close. The caller has put an element into slots, which start takes over.
func (r *Resolver) start(k key) (*call, *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, out := r.findLocked(k); c != nil || out != nil || r.closed {
		<-r.slots
		if r.closed && c == nil && out == nil {
			out = &outcome{err: net.ErrClosed}
		}
		return c, out
	}
	c := &call{done: make(chan struct{})}
	r.calls[k] = c
	r.wg.Go(func() {
		defer func() { <-r.slots }()
		ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Total)
		defer cancel()
		c.out = r.ask(ctx, k.name, k.qtype)
		r.mu.Lock()
		delete(r.calls, k)
		if c.out.ttl > 0 {
			r.keep(k, c.out)
		}
		r.mu.Unlock()
		close(c.done)
	})
	return c, nil
}

// keep puts an outcome into the cache. When that is full it drops what has
// expired, and if that is too little, arbitrary answers down to three quarters.
// The caller holds mu.
func (r *Resolver) keep(k key, out outcome) {
	now := r.now()
	if len(r.cache) >= r.cfg.MaxCached {
		for k, e := range r.cache {
			if !now.Before(e.expires) {
				delete(r.cache, k)
			}
		}
		for k := range r.cache {
			if len(r.cache) <= r.cfg.MaxCached*3/4 {
				break
			}
			delete(r.cache, k)
		}
	}
	r.cache[k] = kept{out, now.Add(out.ttl)}
}
