package filterchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// A message passes through the filters that registered data-line one after the other,
// line by line, while it arrives. Each has a stage: what it has put out and nobody has
// taken yet.
//
//	session -> filter 1 -> stage 1 -> filter 2 -> stage 2 -> out
//
// The session writes to the first; a goroutine for each stage passes its lines on to
// the next filter, the last one's to out. A stage is bounded: the reader of its filter
// waits for room, and thereby the filter does. So no part of the way holds more of a
// message than the bounds say. A reader serves all sessions and must not wait for one
// that goes nowhere: after a while that message is given up.
const (
	maxStage     = 256 << 10        // bytes
	stallTimeout = 15 * time.Second // of a reader for room in a stage
	batchSize    = 32 << 10         // bytes of lines sent to a filter at a time, about
)

// Errors of a message.
var (
	errAborted = errors.New("message was given up")
	errStalled = errors.New("what comes behind it takes nothing")
)

// stage is the output of one filter for one message.
type stage struct {
	m     *member
	token uint64
	heard int64 // lines of the filter, about whatever, when the wait for the end began

	mu      sync.Mutex // guards what follows
	filled  sync.Cond  // lines came, or the end
	drained sync.Cond  // there is room
	buf     []byte     // lines with LF, dots as in the protocol
	taken   int64      // lines, for who watches whether anything moves
	ended   bool       // "." came
	err     error      // it will not go on
}

func newStage(m *member) *stage {
	st := &stage{m: m, buf: m.s.c.buffer()}
	st.filled.L, st.drained.L = &st.mu, &st.mu
	return st
}

// put adds a line of the filter; false when the message had ended before. The reader
// of the filter calls it, and wake after the last of several lines.
func (st *stage) put(line []byte) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return false
	}
	if st.err == nil && len(st.buf) >= maxStage {
		st.makeRoom()
	}
	if st.err != nil {
		return true // it goes nowhere
	}
	st.taken++
	if len(line) == 1 && line[0] == '.' {
		st.ended = true
		st.filled.Signal()
		return true
	}
	st.buf = append(append(st.buf, line...), '\n')
	return true
}

// makeRoom waits until lines are taken. The lock is held.
func (st *stage) makeRoom() {
	st.filled.Signal()
	timer := time.AfterFunc(stallTimeout, func() { st.fail(errStalled) })
	defer timer.Stop()
	for st.err == nil && len(st.buf) >= maxStage {
		st.drained.Wait()
	}
}

// wake tells the taker that there are lines.
func (st *stage) wake() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.filled.Signal()
}

// fail ends the stage: nothing more is taken.
func (st *stage) fail(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = err
	}
	st.filled.Signal()
	st.drained.Signal()
}

// take waits for lines and returns them, in exchange for an empty buffer. last says
// that the message has ended with them.
func (st *stage) take(empty []byte) (lines []byte, last bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for st.err == nil && len(st.buf) == 0 && !st.ended {
		st.filled.Wait()
	}
	if st.err != nil {
		return empty[:0], false, st.err
	}
	lines, st.buf = st.buf, empty[:0]
	st.drained.Signal()
	return lines, st.ended, nil
}

// moved returns how many lines have come so far.
func (st *stage) moved() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.taken
}

// Text is a message on its way through the filters. Write and Close are called by the
// session, one after the other; Abort instead of Close gives the message up.
type Text struct {
	s      *Session
	stages []*stage
	out    func([]byte) error
	rest   []byte // of a line whose end has not come
	batch  []byte // scratch of Write
	sent   []bool // which filters were told the end
	wg     sync.WaitGroup

	mu   sync.Mutex // guards err
	err  error      // the first one
	done chan struct{}
}

// Text returns where the text of a message goes, or nil when no filter wants to see it.
// out is given what comes out: lines with LF, dots not stuffed. It is called from another
// goroutine, the last time before Close or Abort returns.
func (s *Session) Text(out func([]byte) error) *Text {
	t := &Text{s: s, out: out, batch: s.c.buffer()}
	d := s.c.Direction
	for _, m := range s.members {
		if m.life == nil || m.life.ended() || !m.life.answers(d, wire.PhaseDataLine) {
			continue // whether it may be left out, Decide has said
		}
		st := newStage(m)
		st.token = m.life.newToken()
		m.life.mu.Lock()
		m.stage = st
		m.life.mu.Unlock()
		if m.life.ended() {
			st.fail(errLost)
		}
		t.stages = append(t.stages, st)
	}
	if len(t.stages) == 0 {
		s.c.giveBack(t.batch)
		return nil
	}
	t.sent = make([]bool, len(t.stages))
	t.done = make(chan struct{})
	for i := range t.stages {
		t.wg.Go(func() { t.run(i) })
	}
	return t
}

