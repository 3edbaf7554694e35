package schedulertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// simple is what the model knows of an envelope: nothing but facts, no queues.
type simple struct {
	item                 scheduler.Item
	state                scheduler.State // Pending, InFlight or Held
	suspended, cancelled bool
	hold                 string
}

// model uses the schedule at random and keeps a simple model beside it. After each
// step what Next hands out must be allowed by the model, and nothing that is due may
// be left when Next could hand out more.
func model(s *suite) {
	seed := rand.Uint64()
	s.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	all := map[envelope.ID]*simple{}
	paused := map[envelope.Type]bool{}
	held := map[string]int{}

	unhold := func(m *simple) {
		if m.state == scheduler.Held {
			held[m.hold]--
			m.state, m.hold = scheduler.Pending, ""
		}
	}
	pick := func() envelope.ID { return id(uint32(rnd.IntN(20)+1), uint32(rnd.IntN(4)+1)) }
	sel := func(i envelope.ID) (out []*simple) {
		for k, m := range all {
			if i == 0 || k == i || uint32(i) == 0 && k.MsgID() == i.MsgID() {
				out = append(out, m)
			}
		}
		return out
	}
	for step := range 5000 {
		i := pick()
		m := all[i]
		switch op := rnd.IntN(14); op {
		case 0, 1, 2:
			it := s.item(i, envelope.Type(rnd.IntN(3)+1), time.Duration(rnd.IntN(100))*time.Second)
			it.Expires = s.now.Add(time.Duration(rnd.IntN(300)) * time.Second)
			s.Insert(it)
			if m == nil {
				m = &simple{state: scheduler.Pending}
				all[i] = m
			}
			unhold(m)
			m.item = it
		case 3:
			s.Remove(i)
			if m != nil {
				unhold(m)
				delete(all, i)
			}
		case 4, 5:
			at := s.now.Add(time.Duration(rnd.IntN(100)) * time.Second)
			s.Retry(i, at)
			if m != nil && m.state == scheduler.InFlight {
				m.state, m.item.Next = scheduler.Pending, at
			}
		case 6:
			q := fmt.Sprint("q", rnd.IntN(3))
			ok := s.Hold(i, q, s.now)
			want := m != nil && m.state == scheduler.InFlight && !m.suspended && !m.cancelled && held[q] < 10
			if ok != want {
				s.Fatalf("step %d: held %v, want %v", step, ok, want)
			}
			switch {
			case ok:
				m.state, m.hold = scheduler.Held, q
				held[q]++
			case m != nil && m.state == scheduler.InFlight:
				m.state = scheduler.Pending
				if !m.suspended && !m.cancelled {
					m.item.Next = s.now.Add(3 * time.Second)
				}
			}
		case 7:
			q := fmt.Sprint("q", rnd.IntN(3))
			s.Release(q, -1)
			for _, m := range all {
				if m.hold == q {
					unhold(m)
				}
			}
		case 8, 9, 10, 11:
			if rnd.IntN(2) == 0 {
				i = id(uint32(i.MsgID()), 0)
			}
			var want []envelope.ID
			var got []envelope.ID
			for _, m := range sel(i) {
				flip := false
				switch op {
				case 8:
					flip = !m.suspended && !m.cancelled
					if flip {
						unhold(m)
						m.suspended = true
					}
				case 9:
					flip = m.suspended && !m.cancelled
					m.suspended = m.suspended && !flip
				case 10:
					flip = !m.suspended && !m.cancelled && m.state != scheduler.InFlight &&
						(m.state == scheduler.Held || m.item.Next.After(s.now))
					if flip {
						unhold(m)
						m.item.Next = s.now
					}
				}
				if flip {
					want = append(want, m.item.ID)
				}
			}
			switch op {
			case 8:
				got = s.Suspend(i)
			case 9:
				got = s.Resume(i)
			case 10:
				got = s.Schedule(i, s.now)
			case 11:
				got = s.Cancel(i)
				for _, m := range sel(i) {
					if !m.cancelled {
						unhold(m)
						m.cancelled = true
						want = append(want, m.item.ID)
					}
				}
			}
			slices.Sort(want)
			s.expectIDs(got, want...)
		case 12:
			t := envelope.Type(rnd.IntN(3) + 1)
			p := rnd.IntN(2) == 0
			if s.Pause(t, p) != (paused[t] != p) {
				s.Fatalf("step %d: pause of %v did not tell the change", step, t)
			}
			paused[t] = p
		case 13:
			s.now = s.now.Add(time.Duration(rnd.IntN(20)) * time.Second)
		}
		if rnd.IntN(3) == 0 {
			s.compare(step, all, paused, func(m *simple) { unhold(m) })
		}
	}
}

// compare takes what is due and checks it against the model.
func (s *suite) compare(step int, all map[envelope.ID]*simple, paused map[envelope.Type]bool, unhold func(*simple)) {
	s.Helper()
	const max = 7
	flying := 0
	for _, m := range all {
		if m.state == scheduler.InFlight {
			flying++
		}
	}
	due, _ := s.Next(s.now, max)
	take := func(i envelope.ID, what string, ok func(*simple) bool) {
		m := all[i]
		if m == nil || m.state == scheduler.InFlight || !ok(m) {
			s.Fatalf("step %d: %s %s, but the model has %+v", step, what, short(i), m)
		}
		unhold(m)
		m.state = scheduler.InFlight
	}
	for _, i := range due.Removed {
		take(i, "removed", func(m *simple) bool { return m.cancelled })
	}
	free := func(m *simple) bool { return !m.cancelled && !m.suspended }
	for _, i := range due.Expired {
		take(i, "expired", func(m *simple) bool { return free(m) && !m.item.Expires.After(s.now) })
	}
	ready := func(m *simple) bool {
		return free(m) && m.state == scheduler.Pending && !paused[m.item.Type] && !m.item.Next.After(s.now) && m.item.Expires.After(s.now)
	}
	for _, it := range due.Attempts {
		take(it.ID, "attempt of", ready)
	}
	n := len(due.Removed) + len(due.Expired) + len(due.Attempts)
	if n == max || flying+n >= 50 {
		return
	}
	for i, m := range all {
		if m.state == scheduler.InFlight {
			continue
		}
		if m.cancelled || free(m) && !m.item.Expires.After(s.now) || ready(m) {
			s.Fatalf("step %d: %s was left although it is due: %+v", step, short(i), m)
		}
	}
}
