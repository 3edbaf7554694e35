package proc

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// linkWait is how long a call waits for a peer that is being started again.
const linkWait = 5 * time.Second

// Links are a process's connections to the others. A peer that dies is replaced
// when the parent has started it again; calls made meanwhile wait a little.
type Links struct {
	mu      sync.Mutex
	conns   map[proto.Role]*imsg.Conn
	changed chan struct{} // closed and replaced at each change
	closed  bool
}

// NewLinks returns an empty set.
func NewLinks() *Links {
	return &Links{conns: map[proto.Role]*imsg.Conn{}, changed: make(chan struct{})}
}

// Set makes c the link to a peer and closes the one there was.
func (l *Links) Set(peer proto.Role, c *imsg.Conn) {
	l.mu.Lock()
	old := l.conns[peer]
	if l.closed {
		old = c
	} else {
		l.conns[peer] = c
		close(l.changed)
		l.changed = make(chan struct{})
	}
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// drop forgets a link that has ended, unless another one has taken its place.
func (l *Links) drop(peer proto.Role, c *imsg.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[peer] == c {
		delete(l.conns, peer)
	}
}

// Close closes all links.
func (l *Links) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.changed)
	}
	conns := l.conns
	l.conns = map[proto.Role]*imsg.Conn{}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// live returns the link to a peer, if there is one that has not ended. changed is
// closed at the next change.
func (l *Links) live(peer proto.Role) (c *imsg.Conn, changed chan struct{}, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c = l.conns[peer]
	if c != nil {
		select {
		case <-c.Done(): // its last handlers may take their time
			delete(l.conns, peer)
			c = nil
		default:
		}
	}
	return c, l.changed, l.closed
}

// Conn returns the link to a peer, waiting up to 5 s for one to be there.
func (l *Links) Conn(ctx context.Context, peer proto.Role) (*imsg.Conn, error) {
	c, changed, closed := l.live(peer)
	if c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	for !closed {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", peer, imsg.ErrPeerGone)
		case <-changed:
		}
		if c, changed, closed = l.live(peer); c != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", peer, imsg.ErrPeerGone)
}

// Call calls a peer.
func Call[Req, Rep any](ctx context.Context, l *Links, peer proto.Role, m imsg.Method[Req, Rep], req Req, files ...*os.File) (Rep, []*os.File, error) {
	c, err := l.Conn(ctx, peer)
	if err != nil {
		var zero Rep
		return zero, nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	return m.Call(ctx, c, req, files...)
}

// Ask is Call for calls that pass no descriptors.
func Ask[Req, Rep any](ctx context.Context, l *Links, peer proto.Role, m imsg.Method[Req, Rep], req Req) (Rep, error) {
	rep, files, err := Call(ctx, l, peer, m, req)
	closeAll(files)
	return rep, err
}

// Handler adapts a function without descriptors to imsg's handlers; surplus
// descriptors are closed.
func Handler[Req, Rep any](f func(context.Context, Req) (Rep, error)) func(context.Context, Req, []*os.File) (Rep, []*os.File, error) {
	return func(ctx context.Context, req Req, files []*os.File) (Rep, []*os.File, error) {
		closeAll(files)
		rep, err := f(ctx, req)
		return rep, nil, err
	}
}
