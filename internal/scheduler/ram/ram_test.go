package ram

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/scheduler/schedulertest"
)

func TestSchedule(t *testing.T) {
	t.Parallel()
	schedulertest.Run(t, func(l schedulertest.Limits) scheduler.Backend { return New(Limits(l)) })
}

// fill inserts n envelopes with random ids, as a queue has them.
func fill(s *Schedule, n int, now time.Time) {
	rnd := rand.New(rand.NewPCG(1, 2))
	batch := make([]scheduler.Item, 0, 256)
	for range n {
		batch = append(batch, scheduler.Item{
			ID: envelope.ID(rnd.Uint64()), Type: envelope.MTA, Created: now, Expires: now.Add(96 * time.Hour),
			Next: now.Add(time.Duration(rnd.IntN(86400)) * time.Second), Retry: 3,
		})
		if len(batch) == cap(batch) {
			s.Insert(batch...)
			batch = batch[:0]
		}
	}
	s.Insert(batch...)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Not parallel: it measures the memory of the process.
func TestEnvelopeTakesLittleMemory(t *testing.T) {
	const n = 100_000
	before := heapInUse()
	s := New(Limits{})
	fill(s, n, time.Unix(1_800_000_000, 0))
	each := (heapInUse() - before) / n
	t.Logf("%d bytes an envelope", each)
	if each > 150 {
		t.Errorf("%d bytes an envelope, want at most 150", each)
	}
	if got := s.Counts().Envelopes; got != n {
		t.Errorf("%d envelopes, want %d", got, n)
	}
	runtime.KeepAlive(s)
}

// Not parallel: it measures the memory of the process.
func TestEmptiedScheduleGivesMemoryBack(t *testing.T) {
	before := heapInUse()
	now := time.Unix(1_800_000_000, 0)
	s := New(Limits{})
	fill(s, 50_000, now)
	s.Cancel(0)
	for {
		due, _ := s.Next(now, 1000)
		if len(due.Removed) == 0 {
			break
		}
		for _, id := range due.Removed {
			s.Remove(id)
		}
	}
	if after := heapInUse(); after > before+100<<10 {
		t.Errorf("%d bytes are kept by an empty schedule", after-before)
	}
	if got := s.Counts(); got != (scheduler.Counts{}) {
		t.Errorf("counts %+v, want none", got)
	}
	fill(s, 10, now)
	if got := s.Counts().Envelopes; got != 10 {
		t.Errorf("%d envelopes after it was filled again, want 10", got)
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	s := New(Limits{MaxHold: 1})
	for n := range uint32(4) {
		s.Insert(scheduler.Item{ID: envelope.NewID(1, n+1), Type: envelope.MDA, Created: now})
	}
	s.Next(now, 3)
	s.Hold(envelope.NewID(1, 1), "q", now)
	s.Hold(envelope.NewID(1, 2), "q", now)
	want := scheduler.Counts{Envelopes: 4, InFlight: 1, Held: 1, HoldQueues: 1, HoldOverflow: 1}
	if got := s.Counts(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func BenchmarkLoadMillion(b *testing.B) {
	now := time.Unix(1_800_000_000, 0)
	for b.Loop() {
		s := New(Limits{})
		fill(s, 1_000_000, now)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/envelope")
}

// BenchmarkAttempt is the life of an attempt in a long queue: due, in flight, back.
func BenchmarkAttempt(b *testing.B) {
	now := time.Unix(1_800_000_000, 0)
	s := New(Limits{})
	fill(s, 1_000_000, now)
	at := now.Add(24 * time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		due, _ := s.Next(at, 1)
		at = at.Add(time.Millisecond)
		s.Retry(due.Attempts[0].ID, at.Add(time.Hour))
	}
}
