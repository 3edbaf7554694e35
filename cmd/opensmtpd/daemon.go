package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/platform"
)

// titlePrefix begins the titles of all processes.
const titlePrefix = "opensmtpd"

// Variables by which a parent process that starts itself again tells its new life
// where the executable is and whom to tell when it is ready.
const (
	exeVariable   = "OPENSMTPD_EXECUTABLE"
	readyVariable = "OPENSMTPD_READY_FD"
)

// executable returns the path of this program. After the title has changed some
// systems cannot tell any more, so the first life passes it on.
func executable(host platform.Host) (string, error) {
	if path := os.Getenv(exeVariable); path != "" && strings.HasPrefix(os.Args[0], titlePrefix+": ") {
		return path, nil
	}
	return host.Executable()
}

// retitle starts the program again in this process under its title. It returns
// only on failure.
func retitle(exe string) error {
	args := append([]string{titlePrefix + ": [priv]"}, os.Args[1:]...)
	return fmt.Errorf("%s: %w", exe, syscall.Exec(exe, args, append(os.Environ(), exeVariable+"="+exe)))
}

// background starts the daemon in a session of its own and waits until it accepts
// mail, so that the exit status tells whether it does. A key of the queue that
// somebody types or pipes in is read here, where the terminal is.
func background(exe string, q *config.QueueConfig) int {
	stdin, err := backgroundInput(q)
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{titlePrefix + ": [priv]", "-F"}, os.Args[1:]...)
	cmd.Env = append(os.Environ(), exeVariable+"="+exe, readyVariable+"=3")
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, null, os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	w.Close()
	if b, err := io.ReadAll(io.LimitReader(r, 16)); err == nil && string(b) == "ready\n" {
		return 0
	}
	err = cmd.Wait() // it ended before it was ready, and has said why
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return 1
	}
	return fail(fmt.Errorf("smtpd did not start: %w", err))
}

// backgroundInput returns the standard input of a daemon in the background: the line
// with the key, or nothing.
func backgroundInput(q *config.QueueConfig) (*os.File, error) {
	if q.Encryption != config.KeyAsk && q.Encryption != config.KeyStdin {
		return os.Open(os.DevNull)
	}
	key, err := readKey(q.Encryption == config.KeyAsk, os.Stdin)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if _, err := w.WriteString(key + "\n"); err != nil { // far less than a pipe holds
		return nil, err
	}
	return r, w.Close()
}

// tellReady tells the process that waits in background, and lets go of the
// terminal: descriptor 2 leads nowhere from then on, but stays taken.
func (s *service) tellReady() {
	if os.Getenv(readyVariable) != "3" {
		return
	}
	f := os.NewFile(3, "ready")
	_, _ = f.WriteString("ready\n") // whoever waited may be gone
	f.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		err = replaceFD(int(null.Fd()), 2)
		null.Close()
	}
	if err != nil {
		s.log.Warnf("let go of the terminal: %v", err)
	}
}
