package queue

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/mem"
	"github.com/opensmtpd/opensmtpd/internal/scheduler/ram"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// watchedStore tells what is done to it and fails when it is told to.
type watchedStore struct {
	queue.Store
	updated chan *envelope.Envelope
	deleted chan envelope.ID

	mu         sync.Mutex // guards what follows
	failDelete error
}

func (s *watchedStore) Update(ctx context.Context, e *envelope.Envelope) error {
	c := *e
	err := s.Store.Update(ctx, e)
	s.updated <- &c
	return err
}

func (s *watchedStore) Delete(ctx context.Context, id envelope.ID) error {
	s.mu.Lock()
	err := s.failDelete
	s.mu.Unlock()
	if err != nil {
		return err
	}
	err = s.Store.Delete(ctx, id)
	s.deleted <- id
	return err
}

// rig is the role with fakes around it.
type rig struct {
	*Queue
	store  *watchedStore
	lookup *imsg.Conn // the fake's end

	mu     sync.Mutex // guards what follows
	refuse error      // the fake's answer to Expand
}

// serveEnd serves an end of a link until the test ends.
func serveEnd(t *testing.T, c *imsg.Conn) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Serve(context.Background())
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
}

// startQueue runs the role over an empty store.
func startQueue(t *testing.T) *rig {
	t.Helper()
	r := &rig{store: &watchedStore{Store: mem.New(), updated: make(chan *envelope.Envelope, 100), deleted: make(chan envelope.ID, 100)}}
	ours, theirs, err := imsg.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	built := make(chan struct{})
	go func() {
		defer close(ended)
		env := proc.Env{Role: proto.Queue, Log: proc.NewLog(io.Discard, proto.Queue, true, false)}
		err := proc.Run(context.Background(), env, theirs, func(p *proc.Process) proc.Role {
			r.Queue = New(p, Parts{
				Store:    func(proto.QueueConfig, func()) (queue.Store, error) { return r.store, nil },
				Schedule: func(n int) Schedule { return ram.New(ram.Limits{MaxInFlight: n}) },
				Keep:     func(proto.QueueConfig) map[proto.RecordKind]keep.Keeper { return nil },
			})
			close(built)
			return r.Queue
		})
		if err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { <-ended })
	<-built
	parent, err := imsg.FromFile(ours, imsg.NewMux(), imsg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	serveEnd(t, parent)
	if _, _, err := proto.SetupQueue.Call(t.Context(), parent, proto.QueueConfig{
		ServerName: "mx.example.org", TTL: time.Hour, MaxInflight: 100,
		Actions: []proto.Action{{Name: "local", Local: true}},
	}); err != nil {
		t.Fatal(err)
	}
	r.config.Load() // what setup did is seen from here on
	near, far, err := imsg.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := proto.Attach.Call(t.Context(), parent, proto.AttachRequest{Role: proto.Lookup}, near); err != nil {
		t.Fatal(err)
	}
	near.Close()
	mux := imsg.NewMux()
	proto.Expand.Handle(mux, proc.Handler(r.expand))
	if r.lookup, err = imsg.FromFile(far, mux, imsg.Options{}); err != nil {
		t.Fatal(err)
	}
	serveEnd(t, r.lookup)
	if _, _, err := proto.Start.Call(t.Context(), parent, proto.Empty{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// expand is lookup's: everything is relayed, or refused.
func (r *rig) expand(ctx context.Context, req proto.ExpandRequest) (proto.ExpandReply, error) {
	r.mu.Lock()
	refuse := r.refuse
	r.mu.Unlock()
	if refuse != nil {
		return proto.ExpandReply{}, refuse
	}
	e := &envelope.Envelope{Type: envelope.MTA, Sender: req.Facts.Sender, Rcpt: req.Facts.Rcpt, Dest: req.Facts.Rcpt, Flags: envelope.IsBounce}
	s, _, err := proto.Submit.Call(ctx, r.lookup, proto.SubmitRequest{MsgID: req.MsgID, Envelopes: []*envelope.Envelope{e}})
	return proto.ExpandReply(s), err
}

func mail(created time.Time) *envelope.Envelope {
	return &envelope.Envelope{
		Type: envelope.MDA, Action: "local", User: "u", Created: created.Truncate(time.Second), TTL: time.Hour,
		Sender: smtp.Path{Local: "s", Domain: "example.net"}, Rcpt: smtp.Path{Local: "r", Domain: "example.org"},
		Dest: smtp.Path{Local: "r", Domain: "example.org"},
	}
}

func TestReportOnExpiredMailOutlivesItsFirstFailure(t *testing.T) {
	t.Parallel()
	e := mail(time.Now().Add(-2 * time.Hour))
	r := startQueue(t)
	r.mu.Lock()
	r.refuse = errors.New("lookup is busy")
	r.mu.Unlock()
	id, tr, err := r.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	e.ID = envelope.NewID(id, 1)
	tr.envelopes = []*envelope.Envelope{e}
	if _, err := r.end(id, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(t.Context(), id, tr, []byte("Subject: x\n\nx\n"), false); err != nil {
		t.Fatal(err)
	}
	got := <-r.store.updated
	if got.Type != envelope.Bounce || got.BounceType != envelope.BounceFailed || !got.Expires().After(time.Now().Add(50*time.Minute)) {
		t.Errorf("the envelope is %+v, want one whose report has an hour", got)
	}
	// With lookup back the report is stored, and only then the envelope is forgotten.
	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	for range 1000 { // the schedule has it back a moment after the store
		if len(r.sched.Schedule(e.ID, time.Now())) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if id := <-r.store.deleted; id != e.ID {
		t.Errorf("%s was deleted, want %s", id, e.ID)
	}
	// It waits to be relayed.
	page, err := r.list(t.Context(), proto.ListRequest{Max: 10})
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("the queue holds %+v (%v), want the report", page, err)
	}
	if got := page.Entries[0].Envelope; got.Type != envelope.MTA || got.Rcpt.Local != "s" {
		t.Errorf("the report is %+v", got)
	}
}

func TestDeliveredMailIsNotTriedAgainForItsReport(t *testing.T) {
	t.Parallel()
	r := startQueue(t)
	r.mu.Lock()
	r.refuse = errors.New("lookup is busy")
	r.mu.Unlock()
	e := mail(time.Now())
	e.Notify = envelope.NotifySuccess
	id, err := r.store.NewID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.ID = envelope.NewID(id, 1)
	if err := r.store.Commit(t.Context(), queue.Message{ID: id, Envelopes: []*envelope.Envelope{e}, Body: []byte("x\n")}); err != nil {
		t.Fatal(err)
	}
	r.delivered(t.Context(), e, "Delivered")
	stored, err := r.store.Load(t.Context(), e.ID)
	if err != nil || stored.Type != envelope.Bounce || stored.BounceType != envelope.BounceDelivered {
		t.Errorf("the store has %+v (%v): a restart now delivers again", stored, err)
	}
}

func TestWhatCannotBeDeletedIsDeletedLater(t *testing.T) {
	t.Parallel()
	r := startQueue(t)
	e := mail(time.Now())
	id, err := r.store.NewID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.ID = envelope.NewID(id, 1)
	if err := r.store.Commit(t.Context(), queue.Message{ID: id, Envelopes: []*envelope.Envelope{e}, Body: []byte("x\n")}); err != nil {
		t.Fatal(err)
	}
	fail := func(err error) {
		r.store.mu.Lock()
		r.store.failDelete = err
		r.store.mu.Unlock()
	}
	fail(errors.New("disk full"))
	r.delivered(t.Context(), e, "Delivered")
	r.sweepOnce(t.Context())
	if _, err := r.store.Load(t.Context(), e.ID); err != nil {
		t.Fatal(err)
	}
	fail(nil)
	r.sweepOnce(t.Context())
	if _, err := r.store.Load(t.Context(), e.ID); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("the envelope is still there: %v", err)
	}
	if len(r.undeleted) != 0 {
		t.Errorf("%d envelopes are still to be deleted", len(r.undeleted))
	}
}

func TestTransactionEndsOnce(t *testing.T) {
	t.Parallel()
	r := startQueue(t)
	submit := func(id envelope.MsgID, list ...*envelope.Envelope) error {
		_, err := r.handleSubmit(t.Context(), proto.SubmitRequest{MsgID: id, Envelopes: list})
		return err
	}
	id, tr, err := r.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := submit(id, nil); err == nil {
		t.Error("nil was taken for an envelope")
	}
	if err := submit(id, mail(time.Now())); err != nil {
		t.Fatal(err)
	}
	if _, err := r.end(id, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(t.Context(), id, tr, []byte("x\n"), false); err != nil {
		t.Fatal(err)
	}
	// A recipient that comes too late is refused, not lost, even one that was under
	// way already.
	r.Queue.mu.Lock()
	r.transactions[id] = tr
	r.Queue.mu.Unlock()
	if err := submit(id, mail(time.Now())); !errors.Is(err, errGone) {
		t.Errorf("a recipient after the end got %v", err)
	}
	if _, err := r.end(id, nil); err != nil {
		t.Fatal(err)
	}

	// Nothing is begun over a link that has ended.
	a, b, err := imsg.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	conn, err := imsg.FromFile(a, imsg.NewMux(), imsg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Serve(t.Context())
	if _, _, err := r.begin(t.Context(), conn); !errors.Is(err, errGone) {
		t.Errorf("a transaction over a broken link: %v", err)
	}
	r.Queue.mu.Lock()
	defer r.Queue.mu.Unlock()
	if len(r.transactions) != 0 {
		t.Errorf("%d transactions are open", len(r.transactions))
	}
}
