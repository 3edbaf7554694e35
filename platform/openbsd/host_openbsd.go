package openbsd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/platform/privdrop"
	"github.com/opensmtpd/opensmtpd/platform/userdb"
)

// Config overrides what New assumes. A zero field means the usual.
type Config struct {
	Paths  platform.Paths // its empty fields mean the usual places
	Users  userdb.Config
	Master string // /etc/master.passwd

	Programs   string // directory of the programs of authentication styles: /usr/libexec/auth
	Classes    string // /etc/login.conf
	ClassesDir string // /etc/login.conf.d
}

// Host is an OpenBSD system. Its methods may be called concurrently, but for Confine.
type Host struct {
	paths      platform.Paths
	executable string
	exeErr     error
	users      *userdb.DB
	login      login
}

var (
	_ platform.Host          = (*Host)(nil)
	_ platform.Authenticator = (*Host)(nil)
	_ platform.Delegator     = (*Host)(nil)
)

// New returns the Host of this machine. Call it before the title of the process
// changes: the system derives the path of the program from it.
func New(cfg Config) (*Host, error) {
	cfg.Users.NSSwitch = "-"
	h := &Host{
		paths: paths().Override(cfg.Paths),
		users: userdb.New(cfg.Users),
		login: newLogin(cfg.Master, cfg.Programs, cfg.Classes, cfg.ClassesDir),
	}
	h.executable, h.exeErr = os.Executable()
	return h, nil
}

// Name returns "openbsd".
func (*Host) Name() string { return "openbsd" }

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

// Authenticate checks a password by the authentication style of the user's class.
func (h *Host) Authenticate(ctx context.Context, user, password string) error {
	return h.login.check(ctx, user, password)
}

// Notify does nothing: the service manager of this system takes no reports.
func (*Host) Notify(platform.State) error { return nil }

// Peer returns the credentials the other end had when it connected, by
// SO_PEERCRED. The system fills in a struct sockpeercred: uid, gid and pid of four
// bytes each. A struct ipv6_mreq is a buffer of enough bytes that x/sys reads an
// option into without stopping at the first NUL.
func (*Host) Peer(c *net.UnixConn) (platform.Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	var buf *unix.IPv6Mreq
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		buf, sockErr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	if sockErr != nil {
		return platform.Cred{}, fmt.Errorf("peer credentials: %w", sockErr)
	}
	id := func(i int) int { return int(binary.NativeEndian.Uint32(buf.Multiaddr[i:])) }
	return platform.Cred{UID: id(0), GID: id(4), PID: id(8)}, nil
}

// Confine puts the process under p.
func (*Host) Confine(p platform.Profile) (platform.Guarantees, error) {
	show, err := veils(p)
	if err != nil {
		return platform.Guarantees{}, err
	}
	g, err := privdrop.Drop(p, privdrop.Process{})
	if err != nil {
		return g, err
	}
	if p.Sandbox == platform.SandboxOff {
		g.Missing = append(g.Missing, "unveil: off: switched off", "pledge: off: switched off")
		return g, nil
	}
	for _, v := range show {
		// What does not exist, directory and all, needs no unveiling.
		if err := unix.Unveil(v.path, v.permissions); err != nil && !errors.Is(err, unix.ENOENT) {
			return g, fmt.Errorf("unveil %s: %w", v.path, err)
		}
	}
	if len(show) > 0 {
		if err := unix.UnveilBlock(); err != nil {
			return g, fmt.Errorf("unveil: %w", err)
		}
		g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: "unveil", State: "on"})
	}
	words := promises(p)
	if err := unix.PledgePromises(words); err != nil {
		return g, fmt.Errorf("pledge %q: %w", words, err)
	}
	g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: "pledge", State: words})
	return g, nil
}
