package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// listPage bounds a page of the listing, so that it fits in a reply.
const listPage = 1000

// list returns a page of the queue.
func (q *Queue) list(ctx context.Context, req proto.ListRequest) (proto.ListReply, error) {
	limit := min(max(req.Max, 1), listPage)
	from := req.From
	if req.MsgID != 0 {
		from = max(from, envelope.NewID(req.MsgID, 0))
	}
	var page []scheduler.Status
	var reply proto.ListReply
	q.sched.Each(from, func(s scheduler.Status) bool {
		if req.MsgID != 0 && s.ID.MsgID() != req.MsgID {
			return false
		}
		if len(page) == limit {
			reply.Next = s.ID
			return false
		}
		page = append(page, s)
		return true
	})
	for _, s := range page {
		e, err := q.peek(ctx, s.ID)
		if errors.Is(err, queue.ErrNotFound) {
			continue // it left meanwhile
		}
		if err != nil {
			return reply, err
		}
		reply.Entries = append(reply.Entries, proto.ListEntry{Envelope: *e, Status: s})
	}
	if req.From == 0 {
		if s, ok := q.store.(interface{ Corrupt() ([]string, error) }); ok {
			names, err := s.Corrupt()
			if err != nil {
				return reply, err
			}
			reply.Corrupt = names[:min(len(names), listPage)]
		}
	}
	return reply, nil
}

// peek reads an envelope without taking it off the cache of fresh ones.
func (q *Queue) peek(ctx context.Context, id envelope.ID) (*envelope.Envelope, error) {
	q.mu.Lock()
	if e := q.fresh[id]; e != nil {
		c := *e
		q.mu.Unlock()
		return &c, nil
	}
	q.mu.Unlock()
	e, err := q.store.Load(ctx, id)
	if err == nil && e.TTL <= 0 {
		e.TTL = q.config.Load().TTL
	}
	return e, err
}

// show returns an envelope's text or a message.
func (q *Queue) show(ctx context.Context, req proto.ShowRequest, files []*os.File) (proto.ShowReply, []*os.File, error) {
	for _, f := range files {
		f.Close()
	}
	if req.Body {
		b, err := q.store.Open(ctx, req.ID.MsgID())
		if err != nil {
			return proto.ShowReply{}, nil, err
		}
		if b.File != nil {
			return proto.ShowReply{}, []*os.File{b.File}, nil
		}
		return proto.ShowReply{Text: b.Bytes}, nil, nil
	}
	e, err := q.peek(ctx, req.ID)
	if err != nil {
		return proto.ShowReply{}, nil, err
	}
	text, err := e.Append(nil)
	return proto.ShowReply{Text: text}, nil, err
}

// manage changes envelopes at the operator's wish.
func (q *Queue) manage(ctx context.Context, req proto.ManageRequest) (proto.CountReply, error) {
	var n int
	switch req.Verb {
	case "pause":
		n = len(q.sched.Suspend(req.ID))
	case "resume":
		n = len(q.sched.Resume(req.ID))
	case "schedule":
		// Who asks for an attempt now wants one, not to hear when the route is tried
		// again. Without a dispatcher there is nothing to attempt.
		_, _ = proc.Ask(ctx, q.p.Links, proto.Dispatcher, proto.RetryRoutes, proto.Empty{})
		n = len(q.sched.Schedule(req.ID, time.Now()))
	case "remove":
		n = len(q.sched.Cancel(req.ID))
	case "discover":
		return q.discover(ctx, req.ID)
	default:
		return proto.CountReply{}, fmt.Errorf("no such request: %q", req.Verb)
	}
	return proto.CountReply{Count: n}, nil
}

// discover puts envelopes on the schedule that somebody has put into the spool by hand.
func (q *Queue) discover(ctx context.Context, id envelope.ID) (proto.CountReply, error) {
	known := map[envelope.ID]bool{}
	q.sched.Each(0, func(s scheduler.Status) bool {
		known[s.ID] = true
		return true
	})
	n := 0
	err := q.store.Walk(ctx, func(e *envelope.Envelope, err error) error {
		if err != nil || known[e.ID] || id != 0 && e.ID != id && envelope.NewID(e.ID.MsgID(), 0) != id {
			return nil
		}
		if e.TTL <= 0 {
			e.TTL = q.config.Load().TTL
		}
		q.sched.Insert(q.config.Load().backoff.Item(e, time.Now()))
		n++
		return nil
	})
	return proto.CountReply{Count: n}, err
}

// pause stops attempts of a type, or lets them go on, and tells whether that was a
// change.
func (q *Queue) pause(t envelope.Type, paused bool) bool {
	if t == envelope.MDA {
		q.pausedMDA.Store(paused)
	} else {
		q.pausedMTA.Store(paused)
	}
	return q.sched.Pause(t, paused)
}

// hold pauses or resumes a class of attempts.
func (q *Queue) hold(_ context.Context, req proto.HoldRequest) (proto.Empty, error) {
	t := map[string]envelope.Type{"mda": envelope.MDA, "mta": envelope.MTA}[req.Class]
	if t == 0 {
		return proto.Empty{}, fmt.Errorf("no such class: %q", req.Class)
	}
	word := map[bool]string{true: "paused", false: "resumed"}[req.Pause]
	if !q.pause(t, req.Pause) {
		return proto.Empty{}, fmt.Errorf("%s is already %s", req.Class, map[bool]string{true: "paused", false: "running"}[req.Pause])
	}
	q.p.Log.Infof("%s %s", req.Class, word)
	return proto.Empty{}, nil
}
