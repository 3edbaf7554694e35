package queue

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/deliver"
	"github.com/opensmtpd/opensmtpd/internal/dsn"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// batchSize is how many due envelopes are taken from the schedule at a time.
const batchSize = 256

// run takes due envelopes from the schedule and sets attempts off, until ctx ends.
func (q *Queue) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.sched.Changed():
		case <-timer.C:
		}
		for ctx.Err() == nil {
			due, wake := q.sched.Next(time.Now(), batchSize)
			for _, id := range due.Removed {
				q.removed(ctx, id)
			}
			for _, id := range due.Expired {
				q.expired(ctx, id)
			}
			for _, item := range due.Attempts {
				q.attempt(ctx, item)
			}
			if len(due.Removed)+len(due.Expired)+len(due.Attempts) > 0 {
				continue
			}
			if !wake.IsZero() {
				timer.Reset(max(time.Until(wake), time.Millisecond))
			}
			break
		}
	}
}

// take returns an envelope that is in flight, or nil after a failure to read it,
// which has been dealt with.
func (q *Queue) take(ctx context.Context, id envelope.ID) *envelope.Envelope {
	q.mu.Lock()
	e := q.fresh[id]
	delete(q.fresh, id)
	q.mu.Unlock()
	if e != nil {
		return e
	}
	e, err := q.store.Load(ctx, id)
	switch {
	case err == nil:
		if e.TTL <= 0 {
			e.TTL = q.config.Load().TTL
		}
		return e
	case errors.Is(err, queue.ErrNotFound), errors.Is(err, queue.ErrCorrupt):
		q.p.Log.Warnf("queue: envelope %s: %v", id, err)
		q.sched.Remove(id)
	default:
		q.p.Log.Warnf("queue: read envelope %s: %v", id, err)
		q.sched.Retry(id, time.Now().Add(retryDelay))
	}
	return nil
}

// attempt sets one attempt off. It does not wait for its end.
func (q *Queue) attempt(ctx context.Context, item scheduler.Item) {
	e := q.take(ctx, item.ID)
	if e == nil {
		return
	}
	q.p.Log.Tracef("scheduler", "attempt %d of %s %s: from=<%s> to=<%s>", item.Retry+1, e.Type, e.ID, e.Sender, e.Dest)
	if e.Type == envelope.Bounce {
		q.bounces.add(ctx, e, e.BounceType)
		return
	}
	action := q.config.Load().actions[e.Action]
	switch {
	case action == nil && e.Action != "":
		q.p.Go(func(ctx context.Context) { q.reroute(ctx, e) })
	case e.Type == envelope.MTA:
		q.relays.Add(1)
		q.p.Go(func(ctx context.Context) {
			defer q.relays.Done()
			q.relay(ctx, e)
		})
	case action == nil || !action.Local:
		q.p.Go(func(ctx context.Context) { q.reroute(ctx, e) })
	default:
		a := &deliver.Attempt{
			Envelope: e, Userbase: action.Userbase, RunAs: action.User, Mbox: action.Mbox, Shared: action.Shared,
			Open: func(ctx context.Context) (queue.Body, error) { return q.store.Open(ctx, e.ID.MsgID()) },
		}
		if e.User == "" { // a command or file straight out of an alias
			a.Userbase, a.RunAs = "", q.config.Load().CommandUser
		}
		q.p.Log.Tracef("mda", "%s: action=%q user=%q userbase=%q run-as=%q exec=%q", e.ID, e.Action, e.User, a.Userbase, a.RunAs, e.Exec)
		q.deliver.Add(a)
	}
}

// desk takes results from the deliveries.
type desk struct{ q *Queue }

