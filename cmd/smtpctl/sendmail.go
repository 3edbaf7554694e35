package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/submit"
)

// Exit statuses of sendmail, out of sysexits(3).
const (
	exitUsage       = 64
	exitUnavailable = 69
	exitSoftware    = 70
	exitTempFail    = 75
	exitNoPerm      = 77
)

const sendmailUsage = "usage: sendmail [-iStv] [-F name] [-f from] [-N notify] [-R ret] [-V envid] [to ...]\n" +
	"       sendmail -bi | -bp | -bs | -q\n"

// sendmail submits a message from standard input.
func (p *program) sendmail(ctx context.Context, args []string) int {
	c, err := submit.ParseArgs(args)
	if err != nil {
		fmt.Fprintf(p.stderr, "sendmail: %v\n%s", err, sendmailUsage)
		return exitUsage
	}
	switch {
	case c.Mode == 'p':
		return p.mailq(ctx, nil)
	case c.Mode == 'i':
		return p.newaliases(ctx, nil)
	case c.Mode == 's':
		return p.speakSMTP(ctx)
	case c.RunQueue && len(c.Recipients) == 0 && !c.FromHeader:
		return p.runQueue(ctx)
	}
	r := c.Request
	r.Date = time.Now()
	p.identify(&r)
	if len(r.Recipients) == 0 && !r.FromHeader {
		return p.failed(submit.ErrNoRecipients, exitSoftware)
	}
	m, err := submit.Read(p.stdin)
	if err != nil {
		return p.failed(err, exitSoftware)
	}
	defer m.Close()
	s, err := r.Resolve(m)
	if err != nil {
		p.keepDead(m)
		return p.failed(err, exitSoftware)
	}
	return p.submit(ctx, s, &c, r)
}

// submit hands a message to the daemon, or keeps it when there is none.
func (p *program) submit(ctx context.Context, s *submit.Submission, c *submit.Command, r submit.Request) int {
	var dialogue io.Writer
	if c.Verbose {
		dialogue = p.stdout
	}
	err := p.send(ctx, s, dialogue)
	if err == nil {
		return 0
	}
	status := exitSoftware
	refusal, ok := errors.AsType[*smtp.Error](err)
	switch {
	case ok && refusal.Permanent():
	case ok && refusal.Code != 421:
		status = exitTempFail
	case c.NoSpool:
		status = exitTempFail
	default: // no daemon, one that is stopping, or one that stopped meanwhile
		serr := p.spool(s, r)
		if serr == nil {
			if c.Verbose {
				fmt.Fprintf(p.stdout, "kept until smtpd runs: %s\n", reason(err))
			}
			return 0
		}
		err = fmt.Errorf("%s; cannot keep the message until it runs: %w", reason(err), serr)
		status = exitTempFail
		if !retryable(serr) {
			status = exitSoftware
		}
	}
	p.keepDead(s.Message)
	return p.failed(err, status)
}

// retryable tells whether a failure to keep a message may pass: one of the file
// system may.
func retryable(err error) bool {
	_, ok := errors.AsType[*os.PathError](err)
	return ok || errors.Is(err, syscall.ENOSPC)
}

