//go:build linux || darwin || freebsd

package diskspace

import "golang.org/x/sys/unix"

// Free returns which fractions of the space and of the inodes of the file system
// that holds path are free for users without privileges.
func Free(path string) (space, inodes float64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return fraction(uint64(max(int64(st.Bavail), 0)), st.Blocks), fraction(uint64(max(int64(st.Ffree), 0)), st.Files), nil
}