// Done implements deliver.Desk.
func (d desk) Done(a *deliver.Attempt, r mda.Result, cause error) {
	q, e := d.q, a.Envelope
	if cause != nil {
		q.p.Log.Warnf("delivery of %s: %v", e.ID, cause)
	}
	ctx := context.WithoutCancel(q.p.Context())
	switch r.Outcome {
	case mda.Delivered:
		q.delivered(ctx, e, r.Text)
	case mda.PermFail:
		q.permFail(ctx, e, attemptReport{}, r.Enhanced, r.Text)
	case mda.Loop:
		q.permFail(ctx, e, attemptReport{}, smtp.EnhancedCode{5, 4, 6}, r.Text)
	default:
		q.tempFail(ctx, e, attemptReport{}, r.Enhanced, r.Text, 0)
	}
}

// Hold implements deliver.Desk.
func (d desk) Hold(a *deliver.Attempt, name string) {
	q, e := d.q, a.Envelope
	q.keep(e, name)
}

// keep moves an envelope from flight into a hold queue.
func (q *Queue) keep(e *envelope.Envelope, name string) {
	// Before the schedule has it: from then on somebody else may take it. It has not
	// changed since it was read, so it is good whether it is held or due again.
	q.mu.Lock()
	if len(q.fresh) < maxFresh {
		q.fresh[e.ID] = e
	}
	q.mu.Unlock()
	q.sched.Hold(e.ID, name, time.Now())
}

// Release implements deliver.Desk.
func (d desk) Release(name string, n int) { d.q.sched.Release(name, n) }

// delivered ends an envelope well.
func (q *Queue) delivered(ctx context.Context, e *envelope.Envelope, text string) {
	q.report(e, attemptReport{}, report.OK, text, time.Time{})
	if dsn.WantsSuccess(e) {
		// It must not be delivered again, whatever happens before the report is stored.
		q.owe(ctx, e, envelope.BounceDelivered)
		q.bounces.add(ctx, e, envelope.BounceDelivered)
		return
	}
	q.forget(ctx, e.ID)
}

// permFail ends an envelope with a report to its sender.
func (q *Queue) permFail(ctx context.Context, e *envelope.Envelope, at attemptReport, status smtp.EnhancedCode, text string) {
	e.Relay, e.Held = at.relay, ""
	q.report(e, at, report.PermFail, text, time.Time{})
	q.failed(ctx, e, status, text)
}

// failed gives an envelope up: its sender is told, if that is wanted and possible.
func (q *Queue) failed(ctx context.Context, e *envelope.Envelope, status smtp.EnhancedCode, text string) {
	if status[0] != 5 {
		status = smtp.EnhancedCode{5, status[1], status[2]}
	}
	e.Status, e.ErrorLine, e.LastTry = status, envelope.Clean(text), time.Now().Truncate(time.Second)
	if !q.bounces.wantsFailure(e) {
		if e.Sender.IsNull() {
			q.p.Log.Warnf("queue: no return path for %s: %s", e.ID, e.ErrorLine)
		}
		q.forget(ctx, e.ID)
		return
	}
	q.bounces.add(ctx, e, envelope.BounceFailed)
}

// tempFail keeps an envelope for another attempt. The new state is on disk before
// the schedule has it. It is not tried again before after has passed.
func (q *Queue) tempFail(ctx context.Context, e *envelope.Envelope, at attemptReport, status smtp.EnhancedCode, text string, after time.Duration) {
	now := time.Now().Truncate(time.Second)
	c := q.config.Load()
	e.Retry++
	e.LastTry, e.Status, e.ErrorLine = now, status, envelope.Clean(text)
	e.Relay, e.Held = at.relay, at.held
	e.NextTry = c.backoff.Next(e.Type, e.Created, e.Retry, now)
	if least := now.Add(after); after > 0 && e.NextTry.Before(least) {
		e.NextTry = least
	}
	if _, due := dsn.DelayDue(e, c.WarnIntervals, now); due {
		e.LastBounce = now
		q.bounces.add(ctx, e, envelope.BounceDelayed)
	}
	q.note(ctx, e)
	q.sched.Retry(e.ID, e.NextTry)
	q.report(e, at, report.TempFail, text, e.NextTry)
}

