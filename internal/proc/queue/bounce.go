package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dsn"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
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

	mu    sync.Mutex // guards what follows
	limit *dsn.Limiter
}

func newBouncer(q *Queue) *bouncer {
	return &bouncer{q: q, notices: make(chan dsn.Notice, 1024), slots: make(chan struct{}, maxReports), limit: dsn.NewLimiter()}
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
	if at, ok := b.allow(&g); !ok {
		b.postpone(ctx, g, at)
		return
	}
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
	} else if errors.Is(err, dsn.ErrNoReturnPath) {
		e := g.Notices[0].Envelope
		q.p.Log.Warnf("queue: nobody to tell about message %s for %d envelopes: %s", e.ID.MsgID(), len(g.Notices), e.ErrorLine)
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

// addressee returns who is told about an envelope: its sender, or where that cannot
// be the postmaster, unless it is the mail to the postmaster that failed.
func (b *bouncer) addressee(e *envelope.Envelope) smtp.Path {
	if e.Flags&envelope.IsBounce == 0 && !e.Sender.IsNull() {
		return e.Sender
	}
	p := b.q.config.Load().Postmaster
	if strings.EqualFold(p.String(), e.Rcpt.String()) || strings.EqualFold(p.String(), e.Dest.String()) {
		return smtp.Path{}
	}
	return p
}

// wantsFailure tells whether anybody is to hear that e failed.
func (b *bouncer) wantsFailure(e *envelope.Envelope) bool {
	return dsn.WantsFailure(e) || e.Sender.IsNull() && e.Notify&envelope.NotifyNever == 0 && !b.addressee(e).IsNull()
}

// allow counts a report against the rate of its addressee's domain, if it is about
// mail of a stranger, whose sender may be forged. If it is one too many, at is when
// to ask again.
func (b *bouncer) allow(g *dsn.Group) (at time.Time, ok bool) {
	e := g.Notices[0].Envelope
	if e.Flags&envelope.Authenticated != 0 || e.Source == "" || e.Source == "local" || e.Sender.IsNull() {
		return at, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limit.Allow(e.Sender.Domain, b.q.config.Load().MaxBounces, time.Now())
}

// postpone keeps the envelopes of a report that is one too many until at. A warning
// of a delay is not worth that.
func (b *bouncer) postpone(ctx context.Context, g dsn.Group, at time.Time) {
	q, first := b.q, g.Notices[0].Envelope
	held := fmt.Sprintf("limit of %d reports a minute to %s", q.config.Load().MaxBounces, first.Sender.Domain)
	if g.Type == envelope.BounceDelayed {
		q.p.Log.Warnf("queue: delay notice of message %s to <%s> is left out: %s", first.ID.MsgID(), first.Sender, held)
		return
	}
	at = at.Truncate(time.Second).Add(time.Second)
	for _, n := range g.Notices {
		n.Envelope.Held, n.Envelope.NextTry = held, at
		q.owe(ctx, n.Envelope, n.Type)
		q.sched.Insert(q.config.Load().backoff.Item(n.Envelope, time.Now()))
		q.sched.Retry(n.Envelope.ID, at)
	}
	q.p.Log.Infof("queue: report on message %s to <%s> for %d envelopes waits until %s: %s",
		first.ID.MsgID(), first.Sender, len(g.Notices), at.UTC().Format(time.RFC3339), held)
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
		To: b.addressee(first), EnvID: first.EnvID, Arrival: first.Created, Now: time.Now(), Type: g.Type,
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
			Source: "local", RDNS: name, HELO: name, Authenticated: true, Internal: true, Rcpt: r.To,
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
