package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

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

// finding is what a confined process sees of itself.
type finding struct {
	Guarantees platform.Guarantees
	Threads    []map[string]string // selected lines of /proc/self/task/*/status
	Files      []string            // in the root directory
	Regained   bool
	Dumpable   int
}

func confinedChild(text string) error {
	var p platform.Profile
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	tasks, err := os.Open("/proc/self/task")
	if err != nil {
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
	var f finding
	if f.Guarantees, err = h.Confine(p); err != nil {
		return err
	}
	tids, err := tasks.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		status, err := statusOf(tasks, tid)
		if err != nil {
			return err
		}
		f.Threads = append(f.Threads, status)
	}
	close(stop)
	done.Wait()
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		f.Files = append(f.Files, e.Name())
	}
	f.Regained = syscall.Setuid(0) == nil || syscall.Setgid(0) == nil || syscall.Setgroups([]int{0}) == nil
	if f.Dumpable, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

func statusOf(tasks *os.File, tid string) (map[string]string, error) {
	fd, err := unix.Openat(int(tasks.Fd()), tid+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), tid)
	defer file.Close()
	buf := make([]byte, 16<<10)
	n, err := file.Read(buf)
	if err != nil {
		return nil, err
	}
	status := make(map[string]string)
	for line := range strings.Lines(string(buf[:n])) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "CapPrm":
			status[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return status, nil
}

// confine runs a child confined by p.
func confine(t *testing.T, p platform.Profile) (finding, error) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), confineProfile+"="+string(text))
	out, err := cmd.Output()
	var f finding
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return f, errors.New(string(exit.Stderr))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v in %q", err, out)
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
	noNewPrivs := "1"
	if cgo {
		noNewPrivs = "0"
	}
	for _, th := range f.Threads {
		for key, want := range map[string]string{
			"Uid": "65533 65533 65533 65533", "Gid": "65532 65532 65532 65532", "Groups": "65531 65532",
			"NoNewPrivs": noNewPrivs, "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
		} {
			if th[key] != want {
				t.Errorf("thread has %s %q, want %q", key, th[key], want)
			}
		}
	}
	if len(f.Files) != 1 || f.Files[0] != "marker" {
		t.Errorf("root directory holds %v, want the marker only", f.Files)
	}
	if f.Regained {
		t.Error("root was had back")
	}
	if f.Dumpable != 0 {
		t.Errorf("dumpable is %d, want 0: a process of the same uid could trace it", f.Dumpable)
	}
	g := f.Guarantees
	if g.Root != dir || g.UID != 65533 || g.GID != 65532 || len(g.Missing) == 0 {
		t.Errorf("guarantees %+v", g)
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
