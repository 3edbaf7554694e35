package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/auth"
	local "github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proc/control"
	"github.com/opensmtpd/opensmtpd/internal/proc/dispatcher"
	"github.com/opensmtpd/opensmtpd/internal/proc/key"
	"github.com/opensmtpd/opensmtpd/internal/proc/lookup"
	"github.com/opensmtpd/opensmtpd/internal/proc/parent"
	"github.com/opensmtpd/opensmtpd/internal/proc/queue"
	"github.com/opensmtpd/opensmtpd/internal/proc/worker"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/submit"
	"github.com/opensmtpd/opensmtpd/internal/tables/system"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Descriptors that a role is started with: the link to the parent, and for workers
// the socket to whoever they work for.
const (
	linkFD   = 3
	socketFD = 4
)

// runRole is a process that the parent has started with -x.
func runRole(f *flags) int {
	// The parent decides about the end; a terminal's signals are for it alone. They
	// are caught rather than ignored: what is ignored, a user's command inherits.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	role := proto.Role(f.role)
	syscall.Umask(0o077) // of what these processes write nothing is for others
	host, err := systemHost(f.paths())
	if err != nil {
		fmt.Fprintf(os.Stderr, "<2>%s: %v\n", role, err)
		return 1
	}
	if s, ok := host.(platform.Shielder); ok {
		if err := s.Shield(); err != nil {
			fmt.Fprintf(os.Stderr, "<2>%s: %v\n", role, err)
			return 1
		}
	}
	files := []*os.File{os.NewFile(linkFD, "link")}
	if role == proto.Worker || role == proto.Enqueue {
		files = append(files, os.NewFile(socketFD, "socket"))
	}
	for _, file := range files {
		syscall.CloseOnExec(int(file.Fd()))
	}
	env := proc.Env{Role: role, Host: host, Confine: true, Sandbox: sandboxes[f.sandbox], Log: proc.NewLog(os.Stderr, role, true, f.json)}
	defer env.Log.Flush()
	runtime.GOMAXPROCS(processors(role))
	if err := startRole(context.Background(), env, f.net, files); err != nil {
		env.Log.Critf("%v", err)
		return 1
	}
	return 0
}

// processors returns on how many processors a role runs Go code at a time. Roles
// that mostly wait for each other or for the disk do better with fewer: a thread
// that looks for work in vain takes time from one that has some.
func processors(role proto.Role) int {
	n := runtime.GOMAXPROCS(0)
	switch role {
	case proto.Dispatcher:
		return (n + 1) / 2
	case proto.Lookup, proto.Queue:
		return max(1, n/2)
	case proto.Parent, proto.Control, proto.Enqueue, proto.Worker:
		return 1
	}
	return n
}

// startRole runs a role until its end. It owns files.
func startRole(ctx context.Context, env proc.Env, net network, files []*os.File) error {
	var build func(p *proc.Process) proc.Role
	switch env.Role {
	case proto.Dispatcher:
		build = func(p *proc.Process) proc.Role { return dispatcher.New(p) }
	case proto.Lookup:
		resolver, err := net.resolver()
		if err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
		checker, err := auth.New(auth.Options{})
		if err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
		parts := lookup.Parts{Open: openTable, Users: system.New(env.Host, nil), Resolver: names{resolver}, Checker: checker}
		build = func(p *proc.Process) proc.Role {
			policies := mtasts.New(mtasts.Config{DNS: resolver, Fetcher: net.fetcher(resolver), Store: lookup.Records(p, proto.KeptPolicies)})
			p.Go(func(ctx context.Context) {
				<-ctx.Done()
				_ = policies.Close() // it waits for fetches, and cannot fail
			})
			parts.Finder = newFinder(resolver, policies, net)
			parts.Counter = tlsrpt.NewCounter(lookup.Records(p, proto.KeptTLSCounts), nil)
			return lookup.New(p, parts)
		}
	case proto.Queue:
		build = func(p *proc.Process) proc.Role {
			return queue.New(p, queue.Parts{Store: openStore, Schedule: openSchedule, Keep: openRecords})
		}
	case proto.Key:
		build = func(p *proc.Process) proc.Role { return key.New(p) }
	case proto.Control:
		build = func(p *proc.Process) proc.Role { return control.New(p) }
	case proto.Worker:
		build = func(p *proc.Process) proc.Role { return worker.New(p, files[1], makeAgent) }
	case proto.Enqueue:
		files[1].Close() // an enqueuer talks to nobody but the parent and the local socket
		build = func(p *proc.Process) proc.Role { return &enqueuer{env.Host.Paths()} }
	default:
		return fmt.Errorf("no such role: %q", env.Role)
	}
	return proc.Run(ctx, env, files[0], build)
}

// enqueuer re-injects offline mail as its owner.
type enqueuer struct{ paths platform.Paths }

// Mux implements proc.Role.
func (e *enqueuer) Mux(proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	proto.Inject.Handle(mux, func(ctx context.Context, _ proto.Empty, files []*os.File) (proto.Empty, []*os.File, error) {
		defer func() {
			for _, f := range files {
				f.Close()
			}
		}()
		if len(files) != 1 {
			return proto.Empty{}, nil, fmt.Errorf("inject: %d descriptors, want 1", len(files))
		}
		return proto.Empty{}, nil, submit.InjectOffline(ctx, files[0], e.session)
	})
	return mux
}

// session asks the daemon for an SMTP session, as sendmail does.
func (e *enqueuer) session(ctx context.Context) (net.Conn, error) {
	return local.DialSession(ctx, filepath.Join(e.paths.Run, parent.ControlSocket))
}

// Start implements proc.Role.
func (e *enqueuer) Start(context.Context) error { return nil }

// Stop implements proc.Role.
func (e *enqueuer) Stop(context.Context) {}

// goroutines starts roles within this process.
type goroutines struct {
	env func(proto.Role) proc.Env
	net network
}

// Spawn implements parent.Spawner.
func (g goroutines) Spawn(role proto.Role, _ string, _ *parent.Credential, files ...*os.File) (parent.Process, error) {
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{cancel: cancel, done: make(chan struct{})}
	files = slices.Clone(files)
	go func() {
		defer close(t.done)
		defer cancel()
		t.err = startRole(ctx, g.env(role), g.net, files)
	}()
	return t, nil
}

// task is a role that is a goroutine.
type task struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// PID implements parent.Process.
func (t *task) PID() int { return os.Getpid() }

// Kill implements parent.Process.
func (t *task) Kill() { t.cancel() }

// Wait implements parent.Process.
func (t *task) Wait() error {
	<-t.done
	return t.err
}
