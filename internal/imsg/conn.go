package imsg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the bounds of a Conn; zero fields stand for the defaults. Both
// ends should use the same.
type Options struct {
	MaxCalls  int           // outstanding calls in each direction, default 4096
	MaxQueued int           // bytes waiting to be written, default 4 MiB, at least 128 KiB
	Linger    time.Duration // how long Close waits for replies to go out, default 1 s
}

const (
	// maxLarge bounds the partly sent messages of several frames in each
	// direction.
	maxLarge = 16
	// maxOneWay bounds the one-way messages that wait for their handler; when
	// they are more, reading stops.
	maxOneWay = 256
	// keepScratch is how large an encoding buffer may be to be kept, in bytes.
	keepScratch = 1 << 20
	// maxIdle bounds the goroutines that wait for requests to handle.
	maxIdle = 64
)

// Conn is one end of a connection between two processes. Its methods, and calls
// over it, may be used concurrently.
type Conn struct {
	t        transport
	mux      *Mux
	o        Options
	slots    gate         // calls of this end
	handlers gate         // calls of the peer
	large    gate         // messages of several frames being sent
	room     gate         // bytes queued
	active   atomic.Int64 // calls and handlers in progress
	scratch  sync.Pool    // of *[]byte, for encoding
	out      outbox
	done     chan struct{} // closed when err is set
	handling sync.WaitGroup
	work     chan work    // to handlers that wait for more
	idle     atomic.Int64 // handlers that wait

	mu       sync.Mutex
	nextID   uint64             // guarded by mu, like the rest
	calls    map[uint64]*call   // waiting for replies, abandoned ones too
	flights  map[uint64]*flight // requests being handled
	closing  bool               // no new calls
	serving  bool
	cancel   context.CancelFunc // of all handlers; nil before Serve
	err      error              // why the Conn ended
	writeErr error              // why sending ended
}

// call is a call of this end.
type call struct {
	method    uint16
	max       int
	plan      *plan
	rep       reflect.Value // filled in before done is closed
	files     []*os.File    // likewise
	err       error         // likewise
	done      chan struct{}
	abandoned bool // nobody waits any more; guarded by Conn.mu
}

// flight is a call of the peer that is being handled.
type flight struct {
	cancel  context.CancelFunc
	dropped bool // the caller does not want the reply; guarded by Conn.mu
}

type connKey struct{}

// ConnOf returns the Conn on which the request arrived that a handler was given
// ctx for, and nil for any other ctx.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// New makes a Conn of a unix stream socket, which it owns from then on unless it
// returns an error. mux may be nil when no calls are expected. Nothing is
// received until Serve runs.
func New(uc *net.UnixConn, mux *Mux, o Options) (*Conn, error) {
	s, err := newSocket(uc)
	if err != nil {
		return nil, err
	}
	return newConn(s, mux, o), nil
}

func newConn(t transport, mux *Mux, o Options) *Conn {
	if mux == nil {
		mux = NewMux()
	}
	if o.MaxCalls <= 0 {
		o.MaxCalls = 4096
	}
	if o.MaxQueued <= 0 {
		o.MaxQueued = 4 << 20
	}
	o.MaxQueued = max(o.MaxQueued, 128<<10)
	if o.Linger <= 0 {
		o.Linger = time.Second
	}
	c := &Conn{
		t: t, mux: mux, o: o,
		done:    make(chan struct{}),
		work:    make(chan work),
		calls:   map[uint64]*call{},
		flights: map[uint64]*flight{},
	}
	c.slots.free = o.MaxCalls
	c.handlers.free = o.MaxCalls
	c.large.free = maxLarge
	c.room.free = o.MaxQueued
	return c
}

