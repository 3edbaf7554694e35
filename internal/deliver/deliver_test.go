package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/mda"
)

// world is the fake of all that is injected. Deliveries to a user of block wait for
// the channel; those of a user in crash kill the worker.
type world struct {
	mu       sync.Mutex
	uids     map[string]uint32
	lookups  map[string]int
	lookErr  error
	startErr error
	block    map[string]chan struct{}
	crash    map[string]bool
	live     map[*worker]bool
	started  []Spec
	maxLive  int
	running  map[string]int
	peak     map[string]int
	peakAll  int
	results  map[uint32]mda.Result
	causes   map[uint32]error
	order    []string
	homes    []string // that workers were told
	held     map[string][]*Attempt
	releases []string
	onDone   func(a *Attempt)
	opened   int
}

func newWorld() *world {
	return &world{
		uids: map[string]uint32{}, lookups: map[string]int{}, block: map[string]chan struct{}{}, crash: map[string]bool{},
		live: map[*worker]bool{}, running: map[string]int{}, peak: map[string]int{}, results: map[uint32]mda.Result{},
		causes: map[uint32]error{}, held: map[string][]*Attempt{},
	}
}

func (w *world) UserInfo(ctx context.Context, user, userbase string) (User, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups[user]++
	if w.lookErr != nil {
		return User{}, w.lookErr
	}
	if strings.HasPrefix(user, "no-") {
		return User{}, fmt.Errorf("asked: %w", ErrNoUser)
	}
	uid, ok := w.uids[user]
	if !ok {
		uid = 1000
	}
	return User{Name: user, UID: uid, GID: uid, Home: "/home/" + user}, nil
}

type worker struct {
	w    *world
	spec Spec
	done chan struct{}
	once sync.Once
}

func (w *world) Start(ctx context.Context, s Spec) (Worker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.startErr != nil {
		return nil, w.startErr
	}
	k := &worker{w: w, spec: s, done: make(chan struct{})}
	w.live[k] = true
	w.maxLive = max(w.maxLive, len(w.live))
	w.started = append(w.started, s)
	return k, nil
}

func (k *worker) Done() <-chan struct{} { return k.done }

func (k *worker) die() { k.once.Do(func() { close(k.done) }) }

func (k *worker) Close() error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if !k.w.live[k] {
		panic("worker closed twice")
	}
	delete(k.w.live, k)
	k.die()
	return nil
}

func (k *worker) Deliver(ctx context.Context, j Job) (mda.Result, error) {
	u := j.Envelope.User
	k.w.mu.Lock()
	k.w.running[u]++
	k.w.peak[u] = max(k.w.peak[u], k.w.running[u])
	all := 0
	for _, n := range k.w.running {
		all += n
	}
	k.w.peakAll = max(k.w.peakAll, all)
	k.w.homes = append(k.w.homes, j.Home)
	block, crash := k.w.block[u], k.w.crash[u]
	k.w.mu.Unlock()
	defer func() {
		k.w.mu.Lock()
		k.w.running[u]--
		k.w.mu.Unlock()
	}()
	if crash {
		k.die()
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return mda.Result{}, ctx.Err()
		}
	}
	select {
	case <-k.done:
		return mda.Result{}, errors.New("EOF")
	default:
	}
	return mda.Result{Outcome: mda.Delivered, Text: "Delivered"}, nil
}

func (w *world) Done(a *Attempt, r mda.Result, cause error) {
	w.mu.Lock()
	w.results[uint32(a.Envelope.ID)] = r
	w.causes[uint32(a.Envelope.ID)] = cause
	w.order = append(w.order, a.Envelope.User)
	f := w.onDone
	w.mu.Unlock()
	if f != nil {
		f(a)
	}
}

func (w *world) Hold(a *Attempt, queue string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[queue] = append(w.held[queue], a)
}

func (w *world) Release(queue string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.releases = append(w.releases, fmt.Sprint(queue, " ", n))
}

func (w *world) attempt(n uint32, user string) *Attempt {
	return &Attempt{
		Envelope: &envelope.Envelope{ID: envelope.NewID(1, n), Type: envelope.MDA, Action: "local", User: user},
		Open: func(context.Context) (queue.Body, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened++
			return queue.Body{Bytes: []byte("\n"), Size: 1}, nil
		},
	}
}

