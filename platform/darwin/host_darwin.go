package darwin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/authprogram"
	"github.com/opensmtpd/opensmtpd/platform/privdrop"
	"github.com/opensmtpd/opensmtpd/platform/userdb"
)

// Config overrides what New assumes. A zero field means the usual.
type Config struct {
	Paths platform.Paths // its empty fields mean the usual places
}

// Host is a macOS system. Its methods may be called concurrently, but for Confine.
type Host struct {
	paths      platform.Paths
	executable string
	exeErr     error
	lookups    chan struct{} // one element for each lookup under way
	program    *authprogram.Program
}

var (
	_ platform.Host          = (*Host)(nil)
	_ platform.Authenticator = (*Host)(nil)
)

// New returns the Host of this machine.
func New(cfg Config) (*Host, error) {
	h := &Host{paths: paths().Override(cfg.Paths), lookups: make(chan struct{}, maxLookups)}
	h.program = authprogram.New(filepath.Join(h.paths.Libexec, "auth-pam"))
	h.executable, h.exeErr = os.Executable()
	return h, nil
}

// Name returns "darwin".
func (*Host) Name() string { return "darwin" }

// Paths returns where things live.
func (h *Host) Paths() platform.Paths { return h.paths }

// Executable returns the path the program had when New was called.
func (h *Host) Executable() (string, error) { return h.executable, h.exeErr }

// Authenticate checks a password by PAM, which asks Open Directory, where the program
// for it is installed.
func (h *Host) Authenticate(ctx context.Context, user, password string) error {
	switch installed, err := h.program.Installed(); {
	case err != nil:
		return err
	case !installed:
		return errors.New("passwords of the system take the program auth-pam; use auth <table>")
	}
	return h.program.Check(ctx, user, password)
}

// maxLookups bounds the lookups of users under way; further ones wait.
const maxLookups = 8

// User asks Open Directory, through the C library, which the toolchain calls
// without cgo. Its lookups cannot be interrupted: one that hangs keeps its place
// among maxLookups until it ends. The shell is not told and taken for /bin/sh.
func (h *Host) User(ctx context.Context, name string) (platform.User, error) {
	if !userdb.ValidName(name) {
		return platform.User{}, platform.ErrNoUser
	}
	select {
	case h.lookups <- struct{}{}:
	case <-ctx.Done():
		return platform.User{}, ctx.Err()
	}
	type result struct {
		user platform.User
		err  error
	}
	done := make(chan result, 1) // room for one, so that the lookup can end alone
	go func() {
		defer func() { <-h.lookups }()
		u, err := lookup(name)
		done <- result{u, err}
	}()
	select {
	case r := <-done:
		return r.user, r.err
	case <-ctx.Done():
		return platform.User{}, ctx.Err()
	}
}

// lookup finds one user and its groups.
func lookup(name string) (platform.User, error) {
	u, err := user.Lookup(name)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return platform.User{}, platform.ErrNoUser
	}
	if err != nil {
		return platform.User{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	ids, err3 := u.GroupIds()
	if err := errors.Join(err1, err2, err3); err != nil {
		return platform.User{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	groups := []int{gid}
	for _, s := range ids {
		g, err := strconv.Atoi(s)
		if err != nil {
			return platform.User{}, fmt.Errorf("look up groups of user %q: %w", name, err)
		}
		if g != gid {
			groups = append(groups, g)
		}
	}
	return platform.User{
		Name: u.Username, UID: uid, GID: gid, Groups: groups,
		Home: u.HomeDir, Shell: "/bin/sh", Gecos: u.Name,
	}, nil
}

// Notify does nothing: the service manager of this system takes no reports.
func (*Host) Notify(platform.State) error { return nil }

// solLocal is the level of the options of local sockets, unix(4).
const solLocal = 0

// Peer returns the credentials the other end had when it connected, by
// LOCAL_PEERCRED, and its process id by LOCAL_PEERPID.
func (*Host) Peer(c *net.UnixConn) (platform.Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Xucred
	var pid int
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		if cred, sockErr = unix.GetsockoptXucred(int(fd), solLocal, unix.LOCAL_PEERCRED); sockErr == nil {
			pid, sockErr = unix.GetsockoptInt(int(fd), solLocal, unix.LOCAL_PEERPID)
		}
	}); err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	if sockErr != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", sockErr)
	}
	if cred.Ngroups < 1 {
		return platform.Cred{}, errors.New("peer credentials: no group")
	}
	return platform.Cred{UID: int(cred.Uid), GID: int(cred.Groups[0]), PID: pid}, nil
}

// Confine puts the process under p.
func (*Host) Confine(p platform.Profile) (platform.Guarantees, error) {
	g, err := privdrop.Drop(p, privdrop.Process{})
	if err != nil {
		return g, err
	}
	g.Missing = append(g.Missing, missing()...)
	if p.Exec || p.Sandbox == platform.SandboxOff {
		return g, nil
	}
	if err := unix.PtraceDenyAttach(); err != nil {
		g.Missing = append(g.Missing, fmt.Sprintf("untraceable: off: %v", err))
	} else {
		g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: "untraceable", State: "on"})
	}
	return g, nil
}
