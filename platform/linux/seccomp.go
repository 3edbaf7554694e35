package linux

import (
	"fmt"

	"github.com/opensmtpd/opensmtpd/platform"
)

// call is one system call of a role, by the kernel's name for it.
//
// A call without alternatives is allowed whatever its arguments are. Else it is
// allowed when all tests of one alternative hold; if none does, it fails with
// errno, or kills the process when that is 0. A call of refused is never allowed.
type call struct {
	name         string
	alternatives [][]test
	refused      bool
	errno        uint16
}

// test looks at the low 32 bits of an argument: it holds when what mask leaves of
// them is one of values.
type test struct {
	arg    int
	mask   uint32
	values []uint32
}

// Error numbers that refused calls fail with; the same on all machines.
const (
	eperm        = 1
	eacces       = 13
	enotty       = 25
	enosys       = 38
	eafnosupport = 97
)

// Numbers out of the system's headers, the same on all machines the daemon has a
// filter for.
const (
	all = 0xffffffff

	protExec = 4 // mmap(2)

	cloneThread     = 0x00010000 // clone(2)
	cloneForeign    = 0x7e020000 | cloneVfork | clonePtrace
	clonePtrace     = 0x00002000
	cloneVfork      = 0x00004000
	prSetVMA        = 0x53564d41 // prctl(2): the runtime names its memory
	openForWriting  = 3 | 0x40 | 0x200 | 0x400
	afUnix          = 1
	afInet, afInet6 = 2, 10
	sockStream      = 1
	sockDgram       = 2
	sockTypes       = 0xf
	protoTCP        = 6
	protoUDP        = 17
)

// calls returns what a role may ask of the kernel. Everything that is not in the
// list kills the process. pid is the process: it may signal itself only.
//
// The lists hold what the Go runtime and the standard library do on a machine that
// wants it, not only what was seen to be done: a call that ends a process is worth
// having only when no honest one makes it. What the library tries first and can do
// without is refused with an error.
func calls(p platform.Profile, pid int) []call {
	list := runtimeCalls(p, uint32(pid))
	if p.Inet || p.Unix || p.UnixServer || p.PassFD {
		list = append(list, socketCalls(p)...)
	}
	return append(list, fileCalls(p)...)
}

// runtimeCalls are those of the Go runtime, and of the library on descriptors that
// are open.
func runtimeCalls(p platform.Profile, pid uint32) []call {
	list := allow("futex", "futex_time64", "read", "write", "epoll_pwait", "epoll_wait", "epoll_ctl", "epoll_pwait2",
		"nanosleep", "clock_gettime", "clock_gettime64", "gettimeofday", "readv", "writev", "pread64", "pwrite64",
		"sched_yield", "sched_getaffinity", "getpid", "gettid", "getrandom", "madvise", "munmap", "mincore",
		"rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "sigaltstack", "restart_syscall", "clock_nanosleep", "clock_nanosleep_time64",
		"pselect6", "poll", "ppoll", "close", "dup", "dup2", "dup3", "fcntl", "fcntl64", "lseek", "_llseek",
		"fstat", "fstat64", "pipe2", "eventfd2", "epoll_create1", "exit", "exit_group", "uname", "sysinfo", "brk",
		"timer_create", "timer_settime", "timer_settime64", "timer_delete", "setitimer",
		"getuid", "geteuid", "getgid", "getegid", "getuid32", "geteuid32", "getgid32", "getegid32", "getppid",
		"sendfile", "sendfile64", "splice", "copy_file_range", "riscv_flush_icache", "riscv_hwprobe")
	self := []test{{0, all, []uint32{pid}}}
	signals := [][]test{self}
	if p.Probe {
		signals = append(signals, []test{{1, all, []uint32{0}}}) // no signal: does it live?
	}
	return append(list,
		// No memory becomes code.
		call{name: "mmap", alternatives: [][]test{{{2, protExec, []uint32{0}}}}},
		call{name: "mmap2", alternatives: [][]test{{{2, protExec, []uint32{0}}}}},
		call{name: "mprotect", alternatives: [][]test{{{2, protExec, []uint32{0}}}}},
		// Threads, but no processes and no namespaces.
		call{name: "clone", alternatives: [][]test{{{0, cloneThread | cloneForeign, []uint32{cloneThread}}}}},
		call{name: "tgkill", alternatives: [][]test{self}},
		call{name: "kill", alternatives: signals},
		call{name: "prctl", alternatives: [][]test{{{0, all, []uint32{prSetVMA}}}}, errno: eperm},
		call{name: "clone3", refused: true, errno: enosys},
		call{name: "prlimit64", refused: true, errno: eperm},
		call{name: "getrlimit", refused: true, errno: eperm},
		call{name: "ugetrlimit", refused: true, errno: eperm},
		call{name: "pidfd_open", refused: true, errno: enosys},
		call{name: "ioctl", refused: true, errno: enotty},
	)
}

