package dispatcher

import (
	"context"
	"fmt"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp/server"
)

// session answers the questions of one SMTP session by asking lookup and queue.
type session struct {
	g     *generation
	s     *server.Session
	l     *proto.Listener
	queue *imsg.Conn // the link that the open transaction belongs to
}

// refusal turns an answer that another process sent into the reply it stands for.
// Anything else stays as it is: temporary.
func refusal(err error) error {
	if e := proto.SMTPError(err); e != nil {
		return e
	}
	return err
}

// Authenticate implements server.Backend.
func (b *session) Authenticate(ctx context.Context, user, password string) error {
	_, err := proc.Ask(ctx, b.g.d.p.Links, proto.Lookup, proto.Authenticate, proto.AuthRequest{
		Generation: b.g.number, Table: b.l.AuthTable, User: user, Password: password, Source: b.s.Source,
	})
	return refusal(err)
}

// Mail implements server.Backend.
func (b *session) Mail(ctx context.Context, t *server.Transaction) error {
	if b.s.Authenticated && !b.s.Local && b.l.Senders != "" {
		_, err := proc.Ask(ctx, b.g.d.p.Links, proto.Lookup, proto.CheckSender, proto.CheckSenderRequest{
			Generation: b.g.number, Table: b.l.Senders, User: b.s.Username, Sender: t.Sender,
		})
		if err != nil {
			return refusal(err)
		}
	}
	conn, err := b.g.d.p.Links.Conn(ctx, proto.Queue)
	if err != nil {
		return err
	}
	r, _, err := proto.Begin.Call(ctx, conn, proto.BeginRequest{Session: uint64(b.s.ID)})
	if err != nil {
		return refusal(err)
	}
	t.ID, b.queue = r.MsgID, conn
	b.g.d.p.Log.Tracef("smtp", "%016x: transaction %s from <%s>", uint64(b.s.ID), t.ID, t.Sender)
	return nil
}

// Rcpt implements server.Backend. Pipelined recipients are asked for side by side.
func (b *session) Rcpt(ctx context.Context, t *server.Transaction, rcpts []server.Recipient, errs []error) {
	if len(rcpts) == 1 {
		errs[0] = b.rcpt(ctx, t, &rcpts[0])
		return
	}
	var wg sync.WaitGroup
	for i := range rcpts {
		wg.Go(func() { errs[i] = b.rcpt(ctx, t, &rcpts[i]) })
	}
	wg.Wait()
}

func (b *session) rcpt(ctx context.Context, t *server.Transaction, r *server.Recipient) error {
	reply, err := proc.Ask(ctx, b.g.d.p.Links, proto.Lookup, proto.Expand, proto.ExpandRequest{
		Generation: b.g.number, MsgID: t.ID,
		Facts: policy.Facts{
			Tag: b.s.Tag, Source: b.s.Source, RDNS: b.s.RDNS, HELO: b.s.HELO,
			Authenticated: b.s.Authenticated, Username: b.s.Username, TLS: b.s.TLS != nil,
			Sender: t.Sender, Rcpt: r.Path,
		},
		Hostname: b.s.RDNS, SMTPName: b.s.Name, EightBit: t.EightBit, UTF8: t.UTF8, RequireTLS: t.RequireTLS,
		Ret: t.Ret, EnvID: t.EnvID, Notify: r.Notify, OrigRcpt: r.OrigRcpt,
	})
	if err != nil {
		return refusal(err)
	}
	r.Envelopes = reply.IDs
	return nil
}

// Data implements server.Backend.
func (b *session) Data(context.Context, *server.Transaction) error { return nil }

// Spill implements server.Backend.
func (b *session) Spill(ctx context.Context, t *server.Transaction) (server.File, error) {
	_, files, err := proto.Spill.Call(ctx, b.queue, proto.MsgRequest{MsgID: t.ID})
	if err != nil {
		return nil, refusal(err)
	}
	f, err := only(files)
	if err != nil {
		return nil, fmt.Errorf("spill: %w", err)
	}
	return f, nil
}

// Commit implements server.Backend.
func (b *session) Commit(ctx context.Context, t *server.Transaction, body []byte, size int64) error {
	_, _, err := proto.Commit.Call(ctx, b.queue, proto.CommitRequest{MsgID: t.ID, Spilled: body == nil, Body: body, TLSOptional: t.TLSOptional})
	return refusal(err)
}

// Reset implements server.Backend.
func (b *session) Reset(t *server.Transaction) { b.rollback(t.ID) }

func (b *session) rollback(id envelope.MsgID) {
	// When the link is gone, so is the transaction.
	_ = proto.Rollback.Send(b.queue, proto.MsgRequest{MsgID: id})
}
