package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Confine puts the process under p: no capability can be had, root directory and
// ids, no tracing, no_new_privs, Landlock, and the filter of system calls at last,
// since it refuses what the others are made of.
func (*Host) Confine(p platform.Profile) (platform.Guarantees, error) {
	if err := p.Check(); err != nil {
		return platform.Guarantees{}, err
	}
	c := confining{p: p}
	bounded, err := c.dropBounding()
	if err != nil {
		return c.g, err
	}
	if c.g, err = drop(p); err != nil {
		return c.g, err
	}
	switch {
	case bounded:
		c.on("capabilities", "none")
	case c.g.UID != 0:
		c.on("capabilities", "none,but-bounding-set") // which no_new_privs makes useless
	}
	if err := undumpable(); err != nil {
		return c.g, err
	}
	c.on("undumpable", "on")
	switch {
	case p.Exec:
		// The programs it starts would inherit it, and some of them are set-id.
		for _, name := range []string{"no_new_privs", "landlock", "seccomp"} {
			c.off(name, "starts other programs")
		}
		return c.g, nil
	case p.Sandbox == platform.SandboxOff:
		for _, name := range []string{"no_new_privs", "landlock", "seccomp"} {
			c.off(name, "switched off")
		}
		return c.g, nil
	}
	err = noNewPrivs()
	if errors.Is(err, syscall.ENOTSUP) {
		// The runtime cannot reach the threads of the C library.
		for _, name := range []string{"no_new_privs", "landlock", "seccomp"} {
			c.off(name, "built with cgo")
		}
		return c.g, nil
	}
	if err != nil {
		return c.g, fmt.Errorf("no_new_privs: %w", err)
	}
	c.on("no_new_privs", "on")
	if err := c.landlock(); err != nil {
		return c.g, err
	}
	return c.g, c.seccomp()
}

// confining is a process on its way under its profile.
type confining struct {
	p platform.Profile
	g platform.Guarantees
}

func (c *confining) on(name, state string) {
	c.g.Mechanisms = append(c.g.Mechanisms, platform.Mechanism{Name: name, State: state})
}

func (c *confining) off(name, why string) {
	c.g.Missing = append(c.g.Missing, name+": off: "+why)
}

// maxCapability is more than any kernel has.
const maxCapability = 63

// dropBounding empties the set of capabilities that could be had by executing a
// program, and tells whether it did: a role that starts programs, or that is not
// root, leaves it as it is.
func (c *confining) dropBounding() (bool, error) {
	if c.p.Exec || c.p.UID < 0 || os.Geteuid() != 0 {
		return false, nil
	}
	for n := range uintptr(maxCapability + 1) {
		has, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_READ, n, 0)
		if errno == syscall.EINVAL {
			return true, nil
		}
		if errno != 0 {
			return false, fmt.Errorf("read capability %d: %w", n, errno)
		}
		if has == 0 {
			continue
		}
		_, _, errno = syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0)
		if errno == syscall.ENOTSUP || errno == syscall.EPERM {
			return false, nil // cgo; a container without CAP_SETPCAP
		}
		if errno != 0 {
			return false, fmt.Errorf("drop capability %d: %w", n, errno)
		}
	}
	return true, nil
}

// notOffered tells whether the kernel, or the container around the process, does
// not have a mechanism at all.
func notOffered(errno syscall.Errno) bool {
	switch errno {
	case syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EPERM, syscall.EINVAL:
		return true
	}
	return false
}

// landlock restricts files, ports and abstract sockets to what the profile names.
func (c *confining) landlock() error {
	abi, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		if notOffered(errno) {
			c.off("landlock", "not offered by the kernel")
			return nil
		}
		return fmt.Errorf("landlock: %w", errno)
	}
	if ok, why := useful(c.p, int(abi)); !ok {
		c.off("landlock", why)
		return nil
	}
	var top []string
	if readsAll(c.p) {
		entries, err := os.ReadDir("/")
		if err != nil {
			return fmt.Errorf("landlock: %w", err)
		}
		for _, e := range entries {
			top = append(top, e.Name())
		}
	}
	r, err := rules(c.p, int(abi), top)
	if err != nil {
		return err
	}
	if err := enforce(r); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	c.on("landlock", fmt.Sprintf("abi:%d,%s", abi, r.covers()))
	return nil
}

// portRule is struct landlock_net_port_attr.
type portRule struct{ access, port uint64 }

// ruleNetPort is LANDLOCK_RULE_NET_PORT.
const ruleNetPort = 2

// enforce puts all threads under a ruleset.
func enforce(r ruleset) error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: r.handledFiles, Handled_access_net: r.handledPorts, Scoped: r.scoped}
	fd, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("create ruleset: %w", errno)
	}
	defer syscall.Close(int(fd))
	for _, rule := range r.paths {
		if err := grantPath(int(fd), rule); err != nil {
			return fmt.Errorf("grant %s: %w", rule.path, err)
		}
	}
	if r.anyPort && r.handledPorts != 0 {
		rule := portRule{access: netBind, port: 0}
		if _, _, errno := syscall.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, ruleNetPort, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("grant port 0: %w", errno)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("restrict: %w", errno)
	}
	return nil
}

// grantPath adds the rights to what is below a path. What does not exist needs none.
func grantPath(ruleset int, rule pathRule) error {
	fd, err := unix.Open(rule.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	rights := rule.rights
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fsOfFiles
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := syscall.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// seccomp loads the filter of system calls into all threads.
func (c *confining) seccomp() error {
	m, ok := thisMachine()
	if !ok {
		c.off("seccomp", "no list of system calls for "+runtime.GOARCH)
		return nil
	}
	violation, state := uint32(retKillProcess), "kill"
	if c.p.Sandbox == platform.SandboxTrace {
		violation, state = retTrap, "trace"
	}
	action := violation
	if _, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		c.off("seccomp", "not offered by the kernel")
		return nil
	}
	code, err := assemble(calls(c.p, os.Getpid()), m, violation)
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	filter := make([]unix.SockFilter, len(code))
	for i, in := range code {
		filter[i] = unix.SockFilter{Code: in.code, Jt: in.jt, Jf: in.jf, K: in.k}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	r, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case r != 0:
		return fmt.Errorf("seccomp: thread %d cannot take the filter", r)
	}
	c.on("seccomp", state)
	return nil
}