// Serve receives until the peer is gone or breaks the protocol, ctx ends (as
// with Close) or Close is called. The contexts of handlers descend from ctx. It
// must be called once, and returns Err() after every handler has returned.
func (c *Conn) Serve(ctx context.Context) error {
	ctx = context.WithValue(ctx, connKey{}, c)
	base, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	if c.serving {
		panic("imsg: Serve called twice")
	}
	c.serving, c.cancel = true, cancel
	c.mu.Unlock()

	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		c.Close()
	})
	r := newReader(c, base)
	drained := make(chan struct{})
	go func() { // ends when oneWay is closed, below
		defer close(drained)
		for m := range r.oneWay {
			_, out, _ := m.e.run(ctx, m.req, m.files)
			closeFiles(out)
		}
	}()
	err := r.run()
	r.discard()
	c.end(c.cause(err))
	close(r.oneWay)
	<-drained
	c.handling.Wait()
	c.out.flusher.Wait()
	if !stop() {
		<-closed
	}
	return c.Err()
}

// Close cancels the handlers' contexts, waits up to Options.Linger for the
// handlers to return and for everything queued to be written, and ends the
// Conn. Called from a handler of the same Conn it waits in vain. Messages that
// wait to be written are lost if the peer does not take them in time.
func (c *Conn) Close() {
	c.mu.Lock()
	c.closing = true
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	ctx, stop := context.WithTimeout(context.Background(), c.o.Linger)
	defer stop()
	// All handlers' slots are free when no handler runs, and all room is when
	// nothing is queued. An error means there is nothing left to wait for.
	if c.handlers.acquire(ctx, c.done, c.o.MaxCalls) == nil {
		_ = c.room.acquire(ctx, c.done, c.o.MaxQueued)
	}
	c.end(ErrClosed)
}

// Done is closed when the Conn has ended: no call succeeds any more. Handlers
// may still be running until Serve returns.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the Conn ended, and nil before: an error wrapping ErrPeerGone,
// ErrProtocol or ErrClosed.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// cause turns the error that ended reading into that of the Conn.
func (c *Conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, ErrProtocol) || errors.Is(err, ErrPeerGone):
		return err
	case c.writeErr != nil:
		return fmt.Errorf("%w: %w", ErrPeerGone, c.writeErr)
	}
	return fmt.Errorf("%w: %w", ErrPeerGone, err)
}

// end ends the Conn for the given reason, if nothing ended it before.
func (c *Conn) end(cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = cause
	c.closing = true
	calls, cancel := c.calls, c.cancel
	c.calls = nil
	c.mu.Unlock()
	close(c.done)
	c.stopWriting()
	c.t.close()
	gone := c.gone(errDone)
	for _, k := range calls {
		k.err = gone
		close(k.done)
	}
	if cancel != nil {
		cancel()
	}
}

// gone replaces errDone by what callers are told.
func (c *Conn) gone(err error) error {
	if err != errDone {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cause := c.err
	if cause == nil {
		cause = c.writeErr
	}
	switch {
	case cause == nil: // closing
		cause = ErrClosed
	case errors.Is(cause, ErrPeerGone):
		return cause
	}
	return fmt.Errorf("%w: %w", ErrPeerGone, cause)
}

// encode encodes v into a buffer to be given back with putScratch.
func (c *Conn) encode(p *plan, v reflect.Value, limit int) (*[]byte, error) {
	b, _ := c.scratch.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	var err error
	*b, err = p.encode((*b)[:0], v)
	if err == nil && len(*b) > limit {
		err = fmt.Errorf("%d bytes encoded, %d allowed: %w", len(*b), limit, ErrTooLarge)
	}
	if err != nil {
		c.putScratch(b)
		return nil, err
	}
	return b, nil
}

func (c *Conn) putScratch(b *[]byte) {
	if cap(*b) <= keepScratch {
		c.scratch.Put(b)
	}
}

// call does the work of Method.Call. When it returns nil, the result is in k.
func (c *Conn) call(ctx context.Context, k *call, limit int, p *plan, req reflect.Value, files []*os.File) error {
	payload, err := c.encode(p, req, limit)
	if err != nil {
		return err
	}
	defer c.putScratch(payload)
	fds, err := dupFiles(files)
	if err != nil {
		return err
	}
	id, err := c.register(ctx, k)
	if err != nil {
		closeFDs(fds)
		return err
	}
	c.active.Add(1)
	defer c.active.Add(-1)
	if err := c.transmit(ctx, header{method: k.method, id: id}, *payload, fds); err != nil {
		c.mu.Lock()
		_, waiting := c.calls[id]
		delete(c.calls, id)
		c.mu.Unlock()
		if waiting {
			c.slots.release(1)
		}
		return c.gone(err)
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if c.calls[id] == nil { // the result is there or about to be
		c.mu.Unlock()
		<-k.done
		return k.err
	}
	k.abandoned = true
	c.mu.Unlock()
	c.cancelCall(id)
	return ctx.Err()
}

// register waits for a slot and gives the call an id. The slot is released with
// the removal from c.calls.
func (c *Conn) register(ctx context.Context, k *call) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := c.slots.acquire(ctx, c.done, 1); err != nil {
		return 0, c.gone(err)
	}
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		c.slots.release(1)
		return 0, c.gone(errDone)
	}
	c.nextID++
	id := c.nextID
	c.calls[id] = k
	c.mu.Unlock()
	return id, nil
}

