package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// sessionField is the identity of a session in a printed event.
var sessionField = regexp.MustCompile(`\{Session:\d+ `)

// events collects what a session reports.
type events struct {
	mu   sync.Mutex
	list []report.Event
}

func (e *events) Report(ev report.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

// String returns the events without their session, one a line.
func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, ev := range e.list {
		s := fmt.Sprintf("%T %+v\n", ev, ev)
		b.WriteString(sessionField.ReplaceAllString(strings.TrimPrefix(s, "report."), "{"))
	}
	return b.String()
}

// ruled is a private cause that names a rule.
type ruled struct{}

func (ruled) Error() string { return "no such user" }
func (ruled) Rule() string  { return "smtpd.conf:7" }

// fakeBackend accepts everything but the addresses that say otherwise.
type fakeBackend struct {
	*Session
	mu      sync.Mutex
	id      envelope.MsgID
	calls   []string
	stored  []string // bodies committed
	mails   []Transaction
	commit  error
	dataErr error
	junk    bool
	spill   *spillFile
	noFile  bool
}

type spillFile struct {
	data   []byte
	closed bool
}

func (f *spillFile) Write(p []byte) (int, error) {
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *spillFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.data).ReadAt(p, off)
}

func (f *spillFile) WriteAt(p []byte, off int64) (int, error) {
	f.data = append(f.data, make([]byte, max(0, int(off)+len(p)-len(f.data)))...)
	return copy(f.data[off:], p), nil
}

func (f *spillFile) String() string { return string(f.data) }

func (f *spillFile) Close() error { f.closed = true; return nil }

func (b *fakeBackend) note(format string, a ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, fmt.Sprintf(format, a...))
}

func (b *fakeBackend) Authenticate(_ context.Context, user, password string) error {
	b.note("auth %s %s", user, password)
	switch {
	case user == "broken":
		return errors.New("database gone")
	case password != "secret":
		return &smtp.Error{Code: 535, Text: "wrong password, really"}
	}
	return nil
}

// verdict is what the local part of an address asks for.
func verdict(p smtp.Path) error {
	switch p.Local {
	case "unknown":
		return &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Text: "No such user", Err: ruled{}}
	case "plain":
		return &smtp.Error{Code: 530, Text: "Sender rejected"}
	case "later":
		return errors.New("lookup is away")
	case "close":
		return &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary failure"}
	}
	return nil
}

func (b *fakeBackend) Mail(_ context.Context, t *Transaction) error {
	b.note("mail %s", t.Sender)
	b.id++
	t.ID, t.Junk = 0xabcd0000+b.id, t.Junk || b.junk
	return verdict(t.Sender)
}

func (b *fakeBackend) Rcpt(_ context.Context, t *Transaction, rcpts []Recipient, errs []error) {
	b.note("rcpt %d", len(rcpts))
	for i := range rcpts {
		errs[i] = verdict(rcpts[i].Path)
		rcpts[i].Envelopes = []envelope.ID{envelope.NewID(t.ID, uint32(len(t.Rcpts)+i+1))}
	}
}

func (b *fakeBackend) Data(context.Context, *Transaction) error { return b.dataErr }

func (b *fakeBackend) Spill(context.Context, *Transaction) (File, error) {
	if b.noFile {
		return nil, errors.New("disk full")
	}
	b.spill = new(spillFile)
	return b.spill, nil
}

func (b *fakeBackend) Commit(_ context.Context, t *Transaction, body []byte, size int64) error {
	text := string(body)
	if body == nil && b.spill != nil {
		if !b.spill.closed {
			return errors.New("file of the body is open")
		}
		text = b.spill.String()
	}
	if int64(len(text)) != size {
		return fmt.Errorf("body has %d bytes, size says %d", len(text), size)
	}
	b.note("commit")
	if b.commit != nil {
		return b.commit
	}
	b.stored = append(b.stored, text)
	b.mails = append(b.mails, *t)
	return nil
}

func (b *fakeBackend) Reset(*Transaction) { b.note("reset") }

