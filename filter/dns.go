package filter

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// The lookups have the signatures and errors of net.Resolver: they return a
// *net.DNSError that tells whether it is proven that there is nothing (IsNotFound) or
// not known now (IsTemporary). They may be called from any goroutine. A daemon that
// announces the extension answers them from its own resolver, with its cache; under
// others the system's is used.

// LookupAddr returns the names of an address. That they lead back to it is not checked.
func (s *Session) LookupAddr(ctx context.Context, address string) ([]string, error) {
	if !s.c.canAsk() {
		return net.DefaultResolver.LookupAddr(ctx, address)
	}
	return s.c.ask(ctx, s.ID, wire.QueryAddr, address)
}

// LookupHost returns the addresses of a name.
func (s *Session) LookupHost(ctx context.Context, name string) ([]string, error) {
	if !s.c.canAsk() {
		return net.DefaultResolver.LookupHost(ctx, name)
	}
	return s.c.ask(ctx, s.ID, wire.QueryHost, name)
}

// LookupIPAddr returns the addresses of a name.
func (s *Session) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	texts, err := s.LookupHost(ctx, name)
	if err != nil {
		return nil, err
	}
	var addrs []net.IPAddr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()})
		}
	}
	return addrs, nil
}

// LookupTXT returns the texts of a name, the strings of each record joined.
func (s *Session) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if !s.c.canAsk() {
		return net.DefaultResolver.LookupTXT(ctx, name)
	}
	return s.c.ask(ctx, s.ID, wire.QueryTXT, name)
}

// LookupMX returns the mail exchangers of a domain, most preferred first.
func (s *Session) LookupMX(ctx context.Context, domain string) ([]*net.MX, error) {
	if !s.c.canAsk() {
		return net.DefaultResolver.LookupMX(ctx, domain)
	}
	values, err := s.c.ask(ctx, s.ID, wire.QueryMX, domain)
	if err != nil {
		return nil, err
	}
	var hosts []*net.MX
	for _, v := range values {
		pref, host, _ := strings.Cut(v, " ")
		if n, err := strconv.ParseUint(pref, 10, 16); err == nil {
			hosts = append(hosts, &net.MX{Host: host, Pref: uint16(n)})
		}
	}
	return hosts, nil
}

// Bounds of an answer of the daemon.
const (
	lookupTimeout  = 30 * time.Second // for callers without a deadline
	maxValues      = 1000
	maxAnswerBytes = 1 << 20
)

// question is a lookup that waits for its answer.
type question struct {
	values []string
	size   int
	status wire.Status
	done   chan struct{} // closed when the rest is complete
}

// answers are the lookups under way.
type answers struct {
	mu      sync.Mutex
	next    uint64               // guarded by mu
	waiting map[uint64]*question // guarded by mu; nil when no answer will come any more
}

// canAsk tells whether the daemon answers lookups.
func (c *conn) canAsk() bool { return c.daemon.extensions[wire.ExtDNS] }

// ask has the daemon look something up.
func (c *conn) ask(ctx context.Context, session uint64, q wire.Query, name string) ([]string, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
	}
	wait := &question{done: make(chan struct{})}
	id, ok := c.answers.add(wait)
	if !ok {
		return nil, dnsError(name, wire.StatusTempFail)
	}
	c.asking.Add(1)
	c.wakeReader()
	defer c.asking.Add(-1)
	c.send(wire.AppendQuestion(nil, session, id, q, name))
	select {
	case <-wait.done:
	case <-ctx.Done():
		if c.answers.remove(id) {
			c.send(wire.AppendCancel(nil, session, id))
		}
		return nil, &net.DNSError{Err: ctx.Err().Error(), Name: name, UnwrapErr: ctx.Err(),
			IsTimeout: errors.Is(ctx.Err(), context.DeadlineExceeded), IsTemporary: true}
	}
	if wait.status == wire.StatusOK && len(wait.values) > 0 {
		return wait.values, nil
	}
	if wait.status == wire.StatusOK {
		wait.status = wire.StatusNotFound
	}
	return nil, dnsError(name, wait.status)
}

func dnsError(name string, s wire.Status) error {
	switch s {
	case wire.StatusNotFound:
		return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	case wire.StatusRefused:
		return &net.DNSError{Err: "refused by the daemon", Name: name}
	}
	return &net.DNSError{Err: "temporary failure", Name: name, IsTemporary: true}
}

// add gives a question its id.
func (a *answers) add(q *question) (id uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		return 0, false
	}
	a.next++
	a.waiting[a.next] = q
	return a.next, true
}

// remove gives up a question. It returns false when its answer has ended already.
func (a *answers) remove(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	open := a.waiting[id] != nil
	delete(a.waiting, id)
	return open
}

// take handles a line of an answer. Answers to nobody are ignored: whoever asked may
// have given up.
func (a *answers) take(m *wire.ToFilter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.waiting[m.ID]
	if q == nil {
		return
	}
	if m.Status == wire.StatusValue {
		if q.size += len(m.Text); q.size <= maxAnswerBytes && len(q.values) < maxValues {
			q.values = append(q.values, wire.Unescape(m.Text))
			return
		}
		m.Status = wire.StatusTempFail
	}
	q.status = m.Status
	delete(a.waiting, m.ID)
	close(q.done)
}

// fail ends all lookups.
func (a *answers) fail() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.waiting {
		q.status = wire.StatusTempFail
		close(q.done)
	}
	a.waiting = nil
}
