// Package schedulertest is the conformance suite of scheduler.Backend.
package schedulertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// Limits are those the suite asks of the schedule it tests.
type Limits struct {
	MaxInFlight int
	MaxHold     int
	HoldDelay   time.Duration
}

// suite is one schedule under test, with the clock.
type suite struct {
	*testing.T
	scheduler.Backend
	now time.Time
}

// epoch is where the clock of the tests starts.
func epoch() time.Time { return time.Unix(1_800_000_000, 0) }

// Run tests the schedules that open returns.
func Run(t *testing.T, open func(Limits) scheduler.Backend) {
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"due envelopes are handed out in the order of their times", dueInOrder},
		{"new mail does not overtake what waits longer", newMail},
		{"wake tells when to ask again", wakeTime},
		{"types are interleaved and none starves", interleaved},
		{"an envelope in flight is not handed out again", notTwice},
		{"a temporary failure is counted and waits for its time", retry},
		{"an envelope expires instead of being tried", expiry},
		{"the deadline comes before a later attempt", expiresBeforeRetry},
		{"no more than the limit are in flight", maxInFlight},
		{"held envelopes wait for their release, first in first out", holdAndRelease},
		{"a full hold queue puts off", holdOverflow},
		{"held envelopes expire", heldExpire},
		{"suspended envelopes are not tried and do not expire", suspend},
		{"what is suspended in flight stays when it comes back", suspendInFlight},
		{"schedule makes due now", schedule},
		{"operators name an envelope, a message or all", selection},
		{"cancelled envelopes come back to be deleted", cancel},
		{"cancelling waits for an attempt under way", cancelInFlight},
		{"a paused type is not tried but expires", pause},
		{"late answers are harmless", lateAnswers},
		{"inserting again replaces", replace},
		{"the listing is in order and starts anywhere", listing},
		{"changes are signalled", changed},
		{"random use agrees with a simple model", model},
		{"calls at the same time lose nothing", concurrent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(&suite{t, open(Limits{MaxInFlight: 50, MaxHold: 10, HoldDelay: 3 * time.Second}), epoch()})
		})
	}
}

func id(msg, n uint32) envelope.ID { return envelope.NewID(envelope.MsgID(msg), n) }

// item returns an envelope due after a delay that lives for a day.
func (s *suite) item(i envelope.ID, t envelope.Type, delay time.Duration) scheduler.Item {
	return scheduler.Item{ID: i, Type: t, Created: s.now, Expires: s.now.Add(24 * time.Hour), Next: s.now.Add(delay)}
}

// next asks for up to max and returns the due in words: +id attempts, !id expired,
// -id removed.
func (s *suite) next(max int) string {
	s.Helper()
	due, _ := s.Next(s.now, max)
	var w []string
	for _, it := range due.Attempts {
		w = append(w, "+"+short(it.ID))
	}
	for _, i := range due.Expired {
		w = append(w, "!"+short(i))
	}
	for _, i := range due.Removed {
		w = append(w, "-"+short(i))
	}
	return strings.Join(w, " ")
}

func short(i envelope.ID) string { return fmt.Sprintf("%d.%d", i.MsgID(), uint32(i)) }

func (s *suite) expect(got, want string) {
	s.Helper()
	if got != want {
		s.Fatalf("got %q, want %q", got, want)
	}
}

func (s *suite) expectIDs(got []envelope.ID, want ...envelope.ID) {
	s.Helper()
	got = slices.Sorted(slices.Values(got))
	if !slices.Equal(got, want) {
		s.Fatalf("changed %v, want %v", got, want)
	}
}

// status returns what the listing says of one envelope.
func (s *suite) status(i envelope.ID) (st scheduler.Status, ok bool) {
	s.Each(i, func(x scheduler.Status) bool {
		st, ok = x, x.ID == i
		return false
	})
	return st, ok
}

func (s *suite) expectState(i envelope.ID, want scheduler.State) {
	s.Helper()
	st, ok := s.status(i)
	if !ok || st.State != want {
		s.Fatalf("envelope %s: present %v, state %d, want %d", short(i), ok, st.State, want)
	}
}

