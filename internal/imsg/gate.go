package imsg

import (
	"container/list"
	"context"
	"sync"
)

// gate is a counting semaphore that serves its waiters in order, and whose
// waits end with a context or with the connection.
type gate struct {
	mu      sync.Mutex
	free    int       // may be negative after take; guarded by mu
	waiters list.List // of *waiter; guarded by mu
}

type waiter struct {
	n     int
	ready chan struct{} // closed when n was granted
}

// acquire waits for n units. It returns ctx.Err() or errDone when ctx or done
// ends first; then it holds nothing.
func (g *gate) acquire(ctx context.Context, done <-chan struct{}, n int) error {
	g.mu.Lock()
	if g.free >= n && g.waiters.Len() == 0 {
		g.free -= n
		g.mu.Unlock()
		return nil
	}
	w := &waiter{n, make(chan struct{})}
	at := g.waiters.PushBack(w)
	g.mu.Unlock()

	var err error
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-done:
		err = errDone
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.ready: // granted meanwhile: give it back
		g.free += n
	default:
		g.waiters.Remove(at)
	}
	g.grant()
	return err
}

// take uses n units without waiting, into debt if need be.
func (g *gate) take(n int) {
	g.mu.Lock()
	g.free -= n
	g.mu.Unlock()
}

// release gives n units back.
func (g *gate) release(n int) {
	g.mu.Lock()
	g.free += n
	g.grant()
	g.mu.Unlock()
}

// grant wakes those in front that can be served. mu is held.
func (g *gate) grant() {
	for e := g.waiters.Front(); e != nil; e = g.waiters.Front() {
		w := e.Value.(*waiter)
		if g.free < w.n {
			return
		}
		g.free -= w.n
		g.waiters.Remove(e)
		close(w.ready)
	}
}
