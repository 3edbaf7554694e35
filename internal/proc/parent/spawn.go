package parent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Credential is whom a process runs as; nil leaves it as the parent.
type Credential struct {
	UID, GID int
	Groups   []int
}

// Process is something that was started.
type Process interface {
	PID() int
	Wait() error // returns when it has ended, with why when that was not orderly
	Kill()
}

// Spawner starts roles. files become descriptors 3, 4, … and are closed by the
// spawner, whatever comes of it.
type Spawner interface {
	Spawn(role proto.Role, title string, cred *Credential, files ...*os.File) (Process, error)
}

// Exec starts each role as a process of its own from the same executable.
type Exec struct {
	Path   string   // absolute path of the executable
	Args   []string // further arguments for every role
	Prefix string   // of process titles, such as "opensmtpd"

	// Stderr makes the writer of one process's log lines, each with its severity in
	// front.
	Stderr func(proto.Role) io.Writer
}

// spawn starts a role; see Spawner.
func (p *Parent) spawn(role proto.Role, title string, cred *Credential, files ...*os.File) (process Process, err error) {
	err = p.paced(func() error {
		process, err = p.Spawner.Spawn(role, title, cred, files...)
		return err
	})
	return process, err
}

// paced calls start, so that what it starts does not wake more often than it must.
func (p *Parent) paced(start func() error) error {
	if h, ok := p.Host.(platform.Pacer); ok {
		return h.Paced(start)
	}
	return start()
}

// passedOn are the variables of the environment that other processes get: those of
// the Go runtime, and where the authorities of the system are.
var passedOn = [...]string{"GODEBUG", "GOMAXPROCS", "GOTRACEBACK", "GORACE", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// Spawn implements Spawner. The environment is empty but for what the Go runtime
// may be told.
func (e Exec) Spawn(role proto.Role, title string, cred *Credential, files ...*os.File) (Process, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	cmd := exec.Command(e.Path)
	cmd.Args = append([]string{e.Prefix + ": " + title, "-x", string(role)}, e.Args...)
	cmd.Dir = "/"
	cmd.Env = []string{}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); slices.Contains(passedOn[:], name) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stderr = e.Stderr(role)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cred != nil {
		groups := make([]uint32, len(cred.Groups))
		for i, g := range cred.Groups {
			groups[i] = uint32(g)
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(cred.UID), Gid: uint32(cred.GID), Groups: groups}
	}
	cmd.WaitDelay = outputDelay
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", title, err)
	}
	return &child{cmd}, nil
}

// outputDelay is how long the log of a process that has ended is read, when a
// program that it started, a user's for example, keeps the log open.
const outputDelay = time.Second

type child struct{ cmd *exec.Cmd }

func (c *child) PID() int { return c.cmd.Process.Pid }
func (c *child) Kill()    { _ = c.cmd.Process.Kill() } // an error means that it has ended already
func (c *child) Wait() error {
	err := c.cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if st, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() && st.Signal() == syscall.SIGSYS {
		return errSandbox
	}
	return err
}

// errSandbox is the end of a process by its filter of system calls.
var errSandbox = errors.New("killed by its sandbox (SIGSYS): it made a system call that it has no business with; the kernel's log names it, and -o sandbox=trace has the process say where")
