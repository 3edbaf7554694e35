package deliver

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// Deliverer runs local deliveries.
type Deliverer struct {
	users   Users
	workers Workers
	desk    Desk
	wake    chan struct{} // one slot: the time of the janitor may have changed
	tasks   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	limits  Limits
	ctx     context.Context // of Run; nil before
	ended   bool
	idle    chan struct{} // of Drain, closed when busy is 0; nil: not draining
	lines   map[lineKey]*line
	ready   list.List // *line, in the order of their turns
	busy    int       // goroutines
	pending int
	running int
	infos   map[lineKey]known
	pool    pool
}

// lineKey names a user's line. Attempts of one user for several actions share it.
type lineKey struct{ user, userbase, runAs string }

// line is the attempts of one user.
type line struct {
	key     lineKey
	waiting []*Attempt
	running int
	looking bool          // the user is being looked up
	held    bool          // some attempts were held
	turn    *list.Element // in ready
}

func (l *line) len() int { return len(l.waiting) + l.running }

// holdName returns the name of the line's hold queue. A user name has no "|".
func (l *line) holdName() string {
	return "mda|" + l.key.user + "|" + l.key.userbase + "|" + l.key.runAs
}

// New returns a Deliverer. It does nothing until Run is called.
func New(l Limits, u Users, w Workers, d Desk) *Deliverer {
	l = l.withDefaults()
	return &Deliverer{
		limits: l, users: u, workers: w, desk: d, wake: make(chan struct{}, 1),
		lines: map[lineKey]*line{}, infos: map[lineKey]known{},
		pool: newPool(l.MaxWorkers),
	}
}

// Run serves until ctx ends. It returns when every goroutine has ended and every
// worker is closed; it is called once.
func (d *Deliverer) Run(ctx context.Context) error {
	d.mu.Lock()
	d.ctx = ctx
	d.dispatch()
	d.mu.Unlock()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
		d.mu.Lock()
		lease := d.limits.Lease
		old, next := d.pool.expired(time.Now().Add(-lease))
		d.mu.Unlock()
		d.retire(old)
		if !next.IsZero() {
			timer.Reset(time.Until(next.Add(lease)))
		}
	}
	d.mu.Lock()
	d.ended = true // from here on dispatch starts nothing
	d.mu.Unlock()
	d.tasks.Wait()
	d.mu.Lock()
	old := d.pool.drain()
	d.mu.Unlock()
	d.retire(old)
	return context.Cause(ctx)
}

// Drain starts no attempt any more and returns when those under way are reported,
// or ctx ends. Attempts that wait stay where they are.
func (d *Deliverer) Drain(ctx context.Context) error {
	d.mu.Lock()
	if d.idle == nil {
		d.idle = make(chan struct{})
		if d.busy == 0 {
			close(d.idle)
		}
	}
	idle := d.idle
	d.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add takes an attempt, or has Desk.Hold called for it. It does not wait.
func (d *Deliverer) Add(a *Attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := lineKey{a.Envelope.User, a.Userbase, a.RunAs}
	l := d.lines[k]
	if l == nil {
		l = &line{key: k}
		d.lines[k] = l
	}
	if l.len() >= d.limits.HiWat {
		l.held = true
		d.desk.Hold(a, l.holdName())
		return
	}
	l.waiting = append(l.waiting, a)
	d.pending++
	d.queueUp(l)
	d.dispatch()
}

// Reload puts new limits into force and lets nothing live on that was learned under
// the old configuration: idle workers end now, busy ones after the deliveries they
// have, and users are looked up anew.
func (d *Deliverer) Reload(l Limits) {
	d.mu.Lock()
	d.limits = l.withDefaults()
	d.pool.max = d.limits.MaxWorkers
	old := d.pool.drain()
	clear(d.pool.bySpec)
	clear(d.infos)
	for _, l := range d.lines {
		d.queueUp(l)
	}
	d.dispatch()
	d.mu.Unlock()
	d.retire(old)
}

// timeout returns how long one step of an attempt may take.
func (d *Deliverer) timeout() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.limits.Timeout
}

// Counts returns what is going on.
func (d *Deliverer) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Counts{Users: len(d.lines), Pending: d.pending, Running: d.running, Workers: d.pool.live}
}

// queueUp gives l a turn if it can use one and has none.
func (d *Deliverer) queueUp(l *line) {
	if l.turn == nil && len(l.waiting) > 0 && l.running < d.limits.MaxSessionPerUser && !l.looking {
		l.turn = d.ready.PushBack(l)
	}
}

