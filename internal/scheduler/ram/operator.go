package ram

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// selected calls f for the envelopes an operator's id means and returns the ids of
// those for which it returned true.
func (s *Schedule) selected(id envelope.ID, f func(n uint32, e *entry) bool) []envelope.ID {
	var changed []envelope.ID
	visit := func(id envelope.ID, n uint32) {
		if f(n, s.slots.at(n)) {
			changed = append(changed, id)
		}
	}
	if id != 0 && uint32(id) != 0 {
		if n, ok := s.index.get(id); ok {
			visit(id, n)
		}
		return changed
	}
	s.index.each(id, func(at envelope.ID, n uint32) bool {
		if id != 0 && at.MsgID() != id.MsgID() {
			return false
		}
		visit(at, n)
		return true
	})
	return changed
}

// Cancel implements scheduler.Backend.
func (s *Schedule) Cancel(id envelope.ID) []envelope.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	return s.selected(id, func(n uint32, e *entry) bool {
		if e.flags&cancelled != 0 {
			return false
		}
		s.withdraw(n, e)
		e.flags |= cancelled
		s.enqueue(n, e)
		return true
	})
}

// withdraw takes e out of its heap and its hold queue.
func (s *Schedule) withdraw(n uint32, e *entry) {
	s.unqueue(n, e)
	if e.state == scheduler.Held {
		s.unhold(e)
		e.state = scheduler.Pending
	}
}

// Suspend implements scheduler.Backend.
func (s *Schedule) Suspend(id envelope.ID) []envelope.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.selected(id, func(n uint32, e *entry) bool {
		if e.flags&(suspended|cancelled) != 0 {
			return false
		}
		s.withdraw(n, e)
		e.flags |= suspended
		return true
	})
}

// Resume implements scheduler.Backend.
func (s *Schedule) Resume(id envelope.ID) []envelope.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	return s.selected(id, func(n uint32, e *entry) bool {
		if e.flags&suspended == 0 || e.flags&cancelled != 0 {
			return false
		}
		e.flags &^= suspended
		s.enqueue(n, e)
		return true
	})
}

// Schedule implements scheduler.Backend.
func (s *Schedule) Schedule(id envelope.ID, now time.Time) []envelope.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	t := millis(now)
	s.now = max(s.now, t)
	return s.selected(id, func(n uint32, e *entry) bool {
		if e.flags&(suspended|cancelled) != 0 || e.state == scheduler.InFlight {
			return false
		}
		if e.state == scheduler.Pending && e.next <= t {
			return false // due already; keeps its place
		}
		s.withdraw(n, e)
		e.next = t
		s.enqueue(n, e)
		return true
	})
}

// Pause implements scheduler.Backend. It orders the heap of the type anew.
func (s *Schedule) Pause(t envelope.Type, paused bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := classOf(t)
	if s.paused[c] == paused {
		return false
	}
	s.paused[c] = paused
	s.heaps[c].rekey(&s.slots, s.key)
	s.signal()
	return true
}
