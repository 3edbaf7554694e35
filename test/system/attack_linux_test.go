//go:build system

package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform/linux"
)

// attackVariable makes the test program take over a role: it holds the role, where
// and as whom the role runs, the attack, and what is attacked.
const attackVariable = "OPENSMTPD_TEST_ATTACK"

// attack is what somebody tries who has the process of a role in his hands. It
// returns nil when it worked. target is a process of the same user, and an address
// with somebody listening.
type attack struct {
	what string
	try  func(sibling int, address string) error
}

func attacks() []attack {
	call := func(number uintptr, args ...uintptr) error {
		a := append(args, 0, 0, 0, 0, 0, 0)
		if _, _, errno := syscall.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
	text := func(s string) uintptr { return uintptr(unsafe.Pointer(syscall.StringBytePtr(s))) }
	return []attack{
		{"read `/etc/shadow`", func(int, string) error { return readable("/etc/shadow") }},
		{"read another user's home", func(int, string) error { return readable(os.Getenv("OPENSMTPD_TEST_PRIVATE")) }},
		{"read the memory of a sibling", func(pid int, _ string) error { return readable(fmt.Sprintf("/proc/%d/mem", pid)) }},
		{"write a file in `/tmp`", func(int, string) error {
			return os.WriteFile(fmt.Sprintf("/tmp/opensmtpd-attack-%d", os.Getpid()), nil, 0o600)
		}},
		{"connect out", func(_ int, address string) error {
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			return err
		}},
		{"listen on a port", func(int, string) error {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err == nil {
				l.Close()
			}
			return err
		}},
		{"run a shell", func(int, string) error {
			_, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", ":"}, nil)
			return err
		}},
		{"become a shell", func(int, string) error { return call(syscall.SYS_EXECVE, text("/bin/sh"), 0, 0) }},
		{"trace a sibling", func(pid int, _ string) error { return syscall.PtraceAttach(pid) }},
		{"end a sibling", func(pid int, _ string) error { return syscall.Kill(pid, syscall.SIGUSR1) }},
		{"become root", func(int, string) error { return call(syscall.SYS_SETUID, 0) }},
		{"change the root directory", func(int, string) error { return call(syscall.SYS_CHROOT, text("/")) }},
		{"make a user namespace", func(int, string) error { return call(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER) }},
		{"run code of its own making", func(int, string) error {
			_, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
			return err
		}},
		{"use `io_uring`", func(int, string) error {
			var params [120]byte
			return call(425, 1, uintptr(unsafe.Pointer(&params)))
		}},
	}
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// The first page of memory is never mapped; an error of that kind means access.
	_, err = f.Read(make([]byte, 1))
	if errors.Is(err, syscall.EIO) {
		return nil
	}
	return err
}

// attackConfined is the test program in the place of a role.
func attackConfined(text string) int {
	f := strings.Split(text, "|")
	uid, err1 := strconv.Atoi(f[2])
	number, err2 := strconv.Atoi(f[3])
	sibling, err3 := strconv.Atoi(f[4])
	host, err4 := linux.New(linux.Config{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		fmt.Println(err)
		return 2
	}
	need, confined := proc.Needs(proto.Role(f[0]), proto.Confinement{Root: f[1], UID: uid, GID: uid}), true
	switch f[0] {
	case "mailbox":
		need, confined = proc.WorkerNeeds(proto.WorkerConfig{Method: uint8(policy.Mbox)})
	case "command":
		need, confined = proc.WorkerNeeds(proto.WorkerConfig{Method: uint8(policy.Command)})
	}
	if confined {
		if g, err := host.Confine(need); err != nil || len(g.Missing) > 0 {
			fmt.Println("confined in part only:", g, err)
			return 2
		}
	}
	if err := attacks()[number].try(sibling, f[5]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestTakenOverRoleGetsNowhere tries every attack in the place of every role. The
// outcome is the table of docs/protection.md.
func TestTakenOverRoleGetsNowhere(t *testing.T) {
	smtp, _ := ids(t, "_smtpd")
	queue, _ := ids(t, "_smtpq")
	alice, _ := ids(t, "alice")
	dir := t.TempDir()
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spool := filepath.Join(dir, "spool")
	if err := os.Mkdir(spool, 0o711); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "private")
	bob, _ := ids(t, "bob")
	if err := errors.Join(os.WriteFile(private, []byte("x"), 0o600), os.Chown(private, bob, bob)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	roles := []struct {
		name, root string
		uid        int
	}{
		{"dispatcher", "/var/empty", smtp}, {"lookup", "", smtp}, {"queue", spool, queue},
		{"key", "/var/empty", smtp}, {"control", "/var/empty", smtp}, {"mailbox", "", alice}, {"command", "", alice},
	}
	var table strings.Builder
	table.WriteString("| Attack | dispatcher | lookup | queue | key | control | mailbox |\n|---|---|---|---|---|---|---|\n")
	for n, a := range attacks() {
		table.WriteString("| " + a.what)
		for _, r := range roles {
			outcome, detail := tryAttack(t, n, r.name, r.root, r.uid, private, l.Addr().String())
			t.Logf("%-28s %-10s %-7s %s", a.what, r.name, outcome, detail)
			if r.name == "command" { // it is the user, who may do what the system lets users do
				continue
			}
			table.WriteString(" | " + outcome)
			allowed := a.what == "connect out" && (r.name == "dispatcher" || r.name == "lookup") ||
				r.name == "mailbox" && a.what == "write a file in `/tmp`" // where its user writes, it writes
			if outcome == "works" && !allowed {
				t.Errorf("%s: %s works", r.name, a.what)
			}
		}
		table.WriteString(" |\n")
	}
	t.Log("\n" + table.String())
	doc, err := os.ReadFile("../../docs/protection.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), table.String()) {
		t.Errorf("docs/protection.md has another table than this:\n%s", table.String())
	}
}

// tryAttack returns the outcome of one attack: "killed", "refused" or "works".
func tryAttack(t *testing.T, number int, role, root string, uid int, private, address string) (outcome, detail string) {
	t.Helper()
	credential := &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	sibling := exec.Command("sleep", "1000")
	sibling.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	if err := sibling.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sibling.Process.Kill() // it may be dead by the attack
		_ = sibling.Wait()
	}()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{
		"OPENSMTPD_TEST_PRIVATE=" + private,
		fmt.Sprintf("%s=%s|%s|%d|%d|%d|%s", attackVariable, role, root, uid, number, sibling.Process.Pid, address),
	}
	if role == "mailbox" || role == "command" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	}
	out, err := cmd.CombinedOutput()
	detail = strings.TrimSpace(string(out))
	if err == nil {
		return "works", detail
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() && st.Signal() == syscall.SIGSYS {
		return "killed", detail
	}
	if exit.ExitCode() != 1 {
		t.Fatalf("%s, attack %d: %v: %s", role, number, err, out)
	}
	return "refused", detail
}
