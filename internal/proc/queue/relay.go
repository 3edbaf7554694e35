package queue

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dsn"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Outcomes of a relay attempt, as proto.RelayReply has them.
const (
	relayOK       = 1
	relayPermFail = 3
)

// lost is the hold queue of envelopes whose relay attempt ended with the process
// that made it. That does not count as a failure of the destination.
const lost = "mta|lost"

// holds are the hold queues of relays. The dispatcher says when to release; should
// it die, or its word come before an envelope is in the queue, the tick does.
type holds struct {
	mu    sync.Mutex
	names map[string]struct{}
}

// holdTick is how often held envelopes are looked after.
const (
	holdTick    = 10 * time.Second
	holdRelease = 100
)

func (h *holds) add(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names[name] = struct{}{}
}

// take returns the names and forgets them; those that still hold come again.
func (h *holds) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.names))
	for n := range h.names {
		out = append(out, n)
	}
	clear(h.names)
	return out
}

// tickHolds releases some of each hold queue of relays now and then.
func (q *Queue) tickHolds(ctx context.Context) {
	t := time.NewTicker(holdTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, name := range q.holds.take() {
			n := holdRelease
			if name == lost {
				n = -1
			}
			q.sched.Release(name, n)
		}
	}
}

func (q *Queue) releaseRelay(_ context.Context, req proto.ReleaseRequest) (proto.Empty, error) {
	q.sched.Release(req.Queue, req.N)
	return proto.Empty{}, nil
}

// rescheduleRelay makes envelopes due whose destination takes mail again.
func (q *Queue) rescheduleRelay(_ context.Context, req proto.RescheduleRequest) (proto.Empty, error) {
	now := time.Now()
	for _, id := range req.IDs {
		if uint32(id) != 0 && id.MsgID() != 0 { // no whole messages, and not all
			q.sched.Schedule(id, now)
		}
	}
	return proto.Empty{}, nil
}

// openMessage hands the text of a message to the dispatcher, for relaying.
func (q *Queue) openMessage(ctx context.Context, req proto.MsgRequest, files []*os.File) (proto.OpenReply, []*os.File, error) {
	for _, f := range files {
		f.Close()
	}
	b, err := q.store.Open(ctx, req.MsgID)
	if err != nil {
		return proto.OpenReply{}, nil, err
	}
	if b.File != nil {
		return proto.OpenReply{Size: b.Size}, []*os.File{b.File}, nil
	}
	return proto.OpenReply{Text: b.Bytes, Size: b.Size}, nil, nil
}

// relay has the dispatcher relay one envelope and deals with the outcome. It is
// called in a goroutine of its own; there are as many as the schedule lets fly.
func (q *Queue) relay(ctx context.Context, e *envelope.Envelope) {
	r, err := proc.Ask(ctx, q.p.Links, proto.Dispatcher, proto.Relay, proto.RelayRequest{Envelope: *e})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		q.p.Log.Debugf("relay %s: %v", e.ID, err)
		q.holds.add(lost)
		q.keep(e, lost)
		return
	}
	if r.Cause != "" {
		q.p.Log.Debugf("relay of %s: %s", e.ID, r.Cause)
	}
	if r.Hold != "" {
		q.holds.add(r.Hold)
		q.keep(e, r.Hold)
		return
	}
	out := attemptReport{session: report.Session(r.Session), relay: envelope.Clean(r.Relay), source: r.Source, held: envelope.Clean(r.Held)}
	switch r.Outcome {
	case relayOK:
		q.relayed(ctx, e, out, &r)
	case relayPermFail:
		q.permFail(ctx, e, out, r.Status, r.Text)
	default:
		q.tempFail(ctx, e, out, r.Status, r.Text, r.RetryAfter)
	}
}

// relayed ends an envelope that the next hop has taken. Its success is reported
// here only when the next hop reports none.
func (q *Queue) relayed(ctx context.Context, e *envelope.Envelope, out attemptReport, r *proto.RelayReply) {
	e.Status, e.ErrorLine, e.Relay, e.Held = r.Status, envelope.Clean(r.Text), out.relay, ""
	q.report(e, out, report.OK, r.Text, time.Time{})
	if dsn.WantsSuccess(e) && !r.DSN {
		q.owe(ctx, e, envelope.BounceDelivered)
		q.bounces.add(ctx, e, envelope.BounceDelivered)
		return
	}
	q.forget(ctx, e.ID)
}

// attemptReport is where an attempt was made, for the log and for reports.
type attemptReport struct {
	session report.Session
	relay   string // host, as logs have it
	source  string
	held    string // which limit or route held it back
}