// settle waits until nothing moves. The test holds the lock but while it sleeps,
// adds or settles.
func (w *world) settle() {
	w.mu.Unlock()
	synctest.Wait()
	w.mu.Lock()
}

func (w *world) sleep(d time.Duration) {
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
}

func (w *world) add(d *Deliverer, a *Attempt) {
	w.mu.Unlock()
	d.Add(a)
	w.mu.Lock()
}

// run tests in virtual time. When f returns Run is ended, and no worker may be left.
func run(t *testing.T, l Limits, f func(d *Deliverer, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := New(l, w, w, w)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		w.mu.Lock()
		f(d, w)
		w.mu.Unlock()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want canceled", err)
		}
		if len(w.live) != 0 {
			t.Errorf("%d workers are left after Run", len(w.live))
		}
	})
}

func TestWorkerIsReusedAndEndsAfterItsLease(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		for n := range uint32(3) {
			w.add(d, w.attempt(n+1, "ann"))
			w.settle()
			w.sleep(9 * time.Second)
			w.settle()
		}
		if len(w.started) != 1 || len(w.live) != 1 {
			t.Fatalf("started %d, live %d, want one worker", len(w.started), len(w.live))
		}
		want := Spec{Action: "local", Login: "ann", As: User{Name: "ann", UID: 1000, GID: 1000, Home: "/home/ann"}}
		if w.started[0] != want {
			t.Errorf("spec %+v, want %+v", w.started[0], want)
		}
		w.sleep(2 * time.Second)
		w.settle()
		if len(w.live) != 0 {
			t.Error("worker lives 11 s after its last delivery, the lease is 10 s")
		}
		for n := range uint32(3) {
			if r := w.results[n+1]; r.Outcome != mda.Delivered {
				t.Errorf("attempt %d: %+v", n+1, r)
			}
		}
		if got := d.Counts(); got != (Counts{}) {
			t.Errorf("counts at rest: %+v", got)
		}
	})
}

func TestUserIsLookedUpOncePerLease(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		for n := range uint32(20) {
			w.add(d, w.attempt(n+1, "ann"))
		}
		w.settle()
		if w.lookups["ann"] != 1 {
			t.Errorf("%d lookups for 20 attempts at once, want 1", w.lookups["ann"])
		}
		w.sleep(11 * time.Second)
		w.uids["ann"] = 1234
		w.add(d, w.attempt(21, "ann"))
		w.settle()
		if w.lookups["ann"] != 2 {
			t.Errorf("%d lookups after the lease, want 2", w.lookups["ann"])
		}
		if s := w.started[len(w.started)-1]; s.As.UID != 1234 {
			t.Errorf("the worker has uid %d, want the new one", s.As.UID)
		}
	})
}

func TestSlowUserDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		w.block["slow"] = make(chan struct{})
		for n := range uint32(40) {
			w.add(d, w.attempt(n+1, "slow"))
		}
		for n := range uint32(30) {
			w.add(d, w.attempt(n+100, fmt.Sprint("u", n)))
		}
		w.settle()
		if w.peak["slow"] != 7 {
			t.Errorf("%d deliveries of one user at a time, want 7", w.peak["slow"])
		}
		if len(w.results) != 30 {
			t.Errorf("%d of 30 others got their mail", len(w.results))
		}
		if got := d.Counts(); got.Pending != 33 || got.Running != 7 || got.Users != 1 {
			t.Errorf("counts %+v, want 33 pending, 7 running, 1 user", got)
		}
		close(w.block["slow"])
		w.settle()
		if len(w.results) != 70 {
			t.Errorf("%d of 70 done", len(w.results))
		}
	})
}

func TestUsersAreServedInTurn(t *testing.T) {
	t.Parallel()
	run(t, Limits{MaxSession: 1}, func(d *Deliverer, w *world) {
		gate := make(chan struct{})
		w.block["first"] = gate
		w.add(d, w.attempt(1, "first"))
		w.settle()
		for n := range uint32(4) {
			w.add(d, w.attempt(10+n, "bulk"))
		}
		w.add(d, w.attempt(20, "ann"))
		w.add(d, w.attempt(30, "bob"))
		close(gate)
		w.settle()
		if got, want := strings.Join(w.order, " "), "first bulk ann bob bulk bulk bulk"; got != want {
			t.Errorf("order %q, want %q", got, want)
		}
	})
}

