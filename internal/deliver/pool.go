package deliver

import (
	"container/list"
	"context"
	"time"
)

// pool keeps the live workers. It is guarded by the Deliverer's mutex.
type pool struct {
	max    int
	live   int
	bySpec map[Spec]*hired
	idle   list.List // *hired, the one that is idle longest first
}

// hired is a worker and who uses it.
type hired struct {
	spec      Spec          // the key of it
	started   chan struct{} // closed when worker or err is set
	worker    Worker
	err       error
	uses      int
	broken    bool
	place     *list.Element // in idle
	idleSince time.Time
}

func newPool(max int) pool { return pool{max: max, bySpec: map[Spec]*hired{}} }

// dead tells whether a worker ended on its own.
func (w *hired) dead() bool {
	select {
	case <-w.started:
	default:
		return false
	}
	if w.err != nil {
		return true
	}
	select {
	case <-w.worker.Done():
		return true
	default:
		return false
	}
}

// forget takes w out of the pool.
func (p *pool) forget(w *hired) {
	if p.bySpec[w.spec] == w {
		delete(p.bySpec, w.spec)
	}
	if w.place != nil {
		p.idle.Remove(w.place)
		w.place = nil
	}
	p.live--
}

// expired takes out the workers idle since before the given time, and tells since
// when the next one is idle, zero when there is none.
func (p *pool) expired(before time.Time) (old []*hired, next time.Time) {
	for p.idle.Len() > 0 {
		w := p.idle.Front().Value.(*hired)
		if w.idleSince.After(before) && !w.dead() {
			return old, w.idleSince
		}
		p.forget(w)
		old = append(old, w)
	}
	return old, time.Time{}
}

// drain takes out all idle workers.
func (p *pool) drain() (old []*hired) {
	for p.idle.Len() > 0 {
		w := p.idle.Front().Value.(*hired)
		p.forget(w)
		old = append(old, w)
	}
	return old
}

// retire closes workers that were taken out of the pool.
func (d *Deliverer) retire(old []*hired) {
	for _, w := range old {
		// Nothing is lost by a failure: the worker has answered all it was asked.
		_ = w.worker.Close()
	}
}

// hire returns the worker for s, starting it if there is none and ending the one
// that is idle longest if there are too many. An attempt uses one worker, so with
// MaxWorkers >= MaxSession there is always one idle when the pool is full, except
// for a while after Reload lowered the limits.
func (d *Deliverer) hire(ctx context.Context, s Spec) (*hired, error) {
	d.mu.Lock()
	var old []*hired
	key := s.key()
	w := d.pool.bySpec[key]
	if w != nil && w.dead() {
		if w.place != nil {
			d.pool.forget(w)
			old = append(old, w)
		} else {
			delete(d.pool.bySpec, key) // the last of its users closes it
		}
		w = nil
	}
	fresh := w == nil
	if fresh {
		if d.pool.live >= d.pool.max && d.pool.idle.Len() > 0 {
			lru := d.pool.idle.Front().Value.(*hired)
			d.pool.forget(lru)
			old = append(old, lru)
		}
		w = &hired{spec: key, started: make(chan struct{})}
		d.pool.bySpec[key] = w
		d.pool.live++
	}
	if w.place != nil {
		d.pool.idle.Remove(w.place)
		w.place = nil
	}
	w.uses++
	d.mu.Unlock()

	d.retire(old)
	if fresh {
		w.worker, w.err = d.workers.Start(ctx, s)
		close(w.started)
	}
	// Start ends with the context of the one who called it, which is no older than
	// ours by more than the limit.
	<-w.started
	if w.err != nil {
		d.dismiss(w, true)
		return nil, w.err
	}
	return w, nil
}

// dismiss ends the use of a worker. A broken one is not used again.
func (d *Deliverer) dismiss(w *hired, broken bool) {
	d.mu.Lock()
	w.uses--
	w.broken = w.broken || broken
	if w.broken && d.pool.bySpec[w.spec] == w {
		delete(d.pool.bySpec, w.spec)
	}
	last := w.uses == 0
	current := d.pool.bySpec[w.spec] == w
	switch {
	case !last:
	case current:
		w.idleSince = time.Now()
		w.place = d.pool.idle.PushBack(w)
	default:
		d.pool.forget(w)
	}
	d.mu.Unlock()
	if !last {
		return
	}
	if current {
		select {
		case d.wake <- struct{}{}:
		default:
		}
		return
	}
	if w.err == nil {
		_ = w.worker.Close() // the attempts it held are accounted for already
	}
}
