// Package authprogram checks passwords by a program, for what cannot be done in the
// daemon: PAM wants C, and modules that run with root's rights.
//
// The program is run as root for each check, with a clean environment. It reads
//
//	USER NUL PASSWORD NUL
//
// from its standard input and tells the outcome by its exit status: 0, the password
// is right and the account may be used; 1, it is not; anything else, it cannot tell
// now, and the first line of its standard error says why.
package authprogram

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Bounds of the checks.
const (
	maxRunning = 8                // programs at a time; further checks wait
	timeout    = 30 * time.Second // of one program
	maxName    = 255              // bytes
	maxSecret  = 511              // bytes of a password
	maxReason  = 512              // bytes of standard error that are kept
)

// exitRefused is the exit status for a wrong password.
const exitRefused = 1

// Program is a program that checks passwords. Its methods may be called concurrently.
type Program struct {
	path  string
	slots chan struct{} // one element for each program that runs
}

// New returns the program at an absolute path.
func New(path string) *Program {
	return &Program{path: path, slots: make(chan struct{}, maxRunning)}
}

// Installed tells whether the program is there. One that others than root could
// change is an error.
func (p *Program) Installed() (bool, error) {
	fi, err := os.Stat(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return false, fmt.Errorf("%s: not a plain file that only its owner, root, can change", p.path)
	}
	return true, nil
}

// Check returns nil when the password is the user's. A wrong one, or an account that
// may not be used, is platform.ErrBadPassword; other errors are temporary.
func (p *Program) Check(ctx context.Context, user, password string) error {
	if user == "" || len(user) > maxName || len(password) > maxSecret || strings.ContainsAny(user, "\x00\n") || strings.Contains(password, "\x00") {
		return platform.ErrBadPassword
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.slots }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(user + "\x00" + password + "\x00")
	var reason bounded
	cmd.Stderr = &reason
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", p.path, ctx.Err())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == exitRefused {
		return platform.ErrBadPassword
	}
	if err != nil {
		line, _, _ := strings.Cut(reason.String(), "\n")
		return fmt.Errorf("%s: %w: %s", p.path, err, line)
	}
	return nil
}

// bounded keeps the first maxReason bytes written to it.
type bounded struct{ bytes.Buffer }

// Write takes all of b, so that the program does not block.
func (w *bounded) Write(b []byte) (int, error) {
	w.Buffer.Write(b[:min(len(b), maxReason-w.Len())])
	return len(b), nil
}
