package linux

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// confinements are what the roles are told about themselves.
func confinements() map[proto.Role]proto.Confinement {
	return map[proto.Role]proto.Confinement{
		proto.Key:        {Root: "/var/empty", UID: 95, GID: 95},
		proto.Control:    {Root: "/var/empty", UID: 95, GID: 95},
		proto.Dispatcher: {Root: "/var/empty", UID: 95, GID: 95},
		proto.Lookup:     {UID: 95, GID: 95},
		proto.Queue:      {Root: "/var/spool/smtpd", UID: 103, GID: 103},
	}
}

// profiles are those of the confined processes.
func profiles() map[string]platform.Profile {
	out := make(map[string]platform.Profile)
	for role, c := range confinements() {
		out[string(role)] = proc.Needs(role, c)
	}
	for name, method := range map[string]policy.Method{"mbox": policy.Mbox, "maildir": policy.Maildir, "lmtp": policy.LMTP} {
		out["worker-"+name], _ = proc.WorkerNeeds(proto.WorkerConfig{Method: uint8(method)})
	}
	return out
}

// String prints a call as the golden files have it.
func (c call) String() string {
	if c.refused {
		return fmt.Sprintf("%s fails with %d", c.name, c.errno)
	}
	var ways []string
	for _, tests := range c.alternatives {
		var words []string
		for _, t := range tests {
			words = append(words, fmt.Sprintf("arg%d&%#x in %#x", t.arg, t.mask, t.values))
		}
		ways = append(ways, strings.Join(words, " and "))
	}
	s := c.name
	if len(ways) > 0 {
		s += " if " + strings.Join(ways, ", or ")
	}
	if c.errno != 0 {
		s += fmt.Sprintf(", else fails with %d", c.errno)
	}
	return s
}

func TestRulesOfTheRoles(t *testing.T) {
	t.Parallel()
	for role, need := range profiles() {
		var b strings.Builder
		r, err := rules(need, 7, []string{"bin", "dev", "etc", "home", "proc", "root", "usr", "var"})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# landlock: handled files %#x, ports %#x, scopes %#x; binding to any port %v\n", r.handledFiles, r.handledPorts, r.scoped, r.anyPort)
		for _, p := range r.paths {
			fmt.Fprintf(&b, "%s %#x\n", p.path, p.rights)
		}
		b.WriteString("# seccomp: all else kills the process\n")
		list := calls(need, 4711)
		slices.SortFunc(list, func(a, b call) int { return strings.Compare(a.name, b.name) })
		for _, c := range list {
			fmt.Fprintln(&b, c)
		}
		path := filepath.Join("testdata", role+".rules")
		if *update {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("the rules of %s are not those of %s:\n%s", role, path, b.String())
		}
	}
}

// evaluate runs a filter on a call, as the kernel does.
func evaluate(t *testing.T, code []instruction, arch, number uint32, args ...uint32) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(code); pc++ {
		in := code[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.jt)
			} else {
				pc += int(in.jf)
			}
		}
		switch in.code {
		case opLoad:
			switch i := int(in.k-offArgs) / 8; {
			case in.k == offNumber:
				a = number
			case in.k == offArch:
				a = arch
			case i < len(args):
				a = args[i]
			default:
				a = 0
			}
		case opAnd:
			a &= in.k
		case opEqual:
			jump(a == in.k)
		case opAtMost:
			jump(a > in.k)
		case opReturn:
			return in.k
		default:
			t.Fatalf("instruction %d: unknown operation %#x", pc, in.code)
		}
	}
	t.Fatal("the filter does not end")
	return 0
}

// made is a machine with a number for every call of the tests.
func made(list []call, more ...string) machine {
	m := machine{audit: 0xc0de, numbers: map[string]uint32{}, foreign: 0x40000000}
	for _, c := range list {
		m.numbers[c.name] = uint32(len(m.numbers))
	}
	for _, name := range more {
		if _, ok := m.numbers[name]; !ok {
			m.numbers[name] = uint32(len(m.numbers))
		}
	}
	return m
}

