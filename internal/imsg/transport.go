package imsg

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// transport is an ordered stream of bytes with descriptors at marked places.
// One goroutine reads and one writes at a time.
type transport interface {
	// write sends b; fds travel with its first byte. Without wait it sends what
	// can be sent at once, which may be nothing. When it returns n > 0 it has
	// taken over fds; otherwise they still belong to the caller.
	write(b []byte, fds []int, wait bool) (n int, err error)
	// read waits for bytes. The caller owns the descriptors, even those
	// returned with an error. At the end of the stream the error is io.EOF.
	read(b []byte) (n int, fds []int, err error)
	// hurry makes read fail soon when nothing is left to be read.
	hurry()
	close()
}

// dupFiles returns descriptors of its own for files.
func dupFiles(files []*os.File) ([]int, error) {
	if len(files) == 0 {
		return nil, nil
	}
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("%d descriptors: %w", len(files), ErrTooLarge)
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fd, err := dupFile(f)
		if err != nil {
			closeFDs(fds)
			return nil, fmt.Errorf("pass a descriptor: %w", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// dupFile does not use File.Fd, which would make the file blocking.
func dupFile(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, dupErr)
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func newFiles(fds []int) []*os.File {
	if len(fds) == 0 {
		return nil
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	return files
}