// cancelCall tells the peer that nobody waits for the reply to id, or that the
// rest of message id does not follow. It does not wait for room: there are no
// more of these small frames than calls.
func (c *Conn) cancelCall(id uint64) {
	c.room.take(headerSize)
	_ = c.push(header{flags: flagCancel, id: id}, nil, nil) // fails when the Conn has ended
}

// send does the work of Method.Send.
func (c *Conn) send(method uint16, limit int, p *plan, req reflect.Value) error {
	payload, err := c.encode(p, req, limit)
	if err != nil {
		return err
	}
	defer c.putScratch(payload)
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return c.gone(errDone)
	}
	c.nextID++
	id := c.nextID
	c.mu.Unlock()
	h := header{method: method, flags: flagOneWay, id: id}
	return c.gone(c.transmit(context.Background(), h, *payload, nil))
}

// handle runs the handler of one request and sends its reply.
// work is a request on its way to the goroutine that handles it.
type work struct {
	ctx context.Context
	f   *flight
	m   message
}

// handleAll handles a request, and then those that come while it waits for more:
// until the Conn ends, or at once when enough others wait.
func (c *Conn) handleAll(w work) {
	for {
		c.handle(w.ctx, w.f, w.m)
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case w = <-c.work:
			c.idle.Add(-1)
		case <-c.done:
			return
		}
	}
}

func (c *Conn) handle(ctx context.Context, f *flight, m message) {
	defer c.handling.Done()
	rep, out, err := m.e.run(ctx, m.req, m.files)
	c.mu.Lock()
	delete(c.flights, m.id)
	dropped := f.dropped
	c.mu.Unlock()
	f.cancel()
	if dropped {
		err = context.Canceled // nobody looks at it
	}
	c.reply(m, rep, out, err)
	c.active.Add(-1)
	c.handlers.release(1)
}

func (c *Conn) reply(m message, rep reflect.Value, out []*os.File, err error) {
	h := header{method: m.method, flags: flagReply, id: m.id}
	var payload *[]byte
	var fds []int
	if err == nil {
		payload, err = c.encode(m.e.rep, rep, m.e.maxRep)
	}
	if err == nil {
		fds, err = dupFiles(out)
	}
	closeFiles(out)
	if err != nil {
		h.flags |= flagError
		e := remoteError(err)
		v := reflect.ValueOf(&e).Elem()
		if payload, err = c.encode(planOf(v.Type()), v, maxPayload); err != nil {
			panic("imsg: " + err.Error()) // remoteError bounds it
		}
	}
	_ = c.transmit(context.Background(), h, *payload, fds) // fails when the Conn has ended
	c.putScratch(payload)
}
