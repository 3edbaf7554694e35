package dsn

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// answerable tells whether anybody may be notified about e: never the sender of a
// notification, nor the null sender (RFC 3461 section 4.1, RFC 5321 section 4.5.5).
func answerable(e *envelope.Envelope) bool {
	return !e.Sender.IsNull() && e.Flags&envelope.IsBounce == 0 && e.Type != envelope.Bounce &&
		e.Notify&envelope.NotifyNever == 0
}

// WantsFailure tells whether the sender is to hear that e failed for good: unless
// NOTIFY was given and does not name FAILURE (RFC 3461 section 4.1).
func WantsFailure(e *envelope.Envelope) bool {
	return answerable(e) && (e.Notify == 0 || e.Notify&envelope.NotifyFailure != 0)
}

// WantsSuccess tells whether the sender is to hear that e was delivered, or relayed
// to a host that reports nothing itself: only if NOTIFY names SUCCESS.
func WantsSuccess(e *envelope.Envelope) bool {
	return answerable(e) && e.Notify&envelope.NotifySuccess != 0
}

// WantsDelay tells whether the sender may hear that e is delayed: without NOTIFY,
// or if it names DELAY.
func WantsDelay(e *envelope.Envelope) bool {
	return answerable(e) && (e.Notify == 0 || e.Notify&envelope.NotifyDelay != 0)
}

// DelayDue tells whether a delay notice about e is due at now, and which of the
// intervals it is for. Each is due once, when that time has passed since creation
// and no notice was sent since it had. If several have passed, one notice is for all
// of them. Setting e.LastBounce to now records that it was sent.
func DelayDue(e *envelope.Envelope, intervals []time.Duration, now time.Time) (time.Duration, bool) {
	if !WantsDelay(e) || !now.Before(e.Expires()) {
		return 0, false
	}
	var due time.Duration
	for _, d := range intervals {
		if at := e.Created.Add(d); d > due && !now.Before(at) && e.LastBounce.Before(at) {
			due = d
		}
	}
	return due, due > 0
}
