// Package bsdauth checks passwords as BSD authentication does (login.conf(5),
// auth_userokay(3)), without its C library: the styles of the user's class name a
// program, /usr/libexec/auth/login_STYLE, that is run as root and talks over its
// descriptor 3, the back channel.
//
//	login_passwd -s response -- USER [CLASS]
//
// It reads from the back channel a challenge and a response, each ended by a NUL; there
// was no challenge. It writes lines, of which these count:
//
//	authorize         the password is right
//	reject            it is not, or "reject expired" and the like
//	value errormsg T  why, for the log
//
// and exits with 0 or 1. What comes to no verdict cannot tell now.
package bsdauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	maxAnswer  = 8 << 10          // bytes of an answer
	maxReason  = 512              // bytes of it that go to the log
)

// Programs are the programs of authentication styles. Its methods may be called
// concurrently.
type Programs struct {
	dir   string
	slots chan struct{} // one element for each program that runs
}

// New returns the programs in a directory: /usr/libexec/auth.
func New(dir string) *Programs {
	return &Programs{dir: dir, slots: make(chan struct{}, maxRunning)}
}

// Check returns nil when the password is the user's, by a style. A wrong one, or one
// that may not be used, is platform.ErrBadPassword; other errors are temporary. class
// is the login class of the user, empty for the default one.
func (p *Programs) Check(ctx context.Context, style, user, class, password string) error {
	if user == "" || len(user) > maxName || len(password) > maxSecret || strings.ContainsAny(user, "\x00\n:") || strings.Contains(password, "\x00") {
		return platform.ErrBadPassword
	}
	if !validStyle(style) {
		return fmt.Errorf("authentication style %.40q: not a name", style)
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.slots }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := p.ask(ctx, style, user, class, password)
	if ctx.Err() != nil {
		return fmt.Errorf("login_%s: %w", style, ctx.Err())
	}
	exit, exited := errors.AsType[*exec.ExitError](err)
	if err != nil && !exited {
		return fmt.Errorf("login_%s: %w", style, err)
	}
	authorized, rejected, why := verdict(answer)
	switch {
	case rejected:
		if why != "" {
			return fmt.Errorf("%w: %s", platform.ErrBadPassword, why)
		}
		return platform.ErrBadPassword
	case authorized && err == nil:
		return nil
	case err != nil:
		return fmt.Errorf("login_%s: %v: %s", style, exit, why)
	}
	return fmt.Errorf("login_%s: no verdict", style)
}

// ask runs the program of a style and returns what it says.
func (p *Programs) ask(ctx context.Context, style, user, class, password string) (answer string, err error) {
	ours, theirs, err := pair()
	if err != nil {
		return "", err
	}
	defer ours.Close()
	args := []string{"-s", "response", "--", user}
	if class != "" {
		args = append(args, class)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.dir, "login_"+style), args...)
	cmd.Env = []string{"PATH=/bin:/usr/bin", "SHELL=/bin/sh"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs} // from descriptor 3 on
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return "", err
	}
	// The program may leave children behind that hold the channel: it is not read for
	// longer than the check may take.
	stop := context.AfterFunc(ctx, func() { _ = ours.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A program that ends without reading has its say in its status.
	_, _ = io.WriteString(ours, "\x00"+password+"\x00")
	text, readErr := io.ReadAll(io.LimitReader(ours, maxAnswer+1))
	if len(text) > maxAnswer {
		_ = cmd.Process.Kill() // it may have ended
		readErr = errors.New("answer is too long")
	}
	if errors.Is(readErr, syscall.ECONNRESET) { // it did not read all of the question
		readErr = nil
	}
	if err := cmd.Wait(); readErr == nil || err != nil && ctx.Err() != nil {
		return string(text), err
	}
	return "", readErr
}

// pair returns a pair of sockets: ours can have deadlines, theirs is for a program.
func pair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("back channel: %w", err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(err, syscall.Close(fds[0]), syscall.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "back channel"), os.NewFile(uintptr(fds[1]), "back channel"), nil
}

// verdict reads the lines of an answer. A rejection anywhere counts.
func verdict(answer string) (authorized, rejected bool, why string) {
	for line := range strings.FieldsFuncSeq(answer, func(r rune) bool { return r == '\n' || r == 0 }) {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "authorize":
			authorized = true
		case "reject":
			rejected = true
			if rest != "" && why == "" {
				why = printable(rest)
			}
		case "value":
			if name, text, _ := strings.Cut(rest, " "); name == "errormsg" {
				why = printable(text)
			}
		}
	}
	return authorized, rejected, why
}

// printable cuts a text for the log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxReason)], "?"))
}

// validStyle tells whether a style can be part of a program's name.
func validStyle(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}
