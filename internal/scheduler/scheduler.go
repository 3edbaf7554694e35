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
	Expires time.Time // when it is given up; zero: never
	Next    time.Time // when it is due; zero: at once, as if due since Created
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

// Due is a batch handed out by Next. What is in it is in flight until the queue
// calls Remove, Retry or Hold.
type Due struct {
	Expired  []envelope.ID // past Expires: to be bounced, then removed
	Removed  []envelope.ID // cancelled by the operator: to be deleted, then removed
	Attempts []Item        // to be tried now: bounce, mda and mta interleaved
}

// Backend is a schedule. Its methods may be called at the same time and do not
// block on anything but its own lock. Times are passed in, so that tests own the
// clock; they are kept to the millisecond.
//
// An envelope has one deadline, Expires, which holds in every state but two: it is
// not looked at while the envelope is in flight or suspended. Calls that name an
// unknown envelope, or one that is not in flight where it should be, do nothing: a
// late answer about a removed envelope is harmless.
type Backend interface {
	// Insert adds envelopes. An id already present is replaced; it stays suspended if
	// it was, and while in flight it stays there until it is given back.
	Insert(items ...Item)

	// Next hands out up to max envelopes that are due at now and puts them in
	// flight. When the limit of envelopes in flight is reached it hands out only
	// cancelled ones. wake is when to ask again if nothing changes before; zero means
	// that only a change can help, a time not after now that more is due already.
	Next(now time.Time, max int) (due Due, wake time.Time)

	// Retry returns an envelope from flight after a temporary failure, which it
	// counts in Item.Retry. It is due again at next, or expires before.
	Retry(id envelope.ID, next time.Time)

	// Hold moves an envelope from flight into the named hold queue, or, when that is
	// full, back to pending for overflow's delay. It tells which. An envelope that was
	// suspended or cancelled meanwhile is not held.
	Hold(id envelope.ID, queue string, now time.Time) (held bool)

	// Release makes up to n envelopes of a hold queue due, all when n < 0, those held
	// longest first.
	Release(queue string, n int)

	// Remove forgets an envelope whose end is known, whatever its state.
	Remove(id envelope.ID)

	// Cancel asks for removal without a bounce, as an operator does, and returns the
	// envelopes it changed. They come back in Due.Removed, so that the queue deletes
	// them at its own pace: at once, or, when in flight, as soon as a temporary failure
	// or a hold gives them back. An attempt that ends otherwise ends with Remove.
	Cancel(id envelope.ID) []envelope.ID

	// Suspend and Resume stop and restart attempts; Schedule makes due now, out of a
	// hold queue too, but leaves alone what is suspended or in flight. They and Cancel
	// take an envelope, or with a zero lower half a whole message, or zero for all,
	// and return the envelopes they changed.
	Suspend(id envelope.ID) []envelope.ID
	Resume(id envelope.ID) []envelope.ID
	Schedule(id envelope.ID, now time.Time) []envelope.ID

	// Pause stops attempts of one type, or lets them go on. Paused envelopes expire
	// and can be cancelled. It tells whether that was a change.
	Pause(t envelope.Type, paused bool) (changed bool)

	// Each calls f for the envelopes with id >= from in id order until f returns
	// false. f must not call the schedule.
	Each(from envelope.ID, f func(Status) bool)

	// Changed is signalled (one slot) when Next may have something new to say.
	Changed() <-chan struct{}
}

// Counts is a snapshot of how many envelopes the schedule knows.
type Counts struct {
	Envelopes    int // in all
	InFlight     int
	Held         int
	HoldQueues   int   // hold queues that are not empty
	HoldOverflow int64 // times a hold queue was found full, since New
}
