package server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Sizes of the buffers of a session, in bytes.
const (
	readSize   = 8 << 10
	maxPending = 16 << 10 // replies held back while commands are still buffered
)

// Bounds of lines, in bytes without their end.
const (
	maxCommand = 2048
	maxAuth    = 4096
)

// errLineTooLong ends a session: where the line ends is not known.
var errLineTooLong = errors.New("line too long")

// buffered is the connection with its two buffers. Replies collect in out and are
// sent in one write when there is nothing left to read in buf (RFC 2920 section
// 3.2), since only then can the client be waiting for them.
type buffered struct {
	raw     net.Conn
	conn    net.Conn // raw, or TLS over it
	buf     []byte
	r, w    int // buf[r:w] was received and is not yet used
	out     []byte
	timeout time.Duration
	stuck   bool // a write failed, nothing more can be said

	mu       sync.Mutex
	idle     bool // waiting for a command outside of a transaction
	draining bool
}

// buffered returns the number of received bytes that are not yet used.
func (w *buffered) buffered() int { return w.w - w.r }

// line returns the next command line without its end, and whether that end was a
// bare LF. The line is valid until the next read. The deadline holds for all of
// it, however slowly it comes.
func (w *buffered) line(most int) (line []byte, bare bool, err error) {
	waited := false
	for {
		line, bare, ok := w.peekLine()
		switch {
		case ok && len(line) <= most:
			w.skipLine()
			return line, bare, nil
		case ok || w.buffered() > most+1: // more than a line and its CR
			return nil, false, errLineTooLong
		case !waited:
			if err := w.flush(); err != nil {
				return nil, false, err
			}
			if err := w.setReadDeadline(time.Now().Add(w.timeout)); err != nil {
				return nil, false, err
			}
			waited = true
		}
		if err := w.fill(); err != nil {
			return nil, false, err
		}
	}
}

// peekLine returns the next line if all of it has arrived.
func (w *buffered) peekLine() (line []byte, bare, ok bool) {
	n := bytes.IndexByte(w.buf[w.r:w.w], '\n')
	if n < 0 {
		return nil, false, false
	}
	line = w.buf[w.r : w.r+n]
	if n > 0 && line[n-1] == '\r' {
		return line[:n-1], false, true
	}
	return line, true, true
}

// skipLine uses up the line that peekLine returned.
func (w *buffered) skipLine() { w.r += bytes.IndexByte(w.buf[w.r:w.w], '\n') + 1 }

// chunk returns what has arrived, up to most bytes, waiting until deadline for at
// least one. It is valid until the next read.
func (w *buffered) chunk(most int64, deadline func() time.Time) ([]byte, error) {
	if w.buffered() == 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
		if err := w.setReadDeadline(deadline()); err != nil {
			return nil, err
		}
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
	n := int(min(int64(w.buffered()), most))
	p := w.buf[w.r : w.r+n]
	w.r += n
	return p, nil
}

// fill reads once from the connection. It returns nil when that gave anything.
func (w *buffered) fill() error {
	if w.r == w.w {
		w.r, w.w = 0, 0
	} else if w.w == len(w.buf) {
		w.w = copy(w.buf, w.buf[w.r:w.w])
		w.r = 0
	}
	n, err := w.conn.Read(w.buf[w.w:])
	if w.w += n; n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// flush sends the replies collected so far.
func (w *buffered) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	_, err := w.conn.Write(w.out)
	w.stuck = err != nil
	if w.out = w.out[:0]; cap(w.out) > maxPending {
		w.out = nil
	}
	return err
}

// hangUp ends the sending side. If linger is set it also reads away what the peer
// was still sending: closing over unread input would reset the connection, and
// the peer might never see our last reply.
func (w *buffered) hangUp(linger bool) {
	const patience, most = time.Second, 1 << 20
	if t, ok := w.conn.(*tls.Conn); ok {
		_ = t.CloseWrite() // a courtesy, as is all that follows
	}
	c, ok := w.raw.(interface{ CloseWrite() error })
	if !linger || !ok || c.CloseWrite() != nil || w.raw.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	for n := 0; n < most; {
		got, err := w.raw.Read(w.buf)
		if n += got; err != nil {
			return
		}
	}
}

// rest notes whether the session is idle while it waits for the next command. It
// returns false when the session shall end instead.
func (w *buffered) rest(idle bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = idle
	return !idle || !w.draining
}

// wake notes that a command has come.
func (w *buffered) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = false
}

// setReadDeadline bounds the next reads, to nothing when the session shall end.
func (w *buffered) setReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle && w.draining {
		t = time.Unix(1, 0)
	}
	return w.raw.SetReadDeadline(t)
}

// drain makes the session end as soon as it is outside of a transaction. It may
// be called from any goroutine.
func (w *buffered) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
	if w.idle {
		_ = w.raw.SetReadDeadline(time.Unix(1, 0)) // fails on a closed connection only
	}
}

// drained tells whether drain was called.
func (w *buffered) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining
}
