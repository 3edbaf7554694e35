// Package ram is the schedule in memory. It is built for a million envelopes in
// about a hundred bytes each:
//
//   - Envelopes are small records without pointers in fixed blocks, named by slot
//     number, so that growing copies nothing and the garbage collector looks at none.
//   - One heap for each type of envelope orders what waits by the time at which
//     something must happen to it: the attempt, or the deadline if that is earlier.
//     Next takes from the heaps in turn, so no type starves another.
//   - An index sorted by id finds an envelope, the envelopes of a message, and lists
//     the queue in order.
//
// Held envelopes wait in the heap for their deadline alone; suspended ones and those
// in flight are in no heap. Everything is under one lock, which is held for a time
// proportional to the number of envelopes touched.
package ram

import (
	"math"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// Limits of a schedule. Zero fields mean the default.
type Limits struct {
	MaxInFlight int           // envelopes handed out and not yet given back; default 5000
	MaxHold     int           // envelopes in one hold queue; default 1000
	HoldDelay   time.Duration // pause of an envelope that found its hold queue full; default 3 s
}

// Schedule is the backend.
type Schedule struct {
	limits  Limits
	changed chan struct{}

	mu       sync.Mutex // guards what follows
	slots    slab
	index    index
	heaps    [classes]heap
	paused   [classes]bool
	turn     int // class that Next asks first
	removed  fifo
	holds    map[string]*holdQueue
	holdList []*holdQueue // by number; nil where free
	holdFree []uint32
	now      int64 // latest time seen, milliseconds
	inFlight int
	held     int
	overflow int64
}

var _ scheduler.Backend = (*Schedule)(nil)

// The classes of envelopes that Next interleaves.
const (
	bounce = iota
	mda
	mta
	classes
)

func classOf(t envelope.Type) int {
	switch t {
	case envelope.Bounce:
		return bounce
	case envelope.MDA:
		return mda
	}
	return mta
}

// New returns an empty schedule.
func New(l Limits) *Schedule {
	if l.MaxInFlight <= 0 {
		l.MaxInFlight = 5000
	}
	if l.MaxHold <= 0 {
		l.MaxHold = 1000
	}
	if l.HoldDelay <= 0 {
		l.HoldDelay = 3 * time.Second
	}
	s := &Schedule{limits: l, changed: make(chan struct{}, 1), holds: map[string]*holdQueue{}, now: math.MinInt64}
	s.reset()
	return s
}

// reset drops all memory. It is called when the schedule is empty, so that a queue
// that was long once does not keep its memory for ever.
func (s *Schedule) reset() {
	s.slots = slab{}
	s.index = index{}
	s.heaps = [classes]heap{}
	s.removed = fifo{}
	s.holdList, s.holdFree = nil, nil
}

// Changed implements scheduler.Backend.
func (s *Schedule) Changed() <-chan struct{} { return s.changed }

// signal says that Next may have something new to say.
func (s *Schedule) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Counts returns how many envelopes there are.
func (s *Schedule) Counts() scheduler.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return scheduler.Counts{Envelopes: s.slots.used, InFlight: s.inFlight, Held: s.held, HoldQueues: len(s.holds), HoldOverflow: s.overflow}
}

// Insert implements scheduler.Backend.
func (s *Schedule) Insert(items ...scheduler.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		s.insert(&items[i])
	}
	s.signal()
}

func (s *Schedule) insert(it *scheduler.Item) {
	n, ok := s.index.get(it.ID)
	if !ok {
		n = s.slots.alloc()
		s.index.put(it.ID, n)
		s.slots.at(n).state = scheduler.Pending
	}
	e := s.slots.at(n)
	s.unqueue(n, e)
	if e.state == scheduler.Held {
		s.unhold(e)
		e.state = scheduler.Pending
	}
	e.id, e.typ, e.retry = it.ID, it.Type, it.Retry
	e.created, e.expires, e.next = millis(it.Created), math.MaxInt64, ceilMillis(it.Next)
	if it.Next.IsZero() {
		// In line with the retries, so that a flood of new mail does not starve them;
		// but not later than now should the clock have been set back.
		e.next = e.created
		if s.now != math.MinInt64 {
			e.next = min(e.next, s.now)
		}
	}
	if !it.Expires.IsZero() {
		e.expires = ceilMillis(it.Expires)
	}
	s.enqueue(n, e)
}

// key returns the time at which something must happen to e: the attempt or the
// deadline.
func (s *Schedule) key(e *entry) int64 {
	if e.state == scheduler.Held || s.paused[classOf(e.typ)] {
		return e.expires
	}
	return min(e.next, e.expires)
}

