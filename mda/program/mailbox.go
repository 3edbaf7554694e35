package program

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/mda"
	"github.com/opensmtpd/opensmtpd/mda/maildir"
	"github.com/opensmtpd/opensmtpd/mda/mbox"
)

// flags returns an empty set of flags that says nothing by itself.
func (e *Environ) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(e.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// Maildir is mail.maildir: it delivers to a Maildir, $HOME/Maildir by default.
func Maildir(ctx context.Context, e *Environ) int {
	if e.refuseRoot() {
		return exitUsage
	}
	fs := e.flags()
	junk := fs.Bool("j", false, "")
	if fs.Parse(e.Args) != nil || fs.NArg() > 1 {
		return e.usage("[-j] [directory]")
	}
	dir := fs.Arg(0)
	if dir == "" {
		dir = filepath.Join(e.Getenv("HOME"), "Maildir")
	}
	if !filepath.IsAbs(dir) {
		e.say("%s: not an absolute path", dir)
		return exitUsage
	}
	d, done, err := e.message()
	if err != nil {
		return e.exit(mda.Fail("cannot read message", err))
	}
	defer done()
	s := maildir.New(e.Host)
	defer s.Close()
	return e.exit(s.Deliver(ctx, maildir.Target{Dir: dir, Junk: *junk}, d))
}

// MboxFile is mail.mboxfile: it appends to a file in mbox format.
func MboxFile(ctx context.Context, e *Environ) int {
	if e.refuseRoot() {
		return exitUsage
	}
	fs := e.flags()
	from := fs.String("f", "", "")
	if fs.Parse(e.Args) != nil || fs.NArg() != 1 {
		return e.usage("-f from file")
	}
	path, err := filepath.Abs(fs.Arg(0))
	if err != nil {
		return e.exit(mda.Fail(fs.Arg(0), err))
	}
	d, done, err := e.message()
	if err != nil {
		return e.exit(mda.Fail("cannot read message", err))
	}
	defer done()
	d.Sender = parsePath(*from)
	return e.exit(mbox.New().Deliver(ctx, mbox.Target{Path: path, UID: mbox.AnyOwner}, d))
}

// Lookup finds the id of a user. ok is false when there is no such user; an error
// is temporary.
type Lookup func(ctx context.Context, name string) (uid int, ok bool, err error)

// Local is mail.local: it delivers to the system mailboxes, files in mailDir, of
// the users given. It is the only program that may be run as root.
func Local(ctx context.Context, e *Environ, mailDir string, lookup Lookup) int {
	fs := e.flags()
	from := fs.String("f", "", "")
	fs.Bool("l", false, "") // locks are always taken
	fs.Bool("L", false, "")
	if fs.Parse(e.Args) != nil || fs.NArg() == 0 {
		return e.usage("[-lL] [-f from] user ...")
	}
	d, done, err := e.message()
	if err != nil {
		return e.exit(mda.Fail("cannot read message", err))
	}
	defer done()
	d.Sender = parsePath(*from)
	store := mbox.New()
	status := 0
	for _, name := range fs.Args() {
		one := localTo(ctx, e, store, mailDir, name, lookup, d)
		if status == 0 || one == exitTempFail {
			status = one
		}
	}
	return status
}

// localTo delivers to one user.
func localTo(ctx context.Context, e *Environ, store *mbox.Store, mailDir, name string, lookup Lookup, d *mda.Delivery) int {
	uid, ok, err := lookup(ctx, name)
	if err != nil {
		return e.exit(mda.Fail("cannot look up user "+strconv.Quote(name), err))
	}
	if !ok || name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		e.say("unknown user: %s", name)
		return exitNoUser
	}
	return e.exit(store.Deliver(ctx, mbox.Target{Path: filepath.Join(mailDir, name), UID: uid}, d))
}

// SystemUser is a Lookup of the system's users. Those that are not in the passwd
// file are asked for by getent(1), where there is one: they may come from a
// directory service.
func SystemUser(ctx context.Context, name string) (uid int, ok bool, err error) {
	u, err := user.Lookup(name)
	if err == nil {
		uid, err = strconv.Atoi(u.Uid)
		return uid, err == nil, err
	}
	var unknown user.UnknownUserError
	if !errors.As(err, &unknown) {
		return 0, false, err
	}
	if name == "" || name[0] == '-' {
		return 0, false, nil
	}
	path, err := exec.LookPath("getent")
	if err != nil {
		return 0, false, nil
	}
	out, err := exec.CommandContext(ctx, path, "passwd", name).Output()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 2 {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	fields := strings.Split(string(out), ":")
	if len(fields) < 3 {
		return 0, false, errors.New("getent: unexpected answer")
	}
	uid, err = strconv.Atoi(fields[2])
	return uid, err == nil, err
}

// MDA is mail.mda: it gives standard input to a shell command, and ends with its
// exit status, or 75 if a signal ended it.
func MDA(ctx context.Context, e *Environ) int {
	if e.refuseRoot() {
		return exitUsage
	}
	fs := e.flags()
	if fs.Parse(e.Args) != nil || fs.NArg() != 1 {
		return e.usage("command")
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", fs.Arg(0))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Stdin, os.Stdout, e.Stderr
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended) && ended.Exited():
		return ended.ExitCode()
	}
	e.say("%v", err)
	return exitTempFail
}