func TestNoMoreThanMaxSessionDeliveriesRun(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		gate := make(chan struct{})
		for n := range uint32(80) {
			u := fmt.Sprint("u", n)
			w.block[u] = gate
			w.add(d, w.attempt(n+1, u))
		}
		w.settle()
		close(gate)
		w.settle()
		if w.peakAll != 50 || len(w.results) != 80 {
			t.Errorf("peak %d, done %d, want 50 and 80", w.peakAll, len(w.results))
		}
	})
}

func TestIdleWorkerGivesItsPlaceToAnother(t *testing.T) {
	t.Parallel()
	run(t, Limits{MaxSession: 2, MaxWorkers: 3}, func(d *Deliverer, w *world) {
		for n, u := range []string{"a", "b", "c", "a", "d", "a"} {
			w.add(d, w.attempt(uint32(n+1), u))
			w.settle()
			w.sleep(time.Second)
		}
		if w.maxLive != 3 {
			t.Errorf("%d workers at a time, want 3", w.maxLive)
		}
		var names []string
		for _, s := range w.started {
			names = append(names, s.Login)
		}
		// b was idle longest when d came; a was kept.
		if got := strings.Join(names, " "); got != "a b c d" {
			t.Errorf("started %q, want a b c d", got)
		}
	})
}

func TestAttemptsBeyondHiwatAreHeldAndReleased(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		gate := make(chan struct{})
		w.block["ann"] = gate
		for n := range uint32(60) {
			w.add(d, w.attempt(n+1, "ann"))
		}
		w.settle()
		if n := len(w.held["mda|ann||"]); n != 10 {
			t.Fatalf("%d held, want 10", n)
		}
		close(gate)
		w.settle()
		want := []string{"mda|ann|| 10", "mda|ann|| -1"}
		if !slices.Equal(w.releases, want) {
			t.Errorf("releases %q, want %q: ten at lowat, all at the end", w.releases, want)
		}
		if len(w.results) != 50 {
			t.Errorf("%d done, want 50", len(w.results))
		}
	})
}

func TestFailedUserLookup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, user, runAs string
		err               error
		want              mda.Outcome
		text              string
	}{
		{"table is down", "ann", "", errors.New("connection refused"), mda.TempFail, "Temporary failure in user lookup"},
		{"no such user", "no-one", "", nil, mda.PermFail, "Permanent failure in user lookup"},
		{"no such delivery user", "ann", "no-vmail", nil, mda.PermFail, "delivery user 'no-vmail' does not exist"},
		{"neither is named", "", "", nil, mda.PermFail, "Permanent failure in user lookup"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Limits{}, func(d *Deliverer, w *world) {
				w.lookErr = tt.err
				for n := range uint32(5) {
					a := w.attempt(n+1, tt.user)
					a.RunAs = tt.runAs
					w.add(d, a)
				}
				w.settle()
				for n := range uint32(5) {
					if r := w.results[n+1]; r.Outcome != tt.want || r.Text != tt.text {
						t.Errorf("attempt %d: %+v, want %v %q", n+1, r, tt.want, tt.text)
					}
				}
				if len(w.started) != 0 {
					t.Error("a worker was started")
				}
			})
		})
	}
}

func TestRootGetsMboxOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, exec string
		mbox, ok   bool
	}{
		{"mbox", "", true, true},
		{"any other method", "", false, false},
		{"command out of an alias", "|id", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Limits{}, func(d *Deliverer, w *world) {
				w.uids["root"] = 0
				a := w.attempt(1, "root")
				a.Mbox, a.Envelope.Exec = tt.mbox, tt.exec
				w.add(d, a)
				w.settle()
				r := w.results[1]
				if tt.ok && r.Outcome != mda.Delivered {
					t.Errorf("got %+v, want delivered", r)
				}
				if !tt.ok && (r.Outcome != mda.PermFail || r.Text != "MDA not allowed to deliver to: root" || len(w.started) > 0) {
					t.Errorf("got %+v with %d workers, want a refusal", r, len(w.started))
				}
			})
		})
	}
}

