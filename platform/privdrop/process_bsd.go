//go:build openbsd || freebsd || netbsd || darwin

package privdrop

import "syscall"

// Process is the running process, whose ids belong to all its threads alike.
type Process struct{}

var _ Calls = Process{}

// IDs returns the ids in force.
func (Process) IDs() (uid, gid int, groups []int, err error) {
	groups, err = syscall.Getgroups()
	return syscall.Geteuid(), syscall.Getegid(), groups, err
}

// CheckRoot is the function CheckRoot.
func (Process) CheckRoot(dir string) error { return CheckRoot(dir) }

// Chroot changes the root directory and goes there.
func (Process) Chroot(dir string) error {
	if err := syscall.Chroot(dir); err != nil {
		return err
	}
	return syscall.Chdir("/")
}

// Setgroups sets the supplementary groups.
func (Process) Setgroups(gids []int) error { return syscall.Setgroups(gids) }

// Setgid sets all three gids, as setgid(2) does for root.
func (Process) Setgid(gid int) error { return syscall.Setgid(gid) }

// Setuid sets all three uids, as setuid(2) does for root.
func (Process) Setuid(uid int) error { return syscall.Setuid(uid) }

// Regain tries to become root.
func (Process) Regain() bool {
	return syscall.Setuid(0) == nil || syscall.Seteuid(0) == nil || syscall.Setreuid(-1, 0) == nil
}