func TestFilterDecidesAsTheListSays(t *testing.T) {
	t.Parallel()
	const (
		pid        = 4711
		workerMbox = proto.Role("worker-mbox")
		workerDir  = proto.Role("worker-maildir")
		workerLMTP = proto.Role("worker-lmtp")
	)
	fails := func(errno uint32) uint32 { return retErrno | errno }
	for _, tt := range []struct {
		what string
		role proto.Role
		call string
		args []uint32
		want uint32
	}{
		{"reading", proto.Key, "read", nil, retAllow},
		{"a program", proto.Queue, "execve", nil, retKillProcess},
		{"tracing", proto.Queue, "ptrace", nil, retKillProcess},
		{"a new thread", proto.Key, "clone", []uint32{0x50f00}, retAllow},
		{"a new process", proto.Key, "clone", []uint32{0x11}, retKillProcess},
		{"a process as vfork makes it", proto.Key, "clone", []uint32{0x4111}, retKillProcess},
		{"a thread in a user namespace", proto.Key, "clone", []uint32{0x10000000 | 0x50f00}, retKillProcess},
		{"clone3, which the C library tries", proto.Key, "clone3", nil, fails(enosys)},
		{"memory", proto.Key, "mmap", []uint32{0, 4096, 3}, retAllow},
		{"code", proto.Key, "mmap", []uint32{0, 4096, 5}, retKillProcess},
		{"memory that becomes code", proto.Key, "mprotect", []uint32{0, 4096, 4}, retKillProcess},
		{"a signal to itself", proto.Key, "tgkill", []uint32{pid, pid, 23}, retAllow},
		{"a signal to another", proto.Key, "kill", []uint32{1, 9}, retKillProcess},
		{"a socket without need", proto.Queue, "socket", []uint32{2, 1, 6}, retKillProcess},
		{"a pair of sockets", proto.Queue, "socketpair", []uint32{1, 1, 0}, retAllow},
		{"TCP", proto.Dispatcher, "socket", []uint32{2, 1 | 0x80800, 6}, retAllow},
		{"TCP over IPv6", proto.Dispatcher, "socket", []uint32{10, 1 | 0x80800, 0}, retAllow},
		{"UDP", proto.Lookup, "socket", []uint32{10, 2 | 0x80800, 17}, retAllow},
		{"multipath TCP", proto.Dispatcher, "socket", []uint32{2, 1, 262}, fails(eafnosupport)},
		{"a raw socket", proto.Dispatcher, "socket", []uint32{2, 3, 1}, fails(eafnosupport)},
		{"netlink", proto.Lookup, "socket", []uint32{16, 3, 0}, fails(eafnosupport)},
		{"a local socket", proto.Lookup, "socket", []uint32{1, 1, 0}, fails(eafnosupport)},
		{"listening", proto.Dispatcher, "listen", nil, retKillProcess},
		{"accepting", proto.Control, "accept4", nil, retAllow},
		{"connecting", proto.Control, "connect", nil, retKillProcess},
		{"opening a file without need", proto.Dispatcher, "openat", nil, fails(eacces)},
		{"reading a file", proto.Lookup, "openat", []uint32{0, 0, 0x80000}, retAllow},
		{"writing a file", proto.Lookup, "openat", []uint32{0, 0, 1}, fails(eacces)},
		{"making a file", proto.Lookup, "openat", []uint32{0, 0, 0x40}, fails(eacces)},
		{"making a file", proto.Queue, "openat", []uint32{0, 0, 0x41}, retAllow},
		{"renaming", proto.Queue, "renameat", nil, retAllow},
		{"renaming", proto.Lookup, "renameat", nil, retKillProcess},
		{"a name for the debugger", proto.Key, "prctl", []uint32{0x53564d41, 0}, retAllow},
		{"capabilities", proto.Key, "prctl", []uint32{24, 0}, fails(eperm)},
		{"is the holder of a lock alive", workerMbox, "kill", []uint32{1, 0}, retAllow},
		{"ending the holder of a lock", workerMbox, "kill", []uint32{1, 9}, retKillProcess},
		{"is a process alive", workerDir, "kill", []uint32{1, 0}, retKillProcess},
		{"making a file", workerDir, "openat", []uint32{0, 0, 0x41}, retAllow},
		{"moving a file", workerDir, "renameat", nil, retAllow},
		{"a program", workerDir, "execve", nil, retKillProcess},
		{"a socket without need", workerMbox, "socket", []uint32{2, 1, 6}, retKillProcess},
		{"TCP", workerLMTP, "socket", []uint32{2, 1, 6}, retAllow},
		{"a local socket", workerLMTP, "socket", []uint32{1, 1, 0}, retAllow},
		{"making a file", workerLMTP, "openat", []uint32{0, 0, 0x41}, fails(eacces)},
		{"a program", workerLMTP, "execve", nil, retKillProcess},
	} {
		list := calls(profiles()[string(tt.role)], pid)
		m := made(list, "execve", "ptrace", "socket", "listen", "connect", "renameat")
		code, err := assemble(list, m, retKillProcess)
		if err != nil {
			t.Fatal(err)
		}
		if got := evaluate(t, code, m.audit, m.numbers[tt.call], tt.args...); got != tt.want {
			t.Errorf("%s, %s: %s(%#x) comes to %#x, want %#x", tt.role, tt.what, tt.call, tt.args, got, tt.want)
		}
		if got := evaluate(t, code, m.audit+1, m.numbers["read"]); got != retKillProcess {
			t.Errorf("%s: a call of another architecture comes to %#x", tt.role, got)
		}
		if got := evaluate(t, code, m.audit, m.numbers["read"]|m.foreign); got != retKillProcess {
			t.Errorf("%s: a call of another ABI comes to %#x", tt.role, got)
		}
	}
}

