package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Bounds on open transactions. What goes beyond is refused for the moment.
const (
	maxTransactions = 20_000
	maxEnvelopes    = 20_000 // of one message, after expansion
)

// Temporary refusals.
var (
	errBusy = &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 2}, Text: "Too many open transactions"}
	errFull = &smtp.Error{Code: 452, Enhanced: smtp.EnhancedCode{4, 3, 1}, Text: "Insufficient system storage"}
	errMany = &smtp.Error{Code: 452, Enhanced: smtp.EnhancedCode{4, 5, 3}, Text: "Too many recipients"}
	errGone = &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Transaction lost, try again"}
)

// transaction is a message being received: its id is reserved, nothing is on disk
// but a spilled body.
type transaction struct {
	owner *imsg.Conn // the link it was begun on; nil for our own messages

	mu        sync.Mutex // guards what follows
	envelopes []*envelope.Envelope
	spilled   bool
	ended     bool // committed or rolled back: nothing is added any more
}

// discard ends a transaction that was taken off the list.
func (q *Queue) discard(id envelope.MsgID, t *transaction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	q.store.Discard(id)
}

// storeError turns a store's error into the reply that it means.
func storeError(err error) error {
	if errors.Is(err, queue.ErrNoSpace) {
		e := *errFull
		e.Err = err
		return &e
	}
	return err
}

// begin opens a transaction for a link, or for the queue itself when owner is nil.
func (q *Queue) begin(ctx context.Context, owner *imsg.Conn) (envelope.MsgID, *transaction, error) {
	id, err := q.store.NewID(ctx)
	if err != nil {
		return 0, nil, storeError(err)
	}
	t := &transaction{owner: owner}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.transactions) >= maxTransactions {
		q.store.Discard(id)
		return 0, nil, errBusy
	}
	if owner != nil {
		select {
		case <-owner.Done(): // its transactions were rolled back before this one was on the list
			q.store.Discard(id)
			return 0, nil, errGone
		default:
		}
	}
	q.transactions[id] = t
	return id, t, nil
}

// transaction returns an open transaction of a link; any, when owner is nil.
func (q *Queue) transaction(id envelope.MsgID, owner *imsg.Conn) (*transaction, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.transactions[id]
	if t == nil || owner != nil && t.owner != owner {
		return nil, errGone
	}
	return t, nil
}

// end takes a transaction off the list; the first to do so may use it.
func (q *Queue) end(id envelope.MsgID, owner *imsg.Conn) (*transaction, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.transactions[id]
	if t == nil || t.owner != owner {
		return nil, errGone
	}
	delete(q.transactions, id)
	return t, nil
}

// abandon rolls back all transactions of a link that was lost.
func (q *Queue) abandon(owner *imsg.Conn) {
	q.mu.Lock()
	lost := map[envelope.MsgID]*transaction{}
	for id, t := range q.transactions {
		if t.owner == owner {
			lost[id] = t
			delete(q.transactions, id)
		}
	}
	q.mu.Unlock()
	for id, t := range lost {
		q.discard(id, t)
	}
}

func (q *Queue) handleBegin(ctx context.Context, _ proto.BeginRequest) (proto.BeginReply, error) {
	conn := imsg.ConnOf(ctx)
	q.watch(conn)
	id, _, err := q.begin(ctx, conn)
	return proto.BeginReply{MsgID: id}, err
}

func (q *Queue) handleSpill(ctx context.Context, req proto.MsgRequest, files []*os.File) (proto.Empty, []*os.File, error) {
	for _, f := range files {
		f.Close()
	}
	t, err := q.transaction(req.MsgID, imsg.ConnOf(ctx))
	if err != nil {
		return proto.Empty{}, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return proto.Empty{}, nil, errGone
	}
	f, err := q.store.Spill(ctx, req.MsgID)
	if err != nil {
		return proto.Empty{}, nil, storeError(err)
	}
	t.spilled = true
	return proto.Empty{}, []*os.File{f}, nil
}

func (q *Queue) handleRollback(ctx context.Context, req proto.MsgRequest) (proto.Empty, error) {
	if t, err := q.end(req.MsgID, imsg.ConnOf(ctx)); err == nil {
		q.discard(req.MsgID, t)
	}
	return proto.Empty{}, nil
}

// handleSubmit adds recipients that lookup has made of one RCPT.
func (q *Queue) handleSubmit(_ context.Context, req proto.SubmitRequest) (proto.SubmitReply, error) {
	t, err := q.transaction(req.MsgID, nil)
	if err != nil {
		return proto.SubmitReply{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return proto.SubmitReply{}, errGone
	}
	if len(t.envelopes)+len(req.Envelopes) > maxEnvelopes {
		return proto.SubmitReply{}, errMany
	}
	if slices.Contains(req.Envelopes, nil) {
		return proto.SubmitReply{}, errors.New("submit: nil for an envelope")
	}
	now := time.Now().Truncate(time.Second)
	reply := proto.SubmitReply{IDs: make([]envelope.ID, 0, len(req.Envelopes))}
	for _, e := range req.Envelopes {
		e.ID = t.newID(req.MsgID)
		if e.Created.IsZero() || e.Created.After(now) {
			e.Created = now
		}
		if e.TTL <= 0 {
			e.TTL = q.config.Load().TTL
		}
		t.envelopes = append(t.envelopes, e)
		reply.IDs = append(reply.IDs, e.ID)
	}
	return reply, nil
}

// newID returns an id that no envelope of the transaction has. The ids of a
// message count up from a random number, so that they cannot be told in advance.
func (t *transaction) newID(m envelope.MsgID) envelope.ID {
	n := rand.Uint32()
	if len(t.envelopes) > 0 {
		n = uint32(t.envelopes[len(t.envelopes)-1].ID) + 1
	}
	if n == 0 {
		n = 1
	}
	return envelope.NewID(m, n)
}

func (q *Queue) handleCommit(ctx context.Context, req proto.CommitRequest) (proto.Empty, error) {
	t, err := q.end(req.MsgID, imsg.ConnOf(ctx))
	if err != nil {
		return proto.Empty{}, err
	}
	if req.TLSOptional {
		t.mu.Lock()
		for _, e := range t.envelopes {
			e.Flags |= envelope.TLSOptional
		}
		t.mu.Unlock()
	}
	return proto.Empty{}, q.commit(ctx, req.MsgID, t, req.Body, req.Spilled)
}

// commit makes a message durable and puts its envelopes on the schedule. A caller
// that has gone away meanwhile does not stop it: the message is whole.
func (q *Queue) commit(ctx context.Context, id envelope.MsgID, t *transaction, body []byte, spilled bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if len(t.envelopes) == 0 || spilled != t.spilled {
		q.store.Discard(id)
		return errGone
	}
	err := q.store.Commit(context.WithoutCancel(ctx), queue.Message{ID: id, Envelopes: t.envelopes, Body: body, Spilled: spilled})
	if err != nil {
		q.store.Discard(id)
		return storeError(err)
	}
	q.p.Log.Tracef("queue", "message %s: %d envelopes, %d bytes in memory, spilled=%v", id, len(t.envelopes), len(body), spilled)
	q.enqueue(t.envelopes)
	return nil
}