// bodies returns the stored bodies without their first field, the trace.
func (b *fakeBackend) bodies() []string {
	var list []string
	for _, s := range b.stored {
		i := strings.Index(s, "Received:")
		end := strings.Index(s[i:], "\n\t") // past the first folding
		for end >= 0 {
			i += end + 2
			n := strings.IndexByte(s[i:], '\n')
			if n+1 >= len(s[i:]) || s[i+n+1] != '\t' {
				i += n + 1
				break
			}
			end = n
		}
		list = append(list, s[i:])
	}
	return list
}

// setup is a session under test.
type setup struct {
	cfg     *Config
	backend *fakeBackend
	events  *events
}

// newSetup returns a local listener called mx.test, and its only backend.
func newSetup() *setup {
	u := &setup{backend: new(fakeBackend), events: new(events)}
	u.cfg = &Config{
		Name:    "mx.test",
		Local:   true,
		Events:  u.events,
		Backend: func(s *Session) Backend { u.backend.Session = s; return u.backend },
	}
	return u
}

// start runs a session over a pipe and returns the client's end, and what is
// closed when the session has ended.
func (u *setup) start(t *testing.T) (net.Conn, <-chan struct{}) {
	t.Helper()
	pipe, theirs := net.Pipe()
	var ours net.Conn = remoteConn{pipe}
	if u.cfg.Local {
		ours = pipe
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(Limits{}).ServeConn(context.Background(), ours, u.cfg)
	}()
	t.Cleanup(func() { _ = theirs.Close(); <-done })
	return theirs, done
}

// play holds the dialogue of a script. "C: x" sends x and CRLF, "R: x" sends the
// quoted x as it is; neighbouring ones go in one write. "S: x" expects the line x,
// "S: EOF" the end. It returns when the session has ended.
func (u *setup) play(t *testing.T, script string) {
	t.Helper()
	conn, done := u.start(t)
	u.playOn(t, conn, script)
	_ = conn.Close()
	<-done
}

// playOn is play over a connection.
func (u *setup) playOn(t *testing.T, conn net.Conn, script string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	var lines []string
	for line := range strings.SplitSeq(script, "\n") {
		if line != "" {
			lines = append(lines, line)
		}
	}
	for i := 0; i < len(lines); i++ {
		kind, text, _ := strings.Cut(strings.TrimLeft(lines[i], "\t"), ":")
		text = strings.TrimPrefix(text, " ")
		if kind == "S" {
			got, err := r.ReadString('\n')
			if text == "EOF" {
				if err == nil {
					t.Fatalf("line %d: got %q, want the end", i+1, got)
				}
				continue
			}
			if got != text+"\r\n" {
				t.Fatalf("line %d:\n got %q, %v\nwant %q", i+1, got, err, text)
			}
			continue
		}
		var send strings.Builder
		for ; i < len(lines); i++ {
			kind, text, _ := strings.Cut(strings.TrimLeft(lines[i], "\t"), ":")
			text = strings.TrimPrefix(text, " ")
			if kind == "S" {
				break
			}
			if kind == "R" {
				raw, err := strconv.Unquote(text)
				if err != nil {
					t.Fatalf("line %d: %v", i+1, err)
				}
				send.WriteString(raw)
			} else {
				send.WriteString(text + "\r\n")
			}
		}
		i--
		// In a goroutine: over a pipe the server may want to be read first.
		go func() { _, _ = io.WriteString(conn, send.String()) }()
	}
}

var (
	verdictError = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 7, 1}, Text: "Not today"}
	errNoReply   = errors.New("disk on fire")
)

const notifySuccessDelay = envelope.NotifySuccess | envelope.NotifyDelay

func itoa(n int) string { return strconv.Itoa(n) }

// remoteConn is a pipe that claims to come from 192.0.2.1 to 198.51.100.2.
type remoteConn struct{ net.Conn }

func (remoteConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000} }
func (remoteConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(198, 51, 100, 2), Port: 25} }
