package dsn

import (
	"strings"
	"time"
)

// maxDomains bounds the domains whose notifications a Limiter counts. Beyond it those
// that were quiet longest are forgotten, which lets some more through.
const maxDomains = 10_000

// Limiter bounds the notifications to each domain, so that mail with forged senders
// does not make this host a source of unwanted mail (backscatter). A domain may get
// its minute's worth at once and then as many as the rate allows; what goes beyond
// is told when to come again. It is not safe for calls at the same time. Times are
// passed in.
type Limiter struct {
	domains map[string]*account
}

// account is a domain's: it is empty when nothing was sent for a minute.
type account struct {
	used float64   // notifications of the last minute, as they wear off
	at   time.Time // when used was right
	next time.Time // when the last one that was turned away may come again
}

// NewLimiter returns an empty Limiter.
func NewLimiter() *Limiter { return &Limiter{domains: map[string]*account{}} }

// Allow counts a notification to a domain at perMinute a minute, 0 for any number. If
// it is one too many it is not counted, and at is when to ask again: those that are
// turned away get times one after another.
func (l *Limiter) Allow(domain string, perMinute int, now time.Time) (at time.Time, ok bool) {
	if perMinute <= 0 {
		return now, true
	}
	domain = strings.ToLower(domain)
	a := l.domains[domain]
	if a == nil {
		l.forget(now)
		a = &account{at: now}
		l.domains[domain] = a
	}
	rate := float64(perMinute)
	a.used = max(0, a.used-now.Sub(a.at).Minutes()*rate)
	a.at = now
	if a.used+1 <= rate {
		a.used++
		return now, true
	}
	step := time.Minute / time.Duration(perMinute)
	if a.next.Before(now) {
		a.next = now
	}
	a.next = a.next.Add(step)
	return a.next, false
}

// forget makes room for another domain.
func (l *Limiter) forget(now time.Time) {
	if len(l.domains) < maxDomains {
		return
	}
	var oldest string
	for d, a := range l.domains {
		switch {
		case now.Sub(a.at) >= time.Minute && now.After(a.next):
			delete(l.domains, d)
		case oldest == "" || a.at.Before(l.domains[oldest].at):
			oldest = d
		}
	}
	if len(l.domains) >= maxDomains {
		delete(l.domains, oldest)
	}
}
