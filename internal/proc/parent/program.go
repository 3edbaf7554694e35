package parent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// Program is a command that answers a table.
type Program struct {
	Path string   // absolute
	Args []string // with the name that it is known by first
}

// runningProgram is a Program that was started.
type runningProgram struct {
	name  string // of the table
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// programGrace is what a program has to end after its socket was closed, and again
// after it was asked to with SIGTERM.
const programGrace = 2 * time.Second

// startTable starts the program of a table, as the user of the network processes,
// and returns the socket to its standard input and output. Which program that is,
// the parent takes from its own configuration.
func (p *Parent) startTable(_ context.Context, req proto.OpenTableRequest, files []*os.File) (proto.TableProgram, []*os.File, error) {
	closeFiles(files)
	c, _ := p.current()
	program, ok := c.TablePrograms[req.Name]
	if !ok {
		return proto.TableProgram{}, nil, fmt.Errorf("table %q has no program", req.Name)
	}
	ours, theirs, err := imsg.SocketPair()
	if err != nil {
		return proto.TableProgram{}, nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(program.Path)
	cmd.Args = program.Args
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + p.Paths.DefPath, "LC_ALL=C"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, &lineLog{log: p.Log, prefix: "table " + req.Name + ": "}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !p.OneProcess {
		groups := make([]uint32, len(p.SMTPUser.Groups))
		for i, g := range p.SMTPUser.Groups {
			groups[i] = uint32(g)
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.SMTPUser.UID), Gid: uint32(p.SMTPUser.GID), Groups: groups}
	}
	cmd.WaitDelay = outputDelay
	if err := p.paced(cmd.Start); err != nil {
		ours.Close()
		return proto.TableProgram{}, nil, err
	}
	p.Log.Debugf("table %s: started %s, pid %d", req.Name, program.Path, cmd.Process.Pid)
	r := &runningProgram{req.Name, cmd, make(chan struct{})}
	p.mu.Lock()
	p.lastProgram++
	id := p.lastProgram
	p.programs[id] = r
	p.mu.Unlock()
	p.wg.Go(func() {
		if err := cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			p.Log.Warnf("table %s: %s: %v", req.Name, program.Path, err)
		}
		close(r.ended)
		p.mu.Lock()
		delete(p.programs, id)
		p.mu.Unlock()
	})
	return proto.TableProgram{ID: id}, []*os.File{ours}, nil
}

// endTable makes sure that a program ends whose socket is closed.
func (p *Parent) endTable(_ context.Context, req proto.TableProgram) (proto.Empty, error) {
	p.mu.Lock()
	r := p.programs[req.ID]
	p.mu.Unlock()
	if r != nil {
		p.wg.Go(func() { p.end(r) })
	}
	return proto.Empty{}, nil
}

// endTables does that for all programs: lookup is gone, and with it their sockets.
func (p *Parent) endTables() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.programs {
		p.wg.Go(func() { p.end(r) })
	}
}

// end waits for a program's end, then asks for it, then forces it.
func (p *Parent) end(r *runningProgram) {
	for _, s := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		if s != 0 {
			p.Log.Warnf("table %s: its program did not end; sent it %v", r.name, s)
			_ = syscall.Kill(-r.cmd.Process.Pid, s) // its session is its own; it may have ended
		}
		select {
		case <-r.ended:
			return
		case <-time.After(programGrace):
		}
	}
}

// maxProgramLine bounds a line that a program writes to its standard error, in
// bytes; longer ones are cut into several. Of what it writes within logWindow, the
// first maxProgramLines are logged.
const (
	maxProgramLine  = 1024
	maxProgramLines = 1000
	logWindow       = 10 * time.Second
)

// lineLog logs what a program writes to its standard error.
type lineLog struct {
	log    *proc.Log
	prefix string
	rest   []byte

	since time.Time // when the window began
	lines int       // of the window
}

// Write implements io.Writer. One goroutine writes.
func (l *lineLog) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i]
		}
		part = part[:min(len(part), maxProgramLine-len(l.rest))]
		l.rest = append(l.rest, part...)
		b = b[len(part):]
		if i == len(part) {
			b = b[1:]
		} else if len(l.rest) < maxProgramLine {
			break
		}
		l.line(time.Now())
		l.rest = l.rest[:0]
	}
	return n, nil
}

// line logs what was read, unless the program has written too much for a while.
func (l *lineLog) line(now time.Time) {
	if now.Sub(l.since) >= logWindow {
		if n := l.lines - maxProgramLines; n > 0 {
			l.log.Warnf("%s%d lines were left out", l.prefix, n)
		}
		l.since, l.lines = now, 0
	}
	l.lines++
	switch {
	case l.lines <= maxProgramLines:
		l.log.Infof("%s%s", l.prefix, printable(l.rest))
	case l.lines == maxProgramLines+1:
		l.log.Warnf("%smore than %d lines within %v; the next ones are left out", l.prefix, maxProgramLines, logWindow)
	}
}

// printable replaces what has no place in a log.
func printable(b []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, b)
}
