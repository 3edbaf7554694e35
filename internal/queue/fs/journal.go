package fs

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

const (
	maxBatch  = 4 << 20               // bytes gathered while a sync runs; then appenders wait
	maxRecord = 1 << 20               // bytes of a message record; larger ones go to the directories
	lazyFor   = 50 * time.Millisecond // how long a deletion waits for company
	spareRoom = 256                   // bytes of a segment kept for a record about the oldest one

	// extraSegments may be opened beyond Options.Segments for short records: the
	// mover, which empties segments, needs room itself.
	extraSegments = 8
)

// errJournalFull sends a message to the directories: no segment is free, or it
// does not fit the journal.
var errJournalFull = errors.New("no room in the journal")

// message is a live message of the journal. Fields are guarded by journal.mu.
type message struct {
	seg    *segment
	gen    uint32
	off    int64
	size   int64 // of the record
	left   []uint32
	first  [1]uint32     // backs left for the common single recipient
	moving chan struct{} // not nil: being moved; closed afterwards
	limbo  bool          // a copy is in the directories, but "moved" failed to be written
}

// batch is what one sync makes durable. Its buffer is reused.
type batch struct {
	buf   []byte
	seg   *segment
	off   int64 // of buf in the segment
	first uint64
	last  uint64
	proof uint64        // the batch field of its records
	eager bool          // somebody waits for it
	armed bool          // the timer runs for it
	done  chan struct{} // closed when written, or failed with err
	err   error
}

// journal is the append side and the index. One goroutine writes.
type journal struct {
	fs       vfs.FS
	size     int64 // of segments
	segments int   // most in use

	mu      sync.Mutex
	index   map[envelope.MsgID]*message
	segs    []*segment    // in use, by generation; the last one is active
	free    []*segment    // to be reused
	open    *batch        // gathers
	spareB  *batch        // the other one, when not being written
	seq     uint64        // of the next record
	gen     uint32        // of the newest segment
	unsure  uint64        // not 0: records from this one on failed to be synced, which no record says durably yet
	names   int           // for the next segment file
	oldest  uint32        // as last written
	durable uint32        // as last synced: earlier generations may be reused
	roll    bool          // the active segment is full or failed: a new one is needed
	rollErr error         // why the last attempt to get one failed
	changed chan struct{} // closed and replaced when appenders should look again
	stopped bool
	lazy    *time.Timer

	wake     chan struct{} // one slot: the writer has something to do
	quit     chan struct{}
	ended    chan struct{}
	fullness chan struct{} // one slot: the mover has something to do
	redo     []redo        // for the front of the next segment
	making   chan struct{} // not nil: a segment is being made ahead of need; closed afterwards
	scratch  sync.Pool     // *[]byte
}

// redo is a short record to be written again, or for the first time, as soon as
// there is a segment for it.
type redo struct {
	kind    kind
	payload []byte
}

func newJournal(fsys vfs.FS, o Options) *journal {
	j := &journal{
		fs: fsys, size: o.SegmentSize, segments: o.Segments,
		index: map[envelope.MsgID]*message{}, seq: 1, roll: true,
		open: &batch{done: make(chan struct{})}, spareB: &batch{},
		changed: make(chan struct{}), wake: make(chan struct{}, 1), quit: make(chan struct{}),
		ended: make(chan struct{}), fullness: make(chan struct{}, 1),
	}
	j.scratch.New = func() any { return new([]byte) }
	return j
}

// start starts the writer, which close ends.
func (j *journal) start() {
	j.lazy = time.AfterFunc(time.Hour, j.nudge)
	go func() { defer close(j.ended); j.write() }()
}

func (j *journal) nudge() { signal(j.wake) }

// signal fills a channel of one slot.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// broadcast makes waiting appenders look again. j.mu is held.
func (j *journal) broadcast() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// has tells whether a live message of the journal has this id.
func (j *journal) has(id envelope.MsgID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.index[id] != nil
}

// find returns where n is in left, or -1.
func (m *message) find(n uint32) int {
	return slices.Index(m.left, n)
}