// dispatch starts what may start. The mutex is held.
func (d *Deliverer) dispatch() {
	if d.ctx == nil || d.ended || d.idle != nil {
		return
	}
	for d.busy < d.limits.MaxSession && d.ready.Len() > 0 {
		l := d.ready.Remove(d.ready.Front()).(*line)
		l.turn = nil
		a := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		l.running++
		d.pending--
		d.busy++
		who, known := d.cached(l.key)
		l.looking = !known
		d.queueUp(l)
		d.tasks.Go(func() { d.serve(d.ctx, l, a, who, known) })
	}
}

// serve makes one attempt, looking up the user first if need be, and gives its place
// to the next one. The goroutine ends with the attempt.
func (d *Deliverer) serve(ctx context.Context, l *line, a *Attempt, who identity, known bool) {
	failed := []*Attempt{a}
	r, cause := mda.Result{}, error(nil)
	if !known {
		who, r, cause = d.lookUp(ctx, l.key)
		known = r == mda.Result{}
		d.mu.Lock()
		l.looking = false
		if known {
			d.remember(l.key, who)
		} else {
			// What waited for the same answer shares it.
			failed = append(failed, l.waiting...)
			d.pending -= len(l.waiting)
			l.running += len(l.waiting)
			l.waiting = nil
		}
		d.queueUp(l)
		d.dispatch()
		d.mu.Unlock()
	}
	if known {
		r, cause = d.attempt(ctx, a, who)
	}
	for _, a := range failed {
		if cause != nil && ctx.Err() != nil {
			break // told to end: the outcome is not the recipient's fault
		}
		d.desk.Done(a, r, cause)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
	before := l.len()
	l.running -= len(failed)
	d.settle(l, before)
	d.dispatch()
	if d.idle != nil && d.busy == 0 {
		close(d.idle) // nothing starts any more, so this happens once
	}
}

// settle asks for held attempts and drops the line when it is empty.
func (d *Deliverer) settle(l *line, before int) {
	switch n := l.len(); {
	case n == 0:
		delete(d.lines, l.key)
		if l.held && !d.ended {
			d.desk.Release(l.holdName(), -1)
		}
	case l.held && before > d.limits.LoWat && n <= d.limits.LoWat:
		d.desk.Release(l.holdName(), d.limits.Release)
		d.queueUp(l)
	default:
		d.queueUp(l)
	}
}

// attempt makes one delivery.
func (d *Deliverer) attempt(ctx context.Context, a *Attempt, who identity) (mda.Result, error) {
	if who.as.UID == 0 && !(a.Mbox && a.Envelope.Exec == "") {
		return permanent("MDA not allowed to deliver to: " + who.as.Name), nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	body, err := a.Open(ctx)
	if err != nil {
		return temporary("Error reading body"), fmt.Errorf("open message: %w", err)
	}
	defer body.Close()

	s := Spec{
		Action: a.Envelope.Action, As: who.as, Login: who.login,
		Exec: a.Envelope.Exec != "", Anonymous: a.Envelope.User == "",
	}
	j := Job{Envelope: a.Envelope, Body: body}
	if a.Shared && !s.Exec && !s.Anonymous {
		s.Shared, j.Home = true, who.as.Home
	}
	w, err := d.hire(ctx, s)
	if err != nil {
		return temporary("Cannot start delivery"), fmt.Errorf("start worker: %w", err)
	}
	d.count(1)
	r, err := w.worker.Deliver(ctx, j)
	d.count(-1)
	d.dismiss(w, err != nil)
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return temporary("Delivery timed out"), fmt.Errorf("worker: %w", err)
	}
	return temporary("Delivery agent ended unexpectedly"), fmt.Errorf("worker: %w", err)
}

func (d *Deliverer) count(n int) {
	d.mu.Lock()
	d.running += n
	d.mu.Unlock()
}

// permanent and temporary make results of our own; 3.0 is "other or undefined mail
// system status" (RFC 3463 section 3.4).
func permanent(text string) mda.Result {
	return mda.Result{Outcome: mda.PermFail, Enhanced: smtp.EnhancedCode{5, 3, 0}, Text: text}
}

func temporary(text string) mda.Result {
	return mda.Result{Outcome: mda.TempFail, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: text}
}
