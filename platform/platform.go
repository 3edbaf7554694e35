// Package platform is what a mail transfer agent asks of an operating system:
// to confine a process, to name a local peer, to look up a user, to tell the
// service manager how things stand. Each system has a sibling folder with one
// Host; this package holds no code of any system.
package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Host is one operating system.
type Host interface {
	// Name returns the system's name in lower case, such as "linux".
	Name() string

	// Executable returns the absolute path of the running program. Ask before the
	// process title changes (on OpenBSD it is derived from argv[0]).
	Executable() (string, error)

	// Confine puts the calling process, all threads of it, under the profile: root
	// directory, groups, gid, uid, then the system's sandbox. It verifies that root
	// cannot be had back. On an error the process must end.
	Confine(Profile) (Guarantees, error)

	// Peer returns who is at the other end of a local socket.
	Peer(*net.UnixConn) (Cred, error)

	// User looks a user up in all the system's sources (files, LDAP, SSSD …).
	// ErrNoUser is a proven absence; any other error is temporary.
	User(ctx context.Context, name string) (User, error)

	// Notify tells the service manager, if there is one, how things stand.
	Notify(State) error

	// Paths returns where things live on this system.
	Paths() Paths
}

// Authenticator is offered by hosts that can check a system user's password.
// It needs root. A wrong password or unknown user is ErrBadPassword.
type Authenticator interface {
	Authenticate(ctx context.Context, user, password string) error
}

// Shielder is offered by hosts where other processes of the same user could look
// into this one, and that can keep them from it without further confinement.
type Shielder interface {
	Shield() error
}

// Pacer is offered by hosts where a process inherits how exactly the kernel keeps its
// timers. The Go runtime has a thread that naps for 20 microseconds at a time as long as
// anything else in the process runs; where it wakes that often, it takes a quarter of
// the time of a process that mostly waits for others.
type Pacer interface {
	// Paced calls start, and what start begins wakes from naps up to a millisecond late.
	Paced(start func() error) error
}

// PortSharer is offered by hosts where a socket for all addresses and one for a single
// address cannot listen on the same port, unless both have been told that they may.
type PortSharer interface {
	SharePort(syscall.RawConn) error
}

// Watched is offered by hosts whose service manager wants a sign of life.
type Watched interface {
	// WatchdogInterval returns how often the manager expects a State with Watchdog
	// set; zero: it does not. Send one at half that interval.
	WatchdogInterval() time.Duration
}

// Activator is offered by hosts whose service manager may bind sockets ahead.
type Activator interface {
	// Passed returns the sockets that were passed to this process, which owns them
	// from then on. Ask once, before a program is started that would inherit them.
	Passed() ([]PassedSocket, error)
}

// PassedSocket is one of them, under the name the service manager has for it.
type PassedSocket struct {
	Name string
	File *os.File
}

// Errors that callers test for.
var (
	ErrNoUser      = errors.New("no such user")
	ErrBadPassword = errors.New("wrong user name or password")
)

// Delegator is offered by hosts that run programs to ask sources of users other than
// files, which a confined process must not. After Delegate the host asks whoever may
// in its stead: ask returns the user, or ErrNoUser as a proven absence. Call it before
// the first User.
type Delegator interface {
	Delegate(ask func(ctx context.Context, name string) (User, error))
}

// Sandbox says how the system's sandbox is to be used, beyond root directory and ids.
type Sandbox int

// Uses of the sandbox.
const (
	SandboxOn    Sandbox = iota
	SandboxTrace         // a violation ends the process with a report of where it was, if the system can
	SandboxOff           // for finding out whether the sandbox is at fault
)

// Profile says what a role needs, never how a system grants it.
type Profile struct {
	Role   string   // for messages
	Root   string   // new root directory; empty: none
	UID    int      // -1: keep
	GID    int      // -1: keep
	Groups []int    // supplementary groups
	Inet   bool     // opens network connections; serves listeners that it is handed
	Unix   bool     // opens local sockets
	PassFD bool     // sends or receives descriptors
	Read   []string // files and directories it reads (before chroot: absolute)
	Write  []string // files and directories it reads, writes, creates, renames
	Exec   bool     // starts other programs; excludes inherited sandboxes
	Users  bool     // looks up users and groups
	DNS    bool     // asks the resolver

	UnixServer bool // serves a local listener that it is handed
	Probe      bool // asks whether a process lives, such as the holder of a lock file
	Sandbox    Sandbox
}

// Inside returns path as it is called in the profile's root directory, and false
// when it cannot be named there.
func (p Profile) Inside(path string) (string, bool) {
	if p.Root == "" || p.Root == "/" {
		return path, true
	}
	if path == p.Root {
		return "/", true
	}
	rest, ok := strings.CutPrefix(path, p.Root+"/")
	return "/" + rest, ok
}

// Check returns an error when p contradicts itself: uid or gid 0 asked for, which
// is no confinement, groups without a gid, a file or root directory that is not an
// absolute, clean path.
func (p Profile) Check() error {
	bad := func(what string) error { return fmt.Errorf("profile of %s: %s", p.Role, what) }
	if p.UID == 0 || p.GID == 0 {
		return bad("uid or gid 0 is no confinement")
	}
	if len(p.Groups) > 0 && p.GID < 0 {
		return bad("groups without a gid")
	}
	for _, g := range p.Groups {
		if g <= 0 {
			return bad("group 0 is no confinement")
		}
	}
	for _, list := range [][]string{{p.Root}, p.Read, p.Write} {
		for _, path := range list {
			if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
				return bad(fmt.Sprintf("path %q is not absolute and clean", path))
			}
		}
	}
	return nil
}

// Guarantees is what was really obtained, for the log and the operator. A word
// per mechanism: "on", "off: why", or its version.
type Guarantees struct {
	Root       string // the root directory in force
	UID, GID   int
	Mechanisms []Mechanism // in the order applied
	Missing    []string    // protections this system or kernel does not offer
}

// Mechanism is one protection and how far it holds.
type Mechanism struct{ Name, State string }

// Cred identifies a local peer.
type Cred struct {
	UID, GID int
	PID      int // 0 where the system does not tell
}

// User is a user of the system.
type User struct {
	Name     string
	UID, GID int
	Groups   []int // all groups, GID included
	Home     string
	Shell    string
	Gecos    string
}

// State is told to the service manager.
type State struct {
	Ready     bool
	Reloading bool
	Stopping  bool
	Watchdog  bool
	Status    string
}

// Paths are the places of files on a system.
type Paths struct {
	Config   string // smtpd.conf
	Spool    string // queue
	Run      string // directory of the control socket and pid file
	Empty    string // directory to chroot to
	Libexec  string // helper, table and filter programs
	Mail     string // system mailboxes
	Aliases  string
	MailName string // file with the server name
	Shell    string
	DefPath  string // PATH for commands

	Credentials string // secrets that the service manager passes; empty: none
}

// Override returns p with the places that o names instead of its own.
func (p Paths) Override(o Paths) Paths {
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&p.Config, o.Config}, {&p.Spool, o.Spool}, {&p.Run, o.Run}, {&p.Empty, o.Empty},
		{&p.Libexec, o.Libexec}, {&p.Mail, o.Mail}, {&p.Aliases, o.Aliases},
		{&p.MailName, o.MailName}, {&p.Shell, o.Shell}, {&p.DefPath, o.DefPath},
	} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	return p
}
