package auth

import (
	"container/list"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// Limits configure a Limiter. Zero values mean the defaults.
type Limits struct {
	Free    int           // failures of a source that cost no delay, 2
	Base    time.Duration // delay after the first failure beyond those, doubled by each further one, 500ms
	Max     time.Duration // largest delay, 10s
	Cap     int           // failures after which a source is refused, 30
	Forgive time.Duration // time after which one failure is forgotten, 1m
	Sources int           // sources remembered; the one not seen for longest is forgotten first, 10000
	Now     func() time.Time
}

// Limiter slows down and finally refuses sources that fail to authenticate. An
// attempt counts as a failure from its beginning, so many at the same time gain
// nothing. It may be used from many goroutines.
type Limiter struct {
	l Limits

	mu      sync.Mutex
	sources map[string]*list.Element // of *source, guarded by mu
	recent  *list.List               // most recently used first, guarded by mu
}

// source is what is known about one client address or network.
type source struct {
	key      string
	failures int
	since    time.Time // when failures was last brought up to date
}

// NewLimiter returns a Limiter.
func NewLimiter(l Limits) *Limiter {
	set := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	setTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&l.Free, 2)
	set(&l.Cap, 30)
	set(&l.Sources, 10_000)
	setTime(&l.Base, 500*time.Millisecond)
	setTime(&l.Max, 10*time.Second)
	setTime(&l.Forgive, time.Minute)
	if l.Now == nil {
		l.Now = time.Now
	}
	return &Limiter{l: l, sources: map[string]*list.Element{}, recent: list.New()}
}

// Do makes an attempt of a client: it waits as long as the client's earlier
// failures ask for, then runs check. Only an error that wraps ErrDenied counts as a
// failure. A client that failed too often gets an *smtp.Error that wraps ErrSource
// and check is not run, whatever the password.
func (l *Limiter) Do(ctx context.Context, client string, check func(context.Context) error) error {
	delay, err := l.Begin(client)
	if err != nil {
		return err
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			l.Undo(client)
			return temporary(ctx.Err())
		}
	}
	err = check(ctx)
	if !errors.Is(err, ErrDenied) {
		l.Undo(client)
	}
	return err
}

// Begin counts an attempt as failed and returns how long it must wait. The error is
// as that of Do.
func (l *Limiter) Begin(client string) (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.get(sourceKey(client))
	if s.failures >= l.l.Cap {
		return 0, &smtp.Error{Code: 454, Enhanced: smtp.EnhancedCode{4, 7, 0}, Text: "Too many failed attempts, try again later", Err: ErrSource}
	}
	n := s.failures - l.l.Free
	s.failures++
	if n < 0 {
		return 0, nil
	}
	if n > 20 {
		return l.l.Max, nil
	}
	return min(l.l.Base<<n, l.l.Max), nil
}

// Undo takes back the failure that Begin counted.
func (l *Limiter) Undo(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.get(sourceKey(client)); s.failures > 0 {
		s.failures--
	}
}

// get returns the source with what time forgives taken off.
func (l *Limiter) get(key string) *source {
	now := l.l.Now()
	if e, ok := l.sources[key]; ok {
		l.recent.MoveToFront(e)
		s := e.Value.(*source)
		if n := int(min(now.Sub(s.since)/l.l.Forgive, time.Duration(s.failures))); n > 0 {
			s.failures -= n
			s.since = s.since.Add(time.Duration(n) * l.l.Forgive)
		}
		if s.failures == 0 {
			s.since = now
		}
		return s
	}
	for len(l.sources) >= l.l.Sources {
		last := l.recent.Back()
		delete(l.sources, l.recent.Remove(last).(*source).key)
	}
	s := &source{key: key, since: now}
	l.sources[key] = l.recent.PushFront(s)
	return s
}

// sourceKey is what one client can hardly change: an IPv4 address, the /64 of an
// IPv6 address, or the text itself.
func sourceKey(client string) string {
	a, ok := table.ParseAddr(client)
	if !ok {
		return client
	}
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().String()
	}
	return a.String()
}
