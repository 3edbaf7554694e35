package queue

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opensmtpd/opensmtpd/internal/deliver"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/mda"
)

// users asks lookup about recipients.
type users struct{ q *Queue }

// UserInfo implements deliver.Users.
func (u users) UserInfo(ctx context.Context, user, userbase string) (deliver.User, error) {
	r, err := proc.Ask(ctx, u.q.p.Links, proto.Lookup, proto.UserInfo, proto.UserInfoRequest{User: user, Userbase: userbase})
	if err != nil {
		return deliver.User{}, err
	}
	if !r.Found {
		return deliver.User{}, fmt.Errorf("%s: %w", user, deliver.ErrNoUser)
	}
	return deliver.User{Name: user, UID: uint32(r.UID), GID: uint32(r.GID), Home: r.Home}, nil
}

// workers asks the parent for delivery workers.
type workers struct{ q *Queue }

// Start implements deliver.Workers.
func (w workers) Start(ctx context.Context, s deliver.Spec) (deliver.Worker, error) {
	c := w.q.config.Load()
	req := proto.WorkerRequest{Action: s.Action, User: s.Login, Exec: s.Exec}
	if s.Shared {
		req.Shared, req.UID, req.GID = true, s.As.UID, s.As.GID
	}
	if s.Anonymous {
		req.User = ""
	} else if a := c.actions[s.Action]; a != nil {
		req.Userbase = a.Userbase
	}
	_, files, err := proc.Call(ctx, w.q.p.Links, proto.Parent, proto.StartWorker, req)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("worker: %d descriptors, want 1", len(files))
	}
	conn, err := imsg.FromFile(files[0], imsg.NewMux(), imsg.Options{})
	if err != nil {
		return nil, err
	}
	w.q.p.Go(func(ctx context.Context) { _ = conn.Serve(ctx) })
	return &worker{conn}, nil
}

// worker is the link to a delivery worker.
type worker struct{ conn *imsg.Conn }

// Done implements deliver.Worker.
func (w *worker) Done() <-chan struct{} { return w.conn.Done() }

// Close implements deliver.Worker.
func (w *worker) Close() error {
	w.conn.Close()
	return nil
}

// Deliver implements deliver.Worker.
func (w *worker) Deliver(ctx context.Context, j deliver.Job) (mda.Result, error) {
	e := j.Envelope
	req := proto.DeliverRequest{
		Sender: e.Sender, Rcpt: e.Rcpt, Dest: e.Dest, User: e.User, Home: j.Home, Subaddress: e.Subaddress, Exec: e.Exec,
		Body: j.Body.Bytes, Size: j.Body.Size,
	}
	var files []*os.File
	if j.Body.File != nil {
		// The worker reads from its own offset; this one is shared with nobody.
		if _, err := j.Body.File.Seek(0, io.SeekStart); err != nil {
			return mda.Result{}, err
		}
		files = []*os.File{j.Body.File}
	}
	r, extra, err := proto.Deliver.Call(ctx, w.conn, req, files...)
	for _, f := range extra {
		f.Close()
	}
	if err != nil {
		return mda.Result{}, err
	}
	if r.Outcome > uint8(mda.Loop) {
		return mda.Result{}, fmt.Errorf("worker answered with outcome %d", r.Outcome)
	}
	return mda.Result{Outcome: mda.Outcome(r.Outcome), Enhanced: r.Enhanced, Text: r.Text, Exit: r.Exit}, nil
}
