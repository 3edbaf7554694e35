package filterchain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Bounds of a life.
const (
	maxQueued    = 1 << 20               // bytes that wait to be written; then senders wait
	fullBatch    = 64 << 10              // bytes that are not held back any more
	lateTime     = 10 * time.Millisecond // that a report waits for company
	crowd        = 4                     // sessions, from which on questions wait for company …
	crowdTime    = 2 * time.Millisecond  // … from the last write on
	writeTimeout = time.Minute           // of one write: a program that reads nothing for so long hangs
	maxNonsense  = 100                   // lines without sense, then the program is started again
	maxComplaint = 5                     // of these that are logged
	maxRemarks   = 64                    // of one session that wait to be passed on; more are dropped
)

// Errors that end a life.
var (
	errClosed   = errors.New("it closed its output")
	errHung     = errors.New("it does not answer any more")
	errBabble   = errors.New("it sends too many lines without sense")
	errTooEarly = errors.New("it spoke before it had registered")
)

// life is one run of a filter program, from its start to its end.
type life struct {
	p    *Process
	conn net.Conn
	in   *wire.Reader
	out  *wire.Writer

	// Registered, by direction, a bit for each; fixed once it is ready.
	phases, events [3]uint32

	heard atomic.Int64 // lines that came
	asked atomic.Int64 // questions, messages among them

	heldMu sync.Mutex  // guards what follows
	wrote  time.Time   // when something was sent last
	due    time.Time   // when what was held back goes out; zero: nothing is
	flush  *time.Timer // runs then; nil before the first time

	mu       sync.Mutex // guards what follows
	sessions map[uint64]*member
	dead     chan struct{} // closed at the end
	err      error         // why it ended

	bad, strays, unknown int // lines without sense, answers to nothing, verdicts among these; the reader's own

	dns questions
}

// deadlineWriter bounds each write.
type deadlineWriter struct{ net.Conn }

// Write implements io.Writer.
func (w deadlineWriter) Write(b []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

func newLife(p *Process, conn net.Conn) *life {
	l := &life{
		p: p, conn: conn, in: wire.NewReader(conn), out: wire.NewWriter(deadlineWriter{conn}, maxQueued),
		sessions: map[uint64]*member{}, dead: make(chan struct{}),
		dns: questions{asking: make(chan struct{}, maxAsking), open: map[uint64]context.CancelFunc{}},
	}
	return l
}

// end ends the life, once: the pipe is closed, and all who wait for an answer stop.
func (l *life) end(err error) {
	l.mu.Lock()
	if l.ended() {
		l.mu.Unlock()
		return
	}
	l.err = err
	close(l.dead)
	var streams []*stage
	for _, m := range l.sessions {
		if m.stage != nil {
			streams = append(streams, m.stage)
		}
	}
	l.mu.Unlock()
	for _, st := range streams {
		st.fail(err)
	}
	_ = l.conn.Close() // its reader sees
}

// closed returns the error of a read or write in the words of errClosed, when it is
// that the program has gone.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errClosed
	}
	return err
}

// ended tells whether the life is over.
func (l *life) ended() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// serve greets the program and reads what it says, until one of them ends. ready is
// called when it has registered.
func (l *life) serve(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := l.out.Send(l.p.Hello.lines()); err != nil {
		return closed(err)
	}
	if err := l.register(); err != nil {
		return err
	}
	ready()
	r := reading{life: l, ctx: ctx}
	for {
		line, err := l.in.Line()
		switch {
		case l.ended():
			return l.err
		case err != nil:
			return closed(err)
		}
		l.heard.Add(1)
		if err := r.take(line); err != nil {
			if err := l.complain(err); err != nil {
				return err
			}
		}
		if !l.in.More() {
			r.release()
		}
	}
}

// register takes the registration.
func (l *life) register() error {
	for {
		line, err := l.in.Line()
		if err != nil {
			return closed(err)
		}
		m, err := wire.ParseToDaemon(line)
		switch {
		case err != nil:
			return err
		case m.Kind == wire.KindReady:
			return nil
		case m.Kind != wire.KindRegister:
			return errTooEarly
		case m.Event == wire.EventAll:
			l.events[m.Direction] = 1<<wire.Events - 1
		case m.Event != 0:
			l.events[m.Direction] |= 1 << m.Event
		default:
			l.phases[m.Direction] |= 1 << m.Phase
		}
	}
}

// complain counts a line without sense. Too many end the life.
func (l *life) complain(err error) error {
	if errors.Is(err, errBabble) {
		return err
	}
	l.p.stats.nonsense.Add(1)
	switch l.bad++; {
	case l.bad > maxNonsense:
		return errBabble
	case l.bad <= maxComplaint:
		l.p.Warnf("filter process %s: %v", l.p.Name, err)
	}
	return nil
}

// wants tells whether an event is registered.
func (l *life) wants(d wire.Direction, e wire.Event) bool { return l.events[d]&(1<<e) != 0 }

// answers tells whether a phase is registered.
func (l *life) answers(d wire.Direction, p wire.Phase) bool { return l.phases[d]&(1<<p) != 0 }

// tell sends lines that nobody waits for an answer to. They may be held back for a
// little while, until something more urgent goes out.
func (l *life) tell(lines []byte) {
	if err := l.out.Later(lines); err != nil {
		l.broken(err)
		return
	}
	if l.out.Pending() >= fullBatch {
		_ = l.send(nil) // it has ended the life, if it failed
		return
	}
	l.hold(time.Now(), lateTime)
}

