package diskspace

import "golang.org/x/sys/unix"

// Free returns which fractions of the space and of the inodes of the file system
// that holds path are free for users without privileges.
func Free(path string) (space, inodes float64, err error) {
	var st unix.Statvfs_t
	if err := unix.Statvfs(path, &st); err != nil {
		return 0, 0, err
	}
	return fraction(st.Bavail, st.Blocks), fraction(st.Favail, st.Files), nil
}
