package parent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// spawner starts roles that do nothing, as goroutines.
type spawner struct {
	t       *testing.T
	starts  chan *fakeProcess
	hanging proto.Role // whose setup waits for ever

	mu       sync.Mutex // guards what follows
	user     proto.UserInfoReply
	creds    []Credential // of workers
	attached []string
}

type fakeProcess struct {
	role   proto.Role
	cancel context.CancelFunc
	done   chan struct{}
}

func (p *fakeProcess) PID() int { return os.Getpid() }
func (p *fakeProcess) Kill()    { p.cancel() }
func (p *fakeProcess) Wait() error {
	<-p.done
	return errors.New("killed")
}

func (s *spawner) Spawn(role proto.Role, _ string, cred *Credential, files ...*os.File) (Process, error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &fakeProcess{role: role, cancel: cancel, done: make(chan struct{})}
	if cred != nil {
		s.mu.Lock()
		s.creds = append(s.creds, *cred)
		s.mu.Unlock()
	}
	for _, f := range files[1:] {
		f.Close()
	}
	go func() {
		defer close(p.done)
		defer cancel()
		env := proc.Env{Role: role, Log: proc.NewLog(io.Discard, role, true, false)}
		if err := proc.Run(ctx, env, files[0], func(*proc.Process) proc.Role { return &fakeRole{s, role} }); err != nil {
			s.t.Error(err)
		}
	}()
	s.starts <- p
	return p, nil
}

// fakeRole answers what the parent asks.
type fakeRole struct {
	s    *spawner
	role proto.Role
}

func (r *fakeRole) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	if peer != proto.Parent {
		r.s.mu.Lock()
		r.s.attached = append(r.s.attached, string(r.role)+"-"+string(peer))
		r.s.mu.Unlock()
		return mux
	}
	setup := func(ctx context.Context) (proto.SetupReply, error) {
		if r.role == r.s.hanging {
			<-ctx.Done()
		}
		return proto.SetupReply{}, ctx.Err()
	}
	switch r.role {
	case proto.Key:
		proto.SetupKey.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.KeyConfig) (proto.SetupReply, error) { return setup(ctx) }))
	case proto.Queue:
		proto.SetupQueue.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.QueueConfig) (proto.SetupReply, error) { return setup(ctx) }))
	case proto.Lookup:
		proto.SetupLookup.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.LookupConfig) (proto.SetupReply, error) { return setup(ctx) }))
		proto.UserInfo.Handle(mux, proc.Handler(func(context.Context, proto.UserInfoRequest) (proto.UserInfoReply, error) {
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			return r.s.user, nil
		}))
	case proto.Control:
		proto.SetupControl.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.ControlConfig) (proto.SetupReply, error) { return setup(ctx) }))
	case proto.Dispatcher:
		proto.PassListeners.Handle(mux, proc.Handler(func(context.Context, proto.PassListenersRequest) (proto.Empty, error) { return proto.Empty{}, nil }))
		proto.SetupDispatcher.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.DispatcherConfig) (proto.SetupReply, error) { return setup(ctx) }))
	case proto.Worker:
		proto.SetupWorker.Handle(mux, proc.Handler(func(ctx context.Context, _ proto.WorkerConfig) (proto.SetupReply, error) { return setup(ctx) }))
	}
	return mux
}

func (*fakeRole) Start(context.Context) error { return nil }
func (*fakeRole) Stop(context.Context)        {}

// startParent runs a parent of such roles until the test ends.
func startParent(t *testing.T, s *spawner, c *Config) (p *Parent, ready, ended chan struct{}) {
	t.Helper()
	dir := t.TempDir()
	s.t, s.starts = t, make(chan *fakeProcess, 100)
	p = New(Options{
		Paths: platform.Paths{Run: dir, Spool: dir, Mail: filepath.Join(dir, "mail")}, Log: proc.NewLog(io.Discard, proto.Parent, true, false),
		Spawner: s, Load: func() (*Config, error) { return c, nil },
	}, c, proto.VerboseRequest{})
	ready, ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(context.Background(), func() { close(ready) }); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		p.Stop()
		<-ended
	})
	return p, ready, ended
}

func TestRoleThatDiesIsStartedAgainAndLinked(t *testing.T) {
	t.Parallel()
	s := &spawner{}
	p, ready, _ := startParent(t, s, &Config{})
	<-ready
	var dispatcher *fakeProcess
	for range order {
		if f := <-s.starts; f.role == proto.Dispatcher {
			dispatcher = f
		}
	}
	for n := 1; n <= 2; n++ { // at once the first time, after a pause the second
		s.mu.Lock()
		s.attached = nil
		s.mu.Unlock()
		dispatcher.Kill()
		if dispatcher = <-s.starts; dispatcher.role != proto.Dispatcher {
			t.Fatalf("%s was started", dispatcher.role)
		}
		for p.up(proto.Dispatcher) == nil {
			time.Sleep(time.Millisecond) // its setup is under way
		}
		st, err := p.status(t.Context(), proto.Empty{})
		if err != nil || st.Roles[len(st.Roles)-1].Restarts != n {
			t.Errorf("status %+v (%v), want %d restarts of the dispatcher", st, err, n)
		}
		s.mu.Lock()
		for _, want := range []string{"dispatcher-queue", "queue-dispatcher", "dispatcher-lookup", "lookup-dispatcher", "dispatcher-key", "control-dispatcher"} {
			if !slices.Contains(s.attached, want) {
				t.Errorf("no link %s among %v", want, s.attached)
			}
		}
		s.mu.Unlock()
	}
	if err := p.Reload(t.Context()); err != nil {
		t.Errorf("reload after the restarts: %v", err)
	}
}

