package fs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// What recovery does, and why it is right after a stop at any point:
//
//   - Of each segment only the records of its newest generation count; segments
//     older than the newest "oldest" record count for nothing.
//   - A message lives when its record is whole, nothing deleted all its envelopes,
//     and it was not moved. One that lives here is not yet in the directories, so
//     a copy there is the rest of a move and goes away.
//   - Bytes that are no record are damage when a record written by a later sync
//     proves that they were synced. Else they are what a stop leaves of the last
//     batch, which nobody was promised.
//   - New records go to a new segment, never behind old ones.

// Numbers beyond these are not reached in centuries: a record that has them is not
// ours, and would make the count overflow.
const (
	maxGen = 1 << 31
	maxSeq = 1 << 62
)

// event is a valid record of a segment, with what its payload says.
type event struct {
	record
	end     int64 // behind the record
	message payload
	numbers []uint64
}

// old is a segment file found at opening.
type old struct {
	seg    *segment
	size   int64
	events []event
}

// gap is a stretch of a segment that is no record.
type gap struct {
	seg        *old
	off, end   int64
	first, num uint64 // missing record numbers
}

// recover reads the segments and returns the journal, not started.
func (s *Store) recover() (*journal, error) {
	j := newJournal(s.fs, s.o)
	live, invalid, err := s.restore(j)
	if err != nil {
		return nil, err
	}
	if err := s.examine(j, live, invalid); err != nil {
		return nil, err
	}
	return j, s.dropCopies(j)
}

// restore fills j from the segments and returns those in use, and which records
// are invalid.
func (s *Store) restore(j *journal) (live []*old, invalid []seqs, err error) {
	olds, err := s.readSegments(j)
	if err != nil {
		for _, o := range olds {
			_ = o.seg.file.Close()
		}
		return nil, nil, err
	}
	var oldest uint32
	for _, o := range olds {
		for i := range o.events {
			e := &o.events[i]
			j.gen = max(j.gen, e.gen)
			j.seq = max(j.seq, e.seq+1)
			if e.kind == kindOldest {
				oldest = max(oldest, uint32(e.numbers[0]))
			}
		}
	}
	live = olds[:0]
	for _, o := range olds {
		switch {
		case len(o.events) > 0 && o.seg.gen >= oldest:
			live = append(live, o)
		case s.readOnly || o.size == j.size && len(j.free) < j.segments:
			j.free = append(j.free, o.seg)
		default:
			j.discard([]*segment{o.seg})
		}
	}
	slices.SortStableFunc(live, func(a, b *old) int { return cmp.Compare(a.seg.gen, b.seg.gen) })
	return live, replay(j, live), nil
}

// readSegments scans all segment files.
func (s *Store) readSegments(j *journal) ([]*old, error) {
	list, err := s.fs.ReadDir("journal")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	mode := os.O_RDWR
	if s.readOnly {
		mode = os.O_RDONLY
	}
	var olds []*old
	var buf []byte
	for _, d := range list {
		n, err := strconv.Atoi(d.Name())
		if err != nil || n < 0 || d.IsDir() {
			continue
		}
		j.names = max(j.names, n)
		f, err := s.fs.OpenFile("journal/"+d.Name(), mode, 0)
		if err != nil {
			return olds, err
		}
		o := &old{seg: &segment{name: "journal/" + d.Name(), file: f}}
		olds = append(olds, o)
		if o.size, err = f.Size(); err != nil {
			return olds, err
		}
		size := min(o.size, maxSegmentSize)
		if int64(cap(buf)) < size {
			buf = make([]byte, size)
		}
		got, err := f.ReadAt(buf[:size], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return olds, fmt.Errorf("read %s: %w", o.seg.name, err)
		}
		o.read(buf[:got])
	}
	return olds, nil
}

// read takes the records of the newest generation out of the bytes of a segment.
func (o *old) read(b []byte) {
	var last uint64
	scan(b, func(r record) {
		e, ok := parseEvent(r)
		if !ok || r.gen < o.seg.gen || r.gen == o.seg.gen && r.seq <= last {
			return
		}
		if r.gen > o.seg.gen {
			o.events = o.events[:0]
			o.seg.gen = r.gen
		}
		last = r.seq
		o.events = append(o.events, e)
	})
}

// parseEvent reads the payload of a record, and keeps nothing of its bytes.
func parseEvent(r record) (event, bool) {
	e := event{record: r, end: r.off + r.size()}
	if r.gen > maxGen || r.seq > maxSeq || r.batch > r.seq {
		return e, false
	}
	var ok bool
	switch r.kind {
	case kindMessage:
		p, err := parsePayload(r.payload)
		ok = err == nil
		for i := range p.envelopes {
			p.envelopes[i].text = nil
		}
		p.body = nil
		e.message = p
	case kindDeleted, kindMoved:
		e.numbers, ok = numbers(r.payload, 1)
	case kindOldest:
		e.numbers, ok = numbers(r.payload, 1)
		ok = ok && e.numbers[0] <= uint64(r.gen)
	case kindInvalid:
		e.numbers, ok = numbers(r.payload, 2)
	case kindDamaged:
		e.numbers, ok = numbers(r.payload, 3)
	case kindStopped:
		ok = len(r.payload) == 0
	}
	e.payload = nil
	return e, ok
}

// seqs is a range of record numbers, both ends included.
type seqs struct{ first, last uint64 }

