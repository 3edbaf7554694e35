package imsg

import (
	"context"
	"runtime"
	"sync"
)

const (
	// inlineRounds is how many writes a caller makes on behalf of all before it
	// leaves the rest to a goroutine and goes on with its own work.
	inlineRounds = 4
	// keepBuffer is how large a buffer may be to be kept for reuse, in bytes.
	keepBuffer = 256 << 10
)

// outbox is what waits to be written. Whoever adds to it while nobody is
// writing writes everything that is waiting, with attempts that do not block;
// what the socket does not take is left to a goroutine.
type outbox struct {
	mu      sync.Mutex
	buf     []byte         // frames not yet taken by the writer; guarded by mu
	marks   []outMark      // descriptors of buf; guarded by mu
	writing bool           // somebody is the writer; guarded by mu
	dead    bool           // nothing more is written; guarded by mu
	flusher sync.WaitGroup // the goroutine; Add under mu while not dead

	cur   batch  // the writer's own
	spare []byte // the writer's own
}

// outMark says that fds go with the byte at off.
type outMark struct {
	off int
	fds []int
}

type batch struct {
	buf   []byte
	marks []outMark
	n     int // bytes written
}

// push queues one frame, for which the caller has room, and sees to its being
// written. It takes over fds.
func (c *Conn) push(h header, payload []byte, fds []int) error {
	o := &c.out
	o.mu.Lock()
	if o.dead {
		o.mu.Unlock()
		closeFDs(fds)
		c.room.release(headerSize + len(payload))
		return errDone
	}
	if len(fds) > 0 {
		o.marks = append(o.marks, outMark{len(o.buf), fds})
	}
	o.buf = append(h.append(o.buf), payload...)
	if o.writing {
		o.mu.Unlock()
		return nil
	}
	o.writing = true
	o.mu.Unlock()

	if c.active.Load() > 1 {
		// Others are about to send as well: let them join this write.
		runtime.Gosched()
	}
	for range inlineRounds {
		if !c.nextBatch() {
			return nil
		}
		if !c.writeBatch(false) {
			break
		}
	}
	c.startFlusher()
	return nil
}

// nextBatch makes everything that waits the current batch, or gives up being
// the writer when there is nothing.
func (c *Conn) nextBatch() bool {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 || o.dead {
		o.writing = false
		return false
	}
	o.cur = batch{buf: o.buf, marks: o.marks}
	o.buf, o.marks, o.spare = o.spare[:0], nil, nil
	return true
}

// writeBatch writes the current batch and reports whether it is through with
// it, be it because the stream is broken.
func (c *Conn) writeBatch(wait bool) bool {
	b := &c.out.cur
	for b.n < len(b.buf) {
		end := len(b.buf)
		var fds []int
		if len(b.marks) > 0 {
			if b.marks[0].off == b.n {
				fds = b.marks[0].fds
				if len(b.marks) > 1 {
					end = b.marks[1].off
				}
			} else {
				end = b.marks[0].off
			}
		}
		size := end - b.n
		n, err := c.t.write(b.buf[b.n:end], fds, wait)
		if n > 0 {
			if fds != nil {
				b.marks = b.marks[1:]
			}
			b.n += n
			c.room.release(n)
		}
		if err != nil {
			c.writeFailed(err)
			return true
		}
		if n < size && !wait {
			return false
		}
	}
	if cap(b.buf) <= keepBuffer {
		c.out.spare = b.buf
	}
	*b = batch{}
	return true
}

// startFlusher hands the office of writer to a goroutine. It ends when nothing
// is left to be written or the stream is broken; Serve waits for it.
func (c *Conn) startFlusher() {
	o := &c.out
	o.mu.Lock()
	if o.dead {
		o.writing = false
		o.mu.Unlock()
		c.dropBatch()
		return
	}
	o.flusher.Add(1)
	o.mu.Unlock()
	go func() {
		defer o.flusher.Done()
		for c.writeBatch(true) && c.nextBatch() {
		}
	}()
}

// writeFailed ends sending. What the peer sent before is still read: the reader
// comes to the end of the stream, or to its patience, and ends the Conn.
func (c *Conn) writeFailed(err error) {
	c.mu.Lock()
	if c.writeErr == nil {
		c.writeErr = err
	}
	c.mu.Unlock()
	c.stopWriting()
	c.dropBatch()
	c.t.hurry()
}

// stopWriting drops what no writer has taken yet.
func (c *Conn) stopWriting() {
	o := &c.out
	o.mu.Lock()
	o.dead = true
	n, marks := len(o.buf), o.marks
	o.buf, o.marks = nil, nil
	o.mu.Unlock()
	for _, m := range marks {
		closeFDs(m.fds)
	}
	c.room.release(n)
}

// dropBatch drops the rest of the current batch. Only the writer may call it.
func (c *Conn) dropBatch() {
	b := &c.out.cur
	for _, m := range b.marks {
		closeFDs(m.fds)
	}
	c.room.release(len(b.buf) - b.n)
	*b = batch{}
}

// transmit sends a message in as many frames as it takes. It takes over fds.
// After an error the peer got nothing, or a part that was revoked.
func (c *Conn) transmit(ctx context.Context, h header, payload []byte, fds []int) error {
	if len(payload) > maxPayload {
		if err := c.large.acquire(ctx, c.done, 1); err != nil {
			closeFDs(fds)
			return err
		}
		defer c.large.release(1)
	}
	h.flags |= uint16(len(fds)) << fileShift
	begun := false
	for {
		part := payload[:min(len(payload), maxPayload)]
		payload = payload[len(part):]
		if err := c.room.acquire(ctx, c.done, headerSize+len(part)); err != nil {
			closeFDs(fds)
			if begun && h.flags&flagReply == 0 {
				// Before large is released, as the peer counts too.
				c.cancelCall(h.id)
			}
			return err
		}
		f := h
		f.length = uint32(len(part))
		if len(payload) > 0 {
			f.flags |= flagMore
		}
		if err := c.push(f, part, fds); err != nil {
			return err
		}
		if len(payload) == 0 {
			return nil
		}
		begun, fds = true, nil
		h.flags &^= fileMask
	}
}