// note stores the state of an envelope. When that fails an earlier state is met
// after a restart: an attempt too many, no mail lost.
func (q *Queue) note(ctx context.Context, e *envelope.Envelope) {
	if err := q.store.Update(context.WithoutCancel(ctx), e); err != nil {
		q.p.Log.Warnf("queue: note the state of %s: %v", e.ID, err)
	}
}

// owe turns an envelope that is done with its recipient into one of which its sender
// is still to be told. It has a lifetime of its own for that. Its state is stored.
func (q *Queue) owe(ctx context.Context, e *envelope.Envelope, t envelope.BounceType) {
	if e.Type != envelope.Bounce {
		e.Type, e.BounceType, e.Retry = envelope.Bounce, t, 0
		e.TTL = max(0, time.Since(e.Created).Truncate(time.Second)) + q.config.Load().TTL
	}
	q.note(ctx, e)
}

// maxUndeleted bounds the envelopes remembered to be deleted later; what goes beyond
// is met again after a restart.
const maxUndeleted = 100_000

// forget removes an envelope whose end is known. It is not tried again, even when
// the store cannot delete it now.
func (q *Queue) forget(ctx context.Context, id envelope.ID) {
	if err := q.store.Delete(context.WithoutCancel(ctx), id); err != nil && !errors.Is(err, queue.ErrNotFound) {
		q.p.Log.Warnf("queue: delete envelope %s, to be tried again: %v", id, err)
		q.mu.Lock()
		if len(q.undeleted) < maxUndeleted {
			q.undeleted[id] = struct{}{}
		}
		q.mu.Unlock()
	}
	q.sched.Remove(id)
}

// sweep deletes what could not be deleted before, until ctx ends.
func (q *Queue) sweep(ctx context.Context) {
	tick := time.NewTicker(retryDelay)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			q.sweepOnce(ctx)
		}
	}
}

func (q *Queue) sweepOnce(ctx context.Context) {
	q.mu.Lock()
	ids := slices.Collect(maps.Keys(q.undeleted))
	q.mu.Unlock()
	for _, id := range ids {
		if err := q.store.Delete(ctx, id); err != nil && !errors.Is(err, queue.ErrNotFound) {
			q.p.Log.Warnf("queue: %d envelopes that are done with cannot be deleted: %v", len(ids), err)
			return // the rest will not fare better
		}
		q.mu.Lock()
		delete(q.undeleted, id)
		q.mu.Unlock()
	}
}

// removed ends an envelope at the operator's wish; nobody is told.
func (q *Queue) removed(ctx context.Context, id envelope.ID) {
	e := q.take(ctx, id)
	if e == nil {
		return
	}
	q.events.Report(report.QueueEnd{Envelope: e, Verb: "Remove", Delay: time.Since(e.Created), Stat: "Removed by administrator"})
	q.forget(ctx, id)
}

// expired gives up an envelope whose time is over.
func (q *Queue) expired(ctx context.Context, id envelope.ID) {
	e := q.take(ctx, id)
	if e == nil {
		return
	}
	if e.Type == envelope.Bounce {
		q.p.Log.Warnf("queue: giving up the report on %s to <%s>", e.ID, e.Sender)
		q.forget(ctx, id)
		return
	}
	q.events.Report(report.QueueEnd{Envelope: e, Verb: "Expire", Delay: time.Since(e.Created), Stat: "Envelope expired"})
	q.failed(ctx, e, smtp.EnhancedCode{5, 4, 7}, dsn.Expired(e.ErrorLine))
}

// report tells the log how an attempt ended.
func (q *Queue) report(e *envelope.Envelope, at attemptReport, result, text string, next time.Time) {
	q.events.Report(report.Delivery{Session: at.session, Envelope: e, Relay: at.relay, Source: at.source, Delay: time.Since(e.Created), Result: result, Stat: text, Next: next})
}
