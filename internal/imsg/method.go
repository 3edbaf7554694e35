package imsg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
)

const (
	// MaxFiles is how many descriptors one request or reply can carry.
	MaxFiles = 8

	// DefaultMaxSize is the bound of a method that states none, in bytes.
	DefaultMaxSize = maxPayload
	// largestMaxSize is the largest bound a method may state, in bytes.
	largestMaxSize = 16 << 20
)

var (
	// ErrPeerGone is what a call fails with when the Conn is or comes to an
	// end, whatever the reason; the reason is wrapped as well. Whether the peer
	// acted on the request is not known.
	ErrPeerGone = errors.New("peer is gone")
	// ErrClosed is the reason when this end closed the Conn.
	ErrClosed = errors.New("connection closed")
	// ErrProtocol is the reason when the peer broke the rules.
	ErrProtocol = errors.New("peer broke the protocol")
	// ErrTooLarge says that a request is larger than its method allows, or has
	// more than MaxFiles descriptors. Nothing was sent.
	ErrTooLarge = errors.New("too large")

	// errDone is what waits inside the package end with when the Conn does.
	errDone = errors.New("connection ended")
)

// RemoteError is an error that the peer's handler returned. Kind and Data come
// from its IMsgError method, if it has one:
//
//	IMsgError() (kind string, data []byte)
//
// Such an error is found by errors.As anywhere in the returned chain; Text is
// the text of the whole chain, cut after 4 KiB. Data beyond 32 KiB is dropped.
type RemoteError struct {
	Kind string // "" for an error without IMsgError
	Text string
	Data []byte
}

// Error returns Text.
func (e *RemoteError) Error() string { return e.Text }

// KindTooLarge is the Kind of the RemoteError that stands for a reply larger
// than its method allows.
const KindTooLarge = "imsg.too-large"

const (
	maxErrorKind = 256      // bytes
	maxErrorText = 4 << 10  // bytes
	maxErrorData = 32 << 10 // bytes
)

func remoteError(err error) RemoteError {
	e := RemoteError{Text: err.Error()}
	var typed interface {
		error
		IMsgError() (kind string, data []byte)
	}
	if errors.As(err, &typed) {
		e.Kind, e.Data = typed.IMsgError()
	} else if errors.Is(err, ErrTooLarge) {
		e.Kind = KindTooLarge
	}
	e.Kind = e.Kind[:min(len(e.Kind), maxErrorKind)]
	e.Text = e.Text[:min(len(e.Text), maxErrorText)]
	if len(e.Data) > maxErrorData {
		e.Data = nil
	}
	return e
}

// Method is a call, declared once and used by both ends. Its types are plain
// structs of what plan lists; Call and Handle panic on anything else, which is
// a mistake in the declaration.
type Method[Req, Rep any] struct {
	ID   uint16 // unique among the methods of a Mux
	Name string // for errors, such as "queue.Begin"
	// MaxSize bounds an encoded request or reply, in bytes; 0 stands for 64 KiB,
	// 16 MiB is the most.
	MaxSize int
	// MaxRequest bounds the request more tightly, for large replies to small
	// questions of untrusted peers; 0 stands for MaxSize.
	MaxRequest int
}

func (m Method[Req, Rep]) max() int {
	if m.MaxSize == 0 {
		return DefaultMaxSize
	}
	if m.MaxSize < 0 || m.MaxSize > largestMaxSize {
		panic(fmt.Sprintf("imsg: %s: MaxSize %d out of range", m.Name, m.MaxSize))
	}
	return m.MaxSize
}

func (m Method[Req, Rep]) maxRequest() int {
	if m.MaxRequest == 0 {
		return m.max()
	}
	if m.MaxRequest < 0 || m.MaxRequest > m.max() {
		panic(fmt.Sprintf("imsg: %s: MaxRequest %d out of range", m.Name, m.MaxRequest))
	}
	return m.MaxRequest
}

// Call sends req and waits for the reply. The caller keeps its files and may
// close them when Call returns; it owns the returned ones. The peer's handler
// shares offsets and flags with files.
//
// When ctx ends first, Call returns its error and the handler's context is
// cancelled; the deadline of ctx is not sent. Errors wrap ctx.Err(),
// ErrPeerGone or ErrTooLarge, or are a *RemoteError; except for the latter the
// text begins with the method's name.
func (m Method[Req, Rep]) Call(ctx context.Context, c *Conn, req Req, files ...*os.File) (Rep, []*os.File, error) {
	rep := new(Rep)
	k := &call{
		method: m.ID,
		max:    m.max(),
		plan:   planOf(reflect.TypeFor[Rep]()),
		rep:    reflect.ValueOf(rep).Elem(),
		done:   make(chan struct{}),
	}
	err := c.call(ctx, k, m.maxRequest(), planOf(reflect.TypeFor[Req]()), reflect.ValueOf(&req).Elem(), files)
	if err != nil {
		var none Rep // *rep may still be written to
		if _, ok := err.(*RemoteError); !ok {
			err = fmt.Errorf("%s: %w", m.Name, err)
		}
		return none, nil, err
	}
	return *rep, k.files, nil
}

// Send sends req one-way. It returns when the message is on its way or queued;
// it waits while the queue is full. One-way messages of a Conn are handled in
// the order of their Sends. There is no order between them and calls.
func (m Method[Req, Rep]) Send(c *Conn, req Req) error {
	err := c.send(m.ID, m.maxRequest(), planOf(reflect.TypeFor[Req]()), reflect.ValueOf(&req).Elem())
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return nil
}

// Handle registers f for the method. f is called concurrently for calls, and
// for one-way messages one at a time per Conn. It owns the files it receives;
// those it returns are sent and then closed, or only closed when it returns an
// error too. Byte slices in the request belong to it.
//
// ctx ends when the caller cancels or the Conn ends; ConnOf(ctx) is the Conn.
// For a one-way message ctx is that of Serve; its reply and error are dropped,
// and it must not wait for a call on the same Conn. A panic in f is not caught.
func (m Method[Req, Rep]) Handle(mux *Mux, f func(ctx context.Context, req Req, files []*os.File) (Rep, []*os.File, error)) {
	mux.add(m.ID, &entry{
		name:   m.Name,
		maxReq: m.maxRequest(),
		maxRep: m.max(),
		req:    planOf(reflect.TypeFor[Req]()),
		rep:    planOf(reflect.TypeFor[Rep]()),
		make: func() (any, reflect.Value) {
			req := new(Req)
			return req, reflect.ValueOf(req).Elem()
		},
		run: func(ctx context.Context, req any, files []*os.File) (reflect.Value, []*os.File, error) {
			rep, out, err := f(ctx, *req.(*Req), files)
			return reflect.ValueOf(&rep).Elem(), out, err
		},
	})
}

// Mux holds the handlers of one end. Register all before the first Conn uses
// it; several Conns may share it.
type Mux struct {
	entries map[uint16]*entry
}

// NewMux returns a Mux without handlers.
func NewMux() *Mux { return &Mux{entries: map[uint16]*entry{}} }

// entry is one registered handler, its types erased.
type entry struct {
	name   string
	maxReq int // bytes
	maxRep int // bytes
	req    *plan
	rep    *plan
	make   func() (req any, v reflect.Value)
	run    func(ctx context.Context, req any, files []*os.File) (rep reflect.Value, out []*os.File, err error)
}

func (m *Mux) add(id uint16, e *entry) {
	if old := m.entries[id]; old != nil {
		panic(fmt.Sprintf("imsg: method %d is both %s and %s", id, old.name, e.name))
	}
	m.entries[id] = e
}
