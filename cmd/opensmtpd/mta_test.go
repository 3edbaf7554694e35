package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc/parent"
)

// The test binary is the daemon too: a test starts it again, as an ordinary user,
// so all roles run in one process, with the race detector if the tests have it.
const runVariable = "OPENSMTPD_TEST_RUN"

func TestMain(m *testing.M) {
	if path := os.Getenv(tableVariable); path != "" {
		tableProgramMain(path)
	}
	if says := os.Getenv(filterVariable); says != "" {
		os.Exit(runTestFilter(says))
	}
	if os.Getenv(runVariable) != "" {
		os.Exit(run(os.Args))
	}
	status := m.Run()
	if copied != "" {
		_ = os.RemoveAll(filepath.Dir(copied)) // a leftover in the temporary directory is no failure
	}
	os.Exit(status)
}

// patience bounds every wait of a test for something that must happen.
const patience = 60 * time.Second

// mta is a running daemon.
type mta struct {
	t    testing.TB
	dir  string
	addr string   // of its listener
	conf string   // path
	args []string // more arguments
	env  []string // more of the environment
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of its end

	mu      sync.Mutex // guards what follows
	log     []string
	seen    map[int]bool // lines that a wait has returned
	changed chan struct{}
}

// place makes a directory for a daemon that an ordinary user may use.
func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// program returns the path of the test binary, in a place where an ordinary user
// may run it.
func program(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return exe
	}
	copyOnce.Do(func() { copied, copyErr = copyProgram(exe) })
	if copyErr != nil {
		t.Fatal(copyErr)
	}
	return copied
}

var (
	copyOnce sync.Once
	copied   string
	copyErr  error
)

func copyProgram(exe string) (string, error) {
	dir, err := os.MkdirTemp("", "opensmtpd-test")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "smtpd")
	return path, os.WriteFile(path, b, 0o755)
}

// freePort returns a loopback address that nothing listens on.
func freePort(t testing.TB) (host, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, port, _ = net.SplitHostPort(l.Addr().String())
	return host, port
}

// prelude is what test configurations begin with. Mail for example.org is for the
// user of the daemon.
const prelude = `
table owner { owner = $owner }
listen on $host port $port hostname mx.example.org
`

// keepAll delivers mail for example.org to one Maildir.
const keepAll = prelude + `
table everybody { "@example.org" = owner }
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any for domain "example.org" action "keep"
`

// startMTA starts a daemon with a configuration and waits until it accepts mail.
func startMTA(t testing.TB, conf string, args ...string) *mta {
	t.Helper()
	m := newMTA(t, conf, args...)
	m.start()
	return m
}

// newMTA makes a place for a daemon, with its configuration in it.
func newMTA(t testing.TB, conf string, args ...string) *mta {
	t.Helper()
	m := &mta{t: t, dir: place(t), args: args, seen: map[int]bool{}, changed: make(chan struct{})}
	host, port := freePort(t)
	m.addr = net.JoinHostPort(host, port)
	m.conf = filepath.Join(m.dir, "smtpd.conf")
	m.writeConf(conf)
	return m
}

// file writes a file of the daemon's into its directory and returns the path.
func (m *mta) file(name, content string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, nobody, nobody); err != nil {
			m.t.Fatal(err)
		}
	}
	return path
}

// command returns a command line of the daemon's program for its directory.
func (m *mta) command(args ...string) *exec.Cmd {
	m.t.Helper()
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = nobody, nobody
	}
	host, port, _ := net.SplitHostPort(m.addr)
	cmd := exec.Command(program(m.t), append(args, "-f", m.conf,
		"-o", "spool="+filepath.Join(m.dir, "spool"), "-o", "run="+filepath.Join(m.dir, "run"),
		"-D", "host="+host, "-D", "port="+port, "-D", fmt.Sprintf("owner=%q", fmt.Sprintf("%d:%d:%s", uid, gid, m.dir)),
		"-D", fmt.Sprintf("maildir=%q", m.maildir()), "-D", fmt.Sprintf("dir=%q", m.dir))...)
	// With the race detector a process sleeps for a second at its end, unless told otherwise.
	cmd.Env = append(os.Environ(), runVariable+"=smtpd", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Env = append(cmd.Env, m.env...)
	cmd.Dir = m.dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// control calls the daemon over its local socket.
func (m *mta) control() *control.Client {
	m.t.Helper()
	c, err := control.Dial(m.t.Context(), filepath.Join(m.dir, "run", parent.ControlSocket))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(c.Close)
	return c
}

// ask makes a call of the daemon.
func ask[Req, Rep any](m *mta, method imsg.Method[Req, Rep], req Req) Rep {
	m.t.Helper()
	r, files, err := control.Call(m.t.Context(), m.control(), method, req)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		m.t.Fatalf("%s: %v", method.Name, err)
	}
	return r
}