// run passes the output of a filter on.
func (t *Text) run(i int) {
	lines, batch := t.s.c.buffer(), t.s.c.buffer()
	defer func() {
		t.s.c.giveBack(lines)
		t.s.c.giveBack(batch)
	}()
	last := i == len(t.stages)-1
	if last {
		defer close(t.done)
	}
	for ended := false; !ended; {
		var err error
		lines, ended, err = t.stages[i].take(lines)
		switch {
		case err != nil:
		case last:
			err = t.out(unstuffed(lines))
		default:
			batch, err = t.send(i+1, lines, batch)
			if err == nil && ended {
				err = t.end(i + 1)
			}
		}
		if err != nil {
			t.fail(t.blame(i, err))
			return
		}
	}
}

// blame names the filter behind an error. What the error is, of out above all, can still
// be told.
func (t *Text) blame(i int, err error) error { return &errRefused{t.stages[i].m.f.Name, err} }

// fail gives the message up everywhere.
func (t *Text) fail(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	t.mu.Unlock()
	for _, st := range t.stages {
		st.fail(err)
	}
}

func (t *Text) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// send sends whole lines, dots stuffed, to filter i. It returns the scratch buffer.
func (t *Text) send(i int, lines, batch []byte) ([]byte, error) {
	st := t.stages[i]
	var space [128]byte
	head := wire.AppendDataRequest(space[:0], time.Now(), t.s.c.Direction, t.s.id, st.token, nil)
	head = head[:len(head)-1] // all of them begin alike
	batch = batch[:0]
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n')
		if n > wire.MaxText && (n > wire.MaxText+1 || lines[0] != '.') { // a stuffed dot is no text
			return batch, fmt.Errorf("line of %d bytes, more than the next filter takes", n)
		}
		batch = append(append(batch, head...), lines[:n+1]...)
		lines = lines[n+1:]
		if len(batch) >= batchSize {
			if err := st.m.life.send(batch); err != nil {
				return batch, err
			}
			batch = batch[:0]
		}
	}
	if len(batch) > 0 {
		st.m.life.tell(batch) // more is coming, or the end
	}
	return batch, nil
}

// end tells filter i that the message has ended.
func (t *Text) end(i int) error {
	t.sent[i] = true
	st := t.stages[i]
	return st.m.life.ask(wire.AppendDataRequest(nil, time.Now(), t.s.c.Direction, t.s.id, st.token, []byte(".")))
}

// Write takes the next part of the text: lines end with LF, and may be parted anywhere.
// An error, which is final, is that of a filter or of out.
func (t *Text) Write(p []byte) (int, error) {
	if err := t.failure(); err != nil {
		return 0, err
	}
	n := len(p)
	i := bytes.LastIndexByte(p, '\n')
	if i < 0 {
		t.rest = append(t.rest, p...)
		return n, nil
	}
	lines := p[:i+1]
	if len(t.rest) > 0 {
		t.rest = append(t.rest, lines...)
		lines = t.rest
	}
	var err error
	t.batch, err = t.send(0, stuff(lines), t.batch)
	t.rest = append(t.rest[:0], p[i+1:]...)
	if err != nil {
		t.fail(t.blame(0, err))
		return 0, t.failure()
	}
	return n, nil
}

// stuff doubles first dots of lines.
func stuff(lines []byte) []byte {
	if lines[0] != '.' && !bytes.Contains(lines, []byte("\n.")) {
		return lines
	}
	out := make([]byte, 0, len(lines)+16)
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n')
		if lines[0] == '.' {
			out = append(out, '.')
		}
		out = append(out, lines[:n+1]...)
		lines = lines[n+1:]
	}
	return out
}