// appended is where a record went.
type appended struct {
	b   *batch
	seg *segment
	gen uint32
	off int64
}

// append adds a record to the open batch, waiting for room. A message keeps its
// segment from reuse. eager records are written at once,
// others within lazyFor.
func (j *journal) append(k kind, payload []byte, eager bool) (appended, error) {
	crc := crcOf(payload)
	size := recordSize(len(payload))
	tries := 0
	j.mu.Lock()
	for {
		if j.stopped {
			j.mu.Unlock()
			return appended{}, errClosed
		}
		if !j.roll && j.active().end+size+spareRoom > j.size {
			j.roll = true
		}
		if !j.roll && (len(j.open.buf) == 0 || int64(len(j.open.buf))+size <= maxBatch) {
			break
		}
		if j.roll && k == kindMessage && j.full() {
			j.mu.Unlock()
			signal(j.fullness)
			return appended{}, errJournalFull
		}
		if j.roll && tries > 0 && j.rollErr != nil {
			err := j.rollErr
			j.mu.Unlock()
			return appended{}, err
		}
		changed := j.changed
		j.mu.Unlock()
		tries++
		j.nudge()
		<-changed
		j.mu.Lock()
	}
	a := j.put(k, payload, crc)
	if k == kindMessage {
		a.seg.live++
	}
	first := !j.open.eager && eager
	if first {
		j.open.eager = true
	}
	if !eager && !j.open.eager && !j.open.armed {
		j.open.armed = true
		j.lazy.Reset(lazyFor)
	}
	j.mu.Unlock()
	if first {
		j.nudge()
	}
	return a, nil
}

// put adds a record to the open batch, for which there is room. j.mu is held.
func (j *journal) put(k kind, payload []byte, crc uint32) appended {
	seg, b := j.active(), j.open
	if len(b.buf) == 0 {
		b.seg, b.off, b.first, b.proof = seg, seg.end, j.seq, j.seq
		if j.unsure != 0 {
			b.proof = j.unsure
		}
	}
	r := record{gen: seg.gen, seq: j.seq, batch: b.proof, kind: k, payload: payload}
	a := appended{b: b, seg: seg, gen: seg.gen, off: seg.end}
	b.buf = appendRecord(b.buf, &r, crc)
	b.last = j.seq
	j.seq++
	seg.end += r.size()
	return a
}

func (j *journal) active() *segment { return j.segs[len(j.segs)-1] }

// wait waits for the sync of a record. The batch is reused, but not before its
// waiters are gone: see write.
func (a appended) wait() error {
	<-a.b.done
	return a.b.err
}

// write is the writer: it takes what is waiting, writes and syncs it, and gets
// new segments.
func (j *journal) write() {
	for {
		select {
		case <-j.wake:
		case <-j.quit:
			j.mu.Lock()
			j.stopped = true
			j.broadcast()
			j.mu.Unlock()
			j.flush()
			// On its own: a record of a later sync proves the ones before it synced.
			j.mu.Lock()
			if !j.roll {
				j.put(kindStopped, nil, 0)
			}
			j.mu.Unlock()
			j.flush()
			return
		}
		for {
			wrote := j.flush()
			j.mu.Lock()
			rolling := j.roll && len(j.open.buf) == 0
			again := len(j.open.buf) > 0 && j.open.eager
			j.mu.Unlock()
			if rolling {
				again = j.nextSegment()
			}
			if !wrote && !again {
				break
			}
		}
	}
}