func dueInOrder(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 3*time.Second), s.item(id(2, 1), envelope.MTA, time.Second))
	s.Insert(s.item(id(3, 1), envelope.MTA, 2*time.Second))
	zero := s.item(id(4, 1), envelope.MTA, 0)
	zero.Next = time.Time{}
	s.Insert(zero)
	s.expect(s.next(10), "+4.1")
	s.now = s.now.Add(2 * time.Second)
	s.expect(s.next(10), "+2.1 +3.1")
	s.now = s.now.Add(time.Second - time.Millisecond)
	s.expect(s.next(10), "")
	s.now = s.now.Add(time.Millisecond)
	s.expect(s.next(10), "+1.1")
}

func newMail(s *suite) {
	s.expect(s.next(1), "")
	fresh := func(i envelope.ID, created time.Duration) {
		it := s.item(i, envelope.MTA, 0)
		it.Created, it.Next = s.now.Add(created), time.Time{}
		s.Insert(it)
	}
	fresh(id(1, 1), -time.Second)
	s.Insert(s.item(id(2, 1), envelope.MTA, -2*time.Second))
	fresh(id(3, 1), time.Hour) // the clock was set back
	s.Insert(s.item(id(4, 1), envelope.MTA, time.Millisecond))
	fresh(id(5, 1), -3*time.Second)
	s.expect(s.next(10), "+5.1 +2.1 +1.1 +3.1")
}

func wakeTime(s *suite) {
	wake := func(max int) time.Time { _, w := s.Next(s.now, max); return w }
	if w := wake(10); !w.IsZero() {
		s.Fatalf("empty schedule wakes at %v", w)
	}
	s.Insert(s.item(id(1, 1), envelope.MDA, time.Hour), s.item(id(1, 2), envelope.MTA, time.Minute))
	if w := wake(10); !w.Equal(s.now.Add(time.Minute)) {
		s.Fatalf("wake %v, want the earlier of two", w)
	}
	zero := s.item(id(1, 3), envelope.MTA, 0)
	zero.Next = time.Time{}
	s.Insert(zero, s.item(id(1, 4), envelope.MDA, 0))
	if w := wake(1); w.IsZero() || w.After(s.now) {
		s.Fatalf("wake %v although more is due", w)
	}
	if w := wake(10); !w.Equal(s.now.Add(time.Minute)) {
		s.Fatalf("wake %v, want the next one", w)
	}
}

func interleaved(s *suite) {
	for n := range uint32(3) {
		s.Insert(s.item(id(1, n+1), envelope.MTA, 0), s.item(id(2, n+1), envelope.MDA, 0), s.item(id(3, n+1), envelope.Bounce, 0))
	}
	s.expect(s.next(6), "+3.1 +2.1 +1.1 +3.2 +2.2 +1.2")
	// One at a time they take turns, too.
	for n := range uint32(9) {
		s.Insert(s.item(id(3, n+10), envelope.Bounce, 0))
	}
	got := s.next(1) + " " + s.next(1) + " " + s.next(1)
	for _, want := range []string{"+3.", "+2.3", "+1.3"} {
		if !strings.Contains(got, want) {
			s.Fatalf("three turns gave %q, want one of each type", got)
		}
	}
}

func notTwice(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0))
	s.expect(s.next(10), "+1.1")
	s.expect(s.next(10), "")
	s.expectState(id(1, 1), scheduler.InFlight)
	s.Remove(id(1, 1))
	if _, ok := s.status(id(1, 1)); ok {
		s.Fatal("a removed envelope is listed")
	}
}

func retry(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0))
	s.next(1)
	s.Retry(id(1, 1), s.now.Add(400*time.Second+time.Nanosecond))
	s.expectState(id(1, 1), scheduler.Pending)
	s.now = s.now.Add(400 * time.Second)
	s.expect(s.next(1), "")
	s.now = s.now.Add(time.Millisecond)
	due, _ := s.Next(s.now, 1)
	if len(due.Attempts) != 1 || due.Attempts[0].Retry != 1 || !due.Attempts[0].Created.Equal(epoch()) {
		s.Fatalf("got %+v, want one attempt after one failure", due)
	}
}

func expiry(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0), s.item(id(1, 2), envelope.MDA, 48*time.Hour))
	forever := s.item(id(1, 3), envelope.MDA, 100*24*time.Hour)
	forever.Expires = time.Time{}
	s.Insert(forever)
	s.now = s.now.Add(24 * time.Hour)
	s.expect(s.next(10), "!1.2 !1.1")
	s.expectState(id(1, 1), scheduler.InFlight)
	s.Retry(id(1, 1), s.now.Add(time.Minute)) // the bounce could not be made
	s.expect(s.next(10), "!1.1")
}

