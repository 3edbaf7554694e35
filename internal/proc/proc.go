// Package proc is what every process of the daemon does: take its link to the
// parent, be configured and confined, keep its links to the other processes, log,
// and end in good order. A process never imports another one; they meet in the
// calls of package proto.
//
// The same code runs in two ways. As root each role is a process of its own,
// started again from the same executable. As an ordinary user all roles are
// goroutines of one process over the same sockets, and nothing is confined.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Env is what whoever starts a role gives it.
type Env struct {
	Role    proto.Role
	Host    platform.Host
	Confine bool // false when all roles share one process
	Sandbox platform.Sandbox
	Log     *Log
}

// Role is the code of one process.
type Role interface {
	// Mux returns the calls that a peer may make, or nil for a peer that has no
	// business with the role. For proto.Parent it includes the role's Setup.
	Mux(peer proto.Role) *imsg.Mux

	// Start begins work, once, when the configuration and the links are there.
	Start(ctx context.Context) error

	// Stop finishes what is being done, within ctx.
	Stop(ctx context.Context)
}

// Process is a running role.
type Process struct {
	Env
	Links *Links

	confined bool
	role     Role
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// stopTimeout bounds the orderly end of a role.
const stopTimeout = 5 * time.Second

// Run runs a role until the parent says so or is gone. link is the role's end of
// the socket to the parent; Run closes it. build makes the role.
func Run(ctx context.Context, env Env, link *os.File, build func(*Process) Role) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &Process{Env: env, Links: NewLinks(), ctx: ctx, stop: cancel}
	p.role = build(p)
	mux := p.role.Mux(proto.Parent)
	p.common(mux)
	conn, err := imsg.FromFile(link, mux, imsg.Options{})
	if err != nil {
		return fmt.Errorf("%s: link to the parent: %w", env.Role, err)
	}
	p.Links.Set(proto.Parent, conn)
	go func() {
		<-ctx.Done()
		conn.Close()
	}()
	err = conn.Serve(ctx)
	cancel()
	p.Links.Close()
	p.wg.Wait()
	if err != nil && !errors.Is(err, imsg.ErrPeerGone) && !errors.Is(err, imsg.ErrClosed) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: link to the parent: %w", env.Role, err)
	}
	return nil
}

// common adds the calls that every role serves to the parent.
func (p *Process) common(mux *imsg.Mux) {
	proto.Attach.Handle(mux, func(_ context.Context, req proto.AttachRequest, files []*os.File) (proto.Empty, []*os.File, error) {
		if len(files) != 1 {
			closeAll(files)
			return proto.Empty{}, nil, fmt.Errorf("attach %s: %d descriptors, want 1", req.Role, len(files))
		}
		return proto.Empty{}, nil, p.attach(req.Role, files[0])
	})
	proto.Start.Handle(mux, func(context.Context, proto.Empty, []*os.File) (proto.Empty, []*os.File, error) {
		return proto.Empty{}, nil, p.role.Start(p.ctx)
	})
	proto.Shutdown.Handle(mux, func(context.Context, proto.Empty, []*os.File) (proto.Empty, []*os.File, error) {
		ctx, cancel := context.WithTimeout(p.ctx, stopTimeout)
		defer cancel()
		p.role.Stop(ctx)
		return proto.Empty{}, nil, nil
	})
	proto.Verbose.Handle(mux, func(_ context.Context, req proto.VerboseRequest, _ []*os.File) (proto.Empty, []*os.File, error) {
		p.Log.SetVerbose(req)
		return proto.Empty{}, nil, nil
	})
}

// attach serves a new link to a peer, in place of the one there was.
func (p *Process) attach(peer proto.Role, f *os.File) error {
	mux := p.role.Mux(peer)
	if mux == nil {
		f.Close()
		return fmt.Errorf("attach: %s has no business with %s", peer, p.Role)
	}
	conn, err := imsg.FromFile(f, mux, imsg.Options{})
	if err != nil {
		return fmt.Errorf("attach %s: %w", peer, err)
	}
	p.Links.Set(peer, conn)
	p.Go(func(ctx context.Context) {
		err := conn.Serve(ctx)
		p.Links.drop(peer, conn)
		if l, ok := p.role.(interface{ Lost(peer proto.Role) }); ok {
			l.Lost(peer)
		}
		if ctx.Err() == nil && err != nil && !errors.Is(err, imsg.ErrPeerGone) {
			p.Log.Warnf("link to %s closed: %v", peer, err)
		}
	})
	return nil
}

// Context ends when the process does.
func (p *Process) Context() context.Context { return p.ctx }

// End ends the process in order.
func (p *Process) End() { p.stop() }

// Confined tells whether the process is separated from the others.
func (p *Process) Confined() bool { return p.confined }

// Go runs f until the process ends; Run waits for it.
func (p *Process) Go(f func(ctx context.Context)) {
	p.wg.Go(func() { f(p.ctx) })
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