// send submits over a session of the daemon.
func (p *program) send(ctx context.Context, s *submit.Submission, dialogue io.Writer) error {
	conn, err := p.session(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return s.Send(ctx, conn, dialogue)
}

// session returns a connection that speaks SMTP.
func (p *program) session(ctx context.Context) (net.Conn, error) {
	c, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	conn, err := c.Session(ctx)
	if e := proto.SMTPError(err); e != nil {
		return nil, e
	}
	return conn, err
}

// spool keeps a message for when the daemon runs: for the system's, or for that of
// this user where there is no other.
func (p *program) spool(s *submit.Submission, r submit.Request) error {
	var err error
	for _, dir := range p.spools() {
		if err = s.Spool(filepath.Join(dir, "offline"), r); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return err
}

// spools returns where spools may be: the system's, then that of a daemon that this
// user runs.
func (p *program) spools() []string {
	if dir := p.getenv("OPENSMTPD_SPOOL"); dir != "" {
		return []string{dir}
	}
	list := []string{p.paths.Spool}
	if dir := p.stateDir(); dir != "" {
		list = append(list, filepath.Join(dir, "spool"))
	}
	return list
}

// failed tells why nothing was sent.
func (p *program) failed(err error, status int) int {
	if errors.Is(err, control.ErrNotRunning) {
		err = control.ErrNotRunning
	}
	if refusals, ok := errors.AsType[*submit.RefusedError](err); ok {
		for _, r := range refusals.Refusals {
			fmt.Fprintf(p.stderr, "sendmail: %s\n", oneLine(r.String()))
		}
		return status
	}
	fmt.Fprintf(p.stderr, "sendmail: %s\n", oneLine(err.Error()))
	return status
}

// identify fills in who submits.
func (p *program) identify(r *submit.Request) {
	u, err := user.LookupId(strconv.Itoa(p.uid))
	if err != nil { // a user of a source that only the C library knows
		r.User = p.getenv("LOGNAME")
		if r.User == "" {
			r.User = p.getenv("USER")
		}
		return
	}
	r.User = u.Username
	if r.FullName == "" {
		r.FullName = fullName(u.Name, u.Username)
	}
}

// fullName returns the name in the comment field of passwd(5): what stands before
// the first comma, with "&" for the login name.
func fullName(gecos, login string) string {
	name, _, _ := strings.Cut(gecos, ",")
	if !strings.Contains(name, "&") {
		return name
	}
	capital := []rune(login)
	if len(capital) > 0 {
		capital[0] = unicode.ToUpper(capital[0])
	}
	return strings.ReplaceAll(name, "&", string(capital))
}

// keepDead appends a message that could not be sent to dead.letter in the home
// directory.
func (p *program) keepDead(m *submit.Message) {
	home := p.getenv("HOME")
	if !filepath.IsAbs(home) {
		u, err := user.LookupId(strconv.Itoa(p.uid))
		if err != nil || !filepath.IsAbs(u.HomeDir) {
			return
		}
		home = u.HomeDir
	}
	path := filepath.Join(home, "dead.letter")
	if err := appendDead(path, m.Raw()); err != nil {
		fmt.Fprintf(p.stderr, "sendmail: save message: %v\n", err)
		return
	}
	fmt.Fprintf(p.stderr, "sendmail: message saved in %s\n", path)
}

// appendDead appends a message to an mbox(5) file.
func appendDead(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err == nil {
		err = writeMbox(f, r)
	}
	return errors.Join(err, f.Close())
}

// writeMbox writes a message as an mbox entry: a "From " line in front, an empty
// line behind, and ">" before lines that look like the former.
func writeMbox(w io.Writer, r io.Reader) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "From MAILER-DAEMON %s\n", time.Now().UTC().Format(time.ANSIC))
	in := bufio.NewReader(r)
	start := true
	for {
		part, err := in.ReadSlice('\n')
		if start && bytes.HasPrefix(part, []byte("From ")) {
			out.WriteByte('>')
		}
		out.Write(part)
		start = err == nil
		if err == io.EOF {
			break
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
	}
	out.WriteString("\n\n")
	return out.Flush() // bufio keeps the first error
}

// speakSMTP connects standard input and output to a session of the daemon.
func (p *program) speakSMTP(ctx context.Context) int {
	conn, err := p.session(ctx)
	if err != nil {
		return p.failed(err, exitUnavailable)
	}
	defer conn.Close()
	go func() { // ends with standard input or the session; main does not wait for it
		_, err := io.Copy(&lineEnds{w: conn}, p.stdin)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite() // the session ends by itself then
		}
	}()
	if _, err := io.Copy(p.stdout, conn); err != nil {
		return p.failed(err, exitUnavailable)
	}
	return 0
}

// lineEnds lets programs speak SMTP with the line ends of the system: when the first line
// ends in LF, all do, and CRLF is sent in its place. What begins with CRLF is passed on
// as it is, for chunks of binary text.
type lineEnds struct {
	w     io.Writer
	known bool // the end of the first line was seen
	bare  bool // it was LF
	last  byte
}

// Write implements io.Writer.
func (e *lineEnds) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	last := e.last
	e.last = b[len(b)-1]
	if i := bytes.IndexByte(b, '\n'); !e.known && i >= 0 {
		before := last
		if i > 0 {
			before = b[i-1]
		}
		e.known, e.bare = true, before != '\r'
	}
	if !e.bare {
		return e.w.Write(b)
	}
	out := make([]byte, 0, len(b)+len(b)/8)
	for _, c := range b {
		if c == '\n' && last != '\r' {
			out = append(out, '\r')
		}
		out = append(out, c)
		last = c
	}
	if _, err := e.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// runQueue has all mail tried now. Programs use it as "sendmail -q".
func (p *program) runQueue(ctx context.Context) int {
	_, err := call(ctx, p, proto.Manage, proto.ManageRequest{Verb: "schedule"})
	switch {
	case err == nil:
		return 0
	case isPrivileges(err):
		return p.failed(errors.New("need root privileges"), exitNoPerm)
	}
	return p.failed(err, exitTempFail)
}
