package imsg

import (
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
)

const (
	smallRead = 8 << 10                       // bytes of the buffer at first
	largeRead = 2 * (headerSize + maxPayload) // bytes it may grow to
	firstPart = 5 * maxPayload                // bytes set aside for a message of several frames
)

// reader is the receiving side of a Conn; it belongs to Serve's goroutine.
type reader struct {
	c       *Conn
	ctx     context.Context // what the contexts of handlers descend from
	buf     []byte
	start   int // of what is not yet consumed in buf
	end     int
	fds     []int // received, not yet claimed by a frame
	partial map[partKey]*part
	oneWay  chan message // to the goroutine that handles them in order
}

type partKey struct {
	id    uint64
	reply bool
}

// part is a message of which the last frame is missing.
type part struct {
	first header
	max   int // bytes
	data  []byte
	fds   []int
}

// message is a decoded request.
type message struct {
	e      *entry
	method uint16
	id     uint64
	req    any
	files  []*os.File
}

func newReader(c *Conn, ctx context.Context) *reader {
	return &reader{
		c: c, ctx: ctx,
		buf:     make([]byte, smallRead),
		partial: map[partKey]*part{},
		oneWay:  make(chan message, maxOneWay),
	}
}

// run reads and dispatches until an error, which it returns.
func (r *reader) run() error {
	for {
		r.makeRoom()
		n, fds, err := r.c.t.read(r.buf[r.end:])
		r.fds = append(r.fds, fds...)
		r.end += n
		switch {
		case err == io.EOF && r.end > r.start:
			return fmt.Errorf("%w in the middle of a frame", ErrPeerGone)
		case err == io.EOF:
			return ErrPeerGone
		case err != nil:
			return err
		}
		if err := r.frames(); err != nil {
			return err
		}
	}
}

// makeRoom moves what is left to the front of the buffer, which grows when the
// last read filled it.
func (r *reader) makeRoom() {
	full := r.end == len(r.buf)
	rest := r.buf[r.start:r.end]
	if full && len(r.buf) < largeRead {
		r.buf = make([]byte, min(2*len(r.buf), largeRead))
	}
	r.end = copy(r.buf, rest)
	r.start = 0
}

// frames consumes the complete frames in the buffer.
func (r *reader) frames() error {
	for r.end-r.start >= headerSize {
		h, err := parseHeader(r.buf[r.start:])
		if err != nil {
			return err
		}
		at := r.start + headerSize
		if r.end-at < int(h.length) {
			break
		}
		r.start = at + int(h.length)
		if err := r.frame(h, r.buf[at:r.start]); err != nil {
			return err
		}
	}
	// Descriptors come with the first byte of the frame that counts them.
	if n := len(r.fds); n > MaxFiles || n > 0 && r.start == r.end {
		return violation("%d descriptors that no frame counts", n)
	}
	return nil
}

// frame takes one frame. b is valid until it returns.
func (r *reader) frame(h header, b []byte) error {
	if h.flags&flagCancel != 0 {
		r.cancel(h.id)
		return nil
	}
	n := h.files()
	if n > len(r.fds) {
		return violation("%d descriptors counted, %d received", n, len(r.fds))
	}
	key := partKey{h.id, h.flags&flagReply != 0}
	p := r.partial[key]
	if p == nil {
		limit, err := r.limit(h)
		if err != nil {
			return err
		}
		p = &part{first: h, max: limit}
		if len(b) > limit {
			return violation("message of method %d exceeds %d bytes", h.method, limit)
		}
		if h.flags&flagMore != 0 {
			if len(r.partial) >= maxLarge {
				return violation("more than %d unfinished messages", maxLarge)
			}
			p.data = make([]byte, 0, min(firstPart, limit))
			r.partial[key] = p
		}
		p.fds = r.fds[:n:n]
		r.fds = r.fds[n:]
	} else if h.method != p.first.method || h.flags|flagMore != p.first.flags&^fileMask {
		return violation("frame does not continue message %d", h.id)
	} else if len(p.data)+len(b) > p.max {
		return violation("message of method %d exceeds %d bytes", h.method, p.max)
	}
	switch {
	case h.flags&flagMore != 0:
		p.data = append(p.data, b...)
		return nil
	case p.data != nil:
		delete(r.partial, key)
		return r.deliver(h, append(p.data, b...), true, p.fds)
	}
	return r.deliver(h, b, false, p.fds)
}

