package linux

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/authprogram"
	"github.com/opensmtpd/opensmtpd/platform/password"
	"github.com/opensmtpd/opensmtpd/platform/privdrop"
	"github.com/opensmtpd/opensmtpd/platform/userdb"
)

// firstPassed is the first descriptor that a service manager passes, by
// sd_listen_fds(3).
const firstPassed = 3

// Config overrides what New assumes. A zero field means the usual.
type Config struct {
	Paths        platform.Paths // its empty fields mean the usual places
	Users        userdb.Config
	Shadow       string // /etc/shadow
	NotifySocket string // $NOTIFY_SOCKET
}

// Host is a Linux system. Its methods may be called concurrently, but for Confine.
type Host struct {
	paths    platform.Paths
	users    *userdb.DB
	accounts password.Accounts
	program  *authprogram.Program // takes the place of accounts where it is installed
	notify   string
	watchdog time.Duration
	passed   []string // names of the sockets passed
	passErr  error
}

var (
	_ platform.Host          = (*Host)(nil)
	_ platform.Authenticator = (*Host)(nil)
	_ platform.Delegator     = (*Host)(nil)
	_ platform.Shielder      = (*Host)(nil)
	_ platform.Pacer         = (*Host)(nil)
	_ platform.PortSharer    = (*Host)(nil)
	_ platform.Watched       = (*Host)(nil)
	_ platform.Activator     = (*Host)(nil)
)

// New returns the Host of this machine. It reads the environment of the service
// manager and no file.
func New(cfg Config) (*Host, error) {
	verify, err := password.New(0)
	if err != nil {
		return nil, err
	}
	if cfg.Users.Systemd == nil {
		cfg.Users.Systemd = systemdUsers()
	}
	h := &Host{
		paths:    paths().Override(cfg.Paths),
		users:    userdb.New(cfg.Users),
		accounts: password.Accounts{Path: "/etc/shadow", Format: password.Shadow, Verify: verify},
		notify:   os.Getenv("NOTIFY_SOCKET"),
		watchdog: watchdogInterval(os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"), os.Getpid()),
	}
	h.program = authprogram.New(filepath.Join(h.paths.Libexec, "auth-pam"))
	h.passed, h.passErr = passed(os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDNAMES"), os.Getpid())
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); filepath.IsAbs(dir) && h.paths.Credentials == "" {
		h.paths.Credentials = filepath.Clean(dir)
	}
	if cfg.Shadow != "" {
		h.accounts.Path = cfg.Shadow
	}
	if cfg.NotifySocket != "" {
		h.notify = cfg.NotifySocket
	}
	return h, nil
}

// Name returns "linux".
func (*Host) Name() string { return "linux" }

// Paths returns where things live.
func (h *Host) Paths() platform.Paths { return h.paths }

// Executable returns the path of the running program.
func (*Host) Executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("path %q of the running program is not absolute", path)
	}
	return path, nil
}

// User looks name up in files and in what nsswitch.conf names.
func (h *Host) User(ctx context.Context, name string) (platform.User, error) {
	return h.users.User(ctx, name)
}

// Delegate implements platform.Delegator.
func (h *Host) Delegate(ask func(ctx context.Context, name string) (platform.User, error)) {
	h.users.Delegate(ask)
}

// Authenticate checks a password by PAM, where the program for it is installed, else
// against /etc/shadow.
func (h *Host) Authenticate(ctx context.Context, user, password string) error {
	switch installed, err := h.program.Installed(); {
	case err != nil:
		return err
	case installed:
		return h.program.Check(ctx, user, password)
	}
	return h.accounts.Check(ctx, user, password)
}

// WatchdogInterval returns the interval of systemd's WatchdogSec=.
func (h *Host) WatchdogInterval() time.Duration { return h.watchdog }

// Passed returns the sockets of a systemd.socket(5) unit.
func (h *Host) Passed() ([]platform.PassedSocket, error) {
	if h.passErr != nil {
		return nil, h.passErr
	}
	var out []platform.PassedSocket
	for i, name := range h.passed {
		fd := firstPassed + i
		syscall.CloseOnExec(fd)
		out = append(out, platform.PassedSocket{Name: name, File: os.NewFile(uintptr(fd), name)})
	}
	h.passed = nil
	return out, nil
}

// Notify tells systemd, or whoever opened NOTIFY_SOCKET, how things stand. Without
// such a socket it does nothing.
func (h *Host) Notify(s platform.State) error {
	if h.notify == "" {
		return nil
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	text := message(s, time.Duration(now.Nano()))
	if text == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: h.notify, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

// notifyTimeout bounds the wait for a service manager that does not read.
const notifyTimeout = 5 * time.Second

// Peer returns the credentials the other end had when it connected, by
// SO_PEERCRED of unix(7).
func (*Host) Peer(c *net.UnixConn) (platform.Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	if sockErr != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", sockErr)
	}
	return platform.Cred{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}, nil
}

// drop gives up root directory and ids.
func drop(p platform.Profile) (platform.Guarantees, error) {
	return privdrop.Drop(p, privdrop.Process{})
}

// Shield implements platform.Shielder.
func (*Host) Shield() error { return undumpable() }

// timerSlack is how late the threads of a paced process wake. Longer is not cheaper,
// and the runtime's thread is what lets goroutines run when others wait for the disk.
const timerSlack = time.Millisecond

// Paced implements platform.Pacer by PR_SET_TIMERSLACK, which is a property of a thread
// that those it starts inherit.
func (*Host) Paced(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0) == nil {
		defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the default again
	}
	return start()
}

// SharePort implements platform.PortSharer by SO_REUSEPORT, which the kernel heeds among
// sockets of one user only.
func (*Host) SharePort(c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
		return e
	}
	return err
}

// undumpable keeps processes of the same uid from tracing this one.
func undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make undumpable: %w", err)
	}
	return nil
}

// noNewPrivs sets no_new_privs on every thread: it is a property of a thread, and
// those that exist do not inherit it from this one.
func noNewPrivs() error {
	if _, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	got, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if got != 1 {
		return fmt.Errorf("reads %d after it was set", got)
	}
	return nil
}