func expiresBeforeRetry(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0))
	s.next(1)
	s.Retry(id(1, 1), s.now.Add(30*time.Hour))
	_, wake := s.Next(s.now, 1)
	if want := s.now.Add(24 * time.Hour); !wake.Equal(want) {
		s.Fatalf("wake %v, want the deadline %v", wake, want)
	}
}

func maxInFlight(s *suite) {
	for n := range uint32(60) {
		s.Insert(s.item(id(1, n+1), envelope.MTA, 0))
	}
	due, wake := s.Next(s.now, 100)
	if len(due.Attempts) != 50 || !wake.IsZero() {
		s.Fatalf("%d in flight, wake %v, want 50 and never", len(due.Attempts), wake)
	}
	s.Remove(id(1, 1))
	s.Retry(id(1, 2), s.now.Add(time.Hour))
	s.Hold(id(1, 3), "q", s.now)
	if due, _ = s.Next(s.now, 100); len(due.Attempts) != 3 {
		s.Fatalf("%d more, want 3", len(due.Attempts))
	}
}

func holdAndRelease(s *suite) {
	for n := range uint32(5) {
		s.Insert(s.item(id(1, n+1), envelope.MDA, 0))
		s.next(1)
		if !s.Hold(id(1, n+1), "mda|ann", s.now) {
			s.Fatal("not held")
		}
	}
	st, _ := s.status(id(1, 1))
	if st.State != scheduler.Held || st.Hold != "mda|ann" {
		s.Fatalf("status %+v, want held", st)
	}
	s.expect(s.next(10), "")
	s.Release("no such queue", -1)
	s.Release("mda|ann", 2)
	s.expect(s.next(10), "+1.1 +1.2")
	s.Remove(id(1, 4)) // out of the middle
	s.Release("mda|ann", -1)
	s.expect(s.next(10), "+1.3 +1.5")
}

func holdOverflow(s *suite) {
	for n := range uint32(11) {
		s.Insert(s.item(id(1, n+1), envelope.MDA, 0))
	}
	s.next(11)
	for n := range uint32(11) {
		if held := s.Hold(id(1, n+1), "q", s.now); held != (n < 10) {
			s.Fatalf("envelope %d held: %v", n+1, held)
		}
	}
	s.now = s.now.Add(3*time.Second - time.Millisecond)
	s.expect(s.next(10), "")
	s.now = s.now.Add(time.Millisecond)
	s.expect(s.next(10), "+1.11")
}

func heldExpire(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MDA, 0))
	s.next(1)
	s.Hold(id(1, 1), "q", s.now)
	s.now = s.now.Add(24 * time.Hour)
	s.expect(s.next(10), "!1.1")
	s.Release("q", -1)
	s.expect(s.next(10), "")
}

func suspend(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MDA, 0), s.item(id(1, 2), envelope.MDA, 0))
	s.expectIDs(s.Suspend(id(1, 1)), id(1, 1))
	s.expectIDs(s.Suspend(id(1, 1)))
	if st, _ := s.status(id(1, 1)); !st.Suspended {
		s.Fatalf("status %+v, want suspended", st)
	}
	s.expectIDs(s.Schedule(id(1, 1), s.now))
	s.expect(s.next(10), "+1.2")
	s.Remove(id(1, 2))
	s.now = s.now.Add(48 * time.Hour)
	s.expect(s.next(10), "")
	s.expectIDs(s.Resume(id(1, 1)), id(1, 1))
	s.expectIDs(s.Resume(id(1, 1)))
	s.expect(s.next(10), "!1.1")
}

func suspendInFlight(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MDA, 0), s.item(id(1, 2), envelope.MDA, 0), s.item(id(1, 3), envelope.MDA, 0))
	s.next(3)
	s.Hold(id(1, 3), "q", s.now)
	s.expectIDs(s.Suspend(id(1, 0)), id(1, 1), id(1, 2), id(1, 3))
	s.Retry(id(1, 1), s.now)
	if s.Hold(id(1, 2), "q", s.now) {
		s.Fatal("a suspended envelope was held")
	}
	s.Release("q", -1)
	s.expect(s.next(10), "")
	s.Resume(0)
	s.expect(s.next(10), "+1.1 +1.2 +1.3")
}

