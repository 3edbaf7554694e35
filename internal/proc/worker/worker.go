// Package worker is a delivery worker: a process that runs as one recipient and
// delivers for one action, many messages in its life. It is the only process that
// reads what a message says, with no more rights than the recipient has, and with
// fewer when it runs no commands. It ends when the queue lets go of it, or the parent.
package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/mda"
)

// MakeAgent makes the delivery agent that a configuration describes.
type MakeAgent func(proto.WorkerConfig) (mda.Agent, error)

// Worker is the role.
type Worker struct {
	p      *proc.Process
	make   MakeAgent
	socket *os.File // to the queue
	agent  mda.Agent
	config proto.WorkerConfig
}

// New makes the role. socket is the one that leads to the queue.
func New(p *proc.Process, socket *os.File, make MakeAgent) *Worker {
	return &Worker{p: p, socket: socket, make: make}
}

// Mux implements proc.Role.
func (w *Worker) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch peer {
	case proto.Parent:
		proto.SetupWorker.Handle(mux, proc.Handler(w.setup))
	case proto.Queue:
		proto.Deliver.Handle(mux, w.deliver)
	}
	return mux
}

// setup makes the agent and begins to serve the queue.
func (w *Worker) setup(_ context.Context, c proto.WorkerConfig) (proto.SetupReply, error) {
	if w.agent != nil {
		return proto.SetupReply{}, errors.New("worker: configured twice")
	}
	a, err := w.make(c)
	if err != nil {
		return proto.SetupReply{}, err
	}
	reply, err := w.p.ConfineWorker(c)
	if err != nil {
		return proto.SetupReply{}, err
	}
	w.p.Log.Debugf("worker of %s: %s; missing: %s", c.User, reply.Guarantees, reply.Missing)
	w.agent, w.config = a, c
	conn, err := imsg.FromFile(w.socket, w.Mux(proto.Queue), imsg.Options{})
	if err != nil {
		return proto.SetupReply{}, err
	}
	w.p.Go(func(ctx context.Context) {
		// The queue is gone, or does not need the worker any more: that is the end.
		_ = conn.Serve(ctx)
		if err := a.Close(); err != nil {
			w.p.Log.Debugf("close: %v", err)
		}
		w.p.End()
	})
	return reply, nil
}

// Start implements proc.Role.
func (w *Worker) Start(context.Context) error { return nil }

// Stop implements proc.Role.
func (w *Worker) Stop(context.Context) {}

func (w *Worker) deliver(ctx context.Context, req proto.DeliverRequest, files []*os.File) (proto.DeliverReply, []*os.File, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if (req.Exec != "") != w.config.Exec {
		// What a user may have run has other rights than what writes mailboxes.
		return proto.DeliverReply{}, nil, errors.New("deliver: a command or file for a worker of another kind")
	}
	home := w.config.Home
	if w.config.Shared {
		home = req.Home
	}
	d := &mda.Delivery{
		Sender: req.Sender, Rcpt: req.Rcpt, Dest: req.Dest, User: req.User, Home: home,
		Subaddress: req.Subaddress, Exec: req.Exec, Size: req.Size,
	}
	switch {
	case len(files) == 1:
		d.Body = io.NewSectionReader(files[0], 0, req.Size)
	case len(files) == 0 && int64(len(req.Body)) == req.Size:
		d.Body = bytes.NewReader(req.Body)
	default:
		return proto.DeliverReply{}, nil, fmt.Errorf("deliver: %d descriptors, %d bytes of %d", len(files), len(req.Body), req.Size)
	}
	r := w.agent.Deliver(ctx, d)
	if r.Err != nil {
		w.p.Log.Warnf("delivery to %s: %s: %v", req.User, r.Text, r.Err)
	}
	return proto.DeliverReply{Outcome: uint8(r.Outcome), Enhanced: r.Enhanced, Text: r.Text, Exit: r.Exit}, nil, nil
}
