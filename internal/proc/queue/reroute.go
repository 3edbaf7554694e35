package queue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// inject stores a message of our own making for one recipient, by way of the
// rules. Errors that are permanent *smtp.Errors come from the rules.
func (q *Queue) inject(ctx context.Context, req proto.ExpandRequest, body io.Reader) error {
	id, t, err := q.begin(ctx, nil)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			if t, err := q.end(id, nil); err == nil {
				q.discard(id, t)
			}
		}
	}()
	req.MsgID = id
	if _, err := proc.Ask(ctx, q.p.Links, proto.Lookup, proto.Expand, req); err != nil {
		if e := proto.SMTPError(err); e != nil {
			return e
		}
		return err
	}
	text, spilled, err := q.bring(ctx, id, t, body)
	if err != nil {
		return err
	}
	if _, err := q.end(id, nil); err != nil {
		return err
	}
	done = true
	return q.commit(ctx, id, t, text, spilled)
}

// submitMessage stores a message of our own.
func (q *Queue) submitMessage(ctx context.Context, req proto.SubmitMessageRequest) (proto.Empty, error) {
	name := q.config.Load().ServerName
	err := q.inject(ctx, proto.ExpandRequest{
		Facts: policy.Facts{
			Source: "local", RDNS: name, HELO: name, Authenticated: true, Internal: true, Sender: req.Sender, Rcpt: req.Rcpt,
		},
		Hostname: name, SMTPName: name, Notify: envelope.NotifyNever, Own: true, TLSOptional: true,
	}, bytes.NewReader(req.Body))
	return proto.Empty{}, proto.Refuse(err)
}

// bring reads a body into memory, or into a spilled file when it is large.
func (q *Queue) bring(ctx context.Context, id envelope.MsgID, t *transaction, body io.Reader) ([]byte, bool, error) {
	var head bytes.Buffer
	if _, err := io.CopyN(&head, body, queue.InlineMax+1); err == io.EOF {
		return head.Bytes(), false, nil
	} else if err != nil {
		return nil, false, err
	}
	f, err := q.store.Spill(ctx, id)
	if err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	t.spilled = true
	t.mu.Unlock()
	if _, err := io.Copy(f, io.MultiReader(&head, body)); err != nil {
		f.Close()
		return nil, false, err
	}
	return nil, true, f.Close()
}

// maxReroutes is how many envelopes are sent through the rules at a time: each has
// its message in memory. The others of a batch wait.
const maxReroutes = 4

// reroute sends an envelope whose action is gone through the present rules, as a
// message of its own. Without a rule that takes it, it waits: it was accepted, and who
// changed the configuration can put that right.
func (q *Queue) reroute(ctx context.Context, e *envelope.Envelope) {
	select {
	case q.reroutes <- struct{}{}:
		defer func() { <-q.reroutes }()
	case <-ctx.Done():
		return
	}
	err := q.rerouted(ctx, e)
	if err != nil {
		q.p.Log.Warnf("queue: envelope %s for <%s>: action %q is not in the configuration any more, and by its rules: %v; it waits", e.ID, e.Dest, e.Action, err)
		q.tempFail(ctx, e, attemptReport{}, smtp.EnhancedCode{4, 3, 5}, fmt.Sprintf("Action %q is not in the configuration any more", e.Action), 0)
		return
	}
	q.p.Log.Infof("queue: envelope %s: action %q is gone, sent through the rules again", e.ID, e.Action)
	q.forget(ctx, e.ID)
}

func (q *Queue) rerouted(ctx context.Context, e *envelope.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := q.store.Open(ctx, e.ID.MsgID())
	if err != nil {
		return err
	}
	defer body.Close()
	return q.inject(ctx, proto.ExpandRequest{
		Facts:    factsOf(e),
		Hostname: e.Hostname, SMTPName: e.SMTPName,
		EightBit: e.Flags&envelope.EightBit != 0, UTF8: e.Flags&envelope.UTF8 != 0,
		Ret: e.Ret, EnvID: e.EnvID, Notify: e.Notify, OrigRcpt: e.OrigRcpt,
		RequireTLS: e.Flags&envelope.RequireTLS != 0, TLSOptional: e.Flags&envelope.TLSOptional != 0,
		Bounce: e.Flags&envelope.IsBounce != 0, Own: e.Flags&envelope.IsBounce != 0,
		Created: e.Created,
	}, body.Reader())
}