func schedule(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, time.Hour), s.item(id(1, 2), envelope.MTA, 0), s.item(id(1, 3), envelope.MTA, -time.Second))
	s.expect(s.next(1), "+1.3") // stays in flight
	s.expect(s.next(1), "+1.2")
	s.Hold(id(1, 2), "q", s.now)
	s.expectIDs(s.Schedule(id(1, 0), s.now), id(1, 1), id(1, 2))
	s.expectState(id(1, 1), scheduler.Scheduled)
	got := s.next(10)
	if got != "+1.1 +1.2" && got != "+1.2 +1.1" {
		s.Fatalf("got %q, want both", got)
	}
}

func selection(s *suite) {
	for m := range uint32(3) {
		for n := range uint32(2) {
			s.Insert(s.item(id(m+1, n+1), envelope.MTA, time.Hour))
		}
	}
	s.Insert(s.item(id(0xffffffff, 0xffffffff), envelope.MTA, time.Hour))
	s.expectIDs(s.Suspend(id(2, 2)), id(2, 2))
	s.expectIDs(s.Suspend(id(2, 0)), id(2, 1))
	s.expectIDs(s.Suspend(id(4, 0)))
	s.expectIDs(s.Suspend(id(2, 9)))
	s.expectIDs(s.Suspend(id(0xffffffff, 0)), id(0xffffffff, 0xffffffff))
	s.expectIDs(s.Suspend(0), id(1, 1), id(1, 2), id(3, 1), id(3, 2))
}

func cancel(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, time.Hour), s.item(id(1, 2), envelope.MTA, 0), s.item(id(2, 1), envelope.MTA, time.Hour))
	s.next(1)
	s.Hold(id(1, 2), "q", s.now)
	s.Suspend(id(2, 1))
	s.expectIDs(s.Cancel(id(1, 0)), id(1, 1), id(1, 2))
	s.expectIDs(s.Cancel(0), id(2, 1))
	_, wake := s.Next(s.now, 0)
	if wake.IsZero() || wake.After(s.now) {
		s.Fatalf("wake %v, want at once", wake)
	}
	s.expect(s.next(2), "-1.1 -1.2")
	s.expect(s.next(2), "-2.1")
	s.expect(s.next(2), "")
	s.Retry(id(1, 1), s.now.Add(time.Hour)) // could not be deleted
	s.expect(s.next(2), "-1.1")
	s.Remove(id(1, 1))
	s.Remove(id(1, 2))
	s.Remove(id(2, 1))
	s.now = s.now.Add(48 * time.Hour)
	s.expect(s.next(10), "")
}

func cancelInFlight(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0), s.item(id(1, 2), envelope.MTA, 0), s.item(id(1, 3), envelope.MTA, 0))
	s.next(3)
	s.expectIDs(s.Cancel(id(1, 0)), id(1, 1), id(1, 2), id(1, 3))
	s.expect(s.next(10), "")
	s.Remove(id(1, 1)) // delivered after all
	s.Retry(id(1, 2), s.now.Add(time.Hour))
	if s.Hold(id(1, 3), "q", s.now) {
		s.Fatal("a cancelled envelope was held")
	}
	s.expect(s.next(10), "-1.2 -1.3")
}

func pause(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, 0), s.item(id(1, 2), envelope.MDA, 0))
	if !s.Pause(envelope.MTA, true) || s.Pause(envelope.MTA, true) {
		s.Fatal("pausing once must be a change, twice not")
	}
	s.expect(s.next(10), "+1.2")
	s.Insert(s.item(id(1, 3), envelope.MTA, 0))
	s.expect(s.next(10), "")
	s.now = s.now.Add(24 * time.Hour)
	s.expect(s.next(1), "!1.1")
	s.now = s.now.Add(-time.Hour)
	if !s.Pause(envelope.MTA, false) {
		s.Fatal("going on must be a change")
	}
	s.expect(s.next(10), "+1.3")
}

