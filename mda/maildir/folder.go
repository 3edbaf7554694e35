package maildir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	gomaildir "github.com/emersion/go-maildir"
)

// folder is a directory with tmp, new and cur that is known to exist.
type folder struct {
	path    string
	users   int // deliveries in progress; guarded by Store.mu
	arrived syncer

	// These belong to the round of arrived that is running.
	dir  *os.File    // new
	info os.FileInfo // of dir
}

// open returns the folder, made if need be. The caller releases it.
func (s *Store) open(path string) (*folder, error) {
	s.mu.Lock()
	if f := s.folders[path]; f != nil {
		f.users++
		s.mu.Unlock()
		return f, nil
	}
	s.mu.Unlock()
	f := &folder{path: path, users: 1}
	if err := s.create(path); err != nil {
		return nil, err
	}
	if err := f.openNew(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.folders[path]; other != nil { // someone was faster
		other.users++
		return other, f.close()
	}
	if len(s.folders) >= maxFolders {
		s.evict()
	}
	s.folders[path] = f
	return f, nil
}

// evict closes the folders not in use. The caller holds s.mu.
func (s *Store) evict() {
	for path, f := range s.folders {
		if f.users == 0 {
			f.close()
			delete(s.folders, path)
		}
	}
}

func (s *Store) release(f *folder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.users--; f.users == 0 && s.folders[f.path] != f {
		f.close() // forgotten meanwhile
	}
}

// forget makes the next open look at the disk again.
func (s *Store) forget(f *folder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folders[f.path] == f {
		delete(s.folders, f.path)
		if f.users == 0 {
			f.close()
		}
	}
}

// create makes the directories that are missing, and their names durable.
func (s *Store) create(path string) error {
	var made []string
	for p := path; ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, p)
		if p == filepath.Dir(p) {
			break
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	complete := len(made) == 0
	for _, sub := range [...]string{"tmp", "new", "cur"} {
		fi, err := os.Stat(filepath.Join(path, sub))
		complete = complete && err == nil && fi.IsDir()
	}
	if complete {
		return nil
	}
	if err := gomaildir.Dir(path).Init(); err != nil {
		return err
	}
	made = append(made, filepath.Join(path, "new"))
	for _, p := range made {
		if err := s.syncPath(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// syncPath syncs a directory by name. A parent directory that the recipient may
// search but not read cannot be opened, and so not be synced: that is no reason
// to refuse mail.
func (s *Store) syncPath(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(s.files.syncDir(dir), dir.Close())
}

// openNew opens the directory new, so that it can be synced.
func (f *folder) openNew() error {
	dir, err := os.Open(filepath.Join(f.path, "new"))
	if err != nil {
		return err
	}
	info, err := dir.Stat()
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	if f.dir != nil {
		f.dir.Close()
	}
	f.dir, f.info = dir, info
	return nil
}

// sync makes the names in new durable. If the directory was put in place of the
// one that is open, it is opened anew.
func (f *folder) sync(syncDir func(*os.File) error) error {
	info, err := os.Stat(f.path + "/new")
	if err != nil {
		return err
	}
	if !os.SameFile(info, f.info) {
		if err := f.openNew(); err != nil {
			return err
		}
	}
	return syncDir(f.dir)
}

// close is called when there are no deliveries in progress.
func (f *folder) close() error { return f.dir.Close() }

// syncer lets callers that arrive while a sync is running share the next one.
type syncer struct {
	mu      sync.Mutex
	running *round // the one begun last; guarded by mu
	next    *round // not begun yet; guarded by mu
}

// round is one sync for all who joined before it began.
type round struct {
	done chan struct{} // closed when err is set
	err  error
}

// sync returns after a run of fn that began after sync was called.
func (g *syncer) sync(fn func() error) error {
	g.mu.Lock()
	if r := g.next; r != nil {
		g.mu.Unlock()
		<-r.done
		return r.err
	}
	r := &round{done: make(chan struct{})}
	before := g.running
	g.next = r
	g.mu.Unlock()
	if before != nil {
		<-before.done
	}
	g.mu.Lock()
	g.running, g.next = r, nil
	g.mu.Unlock()
	r.err = fn()
	close(r.done)
	return r.err
}