func TestRunAsGivesRightsNotTheName(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		w.uids["vmail"], w.uids["ann"] = 5000, 0 // ann's own uid does not matter
		a := w.attempt(1, "ann")
		a.RunAs, a.Userbase = "vmail", "users"
		w.add(d, a)
		w.settle()
		if len(w.started) != 1 || w.started[0].As.UID != 5000 || w.started[0].Login != "ann" {
			t.Errorf("started %+v, want uid 5000 for ann", w.started)
		}
	})
}

// Users of one uid may have one worker, which is told whose home it is; commands, and
// users of another uid, have workers of their own.
func TestUsersOfOneUIDShareAWorker(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		for n, u := range []string{"ann", "bob", "eve", "cmd", "cmd"} {
			w.uids[u] = 5000
			if u == "eve" {
				w.uids[u] = 5001
			}
			a := w.attempt(uint32(n+1), u)
			a.Userbase, a.Shared = "users", true
			if u == "cmd" {
				a.Envelope.Exec = "|true"
			}
			w.add(d, a)
			w.settle()
		}
		var got []string
		for _, s := range w.started {
			got = append(got, fmt.Sprintf("%d %s %v", s.As.UID, s.Login, s.Shared))
		}
		if got, want := strings.Join(got, ", "), "5000 ann true, 5001 eve true, 5000 cmd false"; got != want {
			t.Errorf("started %q, want %q", got, want)
		}
		if got, want := strings.Join(w.homes, " "), "/home/ann /home/bob /home/eve  "; got != want {
			t.Errorf("workers were told the homes %q, want %q", got, want)
		}
	})
}

func TestDeathOfAWorkerIsTemporaryForAllItHeld(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		gate := make(chan struct{})
		w.block["ann"] = gate
		for n := range uint32(5) {
			w.add(d, w.attempt(n+1, "ann"))
		}
		w.settle()
		for k := range w.live {
			k.die()
		}
		close(gate)
		w.settle()
		for n := range uint32(5) {
			if r := w.results[n+1]; r.Outcome != mda.TempFail || w.causes[n+1] == nil {
				t.Errorf("attempt %d: %+v, cause %v, want a temporary failure with a cause", n+1, r, w.causes[n+1])
			}
		}
		w.add(d, w.attempt(6, "ann"))
		w.settle()
		if r := w.results[6]; r.Outcome != mda.Delivered || len(w.started) != 2 {
			t.Errorf("next attempt: %+v by worker %d, want a delivery by a second one", r, len(w.started))
		}
	})
}

func TestWorkerThatDiedIdleIsReplaced(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		w.add(d, w.attempt(1, "ann"))
		w.settle()
		for k := range w.live {
			k.die()
		}
		w.add(d, w.attempt(2, "ann"))
		w.settle()
		if r := w.results[2]; r.Outcome != mda.Delivered {
			t.Errorf("got %+v, want delivered", r)
		}
	})
}

