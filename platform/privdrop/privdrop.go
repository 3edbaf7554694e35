// Package privdrop is the part of confining a process that is the same on every
// Unix: new root directory, groups, gid, uid, in that order, and the proof that
// root cannot be had back. The system calls stand behind an interface, so that the
// order and the refusals are tested without privilege on any machine.
package privdrop

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Calls are the system calls a drop is made of. Each acts on the whole process,
// all threads of it.
type Calls interface {
	// IDs returns the effective uid and gid and the supplementary groups.
	IDs() (uid, gid int, groups []int, err error)
	// CheckRoot returns an error unless dir is a directory that only root can change.
	CheckRoot(dir string) error
	// Chroot changes the root directory and goes there.
	Chroot(dir string) error
	Setgroups(gids []int) error
	// Setgid and Setuid set the real, effective and saved id.
	Setgid(gid int) error
	Setuid(uid int) error
	// Regain tries by every means to get uid 0 back and tells whether one worked.
	Regain() bool
}

// Drop puts the process under the root directory and the ids of p. A role that
// keeps its ids keeps its groups. On an error the process is in no state to go on.
func Drop(p platform.Profile, c Calls) (platform.Guarantees, error) {
	if err := p.Check(); err != nil {
		return platform.Guarantees{}, err
	}
	uid, gid, _, err := c.IDs()
	if err != nil {
		return platform.Guarantees{}, fmt.Errorf("read own ids: %w", err)
	}
	changes := p.UID >= 0 && p.UID != uid || p.GID >= 0 && p.GID != gid
	if (p.Root != "" || changes) && uid != 0 {
		return platform.Guarantees{}, fmt.Errorf("confine %s: not started as root", p.Role)
	}
	g := platform.Guarantees{Root: "/"}
	if p.Root != "" && p.Root != "/" {
		if err := c.CheckRoot(p.Root); err != nil {
			return g, fmt.Errorf("root directory %s: %w", p.Root, err)
		}
		if err := c.Chroot(p.Root); err != nil {
			return g, fmt.Errorf("chroot %s: %w", p.Root, err)
		}
		g.Root = p.Root
		g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: "chroot", State: "on"})
	}
	if changes {
		if err := setIDs(p, gid, c); err != nil {
			return g, err
		}
	}
	if g.UID, g.GID, err = verify(p, c, changes); err != nil {
		return g, err
	}
	if g.UID != 0 {
		g.Mechanisms = append(g.Mechanisms, platform.Mechanism{Name: "uid", State: "on"})
	}
	return g, nil
}

// setIDs sets groups, gid and uid, the uid last: it is what the rest needs.
func setIDs(p platform.Profile, gid int, c Calls) error {
	if p.GID >= 0 {
		gid = p.GID
	}
	// The gid comes first: on some systems the first group is the effective gid,
	// and setting that overwrites whatever stands there.
	groups := []int{gid}
	for _, g := range p.Groups {
		if g != gid {
			groups = append(groups, g)
		}
	}
	if err := c.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := c.Setgid(gid); err != nil {
		return fmt.Errorf("set gid %d: %w", gid, err)
	}
	if p.UID >= 0 {
		if err := c.Setuid(p.UID); err != nil {
			return fmt.Errorf("set uid %d: %w", p.UID, err)
		}
	}
	return nil
}

// verify reads the ids back and tries to become root.
func verify(p platform.Profile, c Calls, changed bool) (uid, gid int, err error) {
	uid, gid, groups, err := c.IDs()
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("read own ids: %w", err)
	case p.UID >= 0 && uid != p.UID:
		return 0, 0, fmt.Errorf("uid is %d after it was set to %d", uid, p.UID)
	case p.GID >= 0 && gid != p.GID:
		return 0, 0, fmt.Errorf("gid is %d after it was set to %d", gid, p.GID)
	}
	if changed && p.UID > 0 {
		for _, g := range groups {
			if g != gid && !slices.Contains(p.Groups, g) {
				return 0, 0, fmt.Errorf("still in group %d", g)
			}
		}
	}
	if p.UID > 0 && c.Regain() {
		return 0, 0, errors.New("root could be had back after it was given up")
	}
	return uid, gid, nil
}

// CheckRoot is the check of a root directory for Calls: a directory, not a link to
// one, owned by root, that neither group nor others can write to. Whoever can
// write there can make the process believe in files of theirs.
func CheckRoot(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return errors.New("not a directory")
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return errors.New("not owned by root")
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("mode %04o lets others than root write", fi.Mode().Perm())
	}
	return nil
}
