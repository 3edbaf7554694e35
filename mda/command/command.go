// Package command delivers a message to the standard input of a shell command.
//
// The command runs as "sh -c LINE" in a session and process group of its own,
// with the recipient's home as its working directory, the environment of package
// mda and nothing else, and with default signals. It is ended, with all of its
// process group, when its time is over. The end of what it writes to standard
// output and error becomes the text of the result.
//
// A command need not read all of the message: what fits into the pipe counts as
// taken. One that succeeds while more was waiting for it is tried again.
package command

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/mda"
)

// Defaults of a Runner.
const (
	DefaultShell   = "/bin/sh"
	DefaultPath    = "/usr/bin:/bin:/usr/sbin:/sbin"
	DefaultTimeout = 5 * time.Minute
)

// grace is what the command has between SIGTERM and SIGKILL.
const grace = 2 * time.Second

// Runner runs commands. It may be used by several goroutines at the same time.
type Runner struct {
	Shell   string        // empty: DefaultShell
	Path    string        // PATH of the command; empty: DefaultPath
	Timeout time.Duration // of one command; 0: DefaultTimeout
}

// Deliver runs the command line with the message as its input. The line is given
// to the shell as it is: values from outside reach it through the environment, or
// were made harmless by package format.
func (r *Runner) Deliver(ctx context.Context, line string, d *mda.Delivery) mda.Result {
	shell, path, timeout := r.Shell, r.Path, r.Timeout
	if shell == "" {
		shell = DefaultShell
	}
	if path == "" {
		path = DefaultPath
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	msg, err := d.Reader()
	if err != nil {
		return mda.Fail("cannot read message", err)
	}
	stdin, err := newFeed(msg, d.Len())
	if err != nil {
		return mda.Fail("cannot read message", err)
	}
	defer stdin.close()
	stdout, err := newCapture()
	if err != nil {
		return mda.Fail("pipe", err)
	}
	defer stdout.close()

	cmd := &exec.Cmd{
		Path:        shell,
		Args:        []string{shell, "-c", line},
		Env:         d.Environment(shell, path),
		Dir:         workingDir(d.Home),
		Stdin:       stdin.r,
		Stdout:      stdout.w,
		Stderr:      stdout.w,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return mda.Fail("cannot start command", err)
	}
	stdin.start()
	stdout.start()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	exit := wait(ctx, cmd, stdin)
	unread, err := stdin.finish()
	exit.Output = stdout.finish()
	exit.Unread = unread
	if err != nil {
		return mda.Fail("error reading body", err)
	}
	return exit.Result()
}

var errTimeout = errors.New("command ran too long")

// workingDir returns the home directory, or the root where it cannot be entered.
func workingDir(home string) string {
	if home != "" && home[0] == '/' {
		if d, err := os.Open(home); err == nil {
			fi, err := d.Stat()
			d.Close()
			if err == nil && fi.IsDir() && syscall.Access(home, 1) == nil {
				return home
			}
		}
	}
	return "/"
}

// wait waits for the command. When ctx ends or the message cannot be read, the
// process group is told to end, and killed if it does not.
func wait(ctx context.Context, cmd *exec.Cmd, stdin *feed) mda.Exit {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var exit mda.Exit
	select {
	case err := <-ended:
		return exitOf(cmd, err)
	case <-stdin.failed:
		exit.Stopped = "error reading body"
	case <-ctx.Done():
		exit.TimedOut = context.Cause(ctx) == errTimeout || errors.Is(ctx.Err(), context.DeadlineExceeded)
		if !exit.TimedOut {
			exit.Stopped = "terminated; interrupted"
		}
	}
	// The id of a process group is not given to anyone else while one of its
	// members lives.
	syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	case <-timer.C:
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	return exit
}

// exitOf translates what Wait says.
func exitOf(cmd *exec.Cmd, err error) mda.Exit {
	if cmd.ProcessState == nil {
		return mda.Exit{Stopped: "wait: " + err.Error()}
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return mda.Exit{Signal: int(ws.Signal())}
	}
	return mda.Exit{Code: cmd.ProcessState.ExitCode()}
}
