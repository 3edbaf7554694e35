package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// FilterProgram is a filter process of the configuration.
type FilterProgram struct {
	Name    string
	Command string // for the shell; a relative one lies below the helper programs
	User    string // empty: the unprivileged user
	Group   string // empty: the user's
	Chroot  string
}

// filterLife is a filter program that runs. Its process leads a session of its own.
type filterLife struct {
	program FilterProgram
	process *os.Process
	ended   chan struct{}
}

const (
	// inputGrace is what a filter has to end by itself once its input has ended.
	inputGrace = 500 * time.Millisecond
	// filterGrace is what a filter has to end after it was asked to.
	filterGrace = 2 * time.Second
	// filterPause keeps starts of one filter apart, whatever the dispatcher asks for.
	filterPause = 10 * time.Millisecond
)

// startFilter starts a program of the configuration, or of an earlier one that it
// was started for already.
func (p *Parent) startFilter(ctx context.Context, req proto.FilterRequest, files []*os.File) (proto.StartFilterReply, []*os.File, error) {
	closeFiles(files)
	p.filterStarts.Lock()
	defer p.filterStarts.Unlock()
	p.mu.Lock()
	program, ok := p.config.Filters[req.ID]
	old := p.filters[req.ID]
	p.mu.Unlock()
	if old != nil {
		program, ok = old.program, true
		old.kill()
		select {
		case <-old.ended:
		case <-ctx.Done():
			return proto.StartFilterReply{}, nil, ctx.Err()
		}
	}
	if !ok {
		return proto.StartFilterReply{}, nil, errors.New("no such filter process")
	}
	select {
	case <-ctx.Done():
		return proto.StartFilterReply{}, nil, ctx.Err()
	case <-p.stopped:
		return proto.StartFilterReply{}, nil, errors.New("the service ends")
	case <-time.After(filterPause):
	}
	cred, err := p.filterUser(ctx, &program)
	if err != nil {
		return proto.StartFilterReply{}, nil, fmt.Errorf("filter process %s: %w", program.Name, err)
	}
	life, far, err := p.runFilter(program, cred)
	if err != nil {
		return proto.StartFilterReply{}, nil, fmt.Errorf("filter process %s: %w", program.Name, err)
	}
	p.mu.Lock()
	p.filters[req.ID] = life
	p.mu.Unlock()
	p.Log.Debugf("filter process %s: pid %d", program.Name, life.process.Pid)
	return proto.StartFilterReply{PID: life.process.Pid}, []*os.File{far}, nil
}

// stopFilter ends a program that no session needs any more.
func (p *Parent) stopFilter(_ context.Context, req proto.FilterRequest) (proto.Empty, error) {
	p.mu.Lock()
	life := p.filters[req.ID]
	delete(p.filters, req.ID)
	p.mu.Unlock()
	if life != nil {
		p.wg.Go(life.end)
	}
	return proto.Empty{}, nil
}

// filterUser returns whom a filter runs as; nil: as ourselves.
func (p *Parent) filterUser(ctx context.Context, f *FilterProgram) (*syscall.Credential, error) {
	if p.OneProcess {
		if f.User != "" || f.Group != "" {
			p.Log.Warnf("filter process %s: runs as uid %d: the daemon does not run as root", f.Name, os.Geteuid())
		}
		return nil, nil
	}
	u := p.SMTPUser
	if f.User != "" {
		var err error
		if u, err = p.Host.User(ctx, f.User); errors.Is(err, platform.ErrNoUser) {
			return nil, fmt.Errorf("user %s does not exist", f.User)
		} else if err != nil {
			return nil, err
		}
	}
	cred := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range u.Groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	if f.Group != "" {
		gid, err := p.Group(f.Group)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", f.Group, err)
		}
		cred.Gid, cred.Groups = uint32(gid), []uint32{uint32(gid)}
	}
	return cred, nil
}

// runFilter runs a program and returns the far end of its standard input and output.
// Its standard error goes to the log.
func (p *Parent) runFilter(f FilterProgram, cred *syscall.Credential) (*filterLife, *os.File, error) {
	near, far, err := imsg.SocketPair()
	if err != nil {
		return nil, nil, err
	}
	defer near.Close()
	command := f.Command
	if !strings.HasPrefix(command, "/") {
		command = filepath.Join(p.Paths.Libexec, command)
	}
	cmd := exec.Command(p.Paths.Shell, "-c", "exec "+command)
	cmd.Stdin, cmd.Stdout = near, near
	cmd.Stderr = &lineLog{log: p.Log, prefix: f.Name + ": "}
	cmd.Dir = "/"
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OPENSMTPD_") { // ours alone
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred, Chroot: f.Chroot}
	cmd.WaitDelay = outputDelay
	if err := p.paced(cmd.Start); err != nil {
		far.Close()
		return nil, nil, err
	}
	life := &filterLife{program: f, process: cmd.Process, ended: make(chan struct{})}
	p.wg.Go(func() {
		err := cmd.Wait()
		close(life.ended)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has started and left behind
		switch {
		case p.ending():
		case err == nil || errors.Is(err, exec.ErrWaitDelay):
			p.Log.Warnf("filter process %s ended", f.Name)
		default:
			p.Log.Warnf("filter process %s ended: %v", f.Name, err)
		}
	})
	return life, far, nil
}

// kill ends a filter, and thereby what it has started.
func (l *filterLife) kill() { _ = l.process.Kill() } // an error means that it has ended already

// end lets a filter end, as most do when their input has: what they were told last is
// not lost then. It asks one to end that does not, and kills it in the end.
func (l *filterLife) end() {
	select {
	case <-l.ended:
		return
	case <-time.After(inputGrace):
	}
	_ = l.process.Signal(syscall.SIGTERM) // an error means that it has ended already
	select {
	case <-l.ended:
	case <-time.After(filterGrace):
	}
	l.kill()
}

// endFilters ends all filters.
func (p *Parent) endFilters() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, life := range p.filters {
		p.wg.Go(life.end)
	}
	clear(p.filters)
}
