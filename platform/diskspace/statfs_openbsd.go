package diskspace

import "golang.org/x/sys/unix"

// Free returns which fractions of the space and of the inodes of the file system
// that holds path are free for users without privileges.
func Free(path string) (space, inodes float64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return fraction(uint64(max(st.F_bavail, 0)), st.F_blocks), fraction(uint64(max(st.F_favail, 0)), st.F_files), nil
}
