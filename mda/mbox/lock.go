package mbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A lock file older than staleAfter is taken for left behind by a crash, unless
// it names a process that lives; one older than staleAlways is in any case.
// Holding a lock takes a program a fraction of a second.
const (
	staleAfter  = 5 * time.Minute
	staleAlways = time.Hour
)

// Waiting for a lock: first and longest pause between two tries.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

// mailbox is an open file with its locks held.
type mailbox struct {
	file *os.File
	dot  *dotLock // nil when the directory cannot be written
}

// dotLock is a lock file that we made.
type dotLock struct {
	path string
	info os.FileInfo
}

// wait tells how to go on waiting: it sleeps and returns nil, or returns why not.
type wait struct {
	until     time.Time
	pause     time.Duration
	abandoned func() bool
}

func (w *wait) sleep() error {
	if w.abandoned() {
		return errors.New("interrupted")
	}
	if time.Now().After(w.until) {
		return errLocked
	}
	time.Sleep(w.pause)
	w.pause = min(2*w.pause, longestPause)
	return nil
}

// lock opens the file and takes its locks.
func (s *Store) lock(t Target, abandoned func() bool) (*mailbox, error) {
	limit := s.LockWait
	if limit == 0 {
		limit = DefaultLockWait
	}
	w := &wait{until: time.Now().Add(limit), pause: firstPause, abandoned: abandoned}
	dot, err := takeDotLock(t.Path+".lock", w)
	if err != nil {
		return nil, err
	}
	m := &mailbox{dot: dot}
	for {
		if m.file, err = s.open(t); err != nil {
			break
		}
		if _, err = check(m.file, t); err != nil {
			break
		}
		if err = lockFile(m.file, w); err != nil {
			break
		}
		var same bool
		if same, err = stillThere(m.file, t); err != nil || same {
			break
		}
		m.file.Close() // replaced while we waited
		m.file = nil
		if err = w.sleep(); err != nil {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, m.unlock())
	}
	return m, nil
}

// unlock gives back the locks and closes the file.
func (m *mailbox) unlock() error {
	var err error
	if m.file != nil {
		err = m.file.Close() // frees the fcntl lock
	}
	if m.dot != nil {
		err = errors.Join(err, m.dot.release())
	}
	return err
}

// open opens the file, or makes it. It follows no symbolic link in the last
// component, and does not wait for whoever may be at the other end of a FIFO.
func (s *Store) open(t Target) (*os.File, error) {
	const flags = os.O_RDWR | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	for {
		f, err := os.OpenFile(t.Path, flags, 0)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENXIO) {
			return nil, fmt.Errorf("%w: %w", errNotRegular, err)
		}
		if !missing(err) {
			return nil, err
		}
		f, err = os.OpenFile(t.Path, flags|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if t.UID != AnyOwner && t.UID != os.Geteuid() {
			err = f.Chown(t.UID, -1)
		}
		if err == nil {
			err = s.syncDir(filepath.Dir(t.Path))
		}
		if err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(t.Path))
		}
		return f, nil
	}
}

// syncDir makes a new name durable. A directory that may be written but not read
// cannot be synced.
func (s *Store) syncDir(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(s.sync(dir), dir.Close())
}

// check refuses everything but a regular file of the right owner with one name.
func check(f *os.File, t Target) (os.FileInfo, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular() || !ok:
		return nil, errNotRegular
	case st.Nlink > 1:
		return nil, errLinks
	case t.UID != AnyOwner && int(st.Uid) != t.UID:
		return nil, errOwner
	}
	return fi, nil
}

// stillThere checks the locked file once more, and tells whether the path leads
// to it. One that was deleted or replaced is not.
func stillThere(f *os.File, t Target) (bool, error) {
	now, err := os.Lstat(t.Path)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	fi, err := f.Stat()
	if err != nil || !os.SameFile(fi, now) {
		return false, err
	}
	_, err = check(f, t)
	return err == nil, err
}

// lockFile takes the fcntl lock on the whole file.
func lockFile(f *os.File, w *wait) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		lk := syscall.Flock_t{Type: syscall.F_WRLCK}
		var lockErr error
		if err := conn.Control(func(fd uintptr) { lockErr = syscall.FcntlFlock(fd, setLock, &lk) }); err != nil {
			return err
		}
		switch {
		case lockErr == nil:
			return nil
		case errors.Is(lockErr, syscall.EAGAIN), errors.Is(lockErr, syscall.EACCES):
			if err := w.sleep(); err != nil {
				return err
			}
		case !errors.Is(lockErr, syscall.EINTR):
			return lockErr
		}
	}
}

// takeDotLock makes the lock file. It returns nil without an error where the
// directory does not let us.
func takeDotLock(path string, w *wait) (*dotLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			info, statErr := f.Stat()
			_, err := f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
			if err = errors.Join(statErr, err, f.Close()); err != nil {
				return nil, errors.Join(err, os.Remove(path))
			}
			return &dotLock{path: path, info: info}, nil
		}
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return nil, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if breakStale(path) {
			continue
		}
		if err := w.sleep(); err != nil {
			return nil, err
		}
	}
}

// release removes the lock file, unless someone took it for stale and made their
// own.
func (l *dotLock) release() error {
	fi, err := os.Lstat(l.path)
	if missing(err) || err == nil && !os.SameFile(fi, l.info) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(l.path)
}

// breakStale removes a lock file that was left behind, and tells whether to try
// again at once.
func breakStale(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil {
		return missing(err)
	}
	age := time.Since(fi.ModTime())
	if age < staleAfter || age < staleAlways && holderLives(path) {
		return false
	}
	// Two may come to this at the same time. Moving the file first shows whether
	// it is still the one that was judged.
	aside := path + "." + strconv.Itoa(os.Getpid())
	if os.Rename(path, aside) != nil {
		return false
	}
	if now, err := os.Lstat(aside); err == nil && !os.SameFile(fi, now) {
		os.Link(aside, path) // a new one: give it back
	}
	os.Remove(aside)
	return true
}

// holderLives tells whether a lock file names a process that exists on this host.
func holderLives(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, 32)
	n, _ := f.Read(buf)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid <= 1 {
		return false
	}
	err = syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