// replay builds the index from the segments, oldest first. It returns the ranges
// of messages that failed to be synced.
func replay(j *journal, live []*old) []seqs {
	var invalid []seqs
	for _, o := range live {
		for i := range o.events {
			if e := &o.events[i]; e.kind == kindInvalid {
				invalid = append(invalid, seqs{e.numbers[0], e.numbers[1]})
			}
		}
	}
	slices.SortFunc(invalid, func(a, b seqs) int { return cmp.Compare(a.first, b.first) })
	for _, o := range live {
		j.segs = append(j.segs, o.seg)
		for i := range o.events {
			e := &o.events[i]
			switch e.kind {
			case kindMessage:
				bad := slices.ContainsFunc(invalid, func(r seqs) bool { return r.first <= e.seq && e.seq <= r.last })
				if !bad && j.index[e.message.id] == nil {
					j.index[e.message.id] = e.live(o.seg)
					o.seg.live++
				}
			case kindDeleted:
				j.replayDeleted(envelope.ID(e.numbers[0]))
			case kindMoved:
				id := envelope.MsgID(e.numbers[0])
				if m := j.index[id]; m != nil {
					j.drop(id, m)
				}
			}
		}
	}
	return invalid
}

// live returns the index entry of a message record.
func (e *event) live(seg *segment) *message {
	m := &message{seg: seg, gen: e.gen, off: e.off, size: e.end - e.off}
	m.left = m.first[:0]
	for _, env := range e.message.envelopes {
		m.left = append(m.left, uint32(env.id))
	}
	e.message = payload{id: e.message.id}
	return m
}

func (j *journal) replayDeleted(id envelope.ID) {
	m := j.index[id.MsgID()]
	if m == nil {
		return
	}
	if i := m.find(uint32(id)); i >= 0 {
		m.left = slices.Delete(m.left, i, i+1)
	}
	if len(m.left) == 0 {
		j.drop(id.MsgID(), m)
	}
}

// examine looks at the gaps between records: damage is set aside, and all gaps
// are noted so that the next opening does not meet them again.
func (s *Store) examine(j *journal, live []*old, invalid []seqs) error {
	var synced uint64 // records before this one were synced
	var known []*event
	for _, o := range live {
		for i := range o.events {
			e := &o.events[i]
			synced = max(synced, e.batch)
			if e.kind == kindDamaged {
				known = append(known, e)
			}
		}
	}
	for _, g := range gaps(live) {
		dealt := func(e *event) bool {
			return e.numbers[0] == uint64(g.seg.seg.gen) && e.numbers[1] == uint64(g.off) && e.numbers[2] == uint64(g.end)
		}
		if slices.ContainsFunc(known, dealt) {
			continue
		}
		// What a failed sync lost was never acknowledged.
		if g.num > 0 && g.first < synced && !covered(invalid, g.first, g.first+g.num-1) {
			if err := s.setAsideGap(g); err != nil {
				return err
			}
		}
		if g.num > 0 && (j.unsure == 0 || g.first < j.unsure) {
			j.unsure = g.first
		}
		p := appendHex(nil, uint64(g.seg.seg.gen), 8, ' ')
		p = appendHex(p, uint64(g.off), 8, ' ')
		p = appendHex(p, uint64(g.end), 8, '\n')
		j.redo = append(j.redo, redo{kindDamaged, p})
	}
	return nil
}

// covered tells whether the ranges, in order, together hold all of first to last.
func covered(ranges []seqs, first, last uint64) bool {
	for _, r := range ranges {
		if r.first <= first && first <= r.last {
			first = r.last + 1
		}
	}
	return first > last
}

// gaps lists where records are missing: between two of a segment, before its
// first, or behind its last, as far as record numbers tell.
func gaps(live []*old) []gap {
	var list []gap
	var next uint64 // number expected
	var before *old
	for _, o := range live {
		var at int64
		for i := range o.events {
			e := &o.events[i]
			if next == 0 && e.off > 0 {
				// What stood before is not known by number, but the batch tells enough.
				next = max(1, min(e.batch, e.seq-1))
			}
			var missing uint64
			if next != 0 && e.seq > next {
				missing = e.seq - next
			}
			switch {
			case e.off > at && (missing > 0 || i > 0):
				list = append(list, gap{o, at, e.off, next, missing})
			case missing > 0 && i == 0 && before != nil:
				last := before.events[len(before.events)-1]
				if last.end < before.size {
					list = append(list, gap{before, last.end, before.size, next, missing})
				}
			}
			next, at = e.seq+1, e.end
		}
		before = o
	}
	return list
}

// setAsideGap copies damaged bytes of a segment to a file, without the zeros
// behind them.
func (s *Store) setAsideGap(g gap) error {
	name := fmt.Sprintf("corrupt/journal-%08x-%08x", g.seg.seg.gen, g.off)
	b := make([]byte, min(g.end-g.off, maxSegmentSize))
	n, err := g.seg.seg.file.ReadAt(b, g.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b = bytes.TrimRight(b[:n], "\x00")
	if err := s.writeFile(name, b); err != nil {
		return fmt.Errorf("set aside damage of %s: %w", g.seg.seg.name, err)
	}
	if err := s.fs.SyncDir("corrupt"); err != nil {
		return err
	}
	s.damage = append(s.damage, fmt.Errorf("%w: %d records of %s, set aside in %s", queue.ErrCorrupt, g.num, g.seg.seg.name, name))
	return nil
}

// dropCopies removes the directories of messages that live in the journal.
func (s *Store) dropCopies(j *journal) error {
	for id := range j.index {
		there, err := vfs.Exists(s.fs, messageDir(id))
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := s.fs.Rename(messageDir(id), s.temporary(id)); err != nil {
			return err
		}
		if err := s.fs.SyncDir("temporary"); err != nil {
			return err
		}
		if err := s.emptyTemporary(); err != nil {
			return err
		}
	}
	return nil
}