// enqueue puts e where it waits, if it does: in the heap of its class, or with the
// cancelled ones.
func (s *Schedule) enqueue(n uint32, e *entry) {
	switch {
	case e.state == scheduler.InFlight:
	case e.flags&cancelled != 0:
		s.removed.push(e.id)
	case e.flags&suspended != 0:
	default:
		s.heaps[classOf(e.typ)].push(&s.slots, s.key(e), n)
	}
}

// unqueue takes e out of the heap it may be in.
func (s *Schedule) unqueue(n uint32, e *entry) {
	if e.pos != 0 {
		s.heaps[classOf(e.typ)].remove(&s.slots, int(e.pos-1))
	}
}

// Next implements scheduler.Backend.
func (s *Schedule) Next(now time.Time, limit int) (due scheduler.Due, wake time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := millis(now)
	s.now = max(s.now, t)

	left := limit
	for left > 0 {
		id, ok := s.removed.pop()
		if !ok {
			break
		}
		n, ok := s.index.get(id)
		if !ok {
			continue // removed, or given back and listed twice
		}
		e := s.slots.at(n)
		if e.flags&cancelled == 0 || e.state == scheduler.InFlight {
			continue
		}
		s.launch(e)
		due.Removed = append(due.Removed, id)
		left--
	}

	// Two classes may be empty, so the turn goes on until all three are in a row.
	for idle := 0; idle < classes && left > 0 && s.inFlight < s.limits.MaxInFlight; {
		h := &s.heaps[s.turn]
		s.turn = (s.turn + 1) % classes
		if h.len() == 0 || h.min() > t {
			idle++
			continue
		}
		idle = 0
		n := h.pop(&s.slots)
		e := s.slots.at(n)
		if e.state == scheduler.Held {
			s.unhold(e)
		}
		s.launch(e)
		if e.expires <= t {
			due.Expired = append(due.Expired, e.id)
		} else {
			due.Attempts = append(due.Attempts, e.item())
		}
		left--
	}
	return due, s.wake()
}

// launch puts e in flight.
func (s *Schedule) launch(e *entry) {
	e.state = scheduler.InFlight
	s.inFlight++
}

// wake returns when the first envelope wants something, zero for never.
func (s *Schedule) wake() time.Time {
	if s.removed.len() > 0 {
		return time.UnixMilli(s.now)
	}
	if s.inFlight >= s.limits.MaxInFlight {
		return time.Time{}
	}
	first := int64(math.MaxInt64)
	for i := range s.heaps {
		if s.heaps[i].len() > 0 {
			first = min(first, s.heaps[i].min())
		}
	}
	if first == math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMilli(max(first, 1)) // never the zero Time, whose meaning is another
}

// flying returns an envelope that is in flight.
func (s *Schedule) flying(id envelope.ID) (uint32, *entry) {
	n, ok := s.index.get(id)
	if !ok {
		return 0, nil
	}
	e := s.slots.at(n)
	if e.state != scheduler.InFlight {
		return 0, nil
	}
	return n, e
}

// land takes e out of flight into pending.
func (s *Schedule) land(n uint32, e *entry) {
	e.state = scheduler.Pending
	s.inFlight--
	s.enqueue(n, e)
	s.signal()
}

// Retry implements scheduler.Backend.
func (s *Schedule) Retry(id envelope.ID, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, e := s.flying(id)
	if e == nil {
		return
	}
	e.retry++
	e.next = ceilMillis(next)
	s.land(n, e)
}

// Remove implements scheduler.Backend.
func (s *Schedule) Remove(id envelope.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.index.get(id)
	if !ok {
		return
	}
	e := s.slots.at(n)
	s.unqueue(n, e)
	switch e.state {
	case scheduler.InFlight:
		s.inFlight--
		s.signal()
	case scheduler.Held:
		s.unhold(e)
	}
	s.index.remove(id)
	s.slots.release(n)
	if s.slots.used == 0 {
		s.reset()
	}
}

// Each implements scheduler.Backend.
func (s *Schedule) Each(from envelope.ID, f func(scheduler.Status) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.each(from, func(_ envelope.ID, n uint32) bool {
		e := s.slots.at(n)
		st := scheduler.Status{Item: e.item(), State: e.state, Suspended: e.flags&suspended != 0}
		switch {
		case e.state == scheduler.Held:
			st.Hold = s.holdList[e.hold].name
		case e.state == scheduler.Pending && !st.Suspended && e.next <= s.now:
			st.State = scheduler.Scheduled
		}
		return f(st)
	})
}
