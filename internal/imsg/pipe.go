package imsg

import (
	"io"
	"sync"
)

// pipeSize bounds the bytes on their way in one direction of a Pair.
const pipeSize = 256 << 10

// pipeEnd is the transport in memory. It waits on conditions only, so that it
// works under virtual time.
type pipeEnd struct {
	in, out *pipe
}

// pipe is one direction.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond // of any field below
	buf    []byte    // guarded by mu, like the rest
	start  int64     // stream position of buf[0]
	marks  []pipeMark
	closed bool // no more writes; a reader gets what is left
}

type pipeMark struct {
	at  int64 // stream position of the byte that fds travel with
	fds []int
}

func newPipe() *pipe {
	p := &pipe{}
	p.change.L = &p.mu
	return p
}

// Pair returns two connected Conns within one process, without sockets.
// Descriptors are handed over as duplicates. Serve must run for both. The
// options are the defaults.
func Pair(muxA, muxB *Mux) (a, b *Conn, err error) {
	ab, ba := newPipe(), newPipe()
	a = newConn(&pipeEnd{in: ba, out: ab}, muxA, Options{})
	b = newConn(&pipeEnd{in: ab, out: ba}, muxB, Options{})
	return a, b, nil
}

func (e *pipeEnd) write(b []byte, fds []int, wait bool) (n int, err error) {
	p := e.out
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) >= pipeSize && wait && !p.closed {
		p.change.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	n = min(len(b), pipeSize-len(p.buf))
	if n > 0 && len(fds) > 0 {
		p.marks = append(p.marks, pipeMark{p.start + int64(len(p.buf)), fds})
	}
	p.buf = append(p.buf, b[:n]...)
	p.change.Broadcast()
	return n, nil
}

func (e *pipeEnd) read(b []byte) (n int, fds []int, err error) {
	p := e.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && !p.closed {
		p.change.Wait()
	}
	if len(p.buf) == 0 {
		return 0, nil, io.EOF
	}
	// Like a socket, stop before the second byte that has descriptors.
	n = min(len(b), len(p.buf))
	if len(p.marks) > 1 {
		n = min(n, int(p.marks[1].at-p.start))
	}
	if len(p.marks) > 0 && p.marks[0].at < p.start+int64(n) {
		fds = p.marks[0].fds
		p.marks = p.marks[1:]
	}
	copy(b, p.buf[:n])
	p.buf = p.buf[:copy(p.buf, p.buf[n:])]
	p.start += int64(n)
	p.change.Broadcast()
	return n, fds, nil
}

// hurry has nothing to do: a pipe whose writes fail has ended for the reader.
func (e *pipeEnd) hurry() {}

func (e *pipeEnd) close() {
	e.out.end(false)
	e.in.end(true)
}

// end ends one direction; with discard, what was not read is thrown away.
func (p *pipe) end(discard bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if discard {
		for _, m := range p.marks {
			closeFDs(m.fds)
		}
		p.buf, p.marks = nil, nil
	}
	p.change.Broadcast()
}