func lateAnswers(s *suite) {
	s.Retry(id(1, 1), s.now)
	s.Remove(id(1, 1))
	if s.Hold(id(1, 1), "q", s.now) {
		s.Fatal("an unknown envelope was held")
	}
	s.Insert(s.item(id(1, 1), envelope.MTA, time.Hour))
	s.Retry(id(1, 1), s.now) // not in flight
	if s.Hold(id(1, 1), "q", s.now) {
		s.Fatal("a pending envelope was held")
	}
	s.expect(s.next(10), "")
	if st, _ := s.status(id(1, 1)); st.Retry != 0 {
		s.Fatalf("retry %d, want 0", st.Retry)
	}
}

func replace(s *suite) {
	s.Insert(s.item(id(1, 1), envelope.MTA, time.Hour))
	again := s.item(id(1, 1), envelope.Bounce, 0)
	again.Retry = 7
	s.Insert(again)
	due, _ := s.Next(s.now, 10)
	if len(due.Attempts) != 1 || due.Attempts[0].Type != envelope.Bounce || due.Attempts[0].Retry != 7 {
		s.Fatalf("got %+v, want the second form once", due)
	}
	s.Insert(s.item(id(1, 1), envelope.MTA, 0))
	s.expect(s.next(10), "") // still in flight
	s.Retry(id(1, 1), s.now)
	s.expect(s.next(10), "+1.1")
}

func listing(s *suite) {
	for _, n := range rand.Perm(3000) {
		s.Insert(s.item(id(uint32(n/3+1), uint32(n%3+1)), envelope.MTA, time.Hour))
	}
	var last envelope.ID
	n := 0
	s.Each(id(500, 0), func(st scheduler.Status) bool {
		if st.ID <= last || st.ID < id(500, 0) {
			s.Errorf("%s after %s", short(st.ID), short(last))
		}
		last = st.ID
		n++
		return n < 1000
	})
	if n != 1000 || last != id(833, 1) {
		s.Fatalf("%d listed up to %s, want 1000 up to 833.1", n, short(last))
	}
}

func changed(s *suite) {
	drain := func() bool {
		select {
		case <-s.Changed():
			return true
		default:
			return false
		}
	}
	do := func(what string, f func()) {
		s.Helper()
		drain()
		f()
		if !drain() {
			s.Errorf("%s is not signalled", what)
		}
		if drain() {
			s.Errorf("%s is signalled twice", what)
		}
	}
	do("Insert", func() { s.Insert(s.item(id(1, 1), envelope.MTA, 0)) })
	s.next(1)
	do("Retry", func() { s.Retry(id(1, 1), s.now) })
	s.next(1)
	do("Hold", func() { s.Hold(id(1, 1), "q", s.now) })
	do("Release", func() { s.Release("q", 1) })
	s.Suspend(id(1, 1))
	do("Resume", func() { s.Resume(id(1, 1)) })
	s.next(1)
	do("Cancel", func() { s.Cancel(id(1, 1)) })
	do("Remove of one in flight", func() { s.Remove(id(1, 1)) })
	do("Pause", func() { s.Pause(envelope.MTA, true) })
}

func concurrent(s *suite) {
	const each = 300
	var inserts, drains sync.WaitGroup
	for g := range uint32(4) {
		inserts.Go(func() {
			for n := range uint32(each) {
				s.Insert(s.item(id(g+1, n+1), envelope.Type(n%3+1), 0))
			}
		})
	}
	var mu sync.Mutex
	seen := map[envelope.ID]int{}
	stop := make(chan struct{})
	for range 2 {
		drains.Go(func() {
			for {
				due, _ := s.Next(s.now, 16)
				for _, it := range due.Attempts {
					mu.Lock()
					seen[it.ID]++
					again := seen[it.ID] == 1
					mu.Unlock()
					if again {
						s.Retry(it.ID, s.now)
					} else {
						s.Remove(it.ID)
					}
				}
				if len(due.Attempts) > 0 {
					continue
				}
				select {
				case <-s.Changed():
				case <-stop:
					return
				}
			}
		})
	}
	inserts.Wait()
	for left := true; left; {
		left = false
		s.Each(0, func(scheduler.Status) bool { left = true; return false })
	}
	close(stop)
	drains.Wait()
	if len(seen) != 4*each {
		s.Fatalf("%d envelopes handed out, want %d", len(seen), 4*each)
	}
	for i, n := range seen {
		if n != 2 {
			s.Fatalf("%s was handed out %d times, want 2", short(i), n)
		}
	}
}