// limit returns the bound for the message that h begins.
func (r *reader) limit(h header) (int, error) {
	if h.flags&flagReply == 0 {
		e := r.c.mux.entries[h.method]
		if e == nil {
			return 0, violation("unknown method %d", h.method)
		}
		return e.maxReq, nil
	}
	r.c.mu.Lock()
	k := r.c.calls[h.id]
	ended := r.c.calls == nil
	r.c.mu.Unlock()
	switch {
	case ended:
		return 0, errDone
	case k == nil:
		return 0, violation("reply to %d, which was not called", h.id)
	case k.method != h.method:
		return 0, violation("reply of method %d to a call of %d", h.method, k.method)
	case h.flags&flagError != 0:
		return maxPayload, nil
	}
	return k.max, nil
}

// deliver takes a whole message and owns fds. With owned, values may share b.
func (r *reader) deliver(h header, b []byte, owned bool, fds []int) error {
	if h.flags&flagReply != 0 {
		return r.deliverReply(h, b, owned, newFiles(fds))
	}
	e := r.c.mux.entries[h.method]
	req, v := e.make()
	if err := e.req.decode(b, v, owned); err != nil {
		closeFDs(fds)
		return violation("request of %s: %v", e.name, err)
	}
	m := message{e, h.method, h.id, req, newFiles(fds)}
	if h.flags&flagOneWay != 0 {
		select {
		case r.oneWay <- m:
			return nil
		case <-r.c.done:
			closeFiles(m.files)
			return errDone
		}
	}
	return r.startHandler(m)
}

// startHandler starts the handler of one request, when there are not too many.
func (r *reader) startHandler(m message) error {
	c := r.c
	if err := c.handlers.acquire(context.Background(), c.done, 1); err != nil {
		closeFiles(m.files)
		return err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	f := &flight{cancel: cancel}
	c.mu.Lock()
	twice := c.flights[m.id] != nil
	if !twice {
		c.flights[m.id] = f
	}
	c.mu.Unlock()
	if twice {
		cancel()
		c.handlers.release(1)
		closeFiles(m.files)
		return violation("request %d sent twice", m.id)
	}
	c.active.Add(1)
	c.handling.Add(1)
	w := work{ctx, f, m}
	select {
	case c.work <- w: // a goroutine whose stack has grown already
	default:
		go c.handleAll(w) // Serve waits for it
	}
	return nil
}

func (r *reader) deliverReply(h header, b []byte, owned bool, files []*os.File) error {
	c := r.c
	c.mu.Lock()
	k := c.calls[h.id]
	abandoned := k != nil && k.abandoned
	delete(c.calls, h.id)
	c.mu.Unlock()
	if k == nil { // limit found it, so the Conn has ended since
		closeFiles(files)
		return errDone
	}
	c.slots.release(1)
	if abandoned {
		closeFiles(files)
		return nil
	}
	defer close(k.done)
	var err error
	if h.flags&flagError != 0 {
		e := new(RemoteError)
		v := reflect.ValueOf(e).Elem()
		err = planOf(v.Type()).decode(b, v, owned)
		k.err = e
	} else {
		err = k.plan.decode(b, k.rep, owned)
		k.files = files
	}
	if err != nil {
		closeFiles(files)
		k.files = nil
		err = violation("reply of method %d: %v", h.method, err)
		k.err = fmt.Errorf("%w: %w", ErrPeerGone, err)
	}
	return err
}

// cancel ends the context of a handler, or forgets a message that will not be
// finished. Neither need exist: the reply may be on its way.
func (r *reader) cancel(id uint64) {
	key := partKey{id, false}
	if p := r.partial[key]; p != nil {
		delete(r.partial, key)
		closeFDs(p.fds)
		return
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if f := r.c.flights[id]; f != nil {
		f.dropped = true
		f.cancel()
	}
}

// discard closes the descriptors that nobody got.
func (r *reader) discard() {
	closeFDs(r.fds)
	for _, p := range r.partial {
		closeFDs(p.fds)
	}
}
