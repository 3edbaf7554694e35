// Package fake is a platform.Host for tests: users from a map, no confinement, and
// a record of what was asked.
package fake

import (
	"context"
	"net"
	"os"
	"sync"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Host is a system made up for a test. Set its fields before use; its methods may
// be called concurrently.
type Host struct {
	Users     map[string]platform.User
	Passwords map[string]string // by user name
	Places    platform.Paths
	UID, GID  int   // of every peer
	UserErr   error // when set, every lookup fails with it
	LoginErr  error // when set, every authentication fails with it

	mu       sync.Mutex
	profiles []platform.Profile // guarded by mu
	states   []platform.State   // guarded by mu
}

var (
	_ platform.Host          = (*Host)(nil)
	_ platform.Authenticator = (*Host)(nil)
)

// New returns a Host that has the users given, with all its places below dir, and
// whose peers are this process's user.
func New(dir string, users ...platform.User) *Host {
	h := &Host{
		Users:     make(map[string]platform.User),
		Passwords: make(map[string]string),
		Places: platform.Paths{
			Config: dir + "/smtpd.conf", Spool: dir + "/spool", Run: dir + "/run", Empty: dir + "/empty",
			Libexec: dir + "/libexec", Mail: dir + "/mail", Aliases: dir + "/aliases",
			MailName: dir + "/mailname", Shell: "/bin/sh", DefPath: "/usr/bin:/bin",
		},
		UID: os.Geteuid(), GID: os.Getegid(),
	}
	for _, u := range users {
		if len(u.Groups) == 0 {
			u.Groups = []int{u.GID}
		}
		h.Users[u.Name] = u
	}
	return h
}

// Name returns "fake".
func (*Host) Name() string { return "fake" }

// Executable returns the running program.
func (*Host) Executable() (string, error) { return os.Executable() }

// Paths returns Places.
func (h *Host) Paths() platform.Paths { return h.Places }

// Confine records the profile and changes nothing.
func (h *Host) Confine(p platform.Profile) (platform.Guarantees, error) {
	if err := p.Check(); err != nil {
		return platform.Guarantees{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.profiles = append(h.profiles, p)
	return platform.Guarantees{
		Root: "/", UID: os.Geteuid(), GID: os.Getegid(),
		Missing: []string{"chroot: off: fake", "uid: off: fake"},
	}, nil
}

// Profiles returns the profiles Confine was called with, in order.
func (h *Host) Profiles() []platform.Profile {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]platform.Profile(nil), h.profiles...)
}

// Peer returns UID and GID.
func (h *Host) Peer(*net.UnixConn) (platform.Cred, error) {
	return platform.Cred{UID: h.UID, GID: h.GID}, nil
}

// User returns the user of that name in Users.
func (h *Host) User(_ context.Context, name string) (platform.User, error) {
	if h.UserErr != nil {
		return platform.User{}, h.UserErr
	}
	u, ok := h.Users[name]
	if !ok {
		return platform.User{}, platform.ErrNoUser
	}
	return u, nil
}

// Authenticate compares with Passwords.
func (h *Host) Authenticate(ctx context.Context, user, password string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.LoginErr != nil {
		return h.LoginErr
	}
	if want, ok := h.Passwords[user]; !ok || want != password {
		return platform.ErrBadPassword
	}
	return nil
}

// Notify records the state.
func (h *Host) Notify(s platform.State) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states = append(h.states, s)
	return nil
}

// States returns the states Notify was called with, in order.
func (h *Host) States() []platform.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]platform.State(nil), h.states...)
}
