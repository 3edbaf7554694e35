// Package queue is the process that owns the spool: it stores what the dispatcher
// brings, keeps the schedule, hands due envelopes out to delivery workers, and
// tells senders what failed. It never touches the network.
package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/deliver"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/maillog"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/stats"
)

// Parts are the backends; the wiring chooses them.
type Parts struct {
	// Store opens the spool, which calls synced before each wait for the disk.
	Store    func(c proto.QueueConfig, synced func()) (queue.Store, error)
	Schedule func(maxInFlight int) Schedule
	// Keep opens the records that lookup keeps here, by kind. Nil: it may keep none.
	Keep func(c proto.QueueConfig) map[proto.RecordKind]keep.Keeper
}

// Schedule is a schedule that can be counted.
type Schedule interface {
	scheduler.Backend
	Counts() scheduler.Counts
}

// Queue is the role.
type Queue struct {
	p        *proc.Process
	parts    Parts
	events   report.Sink
	stats    stats.Set
	config   atomic.Pointer[config]
	store    queue.Store
	kept     map[proto.RecordKind]keep.Keeper
	sched    Schedule
	deliver  *deliver.Deliverer
	bounces  *bouncer
	holds    holds
	reroutes chan struct{} // slots

	pausedMDA, pausedMTA atomic.Bool

	stopSchedule context.CancelFunc // no more attempts are started
	relays       sync.WaitGroup     // attempts to relay, and the loop that starts them

	mu           sync.Mutex // guards what follows
	transactions map[envelope.MsgID]*transaction
	undeleted    map[envelope.ID]struct{} // done with, but still in the store
	watched      map[*imsg.Conn]struct{}  // links whose end rolls transactions back
	fresh        map[envelope.ID]*envelope.Envelope
}

// config is a configuration with its actions by name.
type config struct {
	proto.QueueConfig
	actions map[string]*proto.Action
	backoff scheduler.Backoff
}

// maxFresh is how many envelopes are kept in memory for their first attempt, so
// that it need not read them back. Beyond it they are read from the store.
const maxFresh = 10_000

// New makes the role.
func New(p *proc.Process, parts Parts) *Queue {
	q := &Queue{
		p: p, parts: parts,
		transactions: map[envelope.MsgID]*transaction{}, watched: map[*imsg.Conn]struct{}{},
		fresh: map[envelope.ID]*envelope.Envelope{}, undeleted: map[envelope.ID]struct{}{},
		holds:    holds{names: map[string]struct{}{}},
		reroutes: make(chan struct{}, maxReroutes),
	}
	q.events = report.Sinks{maillog.New(p.Log, p.Log.Format()), &q.stats}
	return q
}

// Mux implements proc.Role.
func (q *Queue) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch peer {
	case proto.Parent:
		proto.SetupQueue.Handle(mux, proc.Handler(q.setup))
	case proto.Dispatcher:
		proto.Begin.Handle(mux, proc.Handler(q.handleBegin))
		proto.Spill.Handle(mux, q.handleSpill)
		proto.Commit.Handle(mux, proc.Handler(q.handleCommit))
		proto.Rollback.Handle(mux, proc.Handler(q.handleRollback))
		proto.OpenMessage.Handle(mux, q.openMessage)
		proto.ReleaseRelay.Handle(mux, proc.Handler(q.releaseRelay))
		proto.RescheduleRelay.Handle(mux, proc.Handler(q.rescheduleRelay))
	case proto.Lookup:
		proto.Submit.Handle(mux, proc.Handler(q.handleSubmit))
		q.handleRecords(mux)
		proto.SubmitMessage.Handle(mux, proc.Handler(q.submitMessage))
	case proto.Control:
		proto.List.Handle(mux, proc.Handler(q.list))
		proto.Show.Handle(mux, q.show)
		proto.Manage.Handle(mux, proc.Handler(q.manage))
		proto.Hold.Handle(mux, proc.Handler(q.hold))
		proto.Stats.Handle(mux, proc.Handler(q.snapshot))
	}
	return mux
}

func (q *Queue) setup(_ context.Context, c proto.QueueConfig) (proto.SetupReply, error) {
	next := &config{QueueConfig: c, actions: map[string]*proto.Action{}, backoff: scheduler.Backoff{Relay: c.RetryMTA, Local: c.RetryMDA}}
	for i := range c.Actions {
		next.actions[c.Actions[i].Name] = &c.Actions[i]
	}
	old := q.config.Load()
	if old != nil {
		if old.Compression != c.Compression || string(old.Key) != string(c.Key) {
			return proto.SetupReply{}, errors.New("queue compression and encryption change with a restart only")
		}
		if old.MinFreeSpace != c.MinFreeSpace || old.MinFreeInodes != c.MinFreeInodes || old.MaxInflight != c.MaxInflight {
			q.p.Log.Warnf("queue reserve and scheduler limit max-inflight change with a restart only")
		}
		q.config.Store(next)
		q.deliver.Reload(deliverLimits(&c))
		q.p.Log.SetVerbose(c.Verbose)
		return proto.SetupReply{}, nil
	}
	reply, err := q.p.Confine(c.Confine)
	if err != nil {
		return reply, err
	}
	if q.p.Confined() {
		c.Confine.Root = "/" // the spool is the root directory now
	}
	store, err := q.parts.Store(c, func() { q.stats.Add(stats.QueueSync, 1) })
	if err != nil {
		return reply, fmt.Errorf("open the queue: %w", err)
	}
	q.store = store
	if q.parts.Keep != nil {
		q.kept = q.parts.Keep(c)
	}
	q.sched = q.parts.Schedule(c.MaxInflight)
	q.p.Log.SetVerbose(c.Verbose)
	q.deliver = deliver.New(deliverLimits(&c), users{q}, workers{q}, desk{q})
	q.bounces = newBouncer(q)
	if c.PauseMDA {
		q.pause(envelope.MDA, true)
	}
	if c.PauseMTA {
		q.pause(envelope.MTA, true)
	}
	q.config.Store(next)
	return reply, nil
}

