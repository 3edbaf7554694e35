// Package agent turns what an action line of smtpd.conf says about local delivery
// into an mda.Agent: it checks for loops, writes the delivery headers, expands
// the format specifiers, and hands over to the mailbox, the LMTP server or the
// command. It runs in a process that has become the recipient already.
package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
	"github.com/opensmtpd/opensmtpd/mda/command"
	"github.com/opensmtpd/opensmtpd/mda/format"
	"github.com/opensmtpd/opensmtpd/mda/lmtp"
	"github.com/opensmtpd/opensmtpd/mda/maildir"
	"github.com/opensmtpd/opensmtpd/mda/mbox"
)

// Method is how an action delivers.
type Method string

// The methods of action lines, and of targets in aliases and .forward files.
const (
	Mbox    Method = "mbox"    // the system mailbox of the user
	Maildir Method = "maildir" // a Maildir
	LMTP    Method = "lmtp"    // an LMTP server
	Command Method = "command" // a shell command
	File    Method = "file"    // append to a file in mbox format
)

// DefaultTimeout bounds one delivery.
const DefaultTimeout = 5 * time.Minute

// Spec is everything an agent needs to know, as plain data that can be sent to
// the process that delivers. Command, Wrapper, Path and Dest may hold format
// specifiers, which are expanded for each delivery.
type Spec struct {
	Method  Method
	Path    string // maildir: directory, empty for ~/Maildir; file: the file
	Junk    bool   // maildir: mail marked as spam goes to the Junk folder
	Dest    string // lmtp: absolute path of a socket, or host[:port]
	RcptTo  bool   // lmtp: give the expanded address, not the user name
	Command string // command: line for the shell
	Wrapper string // line for the shell, with %{mda} for the command it wraps; empty: none

	HostName  string        // of this host: in names of Maildir files, and LHLO
	MailDir   string        // directory of the system mailboxes; empty: /var/mail
	Libexec   string        // directory of mail.maildir and its siblings, for wrappers
	Shell     string        // empty: /bin/sh
	DefPath   string        // PATH of commands; empty: /usr/bin:/bin:/usr/sbin:/sbin
	Delimiter string        // between user and subaddress; empty: "+"
	Timeout   time.Duration // of one delivery; 0: DefaultTimeout
}

// defaultMailDir is where system mailboxes are.
const defaultMailDir = "/var/mail"

// agent implements mda.Agent.
type agent struct {
	spec     Spec
	maildirs *maildir.Store
	mboxes   *mbox.Store
	lmtp     *lmtp.Client
	commands *command.Runner
}

// New returns the agent for a spec. One process should have one agent for each
// spec, as agents keep directories and connections open and know of each other's
// locks only within one agent.
func New(spec Spec) (mda.Agent, error) {
	if spec.MailDir == "" {
		spec.MailDir = defaultMailDir
	}
	if spec.Timeout == 0 {
		spec.Timeout = DefaultTimeout
	}
	if spec.Method == Maildir && spec.Path == "" {
		spec.Path = "~/Maildir"
	}
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("delivery method %q: %w", spec.Method, err)
	}
	return &agent{
		spec:     spec,
		maildirs: maildir.New(spec.HostName),
		mboxes:   mbox.New(),
		lmtp:     lmtp.New(spec.HostName),
		commands: &command.Runner{Shell: spec.Shell, Path: spec.DefPath, Timeout: spec.Timeout},
	}, nil
}

// check finds what is missing in a spec.
func (s *Spec) check() error {
	missing := ""
	switch s.Method {
	case Mbox, Maildir:
	case LMTP:
		if s.Dest == "" {
			missing = "destination"
		}
	case Command:
		if s.Command == "" {
			missing = "command"
		}
	case File:
		if s.Path == "" {
			missing = "path"
		}
	default:
		return errors.New("unknown")
	}
	if missing != "" {
		return fmt.Errorf("no %s", missing)
	}
	if s.Wrapper != "" && s.Libexec == "" {
		return errors.New("no directory of helper programs for the wrapper")
	}
	if s.Timeout < 0 {
		return errors.New("negative time limit")
	}
	return nil
}

// Close frees what the agent keeps open. It is called when no delivery is running.
func (a *agent) Close() error {
	return errors.Join(a.maildirs.Close(), a.mboxes.Close(), a.lmtp.Close())
}