func TestEndDoesNotWaitForARoleThatIsStarting(t *testing.T) {
	t.Parallel()
	s := &spawner{hanging: proto.Lookup}
	p, _, ended := startParent(t, s, &Config{})
	for f := range s.starts {
		if f.role == proto.Lookup {
			break
		}
	}
	p.Stop()
	select {
	case <-ended:
	case <-time.After(setupTimeout / 2):
		t.Error("the service goes on")
	}
}

func TestWorkersAreStartedForThoseLookupNames(t *testing.T) {
	t.Parallel()
	virtual := &policy.Action{Name: "virtual", Method: policy.Maildir, Userbase: "users"}
	s := &spawner{}
	p, ready, _ := startParent(t, s, &Config{Actions: map[string]*policy.Action{
		"virtual": virtual,
		"boxes":   {Name: "boxes", Method: policy.Mbox, Userbase: "users"},
		"out":     {Name: "out", Method: policy.Relay},
	}})
	<-ready
	if err := os.Mkdir(p.Paths.Mail, 0o775); err != nil {
		t.Fatal(err)
	}
	bits := 32 // no constant: an int may have no more
	for _, tt := range []struct {
		name string
		user proto.UserInfoReply
		req  proto.WorkerRequest
		want string // error
	}{
		{"as it should be", proto.UserInfoReply{Found: true, UID: 1000, GID: 1001}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, ""},
		{"root", proto.UserInfoReply{Found: true, UID: 0, GID: 1001}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, "not allowed"},
		{"root's mailbox out of a table", proto.UserInfoReply{Found: true}, proto.WorkerRequest{Action: "boxes", User: "root", Userbase: "users"}, "not allowed"},
		{"33 bits, of which the kernel takes 32", proto.UserInfoReply{Found: true, UID: 1 << bits, GID: 1001}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, "out of range"},
		{"-1, which changes nothing", proto.UserInfoReply{Found: true, UID: 1<<bits - 1, GID: 1001}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, "out of range"},
		{"group of 33 bits", proto.UserInfoReply{Found: true, UID: 1000, GID: 1 << bits}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, "out of range"},
		{"nobody of this name", proto.UserInfoReply{}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "users"}, "Permanent failure"},
		{"another table", proto.UserInfoReply{Found: true, UID: 1000}, proto.WorkerRequest{Action: "virtual", User: "v", Userbase: "others"}, "is not that of action"},
		{"mailbox elsewhere", proto.UserInfoReply{Found: true, UID: 1000}, proto.WorkerRequest{Action: "boxes", User: "../evil", Userbase: "users"}, "cannot have a mailbox"},
		{"no action", proto.UserInfoReply{}, proto.WorkerRequest{Action: "gone"}, "no such local action"},
		{"not local", proto.UserInfoReply{}, proto.WorkerRequest{Action: "out"}, "no such local action"},
	} {
		if strconv.IntSize == bits && strings.Contains(tt.name, "33 bits") {
			continue
		}
		s.mu.Lock()
		s.user, s.creds = tt.user, nil
		s.mu.Unlock()
		_, files, err := p.startWorker(t.Context(), tt.req, nil)
		closeFiles(files)
		s.mu.Lock()
		started := len(s.creds)
		s.mu.Unlock()
		switch {
		case tt.want == "":
			if err != nil || started != 1 || len(files) != 1 {
				t.Errorf("%s: %v, %d processes", tt.name, err, started)
			}
		case err == nil || !strings.Contains(err.Error(), tt.want) || started != 0:
			t.Errorf("%s: %v, %d processes; want %q and none", tt.name, err, started, tt.want)
		}
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(p.Paths.Mail), "evil")); err == nil {
		t.Error("a file was made outside the directory of mailboxes")
	}
}

func TestCommandsHaveNoGroupOfTheMailboxes(t *testing.T) {
	t.Parallel()
	s := &spawner{user: proto.UserInfoReply{Found: true, UID: 1000, GID: 1001}}
	p, ready, _ := startParent(t, s, &Config{Actions: map[string]*policy.Action{"boxes": {Name: "boxes", Method: policy.Mbox, Userbase: "users"}}})
	<-ready
	if err := os.Mkdir(p.Paths.Mail, 0o775); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.Paths.Mail, 0o775); err != nil {
		t.Fatal(err)
	}
	for _, exec := range []bool{true, false} {
		s.mu.Lock()
		s.creds = nil
		s.mu.Unlock()
		_, files, err := p.startWorker(t.Context(), proto.WorkerRequest{Action: "boxes", User: "v", Userbase: "users", Exec: exec}, nil)
		if err != nil {
			t.Fatal(err)
		}
		closeFiles(files)
		s.mu.Lock()
		groups := s.creds[0].Groups
		s.mu.Unlock()
		if want := map[bool]int{true: 1, false: 2}[exec]; len(groups) != want {
			t.Errorf("exec %v: groups %v, want %d", exec, groups, want)
		}
	}
}

func TestLogOfAProgramThatWritesMuchIsCut(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &lineLog{log: proc.NewLog(&out, proto.Parent, false, false), prefix: "table t: "}
	fmt.Fprint(l, strings.Repeat("x\n", 3*maxProgramLines))
	l.since = l.since.Add(-logWindow)
	fmt.Fprint(l, "again\n")
	l.log.Flush()
	got := out.String()
	if n := strings.Count(got, "table t: x\n"); n != maxProgramLines {
		t.Errorf("%d lines were logged, want %d", n, maxProgramLines)
	}
	if !strings.HasSuffix(got, "the next ones are left out\nwarn: table t: 2000 lines were left out\ninfo: table t: again\n") {
		t.Errorf("the log ends with %q", got[max(0, len(got)-200):])
	}
}