func deliverLimits(c *proto.QueueConfig) deliver.Limits {
	return deliver.Limits{
		MaxSession: c.MaxSession, MaxSessionPerUser: c.MaxPerUser, HiWat: c.TaskHiwat, LoWat: c.TaskLowat, Release: c.TaskRelease,
	}
}

// Start implements proc.Role.
func (q *Queue) Start(ctx context.Context) error {
	var schedule context.Context
	schedule, q.stopSchedule = context.WithCancel(ctx)
	q.p.Go(func(ctx context.Context) { _ = q.deliver.Run(ctx) })
	q.p.Go(q.bounces.run)
	q.p.Go(q.tickHolds)
	q.p.Go(q.load)
	q.p.Go(q.sweep)
	q.relays.Add(1)
	q.p.Go(func(context.Context) {
		defer q.relays.Done()
		q.run(schedule)
	})
	return nil
}

// Stop implements proc.Role: nothing new is started, and what is being delivered
// or reported may finish and be noted, so that it need not be done twice.
func (q *Queue) Stop(ctx context.Context) {
	q.stopSchedule()
	if err := q.deliver.Drain(ctx); err != nil {
		q.p.Log.Infof("queue: deliveries that take too long are given up and tried again later")
	}
	q.settled(ctx)
	occupy(ctx, q.bounces.slots)
	occupy(ctx, q.reroutes)
	if err := q.store.Close(); err != nil {
		q.p.Log.Warnf("close the queue: %v", err)
	}
}

// settled waits until the outcome of each attempt to relay is noted; the dispatcher
// has answered all of them.
func (q *Queue) settled(ctx context.Context) {
	done := make(chan struct{})
	go func() { // ends with the last attempt, at the latest with the process
		q.relays.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// occupy takes all slots, for good, as they become free, until ctx ends.
func occupy(ctx context.Context, slots chan struct{}) {
	for range cap(slots) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// load puts what the spool holds on the schedule. Mail is accepted meanwhile.
func (q *Queue) load(ctx context.Context) {
	batch := make([]scheduler.Item, 0, 256)
	flush := func() {
		q.sched.Insert(batch...)
		batch = batch[:0]
	}
	n := 0
	err := q.store.Walk(ctx, func(e *envelope.Envelope, err error) error {
		if err != nil {
			q.p.Log.Warnf("queue: %v", err)
			return nil
		}
		if e.TTL <= 0 {
			e.TTL = q.config.Load().TTL
		}
		n++
		batch = append(batch, q.config.Load().backoff.Item(e, time.Now()))
		if len(batch) == cap(batch) {
			flush()
		}
		return nil
	})
	flush()
	if err != nil && ctx.Err() == nil {
		q.p.Log.Critf("read the queue: %v", err)
	}
	q.p.Log.Debugf("queue: %d envelopes loaded", n)
}

// enqueue puts new envelopes on the schedule.
func (q *Queue) enqueue(list []*envelope.Envelope) {
	items := make([]scheduler.Item, len(list))
	q.mu.Lock()
	for i, e := range list {
		items[i] = scheduler.Item{ID: e.ID, Type: e.Type, Created: e.Created, Expires: e.Expires()}
		if len(q.fresh) < maxFresh {
			q.fresh[e.ID] = e
		}
	}
	q.mu.Unlock()
	q.sched.Insert(items...)
}

// watch rolls back the transactions of a link when it ends.
func (q *Queue) watch(conn *imsg.Conn) {
	q.mu.Lock()
	_, known := q.watched[conn]
	if !known {
		q.watched[conn] = struct{}{}
	}
	q.mu.Unlock()
	if known {
		return
	}
	q.p.Go(func(ctx context.Context) {
		select {
		case <-ctx.Done():
			return
		case <-conn.Done():
		}
		q.abandon(conn)
		q.mu.Lock()
		delete(q.watched, conn)
		q.mu.Unlock()
	})
}

func (q *Queue) snapshot(context.Context, proto.Empty) (proto.StatsReply, error) {
	n, d := q.sched.Counts(), q.deliver.Counts()
	q.stats.Set(stats.Envelopes, int64(n.Envelopes))
	q.stats.Set(stats.EnvelopesInFlight, int64(n.InFlight))
	q.stats.Set(stats.RAMQueueEnvelope, int64(n.Envelopes))
	q.stats.Set(stats.RAMQueueHold, int64(n.Held))
	q.stats.Set(stats.RAMQueueHoldQueues, int64(n.HoldQueues))
	q.stats.Set(stats.RAMQueueHoldOverflow, n.HoldOverflow)
	q.stats.Set(stats.MDAUser, int64(d.Users))
	q.stats.Set(stats.MDAPending, int64(d.Pending))
	q.stats.Set(stats.MDARunning, int64(d.Running))
	var r proto.StatsReply
	for name, paused := range map[string]bool{"mda.paused": q.pausedMDA.Load(), "mta.paused": q.pausedMTA.Load()} {
		v := int64(0)
		if paused {
			v = 1
		}
		r.Counters = append(r.Counters, proto.Counter{Name: name, Value: v})
	}
	for name, v := range q.stats.Snapshot() {
		r.Counters = append(r.Counters, proto.Counter{Name: name, Value: v})
	}
	return r, nil
}

// retryDelay is the pause before something is tried again that failed inside the
// daemon, such as reading an envelope.
const retryDelay = time.Minute