// Deliver delivers by the action's method, or as the delivery's Exec says.
func (a *agent) Deliver(ctx context.Context, d *mda.Delivery) mda.Result {
	if err := d.Check(); err != nil {
		return mda.Refuse(smtp.EnhancedCode{5, 1, 3}, err.Error())
	}
	looped, err := d.Looped()
	if err != nil {
		return mda.Fail("cannot read message", err)
	}
	if looped {
		return mda.Result{Outcome: mda.Loop, Enhanced: smtp.EnhancedCode{5, 4, 6}, Text: "Loop detected"}
	}
	t, err := a.target(d)
	if err != nil {
		r := mda.Refuse(smtp.EnhancedCode{5, 3, 0}, "mda command line could not be expanded")
		r.Err = err
		return r
	}
	out := *d
	out.Prefix = d.Headers()
	if t.method == Command { // has the same time limit of its own
		return a.commands.Deliver(ctx, t.line, &out)
	}
	ctx, cancel := context.WithTimeout(ctx, a.spec.Timeout)
	defer cancel()
	switch t.method {
	case Mbox:
		return a.mboxes.Deliver(ctx, mbox.Target{Path: t.path, UID: os.Geteuid()}, &out)
	case File:
		return a.mboxes.Deliver(ctx, mbox.Target{Path: t.path, UID: mbox.AnyOwner}, &out)
	case Maildir:
		return a.maildirs.Deliver(ctx, maildir.Target{Dir: t.path, Junk: a.spec.Junk}, &out)
	default:
		return a.lmtp.Deliver(ctx, t.path, t.rcpt, &out)
	}
}

// target is a method with all specifiers expanded.
type target struct {
	method Method
	path   string // mbox, file, maildir; lmtp: the destination
	rcpt   string // lmtp
	line   string // command
}

// target says where a delivery goes.
func (a *agent) target(d *mda.Delivery) (target, error) {
	v := format.Values{
		Sender: d.Sender, Rcpt: d.Rcpt, Dest: d.Dest,
		User: d.User, Home: d.Home, Delimiter: a.spec.Delimiter,
	}
	t, err := a.unwrapped(d, &v)
	if err != nil || a.spec.Wrapper == "" {
		return t, err
	}
	line, err := v.Wrapper(a.spec.Wrapper, a.helper(t, d))
	return target{method: Command, line: line}, err
}

// unwrapped is target without regard to the wrapper.
func (a *agent) unwrapped(d *mda.Delivery, v *format.Values) (t target, err error) {
	t.method = a.spec.Method
	path, line := a.spec.Path, a.spec.Command
	switch {
	case strings.HasPrefix(d.Exec, "|"):
		t.method, line = Command, d.Exec[1:]
	case strings.HasPrefix(d.Exec, "/"):
		t.method, path = File, d.Exec
	case d.Exec != "":
		return t, fmt.Errorf("%q is neither a command nor a file", d.Exec)
	}
	switch t.method {
	case Command:
		t.line, err = v.Command(line)
	case Mbox:
		if d.User == "" || d.User == "." || d.User == ".." || strings.Contains(d.User, "/") {
			return t, fmt.Errorf("user %q cannot have a mailbox", d.User)
		}
		t.path = filepath.Join(a.spec.MailDir, d.User)
	case LMTP:
		t.rcpt = d.User
		if a.spec.RcptTo {
			t.rcpt = d.Dest.String()
		}
		t.path, err = v.Path(a.spec.Dest)
	default:
		t.path, err = v.Path(path)
	}
	return t, err
}

// helper returns the command line that delivers to t, for a wrapper.
func (a *agent) helper(t target, d *mda.Delivery) string {
	from := "MAILER-DAEMON"
	if !d.Sender.IsNull() {
		from = d.Sender.String()
	}
	var args []string
	switch t.method {
	case Mbox:
		args = []string{"mail.local", "-f", from, "--", d.User}
	case File:
		args = []string{"mail.mboxfile", "-f", from, "--", t.path}
	case Maildir:
		args = []string{"mail.maildir"}
		if a.spec.Junk {
			args = append(args, "-j")
		}
		args = append(args, "--", t.path)
	case LMTP:
		args = []string{"mail.lmtp", "-d", t.path, "-f", d.Sender.String(), "--", t.rcpt}
	case Command:
		args = []string{"mail.mda", "--", t.line}
	}
	args[0] = filepath.Join(a.spec.Libexec, args[0])
	for i := range args {
		args[i] = quote(args[i])
	}
	return strings.Join(args, " ")
}

// quote makes s one word for the shell.
func quote(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+-_./:@=,", r)
	})
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
