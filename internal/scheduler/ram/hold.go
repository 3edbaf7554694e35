package ram

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// holdQueue is a list of held envelopes, longest held first, linked through their
// entries. It exists while it is not empty.
type holdQueue struct {
	name        string
	number      uint32
	first, last uint32 // slots
	len         int
}

// Hold implements scheduler.Backend.
func (s *Schedule) Hold(id envelope.ID, queue string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := millis(now)
	s.now = max(s.now, t)
	n, e := s.flying(id)
	if e == nil {
		return false
	}
	if e.flags&(suspended|cancelled) != 0 {
		s.land(n, e)
		return false
	}
	q := s.holds[queue]
	if q != nil && q.len >= s.limits.MaxHold {
		s.overflow++
		e.next = t + s.limits.HoldDelay.Milliseconds()
		s.land(n, e)
		return false
	}
	if q == nil {
		q = s.newHold(queue)
	}
	e.hold, e.prev, e.follow = q.number, q.last, none
	if q.len == 0 {
		q.first = n
	} else {
		s.slots.at(q.last).follow = n
	}
	q.last = n
	q.len++
	s.held++
	s.inFlight--
	e.state = scheduler.Held
	s.enqueue(n, e)
	s.signal()
	return true
}

func (s *Schedule) newHold(name string) *holdQueue {
	q := &holdQueue{name: name, first: none, last: none}
	if k := len(s.holdFree); k > 0 {
		q.number, s.holdFree = s.holdFree[k-1], s.holdFree[:k-1]
		s.holdList[q.number] = q
	} else {
		q.number = uint32(len(s.holdList))
		s.holdList = append(s.holdList, q)
	}
	s.holds[name] = q
	return q
}

// unhold takes e out of its hold queue. Its state is the caller's to set.
func (s *Schedule) unhold(e *entry) {
	q := s.holdList[e.hold]
	if e.prev == none {
		q.first = e.follow
	} else {
		s.slots.at(e.prev).follow = e.follow
	}
	if e.follow == none {
		q.last = e.prev
	} else {
		s.slots.at(e.follow).prev = e.prev
	}
	e.hold, e.prev, e.follow = 0, none, none
	q.len--
	s.held--
	if q.len == 0 {
		delete(s.holds, q.name)
		s.holdList[q.number] = nil
		s.holdFree = append(s.holdFree, q.number)
	}
}

// Release implements scheduler.Backend.
func (s *Schedule) Release(queue string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.holds[queue]
	if q == nil {
		return
	}
	if n < 0 || n > q.len {
		n = q.len
	}
	for ; n > 0; n-- {
		slot := q.first
		e := s.slots.at(slot)
		s.withdraw(slot, e)
		s.enqueue(slot, e)
	}
	s.signal()
}
