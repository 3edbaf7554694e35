package ram

import (
	"math"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// Flags of an entry.
const (
	suspended = 1 << iota
	cancelled
)

// none is no slot.
const none = math.MaxUint32

// entry is one envelope. It holds no pointer. Times are Unix milliseconds.
type entry struct {
	id                     envelope.ID
	created, expires, next int64
	pos                    uint32 // place in the heap, counted from 1; 0: in none
	retry                  uint32
	hold                   uint32 // number of the hold queue, when held
	prev, follow           uint32 // neighbours in the hold queue; follow: next free slot
	typ                    envelope.Type
	state                  scheduler.State
	flags                  uint8
}

func (e *entry) item() scheduler.Item {
	it := scheduler.Item{ID: e.id, Type: e.typ, Created: fromMillis(e.created), Next: fromMillis(e.next), Retry: e.retry}
	if e.expires != math.MaxInt64 {
		it.Expires = fromMillis(e.expires)
	}
	return it
}

// millis returns t in Unix milliseconds, rounded down. The zero Time is kept.
func millis(t time.Time) int64 { return t.UnixMilli() }

// ceilMillis rounds up, so that nothing is due before its time.
func ceilMillis(t time.Time) int64 {
	if t.Nanosecond()%int(time.Millisecond) != 0 {
		return t.UnixMilli() + 1
	}
	return t.UnixMilli()
}

// fromMillis is the inverse of millis.
func fromMillis(ms int64) time.Time {
	if t := (time.Time{}); ms == t.UnixMilli() {
		return t
	}
	return time.UnixMilli(ms)
}

// blockSize is the number of entries in a block.
const blockSize = 1024

// slab keeps entries in blocks that never move.
type slab struct {
	blocks []*[blockSize]entry
	free   uint32 // first free slot plus one, linked by follow; 0: none
	next   uint32 // first slot never used
	used   int
}

func (s *slab) at(n uint32) *entry { return &s.blocks[n/blockSize][n%blockSize] }

func (s *slab) alloc() uint32 {
	s.used++
	if s.free != 0 {
		n := s.free - 1
		e := s.at(n)
		s.free = e.follow
		*e = entry{prev: none, follow: none}
		return n
	}
	n := s.next
	s.next++
	if int(n/blockSize) == len(s.blocks) {
		s.blocks = append(s.blocks, new([blockSize]entry))
	}
	e := s.at(n)
	e.prev, e.follow = none, none
	return n
}

func (s *slab) release(n uint32) {
	s.used--
	*s.at(n) = entry{follow: s.free}
	s.free = n + 1
}

// fifo is a queue of ids.
type fifo struct {
	ids  []envelope.ID
	head int
}

func (f *fifo) len() int { return len(f.ids) - f.head }

func (f *fifo) push(id envelope.ID) { f.ids = append(f.ids, id) }

func (f *fifo) pop() (envelope.ID, bool) {
	if f.len() == 0 {
		*f = fifo{}
		return 0, false
	}
	id := f.ids[f.head]
	f.head++
	return id, true
}