// flush writes and syncs the open batch and tells its waiters. It returns false
// when there was nothing to write.
func (j *journal) flush() bool {
	j.mu.Lock()
	b := j.open
	if len(b.buf) == 0 {
		j.mu.Unlock()
		return false
	}
	oldest := j.oldestLive()
	if oldest != j.oldest && b.seg.end+recordSize(9) <= j.size {
		p := appendHex(nil, uint64(oldest), 8, '\n')
		j.put(kindOldest, p, crcOf(p))
		j.oldest = oldest
	}
	oldest = j.oldest
	// A batch still has readers of err when it is done, so each gets a new value;
	// only the buffers are used again.
	j.open = &batch{buf: j.spareB.buf[:0], done: make(chan struct{})}
	j.mu.Unlock()

	_, err := b.seg.file.WriteAt(b.buf, b.off)
	if err == nil {
		err = b.seg.file.SyncData()
	}

	j.mu.Lock()
	if err != nil {
		err = fmt.Errorf("journal segment %s: %w", b.seg.name, err)
		j.failed(b, err)
	} else {
		j.durable = oldest
		j.unsure = 0 // the first batch behind a failure says so
		j.reclaim()
	}
	surplus := j.surplus()
	buf := b.buf
	if cap(buf) > maxBatch/2 {
		buf = nil // do not keep what a burst needed
	}
	j.spareB.buf = buf
	j.broadcast()
	j.mu.Unlock()
	b.err = err
	close(b.done)
	j.discard(surplus)
	return true
}

// failed gives up the active segment after a failed write or sync: what a later
// sync of it would say is not to be trusted. The batch that gathered meanwhile
// has its places in that segment too, and fails with it. Deletions are written
// again elsewhere, and the messages are declared invalid there. j.mu is held.
func (j *journal) failed(b *batch, err error) {
	last := b.last
	for _, f := range []*batch{b, j.open} {
		scan(f.buf, func(r record) {
			switch r.kind {
			case kindDeleted, kindInvalid, kindDamaged:
				j.redo = append(j.redo, redo{r.kind, append([]byte(nil), r.payload...)})
			}
		})
	}
	if len(j.open.buf) > 0 {
		last = j.open.last
		j.open.err = err
		close(j.open.done)
		j.open = &batch{done: make(chan struct{})}
	}
	p := appendHex(nil, b.first, 16, ' ')
	p = appendHex(p, last, 16, '\n')
	j.redo = append([]redo{{kindInvalid, p}}, j.redo...) // in the very first batch
	if j.unsure == 0 {
		j.unsure = b.first
	}
	j.oldest = 0 // write it again
	j.roll = true
}

// read returns the record of a live message, with the live ones of its envelopes.
// errGone means that it is not, or no longer, in the journal.
func (j *journal) read(id envelope.MsgID) (payload, error) {
	for {
		j.mu.Lock()
		m := j.index[id]
		if m == nil {
			j.mu.Unlock()
			return payload{}, errGone
		}
		seg, gen, off, size := m.seg, m.gen, m.off, m.size
		var few [4]uint32
		left := append(few[:0], m.left...)
		j.mu.Unlock()

		buf := make([]byte, size)
		_, err := seg.file.ReadAt(buf, off)
		if err == nil {
			if r, ok := parseRecord(buf); ok && r.gen == gen && r.kind == kindMessage {
				if p, perr := parsePayload(r.payload); perr == nil && p.id == id {
					p.envelopes = slices.DeleteFunc(p.envelopes, func(e storedEnvelope) bool {
						return !slices.Contains(left, uint32(e.id))
					})
					return p, nil
				}
			}
			err = queue.ErrCorrupt
		}
		j.mu.Lock()
		same := j.index[id] == m
		j.mu.Unlock()
		if same {
			return payload{}, fmt.Errorf("journal segment %s at %d: %w", seg.name, off, err)
		}
		// It moved while being read, and its place may be in use again.
	}
}

// remove deletes a live envelope, and its message with the last one. limbo tells
// that there may be a copy in the directories.
func (j *journal) remove(id envelope.ID) (limbo bool, err error) {
	j.mu.Lock()
	m := j.index[id.MsgID()]
	for m != nil && m.moving != nil {
		moving := m.moving
		j.mu.Unlock()
		<-moving
		j.mu.Lock()
		m = j.index[id.MsgID()]
	}
	if m == nil {
		j.mu.Unlock()
		return false, errGone
	}
	i := m.find(uint32(id))
	if i < 0 {
		j.mu.Unlock()
		return false, queue.ErrNotFound
	}
	limbo = m.limbo
	m.left[i] = m.left[len(m.left)-1]
	m.left = m.left[:len(m.left)-1]
	if len(m.left) == 0 {
		j.drop(id.MsgID(), m)
	}
	j.mu.Unlock()
	var p [17]byte
	_, err = j.append(kindDeleted, appendHex(p[:0], uint64(id), 16, '\n'), false)
	if err != nil && !errors.Is(err, errClosed) {
		// It is deleted for this run. Write it when there is a segment again.
		j.mu.Lock()
		j.redo = append(j.redo, redo{kindDeleted, p[:]})
		j.mu.Unlock()
		err = nil
	}
	return limbo, err
}

