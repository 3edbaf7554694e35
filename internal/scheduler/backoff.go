package scheduler

import (
	"math"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// Default bases of the retry times.
const (
	DefaultRelayBase = 400 * time.Second
	DefaultLocalBase = 10 * time.Second
)

// Backoff computes retry times: the n-th one is base·n² after the creation of the
// envelope. With the defaults a relay is tried again 400 s, 1600 s, 3600 s, 6400 s
// … after creation, a local delivery or a report after 10 s, 40 s, 90 s, 160 s …
// RFC 5321 section 4.5.4.1 wants retries to become rarer and to go on for days.
//
// The zero Backoff has the default bases.
type Backoff struct {
	Relay time.Duration // base for relays; <= 0 means DefaultRelayBase
	Local time.Duration // base for local deliveries and reports; <= 0 means DefaultLocalBase
}

func (b Backoff) base(t envelope.Type) time.Duration {
	base, def := b.Local, DefaultLocalBase
	if t == envelope.MTA {
		base, def = b.Relay, DefaultRelayBase
	}
	if base <= 0 {
		return def
	}
	return base
}

// after returns base·n², capped at the longest Duration.
func after(base time.Duration, n uint64) time.Duration {
	if n > math.MaxUint32 || n*n > uint64(math.MaxInt64/base) {
		return math.MaxInt64
	}
	return base * time.Duration(n*n)
}

// Next returns when an envelope is due after its retry-th temporary failure: the
// first retry time of number retry or higher that lies after now. A retry time is
// thus never in the past, and a queue that was down for a day does not make up for
// the attempts it missed.
func (b Backoff) Next(t envelope.Type, created time.Time, retry uint32, now time.Time) time.Time {
	base := b.base(t)
	n := max(uint64(retry), 1)
	if age := now.Sub(created); age >= base {
		// The smallest n with base·n² > age; the root may be off by one through
		// rounding, which the loop below mends.
		if root := uint64(math.Sqrt(float64(age / base))); root > n {
			n = root
		}
	}
	for {
		d := after(base, n)
		next := created.Add(d)
		if next.After(now) || d == math.MaxInt64 {
			return next
		}
		n++
	}
}

// Item returns what the schedule must know of a stored envelope at now. The stored
// time of the next attempt counts when there is one. Without one an envelope that
// never failed has been due since its creation, and one that did is at its retry
// time, even if that is past: overdue mail runs first.
func (b Backoff) Item(e *envelope.Envelope, now time.Time) Item {
	it := Item{ID: e.ID, Type: e.Type, Created: e.Created, Expires: e.Expires(), Next: e.NextTry, Retry: e.Retry}
	switch {
	case !it.Next.IsZero():
	case e.Retry > 0:
		it.Next = e.Created.Add(after(b.base(e.Type), uint64(e.Retry)))
	case e.Created.After(now): // the clock was set back
		it.Next = now
	default:
		it.Next = e.Created
	}
	return it
}