// ask sends lines whose answer a session waits for, behind those held back. Where there
// are many sessions, they wait for each other a little: what costs is that a process
// wakes up, not what it does with a line more.
func (l *life) ask(lines []byte) error {
	now := time.Now()
	l.heldMu.Lock()
	wait := crowdTime - now.Sub(l.wrote)
	l.heldMu.Unlock()
	if wait <= 0 || l.p.stats.sessions.Load() < crowd {
		return l.send(lines)
	}
	if err := l.out.Later(lines); err != nil {
		l.broken(err)
		return err
	}
	l.hold(now, wait)
	return nil
}

// hold has what is held back sent within wait.
func (l *life) hold(now time.Time, wait time.Duration) {
	due := now.Add(wait)
	l.heldMu.Lock()
	defer l.heldMu.Unlock()
	switch {
	case l.flush == nil:
		l.flush = time.AfterFunc(wait, l.overdue)
	case l.due.IsZero() || due.Before(l.due):
		l.flush.Reset(wait)
	default:
		return
	}
	l.due = due
}

// overdue sends what was held back, unless it has gone out already.
func (l *life) overdue() {
	l.heldMu.Lock()
	gone := l.due.IsZero()
	l.heldMu.Unlock()
	if !gone {
		_ = l.send(nil) // it has ended the life, if it failed
	}
}

// send sends lines now, behind those held back.
func (l *life) send(lines []byte) error {
	l.heldMu.Lock()
	l.wrote, l.due = time.Now(), time.Time{}
	l.heldMu.Unlock()
	err := l.out.Send(lines)
	if err != nil {
		l.broken(err)
	}
	return err
}

// farewell sends what was held back, before the end, unless that takes long.
func (l *life) farewell() {
	sent := make(chan struct{})
	go func() { // ends with the pipe
		defer close(sent)
		_ = l.out.Flush() // there is nobody left to tell
	}()
	select {
	case <-sent:
	case <-time.After(500 * time.Millisecond):
	}
}

// broken ends the life after a failed write.
func (l *life) broken(err error) { l.end(fmt.Errorf("write: %w", err)) }

// newToken returns the token of a question. No program can answer one that it has not
// been asked.
func (l *life) newToken() uint64 {
	l.asked.Add(1)
	for {
		if token := rand.Uint64(); token != 0 {
			return token
		}
	}
}

// join makes a session known. It returns false when the life has ended.
func (l *life) join(id uint64, m *member) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended() {
		return false
	}
	l.sessions[id] = m
	l.p.stats.sessions.Add(1)
	return true
}

// leave forgets a session.
func (l *life) leave(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, id)
	l.p.stats.sessions.Add(-1)
}

// reading is what the reader of a life needs to know.
type reading struct {
	*life
	ctx   context.Context
	last  *member // whose line came last
	dirty *stage  // has lines that its reader may not know of
}

// release lets the one stage that was given lines go on.
func (r *reading) release() {
	if r.dirty != nil {
		r.dirty.wake()
		r.dirty = nil
	}
}

// take obeys a line.
func (r *reading) take(line []byte) error {
	m, err := wire.ParseToDaemon(line)
	if err != nil {
		return err
	}
	switch m.Kind {
	case wire.KindDataLine:
		return r.dataLine(&m, line)
	case wire.KindResult:
		return r.result(&m, line)
	case wire.KindReport:
		return r.remark(&m, line)
	case wire.KindDNS:
		return r.question(&m, line)
	}
	return nonsense("registration after register|ready", line)
}

// session returns a session's member, nil when there is no such session: it may have
// ended while the line was on its way.
func (r *reading) session(id uint64) *member {
	if r.last == nil || r.last.s.id != id {
		r.last = r.sessions[id]
	}
	return r.last
}

// stray counts an answer that nobody waits for, or not any more: its session may have
// gone. There are never more such verdicts than questions.
func (r *reading) stray(d *wire.ToDaemon, line []byte) error {
	err := nonsense("answer to no question", line)
	if d.Kind == wire.KindResult {
		if r.unknown++; int64(r.unknown) > r.asked.Load()+maxNonsense {
			return errBabble
		}
	}
	r.p.stats.nonsense.Add(1)
	if r.strays++; r.strays <= maxComplaint {
		r.p.Warnf("filter process %s: %v", r.p.Name, err)
	}
	return nil
}

// dataLine takes a line of a message.
func (r *reading) dataLine(d *wire.ToDaemon, line []byte) error {
	r.mu.Lock()
	m := r.session(d.Session)
	var st *stage
	stale := false
	if m != nil {
		if m.stage != nil && m.stage.token == d.Token {
			st = m.stage
		}
		stale = m.stale == d.Token
	}
	r.mu.Unlock()
	if st == nil {
		if !stale {
			return r.stray(d, line)
		}
		return nil
	}
	if st != r.dirty {
		r.release()
		r.dirty = st
	}
	if !st.put(d.Text) {
		return nonsense("line behind the end of a message", line)
	}
	return nil
}

// result takes a verdict.
func (r *reading) result(d *wire.ToDaemon, line []byte) error {
	r.mu.Lock()
	m := r.sessions[d.Session]
	expected := m != nil && m.token == d.Token
	stale := m != nil && m.stale == d.Token
	if expected {
		m.stale, m.token = m.token, 0
		m.answer <- answer{d.Verdict, string(d.Text)} // has room: one is asked for at a time
	}
	r.mu.Unlock()
	if !expected && !stale {
		return r.stray(d, line)
	}
	return nil
}

// remark takes what a filter reports by itself. The session passes it on.
func (r *reading) remark(d *wire.ToDaemon, line []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.sessions[d.Session]; m != nil && len(m.remarks) < maxRemarks {
		m.remarks = append(m.remarks, string(d.Text))
		m.remarked.Store(true)
	}
	return nil
}