// drop forgets a message that no longer needs its record. j.mu is held.
func (j *journal) drop(id envelope.MsgID, m *message) {
	delete(j.index, id)
	m.seg.live--
}

// close writes what waits and ends the writer.
func (j *journal) close() error {
	close(j.quit)
	<-j.ended
	j.lazy.Stop()
	j.mu.Lock()
	making := j.making
	j.mu.Unlock()
	if making != nil {
		<-making
	}
	return j.closeFiles()
}

// closeFiles closes the segments.
func (j *journal) closeFiles() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, list := range [][]*segment{j.segs, j.free} {
		for _, seg := range list {
			errs = append(errs, seg.file.Close())
		}
	}
	return errors.Join(errs...)
}

// commitJournal appends a message and waits for its sync.
func (s *Store) commitJournal(m *queue.Message) error {
	j := s.j
	scratch := j.scratch.Get().(*[]byte)
	defer j.scratch.Put(scratch)
	p, err := s.messagePayload((*scratch)[:0], m)
	if err != nil {
		return err
	}
	if cap(p) <= 64<<10 {
		*scratch = p
	}
	if recordSize(len(p)) > min(maxRecord, j.size/4) {
		return errJournalFull
	}
	if j.has(m.ID) {
		return fmt.Errorf("message %v was committed before", m.ID)
	}
	a, err := j.append(kindMessage, p, true)
	if err != nil {
		return err
	}
	msg := &message{seg: a.seg, gen: a.gen, off: a.off, size: recordSize(len(p))}
	msg.left = msg.first[:0]
	if n := len(m.Envelopes); n > 1 {
		msg.left = make([]uint32, 0, n)
	}
	for _, e := range m.Envelopes {
		msg.left = append(msg.left, uint32(e.ID))
	}
	err = a.wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		a.seg.live--
		return err
	}
	j.index[m.ID] = msg
	return nil
}

// messagePayload appends the payload of the record of m.
func (s *Store) messagePayload(dst []byte, m *queue.Message) ([]byte, error) {
	body, err := s.encode(m.Body, m.ID.String())
	if err != nil {
		return nil, err
	}
	return appendPayload(dst, m.ID, len(m.Envelopes), func(dst []byte, i int) (envelope.ID, []byte, error) {
		e := m.Envelopes[i]
		if s.o.Codec == nil {
			b, err := e.Append(dst)
			return e.ID, b, err
		}
		text, err := e.Append(nil)
		if err != nil {
			return e.ID, nil, err
		}
		dst, err = s.codec.Encode(dst, text, e.ID.String())
		return e.ID, dst, err
	}, body)
}

// appendAndWait appends a short record and waits for its sync, trying again in
// new segments. written is false when no record can have reached the disk.
func (j *journal) appendAndWait(k kind, payload []byte) (written bool, err error) {
	for range 3 {
		a, aerr := j.append(k, payload, true)
		if aerr != nil {
			return written, errors.Join(err, aerr)
		}
		written = true
		if err = a.wait(); err == nil {
			return true, nil
		}
	}
	return written, err
}

// settle makes it known on disk which segments hold nothing any more, so that
// they can be reused.
func (j *journal) settle() error {
	j.mu.Lock()
	p := appendHex(nil, uint64(j.oldestLive()), 8, '\n')
	j.mu.Unlock()
	_, err := j.appendAndWait(kindOldest, p)
	return err
}