// socketCalls are those on sockets. A role that is handed all its sockets makes
// none itself, but for pairs of which it hands one on.
func socketCalls(p platform.Profile) []call {
	list := allow("sendmsg", "recvmsg", "sendto", "recvfrom", "send", "recv", "sendmmsg", "recvmmsg", "shutdown",
		"getsockopt", "setsockopt", "getsockname", "getpeername")
	list = append(list, call{name: "socketpair", alternatives: [][]test{{{0, all, []uint32{afUnix}}}}, errno: eafnosupport})
	var kinds [][]test
	if p.Inet {
		// Multipath TCP is not among the protocols: rules about ports do not reach it.
		kinds = append(kinds, []test{
			{0, all, []uint32{afInet, afInet6}},
			{1, sockTypes, []uint32{sockStream, sockDgram}},
			{2, all, []uint32{0, protoTCP, protoUDP}},
		})
	}
	if p.Unix {
		kinds = append(kinds, []test{{0, all, []uint32{afUnix}}})
	}
	if len(kinds) > 0 {
		list = append(list, call{name: "socket", alternatives: kinds, errno: eafnosupport})
		list = append(list, allow("connect", "bind")...)
	}
	if p.Inet || p.Unix || p.UnixServer {
		list = append(list, allow("accept4", "accept")...)
	}
	return list
}

// fileCalls are those that take names of files. Where there is nothing to be named
// the library's attempts fail, as they do in an empty directory.
func fileCalls(p platform.Profile) []call {
	reading := []string{"newfstatat", "fstatat64", "statx", "readlinkat", "faccessat", "faccessat2", "getcwd", "getdents64",
		"statfs", "fstatfs", "statfs64", "fstatfs64", "flock", "fadvise64", "arm_fadvise64_64"}
	switch {
	case len(p.Write) > 0:
		list := allow(reading...)
		return append(list, allow("openat", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat", "symlinkat",
			"ftruncate", "ftruncate64", "fallocate", "fsync", "fdatasync", "syncfs", "sync_file_range", "arm_sync_file_range",
			"fchmod", "fchmodat", "utimensat", "utimensat_time64", "umask")...)
	case len(p.Read) > 0 || p.Users || p.DNS:
		return append(allow(reading...),
			call{name: "openat", alternatives: [][]test{{{2, openForWriting, []uint32{0}}}}, errno: eacces})
	}
	var list []call
	for _, name := range append(reading, "openat") {
		list = append(list, call{name: name, refused: true, errno: eacces})
	}
	return list
}

func allow(names ...string) []call {
	list := make([]call, len(names))
	for i, name := range names {
		list[i].name = name
	}
	return list
}

// machine is what a filter has to know of a processor: its number for the kernel,
// and the numbers of system calls by their names. Names that it lacks are calls that
// it does not have.
type machine struct {
	audit   uint32
	numbers map[string]uint32
	foreign uint32 // numbers from here on are calls of another ABI; 0: there is none
}

// Outcomes of a filter, linux/seccomp.h.
const (
	retAllow       = 0x7fff0000
	retErrno       = 0x00050000
	retTrap        = 0x00030000
	retKillProcess = 0x80000000
)

// instruction is one of a socket filter, as struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Operations of the filter machine, linux/bpf_common.h.
const (
	opLoad   = 0x20 // the accumulator becomes the word at k of struct seccomp_data
	opAnd    = 0x54
	opEqual  = 0x15
	opAtMost = 0x25 // jump if greater: jf is the branch for at most k
	opReturn = 0x06
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // 8 bytes each; all machines with a filter are little-endian
)

// assemble makes the filter: violation is what a call that is not in the list comes
// to.
func assemble(list []call, m machine, violation uint32) ([]instruction, error) {
	code := []instruction{
		{opLoad, 0, 0, offArch},
		{opEqual, 1, 0, m.audit},
		{opReturn, 0, 0, retKillProcess},
		{opLoad, 0, 0, offNumber},
	}
	if m.foreign != 0 {
		code = append(code, instruction{opAtMost, 0, 1, m.foreign - 1}, instruction{opReturn, 0, 0, retKillProcess})
	}
	seen := map[string]bool{}
	for _, c := range list {
		if seen[c.name] {
			return nil, fmt.Errorf("system call %s is listed twice", c.name)
		}
		seen[c.name] = true
		number, ok := m.numbers[c.name]
		if !ok {
			continue
		}
		body := c.body(violation)
		if len(body) > 255 {
			return nil, fmt.Errorf("rules for %s are too long", c.name)
		}
		code = append(code, instruction{opEqual, 0, uint8(len(body)), number})
		code = append(code, body...)
	}
	code = append(code, instruction{opReturn, 0, 0, violation})
	if len(code) > maxFilter {
		return nil, fmt.Errorf("filter of %d instructions, at most %d", len(code), maxFilter)
	}
	return code, nil
}

// maxFilter is what the kernel takes, BPF_MAXINSNS.
const maxFilter = 4096

// body is what decides about one call. It always ends in a return: the number of
// the call is no longer in the accumulator.
func (c call) body(violation uint32) []instruction {
	last := violation
	if c.errno != 0 {
		last = retErrno | uint32(c.errno)
	}
	if c.refused {
		return []instruction{{opReturn, 0, 0, last}}
	}
	var code []instruction
	for _, tests := range c.alternatives {
		size := 1 // of the alternative: its tests and a return
		for _, t := range tests {
			size += 2 + len(t.values)
		}
		at := 0
		for _, t := range tests {
			code = append(code, instruction{opLoad, 0, 0, offArgs + 8*uint32(t.arg)}, instruction{opAnd, 0, 0, t.mask})
			at += 2
			for i, v := range t.values {
				at++
				next := instruction{opEqual, uint8(len(t.values) - 1 - i), 0, v}
				if i == len(t.values)-1 {
					next.jf = uint8(size - at)
				}
				code = append(code, next)
			}
		}
		code = append(code, instruction{opReturn, 0, 0, retAllow})
	}
	if len(c.alternatives) == 0 {
		return []instruction{{opReturn, 0, 0, retAllow}}
	}
	return append(code, instruction{opReturn, 0, 0, last})
}