func TestViolationCanBeReportedInstead(t *testing.T) {
	t.Parallel()
	list := calls(platform.Profile{}, 1)
	m := made(list, "execve")
	code, err := assemble(list, m, retTrap)
	if err != nil {
		t.Fatal(err)
	}
	if got := evaluate(t, code, m.audit, m.numbers["execve"]); got != retTrap {
		t.Errorf("execve comes to %#x, want a trap", got)
	}
}

func TestTwoRulesForOneCallAreRefused(t *testing.T) {
	t.Parallel()
	list := allow("read", "read")
	if _, err := assemble(list, made(list), retKillProcess); err == nil {
		t.Error("two rules for read were assembled")
	}
}

func TestFilesOutsideOfTheRootDirectoryCannotBeGranted(t *testing.T) {
	t.Parallel()
	p := platform.Profile{Role: "queue", Root: "/var/spool/smtpd", UID: 1, GID: 1, Read: []string{"/etc"}}
	if r, err := rules(p, 7, nil); err == nil {
		t.Errorf("granted %+v", r.paths)
	}
}

func TestKernelThatForbidsMovingFilesIsNotAskedTo(t *testing.T) {
	t.Parallel()
	for role, p := range profiles() {
		first, why := useful(p, 1)
		if second, _ := useful(p, 2); first != (len(p.Write) == 0) || !second {
			t.Errorf("%s: Landlock of version 1 %v (%s), of version 2 %v", role, first, why, second)
		}
	}
}

func TestOlderKernelIsAskedForWhatItHas(t *testing.T) {
	t.Parallel()
	p := proc.Needs(proto.Queue, confinements()[proto.Queue])
	for abi, want := range map[int]string{
		1: "0x1fff 0x0 0x0 files", 2: "0x3fff 0x0 0x0 files", 3: "0x7fff 0x0 0x0 files",
		4: "0x7fff 0x3 0x0 files+ports", 5: "0xffff 0x3 0x0 files+ports", 6: "0xffff 0x3 0x1 files+ports",
	} {
		r, err := rules(p, abi, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%#x %#x %#x %s", r.handledFiles, r.handledPorts, r.scoped, r.covers()); got != want {
			t.Errorf("abi %d handles %s, want %s", abi, got, want)
		}
		for _, rule := range r.paths {
			if rule.rights&^r.handledFiles != 0 {
				t.Errorf("abi %d grants %#x, of which it does not handle all", abi, rule.rights)
			}
		}
	}
}
