// Package program holds the helper programs mail.local, mail.maildir,
// mail.mboxfile, mail.lmtp and mail.mda, which deliver one message from standard
// input as the user who runs them. The daemon does not need them; they are there
// for wrappers, .forward files and scripts that name them. What they write is the
// message as it comes, without delivery headers.
package program

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// Exit statuses, of sysexits.h but for exitUsage.
const (
	exitUsage       = 1
	exitNoUser      = 67
	exitUnavailable = 69
	exitTempFail    = 75
)

// maxMemory is the size up to which a message is kept in memory, in bytes. A
// larger one goes to a temporary file.
const maxMemory = 256 << 10

// Environ is what a program is started with.
type Environ struct {
	Name   string // of the program, for what it says
	Args   []string
	Stdin  io.Reader
	Stderr io.Writer
	Getenv func(string) string
	UID    int // effective user id
	Host   string
}

// OS returns what this process was started with.
func OS(name string) *Environ {
	host, _ := os.Hostname() // a program's own default will do without
	return &Environ{
		Name: name, Args: os.Args[1:], Stdin: os.Stdin, Stderr: os.Stderr,
		Getenv: os.Getenv, UID: os.Geteuid(), Host: host,
	}
}

// say writes one line to standard error, which the daemon takes for the reason of
// a failure.
func (e *Environ) say(format string, args ...any) {
	fmt.Fprintf(e.Stderr, e.Name+": "+format+"\n", args...)
}

// usage says how the program is called.
func (e *Environ) usage(args string) int {
	fmt.Fprintf(e.Stderr, "usage: %s %s\n", e.Name, args)
	return exitUsage
}

// refuseRoot tells whether the program must not go on.
func (e *Environ) refuseRoot() bool {
	if e.UID == 0 {
		e.say("may not be executed as root")
		return true
	}
	return false
}

// exit says why a delivery failed, and returns the exit status.
func (e *Environ) exit(r mda.Result) int {
	switch r.Outcome {
	case mda.Delivered:
		return 0
	case mda.PermFail:
		e.say("%s", r.Text)
		return exitUnavailable
	}
	if r.Err != nil {
		e.say("%s (%v)", r.Text, r.Err)
	} else {
		e.say("%s", r.Text)
	}
	return exitTempFail
}

// message reads the message. done frees it.
func (e *Environ) message() (d *mda.Delivery, done func(), err error) {
	d = &mda.Delivery{
		Home:       e.Getenv("HOME"),
		User:       e.Getenv("USER"),
		Subaddress: e.Getenv("EXTENSION"),
	}
	var buf bytes.Buffer
	d.Size, err = io.Copy(&buf, io.LimitReader(e.Stdin, maxMemory+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read message: %w", err)
	}
	if d.Size <= maxMemory {
		d.Body = bytes.NewReader(buf.Bytes())
		return d, func() {}, nil
	}
	f, err := os.CreateTemp("", "mail.*")
	if err != nil {
		return nil, nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		d.Size, err = io.Copy(f, io.MultiReader(&buf, e.Stdin))
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("store message: %w", err)
	}
	d.Body = f
	return d, func() { f.Close() }, nil
}

// parsePath parses an address as it stands in the environment or an argument:
// local@domain, "quoted local"@domain, or a name alone.
func parsePath(s string) smtp.Path {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">")
	p := smtp.Path{Local: s}
	if i := strings.LastIndexByte(s, '@'); i >= 0 && !strings.HasSuffix(s, `"`) {
		p.Local, p.Domain = s[:i], s[i+1:]
	}
	if n := len(p.Local); n >= 2 && p.Local[0] == '"' && p.Local[n-1] == '"' {
		quoted := p.Local[1 : n-1]
		var b strings.Builder
		for i := 0; i < len(quoted); i++ {
			if quoted[i] == '\\' && i+1 < len(quoted) {
				i++
			}
			b.WriteByte(quoted[i])
		}
		p.Local = b.String()
	}
	return p
}
