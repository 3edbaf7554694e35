package relay

import (
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// statTime is how long the last word about a domain is kept.
const statTime = 4 * time.Hour

// stats are the last words about recipient domains.
type stats map[string]*stat

// stat is what is known of a domain.
type stat struct {
	time     time.Time
	text     string
	deferred []envelope.ID // given back because it could not be reached
}

// note takes a result. When it is a good one, the envelopes that were given back
// because the domain could not be reached are returned, and forgotten.
func (s stats) note(a *Attempt, r *Result, now time.Time, maxDeferred int) (revived []envelope.ID) {
	domain := strings.ToLower(a.Envelope.Dest.Domain)
	d := s[domain]
	if d == nil {
		if len(s) >= maxStats {
			s.sweep(now)
			for k := range s { // any one
				if len(s) < maxStats {
					break
				}
				delete(s, k)
			}
		}
		d = &stat{}
		s[domain] = d
	}
	d.time, d.text = now, r.Text
	switch {
	case r.Outcome == OK:
		revived, d.deferred = d.deferred, nil
	case r.Outcome == TempFail && r.Stage < Mail && r.RetryAfter > 0 && len(d.deferred) < maxDeferred:
		d.deferred = append(d.deferred, a.Envelope.ID)
	}
	return revived
}

// sweep forgets what is old.
func (s stats) sweep(now time.Time) {
	for k, d := range s {
		if now.Sub(d.time) >= statTime {
			delete(s, k)
		}
	}
}