func TestFailuresOfTheMachineryAreTemporary(t *testing.T) {
	t.Parallel()
	t.Run("worker does not start", func(t *testing.T) {
		t.Parallel()
		run(t, Limits{}, func(d *Deliverer, w *world) {
			w.startErr = errors.New("fork: EAGAIN")
			for n := range uint32(9) {
				w.add(d, w.attempt(n+1, "ann"))
			}
			w.settle()
			for n := range uint32(9) {
				if r := w.results[n+1]; r.Outcome != mda.TempFail || !errors.Is(w.causes[n+1], w.startErr) {
					t.Errorf("attempt %d: %+v, cause %v", n+1, r, w.causes[n+1])
				}
			}
			if got := d.Counts(); got.Workers != 0 {
				t.Errorf("counts %+v, want no worker", got)
			}
		})
	})
	t.Run("message cannot be read", func(t *testing.T) {
		t.Parallel()
		run(t, Limits{}, func(d *Deliverer, w *world) {
			a := w.attempt(1, "ann")
			a.Open = func(context.Context) (queue.Body, error) { return queue.Body{}, queue.ErrCorrupt }
			w.add(d, a)
			w.settle()
			if r := w.results[1]; r.Outcome != mda.TempFail || r.Text != "Error reading body" || !errors.Is(w.causes[1], queue.ErrCorrupt) {
				t.Errorf("got %+v, cause %v", r, w.causes[1])
			}
		})
	})
	t.Run("worker does not answer", func(t *testing.T) {
		t.Parallel()
		run(t, Limits{}, func(d *Deliverer, w *world) {
			w.block["ann"] = make(chan struct{})
			w.add(d, w.attempt(1, "ann"))
			w.sleep(10*time.Minute + time.Second)
			w.settle()
			if r := w.results[1]; r.Outcome != mda.TempFail || r.Text != "Delivery timed out" {
				t.Errorf("got %+v", r)
			}
			if len(w.live) != 0 {
				t.Error("the worker that did not answer is kept")
			}
		})
	})
}

func TestEndOfRunReportsNothingThatIsUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.mu.Lock()
		w.block["ann"] = make(chan struct{})
		d := New(Limits{}, w, w, w)
		for n := range uint32(10) {
			w.add(d, w.attempt(n+1, "ann")) // before Run: waits
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		w.settle()
		cancel()
		w.mu.Unlock()
		<-ended
		w.mu.Lock()
		if len(w.results) != 0 || len(w.live) != 0 {
			t.Errorf("results %v, %d workers; want none", w.results, len(w.live))
		}
		w.add(d, w.attempt(11, "ann"))
		w.settle()
		if len(w.results) != 0 {
			t.Errorf("an attempt ran after the end: %v", w.results)
		}
	})
}

func TestReloadReplacesWorkersAndLimits(t *testing.T) {
	t.Parallel()
	run(t, Limits{}, func(d *Deliverer, w *world) {
		gate := make(chan struct{})
		w.block["busy"] = gate
		w.add(d, w.attempt(1, "idle"))
		for n := range uint32(3) {
			w.add(d, w.attempt(10+n, "busy"))
		}
		w.settle()
		if len(w.live) != 2 {
			t.Fatalf("%d workers, want 2", len(w.live))
		}
		w.mu.Unlock()
		d.Reload(Limits{MaxSession: 4, MaxSessionPerUser: 4})
		w.mu.Lock()
		w.settle()
		if len(w.live) != 1 || w.running["busy"] != 3 {
			t.Errorf("%d workers with %d deliveries, want the busy one alone with its three", len(w.live), w.running["busy"])
		}
		for n := range uint32(3) {
			w.add(d, w.attempt(20+n, "busy"))
		}
		w.settle()
		if len(w.started) != 3 || w.running["busy"] != 4 {
			t.Errorf("%d workers started, %d deliveries; want a third worker and the new limit of 4", len(w.started), w.running["busy"])
		}
		if w.lookups["busy"] != 2 {
			t.Errorf("%d lookups, want a second one", w.lookups["busy"])
		}
		close(gate)
		w.settle()
		if len(w.results) != 7 || len(w.live) != 1 {
			t.Errorf("%d of 7 done, %d workers left, want the new one", len(w.results), len(w.live))
		}
	})
}

// Attempts that come back from the hold queue all get their turn, whatever the
// interleaving.
func TestHeldMailIsNeverStranded(t *testing.T) {
	t.Parallel()
	run(t, Limits{HiWat: 5, LoWat: 2, Release: 2}, func(d *Deliverer, w *world) {
		// The hold queue of the schedule: what is released is added again.
		for n := range uint32(100) {
			w.add(d, w.attempt(n+1, "ann"))
		}
		for range 200 {
			w.settle()
			var back []*Attempt
			if len(w.releases) > 0 {
				back = w.held["mda|ann||"]
				w.held["mda|ann||"], w.releases = nil, nil
			}
			for _, a := range back {
				w.add(d, a)
			}
		}
		if len(w.results) != 100 {
			t.Errorf("%d of 100 delivered, %d held", len(w.results), len(w.held["mda|ann||"]))
		}
	})
}
