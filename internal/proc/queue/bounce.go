package queue

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dsn"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/stats"
)

// maxReports is how many reports are composed at a time; others wait in the
// collector's channel, and the attempts behind them.
const maxReports = 4

// bouncer gathers what senders must be told and stores the reports. An envelope
// that is done with its recipient stays on the schedule, in flight, until its
// report is durable; a crash meanwhile repeats the attempt, which loses nothing.
type bouncer struct {
	q       *Queue
	notices chan dsn.Notice
	slots   chan struct{}
}

func newBouncer(q *Queue) *bouncer {
	return &bouncer{q: q, notices: make(chan dsn.Notice, 1024), slots: make(chan struct{}, maxReports)}
}

// add has the sender told how an envelope ended; the envelope is forgotten after
// that. It waits while too much is to be told.
func (b *bouncer) add(ctx context.Context, e *envelope.Envelope, t envelope.BounceType) {
	action := map[envelope.BounceType]dsn.Action{
		envelope.BounceFailed: dsn.Failed, envelope.BounceDelayed: dsn.Delayed, envelope.BounceDelivered: dsn.Delivered,
	}[t]
	if action == dsn.Delivered && e.Action != "" {
		if a := b.q.config.Load().actions[e.Action]; a != nil && !a.Local {
			action = dsn.Relayed
		}
	}
	n := dsn.Notice{Envelope: e, Type: t, Recipient: dsn.FromEnvelope(e, action)}
	if t == envelope.BounceDelayed {
		// The envelope goes on living, and changing.
		c := *e
		n.Envelope = &c
	}
	select {
	case b.notices <- n:
	case <-ctx.Done():
	case <-b.q.p.Context().Done(): // nobody takes it any more; it is met again after a start
	}
}

// run groups notices and has each group reported, until ctx ends.
func (b *bouncer) run(ctx context.Context) {
	c := dsn.NewCollector(0, 0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-b.notices:
			timer.Reset(max(0, time.Until(c.Add(n, time.Now()))))
			continue
		case <-timer.C:
		}
		ready, wake := c.Take(time.Now())
		for _, g := range ready {
			select {
			case b.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			b.q.p.Go(func(ctx context.Context) {
				defer func() { <-b.slots }()
				b.report(ctx, g)
			})
		}
		if !wake.IsZero() {
			timer.Reset(max(0, time.Until(wake)))
		}
	}
}

// reportTimeout bounds the making of one report.
const reportTimeout = 2 * time.Minute

// report stores one group's report and ends its envelopes.
func (b *bouncer) report(ctx context.Context, g dsn.Group) {
	q := b.q
	work, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	q.p.Log.Tracef("bounce", "message %s to <%s>: %d recipients", g.Notices[0].Envelope.ID.MsgID(), g.Notices[0].Envelope.Sender, len(g.Notices))
	err := b.send(work, g)
	refused := proto.SMTPError(err)
	if err == nil {
		q.stats.Add(stats.BounceMessage, 1)
		q.stats.Add(stats.BounceEnvelope, int64(len(g.Notices)))
	} else if refused != nil && refused.Permanent() {
		e := g.Notices[0].Envelope
		q.p.Log.Warnf("PermFail injecting failure report on message %s to <%s> for %d envelope: %s", e.ID.MsgID(), e.Sender, len(g.Notices), refused.Reply())
		err = nil
	}
	if g.Type == envelope.BounceDelayed {
		if err != nil {
			q.p.Log.Warnf("queue: delay notice of message %s: %v", g.Notices[0].Envelope.ID.MsgID(), err)
		}
		return
	}
	for _, n := range g.Notices {
		if err == nil {
			q.forget(ctx, n.Envelope.ID)
			continue
		}
		b.later(ctx, n, err)
	}
}

// later keeps an envelope whose report could not be stored as a bounce envelope,
// which is tried again like a delivery.
func (b *bouncer) later(ctx context.Context, n dsn.Notice, cause error) {
	q, e := b.q, n.Envelope
	if ctx.Err() != nil {
		return // the daemon ends; the attempt is repeated after its start
	}
	now := time.Now().Truncate(time.Second)
	if e.Type == envelope.Bounce && now.After(e.Expires()) {
		q.p.Log.Warnf("queue: giving up the report on %s to <%s>: %v", e.ID, e.Sender, cause)
		q.forget(ctx, e.ID)
		return
	}
	retry := e.Retry
	if e.Type != envelope.Bounce {
		retry = 0
	}
	e.NextTry = q.config.Load().backoff.Next(envelope.Bounce, e.Created, retry+1, now)
	q.p.Log.Warnf("queue: report on %s to <%s> not stored, next try %s: %v", e.ID, e.Sender, e.NextTry.UTC().Format(time.RFC3339), cause)
	q.owe(ctx, e, n.Type)
	q.sched.Insert(q.config.Load().backoff.Item(e, time.Now()))
	q.sched.Retry(e.ID, e.NextTry)
}

// send composes a report and stores it by way of the rules.
func (b *bouncer) send(ctx context.Context, g dsn.Group) error {
	q := b.q
	first := g.Notices[0].Envelope
	body, err := q.store.Open(ctx, first.ID.MsgID())
	if err != nil {
		return fmt.Errorf("open message: %w", err)
	}
	defer body.Close()
	// What may travel over good TLS only goes back that way, without its text (RFC 8689
	// section 5).
	strict := first.Flags&envelope.RequireTLS != 0
	r := &dsn.Report{
		ReportingMTA: q.config.Load().ServerName, ID: first.ID.String() + "." + fmt.Sprint(time.Now().UnixNano()),
		To: first.Sender, EnvID: first.EnvID, Arrival: first.Created, Now: time.Now(), Type: g.Type,
		UTF8: first.Flags&envelope.UTF8 != 0, Full: first.Ret == "FULL" && !strict, Original: body.Reader(), Size: body.Size,
	}
	for _, n := range g.Notices {
		r.Recipients = append(r.Recipients, n.Recipient)
	}
	m, err := dsn.Compose(r)
	if err != nil {
		return err
	}
	name := q.config.Load().ServerName
	return q.inject(ctx, proto.ExpandRequest{
		Facts: policy.Facts{
			Source: "local", RDNS: name, HELO: name, Authenticated: true, Internal: true, Rcpt: first.Sender,
		},
		Hostname: name, SMTPName: name, EightBit: m.EightBit, UTF8: m.UTF8, Bounce: true, Own: true,
		RequireTLS: strict, TLSOptional: first.Flags&envelope.TLSOptional != 0,
	}, bytes.NewReader(m.Body))
}

// factsOf returns what is known of an envelope's session, for the rules.
func factsOf(e *envelope.Envelope) policy.Facts {
	return policy.Facts{
		Tag: e.Tag, Source: e.Source, RDNS: e.Hostname, HELO: e.HELO,
		Authenticated: e.Flags&envelope.Authenticated != 0, Username: e.Username,
		Sender: e.Sender, Rcpt: e.Rcpt,
	}
}
