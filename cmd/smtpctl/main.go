// Command smtpctl controls the daemon over its local socket. Called by another name
// it is one of the programs that other software expects of a mail system: sendmail,
// send-mail, mailq, newaliases, makemap. It has no rights of its own and needs none:
// the daemon asks the system who is calling.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

func main() {
	host, err := systemHost(platform.Paths{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	p := &program{
		name: filepath.Base(os.Args[0]), paths: host.Paths(), getenv: os.Getenv, uid: os.Getuid(),
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}
	os.Exit(p.main(context.Background(), os.Args[1:]))
}

// Exit statuses of smtpctl.
const (
	exitFailed   = 1
	exitBadUsage = 255
)

// program is one call of one of the commands.
type program struct {
	name   string // what it was called as
	paths  platform.Paths
	getenv func(string) string
	uid    int

	stdin          io.Reader
	stdout, stderr io.Writer

	socket  string // -s
	json    bool   // -j
	family  byte   // -4, -6; 0: both
	verbose bool   // -v
}

// main runs the command that the name asks for and returns the exit status.
func (p *program) main(ctx context.Context, args []string) int {
	switch p.name {
	case "sendmail", "send-mail":
		return p.sendmail(ctx, args)
	case "mailq":
		return p.mailq(ctx, args)
	case "newaliases":
		return p.newaliases(ctx, args)
	case "makemap":
		return p.makemap(args)
	}
	return p.smtpctl(ctx, args)
}

const usageText = "usage: smtpctl [-46jv] [-s socket] command [argument ...]\n       smtpctl help\n"

// optionLetters are the options, as package getopt reads them.
const optionLetters = "46js:v"

// smtpctl runs an administrator's command.
func (p *program) smtpctl(ctx context.Context, args []string) int {
	if len(args) > 0 && args[0] == "complete" {
		return p.complete(ctx, args[1:])
	}
	options, words, err := getopt.Parse(args, optionLetters)
	// The letters that change how things are shown may come last, too.
	for n := len(words); n > 0 && slices.Contains([]string{"-4", "-6", "-j", "-v"}, words[n-1]); n-- {
		options = append(options, getopt.Option{Letter: words[n-1][1]})
		words = words[:n-1]
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "smtpctl: %v\n%s", err, usageText)
		return exitBadUsage
	}
	for _, o := range options {
		switch o.Letter {
		case '4', '6':
			p.family = o.Letter
		case 'j':
			p.json = true
		case 's':
			p.socket = o.Arg
		case 'v':
			p.verbose = true
		}
	}
	c, arguments, next := match(words)
	if c == nil {
		fmt.Fprintln(p.stderr, "possibilities are:")
		for _, word := range next {
			fmt.Fprintf(p.stderr, "\t%s\n", word)
		}
		return exitBadUsage
	}
	return p.report(c.run(ctx, p, arguments))
}

// errSilent makes the exit status 1; what there was to say is said.
var errSilent = errors.New("failed")

// localError is an error that is not the daemon's answer to a command.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// report tells an error and returns the exit status.
func (p *program) report(err error) int {
	if err == nil {
		return 0
	}
	var version *control.VersionError
	var local *localError
	switch {
	case errors.Is(err, errSilent):
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintf(p.stderr, "%s: %v\n", p.name, control.ErrNotRunning)
	case errors.As(err, &version), errors.As(err, &local):
		fmt.Fprintf(p.stderr, "%s: %v\n", p.name, err)
	case isPrivileges(err):
		fmt.Fprintf(p.stderr, "%s: need root privileges\n", p.name)
	default:
		fmt.Fprintf(p.stdout, "command failed: %s\n", reason(err))
	}
	return exitFailed
}

// isPrivileges tells whether the daemon answered that only root may ask.
func isPrivileges(err error) bool {
	e := proto.SMTPError(err)
	return e != nil && e.Code == 550 && e.Text == "need root privileges"
}

// reason returns an error in one line.
func reason(err error) string {
	if e := proto.SMTPError(err); e != nil {
		return oneLine(e.Reply())
	}
	return oneLine(err.Error())
}

// sockets returns where the daemon may listen, the likeliest first: the system's,
// then that of a daemon that this user runs.
func (p *program) sockets() []string {
	const name = "smtpd.sock"
	if p.socket != "" {
		return []string{p.socket}
	}
	if dir := p.getenv("OPENSMTPD_RUN"); dir != "" {
		return []string{filepath.Join(dir, name)}
	}
	list := []string{filepath.Join(p.paths.Run, name)}
	if dir := p.stateDir(); dir != "" {
		list = append(list, filepath.Join(dir, "run", name))
	}
	return list
}

// stateDir returns where an ordinary user's daemon keeps its files; "" for root.
func (p *program) stateDir() string {
	if p.uid == 0 {
		return ""
	}
	if dir := p.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "opensmtpd")
	}
	if home := p.getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "opensmtpd")
	}
	return ""
}

// connect opens the conversation with the daemon.
func (p *program) connect(ctx context.Context) (*control.Client, error) {
	var first error
	for _, path := range p.sockets() {
		c, err := control.Dial(ctx, path)
		if err == nil {
			return c, nil
		}
		if first == nil || errors.Is(first, control.ErrNotRunning) {
			first = err
		}
	}
	if errors.Is(first, control.ErrNotRunning) {
		return nil, first
	}
	return nil, &localError{first}
}

// status opens the conversation and asks what runs.
func (p *program) status(ctx context.Context) (*control.Client, proto.StatusReply, error) {
	c, err := p.connect(ctx)
	if err != nil {
		return nil, proto.StatusReply{}, err
	}
	st, _, err := control.Call(ctx, c, proto.Status, proto.Empty{})
	if err != nil {
		c.Close()
		return nil, proto.StatusReply{}, err
	}
	return c, st, nil
}

// call makes one call over a connection of its own.
func call[Req, Rep any](ctx context.Context, p *program, m imsg.Method[Req, Rep], req Req) (Rep, error) {
	c, err := p.connect(ctx)
	if err != nil {
		var none Rep
		return none, err
	}
	defer c.Close()
	rep, files, err := control.Call(ctx, c, m, req)
	for _, f := range files {
		f.Close()
	}
	return rep, err
}

// succeed makes a call whose reply says nothing, and says so.
func succeed[Req any](ctx context.Context, p *program, m imsg.Method[Req, proto.Empty], req Req) error {
	if _, err := call(ctx, p, m, req); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "command succeeded")
	return nil
}
