//go:build system

// Package system tests the built programs as root: separate processes under their
// own users, mail delivered as its recipients, other people's programs as clients
// and servers. test/system/run makes the users and groups that the tests name, in a
// private view of /etc.
package system

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen.
// hangUp makes the daemon read its configuration again.
const hangUp = syscall.SIGHUP

const patience = 60 * time.Second

// people are the users of the tests.
var people = []string{"alice", "bob", "carol"}

// programs is the directory of the built programs: smtpd, smtpctl and sendmail by
// their names, mail.* in libexec.
var programs string

func TestMain(m *testing.M) {
	if a := os.Getenv(attackVariable); a != "" {
		os.Exit(attackConfined(a))
	}
	if _, err := user.Lookup("_smtpq"); err != nil || os.Geteuid() != 0 {
		fmt.Println("run me with test/system/run, as root")
		os.Exit(1)
	}
	if programs = os.Getenv("OPENSMTPD_TEST_PROGRAMS"); programs != "" { // built already
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "opensmtpd-system")
	if err == nil {
		programs = dir
		err = build(dir)
	}
	status := 1
	if err != nil {
		fmt.Println(err)
	} else {
		status = m.Run()
	}
	_ = os.RemoveAll(dir) // a leftover in the temporary directory is no failure
	os.Exit(status)
}

func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	libexec := filepath.Join(dir, "libexec")
	cmd := exec.Command("go", "build", "-o", libexec+"/", "../../cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %v\n%s", err, out)
	}
	for name, target := range map[string]string{
		"smtpd": "opensmtpd", "smtpctl": "smtpctl", "sendmail": "smtpctl", "mailq": "smtpctl", "makemap": "smtpctl",
	} {
		if err := os.Symlink(filepath.Join("libexec", target), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// daemon is a running smtpd with a directory of its own.
type daemon struct {
	t       *testing.T
	dir     string
	host    string // address that it listens on, port 25
	conf    string // path
	args    []string
	prepare func(*exec.Cmd) // changes the command that starts the daemon; nil: nothing
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // of its end

	delivered atomic.Int64 // successful local deliveries, as the log has them

	mu   sync.Mutex // guards what follows
	log  []string
	seen []bool // lines that a wait has returned
}

// serial numbers the daemons of this run: each has a loopback address of its own.
var serial atomic.Int32

// newDaemon makes a directory with homes for the users, and a configuration. In
// it, $dir and $host stand for the directory and the address to listen on.
func newDaemon(t *testing.T, conf string) *daemon {
	t.Helper()
	n := serial.Add(1)
	d := &daemon{t: t, dir: t.TempDir()}
	d.host = fmt.Sprintf("127.%d.%d.1", 100+os.Getpid()%100, n)
	d.conf = filepath.Join(d.dir, "smtpd.conf")
	for _, path := range []string{filepath.Dir(d.dir), d.dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range people {
		d.mkdir("home/"+name, name, 0o755)
	}
	d.mkdir("mail", "", os.ModeSticky|0o777)
	d.configure(conf)
	return d
}

// startDaemon makes a daemon and starts it. args are added to its command line.
func startDaemon(t *testing.T, conf string, args ...string) *daemon {
	t.Helper()
	d := newDaemon(t, conf)
	d.args = args
	d.start()
	return d
}

// listen and toMaildir are what most configurations are made of: mail for
// example.org goes to Maildirs below $dir/home.
const (
	listen    = "listen on $host hostname mx.example.org\nlisten on socket\n"
	toMaildir = `action "deliver" maildir "` + "$dir" + `/home/%{user.username}/Maildir"` + "\n" +
		`match from any for domain "example.org" action "deliver"` + "\n"
)

func (d *daemon) configure(conf string) { d.write("smtpd.conf", d.expand(conf), "", 0o644) }

func (d *daemon) expand(s string) string {
	return strings.NewReplacer("$dir", d.dir, "$host", d.host).Replace(s)
}

// path returns where a name in the daemon's directory is.
func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

// mkdir makes a directory that belongs to a user; to root, when owner is "".
func (d *daemon) mkdir(name, owner string, mode os.FileMode) {
	d.t.Helper()
	path := d.path(name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		d.t.Fatal(err)
	}
	d.own(path, owner, mode)
}

// write makes a file that belongs to a user; to root, when owner is "".
func (d *daemon) write(name, content, owner string, mode os.FileMode) {
	d.t.Helper()
	path := d.path(name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.own(path, owner, mode)
}

func (d *daemon) own(path, owner string, mode os.FileMode) {
	d.t.Helper()
	uid, gid := 0, 0
	if owner != "" {
		uid, gid = ids(d.t, owner)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) read(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// ids returns the uid and gid of a user.
func ids(t *testing.T, name string) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatalf("user %s: %v %v", name, err1, err2)
	}
	return uid, gid
}

// start starts the daemon, for the first time or again, and waits until it accepts
// mail.
func (d *daemon) start() {
	t := d.t
	t.Helper()
	args := append([]string{"-d", "-f", d.conf, "-o", "spool=" + d.path("spool"), "-o", "run=" + d.path("run"),
		"-o", "mail=" + d.path("mail"), "-o", "libexec=" + filepath.Join(programs, "libexec")}, d.args...)
	d.cmd = exec.Command(filepath.Join(programs, "smtpd"), args...)
	d.cmd.Dir = "/"
	if d.prepare != nil {
		d.prepare(d.cmd)
	}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.done = make(chan struct{})
	done, cmd := d.done, d.cmd
	go func() {
		defer close(done)
		d.keep(stderr, "")
		d.err = cmd.Wait()
	}()
	t.Cleanup(func() { d.cleanUp(done, cmd) })
	d.wait(`ready$`)
}

// keep adds lines to the log until their end, each with a prefix.
func (d *daemon) keep(r io.Reader, prefix string) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.Contains(lines.Text(), " mda delivery ") && strings.Contains(lines.Text(), " result=Ok ") {
			d.delivered.Add(1)
		}
		d.mu.Lock()
		d.log, d.seen = append(d.log, prefix+lines.Text()), append(d.seen, false)
		d.mu.Unlock()
	}
}

// aboutMail matches lines of the log that begin with a session.
var aboutMail = regexp.MustCompile(`^[0-9a-f]{16} `)

// cleanUp ends a daemon that a test has left running, and shows its log when the
// test has failed.
func (d *daemon) cleanUp(done chan struct{}, cmd *exec.Cmd) {
	select {
	case <-done:
	default:
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-done
			d.t.Error("the daemon did not end on SIGTERM")
		}
	}
	lines := d.lines()
	for _, line := range lines { // whatever the test is about
		if strings.Contains(line, "killed by its sandbox") {
			d.t.Error(line)
		}
	}
	if d.t.Failed() {
		var shown []string
		for i, line := range lines { // all that is not about mail, and the end
			if i >= len(lines)-50 || !aboutMail.MatchString(line) {
				shown = append(shown, line)
			}
		}
		d.t.Logf("of the daemon's log:\n%s", strings.Join(shown, "\n"))
	}
}

// stop ends the daemon in order.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	d.ended()
	if d.err != nil {
		d.t.Errorf("the daemon ended with %v", d.err)
	}
}

