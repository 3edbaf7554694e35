// Package scheduler is the contract of the schedule: which envelopes are due,
// which are in flight, which are held back. It knows nothing of disks; the queue
// process feeds it. The implementation in memory is scheduler/ram.
package scheduler

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// Item is what the schedule knows of an envelope.
type Item struct {
	ID      envelope.ID
	Type    envelope.Type
	Created time.Time
	Expires time.Time
	Next    time.Time // when it is due; zero: at once
	Retry   uint32    // temporary failures so far
}

// State of an envelope in the schedule.
type State uint8

// The states.
const (
	Pending   State = iota + 1 // waits for its time
	Scheduled                  // due, waits for its turn
	InFlight                   // handed out by Next
	Held                       // in a hold queue
)

// Status is what an operator is told of one envelope.
type Status struct {
	Item
	State     State
	Suspended bool
	Hold      string // name of the hold queue, when Held
}

// Due is a batch handed out by Next.
type Due struct {
	Expired  []envelope.ID // past Expires: to be bounced; in flight until Remove
	Removed  []envelope.ID // removed by the operator while in flight, now given back
	Attempts []Item        // to be tried now: bounce, mda and mta interleaved
}

// Backend is a schedule. Its methods may be called at the same time and do not
// block on anything but its own lock. Times are passed in, so that tests own the clock.
type Backend interface {
	// Insert adds envelopes. An id already present is replaced.
	Insert(items ...Item)

	// Next hands out up to max envelopes that are due at now and puts them in
	// flight. wake is when to ask again if nothing changes before (zero: never).
	Next(now time.Time, max int) (due Due, wake time.Time)

	// Retry returns an envelope from flight after a temporary failure.
	Retry(id envelope.ID, next time.Time)

	// Hold moves an envelope from flight into the named hold queue, or, when that is
	// full, back to pending for overflow's delay. It tells which.
	Hold(id envelope.ID, queue string, now time.Time) (held bool)

	// Release makes up to n envelopes of a hold queue due, all when n < 0.
	Release(queue string, n int)

	// Remove forgets an envelope, whatever its state.
	Remove(id envelope.ID)

	// Suspend and Resume stop and restart attempts; Schedule makes due now. Each
	// takes an envelope, or with a zero lower half a whole message, or zero for all,
	// and returns the envelopes it changed.
	Suspend(id envelope.ID) []envelope.ID
	Resume(id envelope.ID) []envelope.ID
	Schedule(id envelope.ID, now time.Time) []envelope.ID

	// Each calls f for the envelopes with id >= from in id order until f returns
	// false. f must not call the schedule.
	Each(from envelope.ID, f func(Status) bool)

	// Changed is signalled (one slot) when Next may have something new to say.
	Changed() <-chan struct{}
}