// unstuffed removes the first dot of lines that begin with one, a CR at the end of a
// line, and makes a blank of NUL and of other CR: a stored message has none. It works in
// place.
func unstuffed(lines []byte) []byte {
	if len(lines) == 0 || lines[0] != '.' && bytes.IndexByte(lines, '\r') < 0 && bytes.IndexByte(lines, 0) < 0 && !bytes.Contains(lines, []byte("\n.")) {
		return lines
	}
	out := lines[:0]
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n')
		line := lines[:n]
		lines = lines[n+1:]
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if len(line) > 0 && line[0] == '.' {
			line = line[1:]
		}
		start := len(out)
		out = append(out, line...)
		for i := start; i < len(out); i++ {
			if out[i] == '\r' || out[i] == 0 {
				out[i] = ' '
			}
		}
		out = append(out, '\n')
	}
	return out
}

// Close ends the text and waits until all of it has come out.
func (t *Text) Close(ctx context.Context) error {
	if len(t.rest) > 0 {
		_, _ = t.Write([]byte{'\n'}) // its error is kept
	}
	if t.failure() == nil {
		if err := t.end(0); err != nil {
			t.fail(t.blame(0, err))
		}
	}
	t.await(ctx)
	err := t.failure()
	if err != nil {
		t.Abort()
		return err
	}
	t.leave()
	return nil
}

// await waits for the end, as long as something moves.
func (t *Text) await(ctx context.Context) {
	limit := time.Duration(0)
	for _, st := range t.stages {
		limit = max(limit, st.m.f.timeout(wire.PhaseDataLine))
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for before := t.moved(); ; {
		for _, st := range t.stages {
			st.heard = st.m.life.heard.Load()
		}
		select {
		case <-t.done:
			return
		case <-ctx.Done():
			t.fail(ctx.Err())
			return
		case <-timer.C:
		}
		now := t.moved()
		if now == before {
			t.late(limit)
			return
		}
		before = now
		timer.Reset(limit)
	}
}

// moved returns how many lines have come out of all filters.
func (t *Text) moved() (n int64) {
	for _, st := range t.stages {
		n += st.moved()
	}
	return n
}

// late gives up on the first filter that has the message and does not let go of it.
func (t *Text) late(limit time.Duration) {
	for i, st := range t.stages {
		st.mu.Lock()
		ended := st.ended
		st.mu.Unlock()
		if ended {
			continue
		}
		l := st.m.life
		l.p.failedAnswer()
		l.p.Warnf("filter process %s: %016x: no end of the message within %v", l.p.Name, t.s.id, limit)
		t.fail(t.blame(i, errLate))
		if l.heard.Load() == st.heard { // it has told nobody anything
			l.end(errHung)
		}
		return
	}
	t.fail(t.blame(len(t.stages)-1, errLate))
}

// Abort gives the message up. TxRollback or TxReset is to be reported behind it: a
// filter that takes one of them is not told an end of the text, so that it cannot hold
// what it has for the whole. To others the end is all that can be told.
func (t *Text) Abort() {
	t.fail(errAborted)
	t.wg.Wait()
	d := t.s.c.Direction
	for i, st := range t.stages {
		l := st.m.life
		if !t.sent[i] && !l.ended() && !l.wants(d, wire.EventTxRollback) && !l.wants(d, wire.EventTxReset) {
			_ = t.end(i) // the life ends, if that fails
		}
	}
	t.leave()
}

// leave makes lines that still come count for nothing.
func (t *Text) leave() {
	t.wg.Wait()
	for _, st := range t.stages {
		m := st.m
		m.life.mu.Lock()
		m.stale, m.stage = st.token, nil
		m.life.mu.Unlock()
		st.mu.Lock() // the reader may still hold on to it
		buf := st.buf
		st.buf, st.err = nil, errAborted
		st.mu.Unlock()
		t.s.c.giveBack(buf)
	}
	t.s.c.giveBack(t.batch)
	t.batch = nil
}

// buffer returns an empty buffer, which giveBack takes back.
func (c *Chain) buffer() []byte {
	if b, ok := c.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 8<<10)
}

// maxKept is the largest buffer that is kept, in bytes.
const maxKept = 128 << 10

func (c *Chain) giveBack(b []byte) {
	if cap(b) > 0 && cap(b) <= maxKept {
		c.buffers.Put(&b)
	}
}