// writeConf writes the configuration; DIR stands for the test's directory.
func (m *mta) writeConf(conf string) {
	m.t.Helper()
	if err := os.WriteFile(m.conf, []byte(strings.ReplaceAll(conf, "DIR", m.dir)), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// start starts the daemon in its directory, for the first time or again.
func (m *mta) start() {
	m.t.Helper()
	m.run(m.command(append([]string{"-d"}, m.args...)...))
}

// run runs a command line of the daemon and waits until it accepts mail.
func (m *mta) run(cmd *exec.Cmd) {
	t := m.t
	t.Helper()
	m.cmd = cmd
	stderr, err := m.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.done = make(chan struct{})
	done := m.done
	go func() {
		defer close(done)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			m.mu.Lock()
			m.log = append(m.log, lines.Text())
			close(m.changed)
			m.changed = make(chan struct{})
			m.mu.Unlock()
		}
		m.err = cmd.Wait()
	}()
	t.Cleanup(func() { m.kill(done, cmd) })
	m.wait(`ready("}|$)`)
}

// raceStatus is the exit status of a program in which the race detector found something.
const raceStatus = 66

// kill ends a daemon that a test has left running, and shows its log on a failure.
func (m *mta) kill(done chan struct{}, cmd *exec.Cmd) {
	select {
	case <-done:
	default:
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-done
			m.t.Error("the daemon did not end on SIGTERM")
		}
	}
	if cmd.ProcessState.ExitCode() == raceStatus {
		m.t.Error("the daemon has a data race")
	}
	if m.t.Failed() {
		m.t.Logf("log of the daemon:\n%s", strings.Join(m.lines(), "\n"))
	}
}

func (m *mta) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.log...)
}

// stop ends the daemon in order.
func (m *mta) stop() {
	m.t.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-m.done:
	case <-time.After(patience):
		m.t.Fatal("the daemon did not end on SIGTERM")
	}
	if m.err != nil {
		m.t.Errorf("the daemon ended with %v", m.err)
	}
}

func (m *mta) maildir() string { return filepath.Join(m.dir, "Maildir") }

// wait waits for a line of the log, and returns it. Lines that a wait has returned
// are not looked at again.
func (m *mta) wait(pattern string) string {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		m.mu.Lock()
		for i, line := range m.log {
			if !m.seen[i] && re.MatchString(line) {
				m.seen[i] = true
				m.mu.Unlock()
				return line
			}
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			m.t.Fatalf("no log line matches %q", pattern)
		case <-m.done:
			m.t.Fatalf("the daemon ended (%v) before a log line matched %q", m.err, pattern)
		}
	}
}

// dialogue connects and holds a dialogue: each even element is sent, each odd one
// is the pattern that the reply must match, lines joined by "\n". The first
// element is the pattern of the greeting.
func (m *mta) dialogue(steps ...string) *textproto.Conn {
	m.t.Helper()
	c, err := textproto.Dial("tcp", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	m.expect(c, "(greeting)", steps[0])
	m.talk(c, steps[1:]...)
	return c
}

// talk goes on with a dialogue: what is sent, then the pattern of the reply.
func (m *mta) talk(c *textproto.Conn, steps ...string) {
	m.t.Helper()
	for i := 0; i < len(steps); i += 2 {
		if err := c.PrintfLine("%s", steps[i]); err != nil {
			m.t.Fatalf("send %q: %v", steps[i], err)
		}
		m.expect(c, steps[i], steps[i+1])
	}
}

func (m *mta) expect(c *textproto.Conn, sent, pattern string) {
	m.t.Helper()
	code, text, err := c.ReadResponse(0)
	if code == 0 && err != nil {
		m.t.Fatalf("reply to %.60q: %v", sent, err)
	}
	got := fmt.Sprintf("%d %s", code, text)
	if !regexp.MustCompile(pattern).MatchString(got) {
		m.t.Fatalf("reply to %.60q: %q, want %q", sent, got, pattern)
	}
}

// send sends a message with the body to rcpt.
func (m *mta) send(rcpt, body string) {
	m.t.Helper()
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<"+rcpt+">", "^250",
		"DATA", "^354", "Subject: test\r\n\r\n"+body+"\r\n.", "^250", "QUIT", "^221")
}

// mails returns the files in the new folder of the Maildir.
func (m *mta) mails() []string {
	m.t.Helper()
	return mailsIn(m.t, m.maildir())
}