// ended waits for the end of the daemon.
func (d *daemon) ended() {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(patience):
		d.t.Fatal("the daemon did not end")
	}
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) lines() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.log...)
}

// wait waits for a line of the log and returns it. A line is returned once only.
func (d *daemon) wait(pattern string) string {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	found, next := "", 0
	d.await("a log line that matches "+pattern, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		for ; next < len(d.log); next++ {
			if !d.seen[next] && re.MatchString(d.log[next]) {
				d.seen[next], found = true, d.log[next]
				return true
			}
		}
		return false
	})
	return found
}

// await waits until a condition holds.
func (d *daemon) await(what string, holds func() bool) {
	d.t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); ; <-look.C {
		ended := false
		select {
		case <-d.done:
			ended = true
		default:
		}
		switch {
		case holds():
			return
		case ended:
			d.t.Fatalf("the daemon ended (%v) while the test waited for %s", d.err, what)
		case time.Now().After(deadline):
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// environment makes smtpctl and sendmail find the daemon.
func (d *daemon) environment() []string {
	return append(os.Environ(), "OPENSMTPD_RUN="+d.path("run"), "OPENSMTPD_SPOOL="+d.path("spool"),
		"PATH="+programs+":"+os.Getenv("PATH"))
}

// command prepares a program that is run as a user, in the user's home, with our
// smtpctl and sendmail first in its PATH; as root, when who is "".
func (d *daemon) command(who, name string, args ...string) *exec.Cmd {
	d.t.Helper()
	if full := filepath.Join(programs, name); exists(full) {
		name = full
	}
	cmd := exec.Command(name, args...)
	cmd.Env = d.environment()
	cmd.Dir = d.dir
	if who != "" {
		uid, gid := ids(d.t, who)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		cmd.Env = append(cmd.Env, "HOME="+d.path("home/"+who), "USER="+who, "LOGNAME="+who)
		cmd.Dir = d.path("home/" + who)
	}
	return cmd
}

// run runs a program as a user with an input, and returns its output. It must
// succeed.
func (d *daemon) run(who, input, name string, args ...string) string {
	d.t.Helper()
	cmd := d.command(who, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// need skips a test that drives a program which is not installed.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// address returns the listener's address with the port.
func (d *daemon) address() string { return net.JoinHostPort(d.host, "25") }
