package freebsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/authprogram"
	"github.com/opensmtpd/opensmtpd/platform/password"
	"github.com/opensmtpd/opensmtpd/platform/privdrop"
	"github.com/opensmtpd/opensmtpd/platform/userdb"
)

// Config overrides what New assumes. A zero field means the usual.
type Config struct {
	Paths  platform.Paths // its empty fields mean the usual places
	Users  userdb.Config
	Master string // /etc/master.passwd
}

// Host is a FreeBSD system. Its methods may be called concurrently, but for Confine.
type Host struct {
	paths      platform.Paths
	executable string
	exeErr     error
	users      *userdb.DB
	accounts   password.Accounts
	program    *authprogram.Program // takes the place of accounts where it is installed
}

var (
	_ platform.Host          = (*Host)(nil)
	_ platform.Authenticator = (*Host)(nil)
	_ platform.Delegator     = (*Host)(nil)
)

// New returns the Host of this machine.
func New(cfg Config) (*Host, error) {
	verify, err := password.New(0)
	if err != nil {
		return nil, err
	}
	h := &Host{
		paths:    paths().Override(cfg.Paths),
		users:    userdb.New(cfg.Users),
		accounts: password.Accounts{Path: "/etc/master.passwd", Format: password.Master, Verify: verify},
	}
	if cfg.Master != "" {
		h.accounts.Path = cfg.Master
	}
	h.program = authprogram.New(filepath.Join(h.paths.Libexec, "auth-pam"))
	h.executable, h.exeErr = os.Executable()
	return h, nil
}

// Name returns "freebsd".
func (*Host) Name() string { return "freebsd" }

// Paths returns where things live.
func (h *Host) Paths() platform.Paths { return h.paths }

// Executable returns the path the program had when New was called.
func (h *Host) Executable() (string, error) { return h.executable, h.exeErr }

// User looks name up in files and in what the system's configuration adds to them.
func (h *Host) User(ctx context.Context, name string) (platform.User, error) {
	return h.users.User(ctx, name)
}

// Delegate implements platform.Delegator.
func (h *Host) Delegate(ask func(ctx context.Context, name string) (platform.User, error)) {
	h.users.Delegate(ask)
}

// Authenticate checks a password by PAM, where the program for it is installed, else
// against /etc/master.passwd.
func (h *Host) Authenticate(ctx context.Context, user, password string) error {
	switch installed, err := h.program.Installed(); {
	case err != nil:
		return err
	case installed:
		return h.program.Check(ctx, user, password)
	}
	return h.accounts.Check(ctx, user, password)
}

// Notify does nothing: the service manager of this system takes no reports.
func (*Host) Notify(platform.State) error { return nil }

// solLocal is the level of the options of local sockets, unix(4).
const solLocal = 0

// Peer returns the credentials the other end had when it connected, by
// LOCAL_PEERCRED. The process id is not told.
func (*Host) Peer(c *net.UnixConn) (platform.Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Xucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptXucred(int(fd), solLocal, unix.LOCAL_PEERCRED)
	}); err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	if sockErr != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", sockErr)
	}
	if cred.Ngroups < 1 {
		return platform.Cred{}, errors.New("peer credentials: no group")
	}
	return platform.Cred{UID: int(cred.Uid), GID: int(cred.Groups[0])}, nil
}

// Confine puts the process under p.
func (*Host) Confine(p platform.Profile) (platform.Guarantees, error) {
	g, err := privdrop.Drop(p, privdrop.Process{})
	if err != nil {
		return g, err
	}
	note := func(name string, err error) {
		if err != nil {
			g.Missing = append(g.Missing, fmt.Sprintf("%s: off: %v", name, err))
			return
		}
		g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: name, State: "on"})
	}
	if !p.Exec && p.Sandbox != platform.SandboxOff {
		note("untraceable", procctl(procTrace, traceDisable))
		note("no_new_privs", procctl(procNoNewPrivs, noNewPrivsEnable))
	}
	ok, why := capable(p)
	if !ok {
		note("capability mode", errors.New(why))
		return g, nil
	}
	switch err := unix.CapEnter(); {
	case errors.Is(err, unix.ENOSYS):
		note("capability mode", errors.New("not offered by the kernel"))
	case err != nil:
		return g, fmt.Errorf("capability mode: %w", err)
	default:
		note("capability mode", nil)
	}
	return g, nil
}

// Commands of procctl(2), sys/procctl.h.
const (
	procTrace      = 7
	procNoNewPrivs = 19

	traceDisable     = 2
	noNewPrivsEnable = 1
)

// procctl asks the system about this process, by procctl(2).
func procctl(command, argument int32) error {
	if unsafe.Sizeof(uintptr(0)) < 8 {
		return errors.New("not tried on 32-bit machines") // whose process id takes two arguments
	}
	const pidOfProcess = 0 // P_PID
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pidOfProcess, uintptr(os.Getpid()), uintptr(command), uintptr(unsafe.Pointer(&argument)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
