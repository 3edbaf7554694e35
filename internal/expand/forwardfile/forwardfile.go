// Package forwardfile opens a user's ~/.forward for whoever expands his address.
// It runs as root in the parent process and therefore does no more than it must:
// it checks who could have written the file and returns its bytes, unread.
//
// The home directory is opened once and the file relative to it, so that nothing
// can be exchanged between the checks and the reading. The rules:
//
//   - A missing home directory or file means that there is no .forward.
//   - A sticky home directory holds the user's mail back (temporary).
//   - The home directory belongs to root or the user; the file is a regular one
//     and belongs to the user; neither can be written by group or others. What
//     fails here is permanent: it stays so until somebody repairs it.
//   - The file has less than 4096 bytes.
//   - Any other failure of the system is temporary.
package forwardfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// MaxSize is the first size of a .forward file, in bytes, that is too large.
const MaxSize = 4096

// name is the file in the home directory.
const name = ".forward"

// text is what a mail client learns.
const text = "Mailing list expansion problem"

// Causes of a failure, for errors.Is.
var (
	ErrSticky   = errors.New("home directory is sticky")
	ErrSymlink  = errors.New("is a symbolic link")
	ErrInsecure = errors.New("insecure file")
	ErrTooLarge = fmt.Errorf("not less than %d bytes", MaxSize)
	ErrHome     = errors.New("home directory is not an absolute path")
)

// Read returns the content of the .forward in the home directory of the user with
// the given uid, and false when there is none. An error is an *smtp.Error.
func Read(home string, uid int) (content []byte, found bool, err error) {
	if !filepath.IsAbs(home) {
		return nil, false, permanent(home, ErrHome)
	}
	if none, err := absent(home); none || err != nil {
		return nil, false, err
	}
	root, err := os.OpenRoot(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, temporary(home, err)
	}
	defer root.Close()
	dir, err := root.Stat(".")
	if err != nil {
		return nil, false, temporary(home, err)
	}
	path := filepath.Join(home, name)
	before, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if dir.Mode()&fs.ModeSticky != 0 {
			return nil, false, temporary(home, ErrSticky)
		}
		return nil, false, nil
	}
	if err != nil {
		return nil, false, temporary(path, err)
	}
	if err := checkDir(home, dir, uid); err != nil {
		return nil, false, err
	}
	if err := checkFile(path, before, uid); err != nil {
		return nil, false, err
	}
	content, err = read(root, path, before, uid)
	return content, err == nil, err
}

// absent tells with two calls of the system what holds for most users: that there
// is no .forward. Nothing that it finds is relied on for reading one.
func absent(home string) (bool, error) {
	if _, err := os.Lstat(filepath.Join(home, name)); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	dir, err := os.Stat(home)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil || !dir.IsDir():
		return false, nil
	case dir.Mode()&fs.ModeSticky != 0:
		return false, temporary(home, ErrSticky)
	}
	return true, nil
}

// read opens the file that was found, makes sure that it is that one, and reads it.
// O_NONBLOCK keeps a pipe that took its place from stopping the process.
func read(root *os.Root, path string, before fs.FileInfo, uid int) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, temporary(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, temporary(path, err)
	}
	if !os.SameFile(before, st) {
		return nil, temporary(path, errors.New("was exchanged while it was opened"))
	}
	if err := checkFile(path, st, uid); err != nil {
		return nil, err
	}
	b := make([]byte, MaxSize)
	n, err := io.ReadFull(f, b)
	switch {
	case err == nil:
		return nil, temporary(path, ErrTooLarge)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return b[:n], nil
	}
	return nil, temporary(path, err)
}

// checkDir tells whether only root and the user may change what a home directory
// holds.
func checkDir(path string, st fs.FileInfo, uid int) error {
	if st.Mode()&fs.ModeSticky != 0 {
		return temporary(path, ErrSticky)
	}
	owner, ok := ownerOf(st)
	if !st.IsDir() || !ok || owner != 0 && owner != uid || st.Mode().Perm()&0o022 != 0 {
		return permanent(path, ErrInsecure)
	}
	return nil
}

// checkFile tells whether only the user may write the file.
func checkFile(path string, st fs.FileInfo, uid int) error {
	if st.Mode()&fs.ModeSymlink != 0 {
		return permanent(path, ErrSymlink)
	}
	owner, ok := ownerOf(st)
	if !st.Mode().IsRegular() || !ok || owner != uid || st.Mode().Perm()&0o022 != 0 {
		return permanent(path, ErrInsecure)
	}
	return nil
}

// ownerOf returns the uid of a file's owner.
func ownerOf(st fs.FileInfo) (int, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}

func temporary(path string, cause error) error {
	return &smtp.Error{Code: 424, Enhanced: smtp.EnhancedCode{4, 2, 4}, Text: text, Err: wrap(path, cause)}
}

func permanent(path string, cause error) error {
	return &smtp.Error{Code: 524, Enhanced: smtp.EnhancedCode{5, 2, 4}, Text: text, Err: wrap(path, cause)}
}

// wrap adds the path unless the cause names it.
func wrap(path string, cause error) error {
	if _, ok := errors.AsType[*fs.PathError](cause); ok {
		return fmt.Errorf("%s: %w", path, errors.Unwrap(cause))
	}
	return fmt.Errorf("%s: %w", path, cause)
}