func mailsIn(t testing.TB, maildir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(maildir, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(bytes.TrimSpace(b)))
	}
	return out
}

func TestMessageArrivesInMaildir(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	m.send("somebody@example.org", "hello there")
	m.wait(`mda delivery .*to=<somebody@example\.org>.* result=Ok stat=Delivered`)
	mails := m.mails()
	if len(mails) != 1 {
		t.Fatalf("%d messages in the Maildir, want 1", len(mails))
	}
	want := regexp.MustCompile(`(?s)^Return-Path: <sender@example\.net>\nDelivered-To: somebody@example\.org\n` +
		`Received: from client\.example\.net \(\S+ \[127\.0\.0\.1\]\)\n\tby mx\.example\.org \(OpenSMTPD\) with ESMTP id [0-9a-f]{8}\n` +
		`\tfor <somebody@example\.org>;\n\t.*\nSubject: test\n.*\nhello there$`)
	if !want.MatchString(mails[0]) {
		t.Errorf("the message reads\n%s\nwhich does not match\n%s", mails[0], want)
	}
}

func TestRecipientWithoutRuleIsRefusedAndLogged(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<victim@example.com>", `^550 5\.\d\.\d Invalid recipient: <victim@example\.com>`)
	m.wait(`smtp failed-command command="RCPT TO:<victim@example\.com>" result="550 `)
}

func TestQueuedMailSurvivesRestart(t *testing.T) {
	t.Parallel()
	m := startMTA(t, "queue retry mda 1s\n"+prelude+`
table everybody { "@example.org" = owner }
action "keep" mda "exit 75" virtual <everybody> userbase <owner>
match from any for domain "example.org" action "keep"
`)
	m.send("somebody@example.org", "kept across a restart")
	m.wait(`mda delivery .* result=TempFail`)
	m.stop()
	m.writeConf("queue retry mda 1s\n" + keepAll)
	m.start()
	m.wait(`mda delivery .*result=Ok stat=Delivered`)
	if mails := m.mails(); len(mails) != 1 || !strings.Contains(mails[0], "kept across a restart") {
		t.Errorf("the Maildir holds %q", mails)
	}
}

func TestReloadKeepsSessionAndBrokenConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	c := m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250")

	m.writeConf("listen on nonsense {\n")
	m.hangUp()
	m.wait(`reload: configuration unchanged: .*smtpd\.conf:1: `)
	m.send("one@example.org", "after the broken one")
	m.wait(`mda delivery .*to=<one@example\.org>.* result=Ok`)

	m.writeConf(strings.ReplaceAll(keepAll, "example.org\"", "example.com\""))
	m.hangUp()
	m.wait(`configuration reloaded`)
	// The session that was open keeps its rules; a new one has the new ones.
	m.talk(c, "RCPT TO:<two@example.org>", "^250", "DATA", "^354", "Subject: x\r\n\r\nold rules\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .*to=<two@example\.org>.* result=Ok`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<three@example.org>", "^550", "RCPT TO:<three@example.com>", "^250")
}

// All addresses of a family and a single one may be listened on side by side, also while
// a reload takes the place of one by the other. Those of IPv4 are none of IPv6.
func TestListenOnAllAddressesBesideOne(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	_, port, _ := net.SplitHostPort(m.addr)
	greets := func(host, name string) {
		t.Helper()
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			if name != "" {
				t.Errorf("%s: %v, want the greeting of %s", host, err, name)
			}
			return
		}
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		if name == "" || err != nil || !strings.HasPrefix(line, "220 "+name+" ") {
			t.Errorf("%s: greeting %q, %v, want that of %q", host, line, err, name)
		}
	}
	reload := func(conf string) {
		t.Helper()
		m.writeConf(conf)
		m.hangUp()
		m.wait(`configuration reloaded`)
	}
	greets("127.0.0.1", "mx.example.org")
	greets("127.0.0.2", "")
	reload(keepAll + "listen on 0.0.0.0 port $port hostname all.example.org\n")
	greets("127.0.0.1", "mx.example.org")
	greets("127.0.0.2", "all.example.org")
	greets("::1", "")
	reload(strings.Replace(keepAll, "listen on $host port $port hostname mx.example.org", "listen on 0.0.0.0 port $port hostname all.example.org", 1))
	greets("127.0.0.1", "all.example.org")
	greets("127.0.0.2", "all.example.org")
	reload(keepAll)
	greets("127.0.0.1", "mx.example.org")
	greets("127.0.0.2", "")
}

// hangUp sends SIGHUP.
func (m *mta) hangUp() {
	m.t.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		m.t.Fatal(err)
	}
}
