package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/platformtest"
)

// confineProfile names the variable that makes the test binary confine itself by
// the profile it holds and print what it finds.
const confineProfile = "OPENSMTPD_TEST_CONFINE"

func TestMain(m *testing.M) {
	if p := os.Getenv(confineProfile); p != "" {
		if err := confinedChild(p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// finding is what is seen of a confined process.
type finding struct {
	Guarantees platform.Guarantees
	Threads    []map[string]string // selected lines of /proc/PID/task/*/status
	Root       string
}

// confinedChild confines itself, tells what it got, and waits to be looked at.
func confinedChild(text string) error {
	var p platform.Profile
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	h, err := New(Config{})
	if err != nil {
		return err
	}
	// Threads that exist before must be covered too.
	var ready, done sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-stop
		})
	}
	ready.Wait()
	g, err := h.Confine(p)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(g); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	close(stop)
	done.Wait()
	return err
}

func statusOf(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	status := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapBnd":
			status[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return status, nil
}

// confine looks at a child that is confined by p.
func confine(t *testing.T, p platform.Profile) (finding, error) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), confineProfile+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	var f finding
	decodeErr := json.NewDecoder(out).Decode(&f.Guarantees)
	if decodeErr == nil {
		dir := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
		tasks, err := filepath.Glob(dir + "task/*/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range tasks {
			status, err := statusOf(path)
			if err != nil {
				t.Fatal(err)
			}
			f.Threads = append(f.Threads, status)
		}
		if f.Root, err = os.Readlink(dir + "root"); err != nil {
			t.Fatal(err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		return f, fmt.Errorf("%w: %s", err, stderr.String())
	}
	if decodeErr != nil {
		t.Fatal(decodeErr)
	}
	return f, nil
}

// emptyDir returns a directory fit to be a root directory, with one file in it.
func emptyDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "marker"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestConfinedRoleHasNoWayBackOnAnyThread(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := emptyDir(t)
	f, err := confine(t, platform.Profile{Role: "test", Root: dir, UID: 65533, GID: 65532, Groups: []int{65532, 65531}})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Threads) < 8 {
		t.Errorf("saw %d threads, want at least 8", len(f.Threads))
	}
	want := map[string]string{
		"Uid": "65533 65533 65533 65533", "Gid": "65532 65532 65532 65532", "Groups": "65531 65532",
		"NoNewPrivs": "1", "Seccomp": "2",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000",
	}
	if cgo {
		want["NoNewPrivs"], want["Seccomp"] = "0", "0"
		delete(want, "CapBnd")
	}
	for _, th := range f.Threads {
		for key, want := range want {
			if th[key] != want {
				t.Errorf("thread has %s %q, want %q", key, th[key], want)
			}
		}
	}
	g := f.Guarantees
	if g.Root != dir || f.Root != dir || g.UID != 65533 || g.GID != 65532 {
		t.Errorf("root directory %s, guarantees %+v", f.Root, g)
	}
	if !cgo && len(g.Missing) > 0 {
		t.Logf("this kernel lacks: %s", g.Missing)
	}
}

func TestConfinedRoleWithoutGroupsKeepsNoneOfRoot(t *testing.T) {
	t.Parallel()
	needRoot(t)
	f, err := confine(t, platform.Profile{Role: "test", UID: 65533, GID: 65532})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Threads[0]["Groups"]; got != "65532" {
		t.Errorf("groups %q, want the gid only", got)
	}
	if f.Guarantees.Root != "/" {
		t.Errorf("root %q, want /", f.Guarantees.Root)
	}
}

func TestRoleThatStartsProgramsKeepsSetIDUsable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	f, err := confine(t, platform.Profile{Role: "test", UID: 65533, GID: 65532, Exec: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Threads[0]["NoNewPrivs"]; got != "0" {
		t.Errorf("no_new_privs is %s in a role that starts programs", got)
	}
}

func TestUnsafeRootDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	writable := emptyDir(t)
	if err := os.Chmod(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	foreign := emptyDir(t)
	if err := os.Chown(foreign, 65533, 0); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(emptyDir(t), link); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"writable by others": writable, "owned by a user": foreign, "a link": link,
		"missing": writable + "/none", "a file": foreign + "/marker",
	} {
		if f, err := confine(t, platform.Profile{Role: "test", Root: dir, UID: 65533, GID: 65532}); err == nil {
			t.Errorf("%s: confined: %+v", name, f.Guarantees)
		}
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	h, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	platformtest.Run(t, h)
}

func TestNotifyReachesTheServiceManager(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"@opensmtpd-test-notify", filepath.Join(t.TempDir(), "s")} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		h, err := New(Config{NotifySocket: name})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Notify(platform.State{Ready: true, Status: "accepting mail"}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(buf[:n]), "READY=1\nSTATUS=accepting mail"; got != want {
			t.Errorf("%s: manager reads %q, want %q", name, got, want)
		}
	}
}

func TestPathsCanBeOverridden(t *testing.T) {
	t.Parallel()
	h, err := New(Config{Paths: platform.Paths{Config: "/usr/local/etc/smtpd.conf"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Paths(); got.Config != "/usr/local/etc/smtpd.conf" || got.Spool != "/var/spool/smtpd" {
		t.Errorf("Paths() = %+v", got)
	}
}

func TestPacedProcessesWakeLater(t *testing.T) {
	t.Parallel()
	h, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	// slack runs a program and returns how late it wakes, in nanoseconds.
	slack := func(run func(start func() error) error) string {
		var out []byte
		err := run(func() (err error) {
			out, err = exec.Command("cat", "/proc/self/timerslack_ns").Output()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	// All on one thread: what is set for one process must not stay for the next.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := slack(func(start func() error) error { return start() })
	paced := slack(h.Paced)
	after := slack(func(start func() error) error { return start() })
	if paced != "1000000" || before == paced || after != before {
		t.Errorf("processes wake %s ns late, paced %s, and afterwards %s", before, paced, after)
	}
	failure := errors.New("cannot start")
	if err := h.Paced(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("the error of starting became %v", err)
	}
}
