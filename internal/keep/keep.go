// Package keep holds small records that outlive a process: what was learned and can
// be learned again, but had better not be. A Store is a directory of its own with a
// file for each record; the number of records and their size are bounded, and the
// oldest make room.
//
//	mta-sts/example.org    the policy of a domain
//
// A file is written under another name, synced and renamed, so that a record is
// there as a whole or not at all, whenever the machine stops.
package keep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrBad says that a record cannot be kept: its name is no name of a file of ours,
// or it is too large.
var ErrBad = errors.New("record cannot be kept")

// ErrNotFound says that there is no record of that name.
var ErrNotFound = errors.New("no such record")

// Keeper keeps records: a Store, or one in another process. Its methods may be called
// concurrently.
type Keeper interface {
	// Get returns a record, ErrNotFound without one. Any other error says that it is
	// not known whether there is one.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put keeps a record instead of the one there is of that name. When it returns nil
	// the record survives a power cut.
	Put(ctx context.Context, name string, data []byte) error
	// Delete drops a record, which may not be there.
	Delete(ctx context.Context, name string) error
	// Names returns the names of all records, in order.
	Names(ctx context.Context) ([]string, error)
}

// Limits bound a Store.
type Limits struct {
	Records int // beyond which the oldest tenth is dropped
	Size    int // bytes of a record
}

// Store is the records of one kind. Its methods may be called concurrently.
type Store struct {
	dir    string
	limits Limits

	mu    sync.Mutex // held while files change
	count int        // guarded by mu; records, -1: unknown
}

// temporary begins the names of files that are being written.
const temporary = ".tmp-"

// New returns the store in dir, which is made at the first Put if need be.
func New(dir string, limits Limits) *Store { return &Store{dir: dir, limits: limits, count: -1} }

// validName tells whether name can be that of a file: lower-case letters, digits,
// hyphens, underscores and dots, not a dot first.
func validName(name string) bool {
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
		default:
			return false
		}
	}
	return name != "" && len(name) <= 240
}

// Get implements Keeper.
func (s *Store) Get(_ context.Context, name string) ([]byte, error) {
	if !validName(name) {
		return nil, ErrNotFound
	}
	f, err := os.Open(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(s.limits.Size)+1))
	if err == nil && len(b) > s.limits.Size {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrBad, name, s.limits.Size)
	}
	return b, err
}

// Put implements Keeper.
func (s *Store) Put(_ context.Context, name string, data []byte) error {
	if !validName(name) || len(data) > s.limits.Size {
		return fmt.Errorf("%w: %.80q, %d bytes", ErrBad, name, len(data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if s.count >= 0 {
		s.count++ // too many when the file was there; counting again mends it
	}
	if s.count < 0 || s.count > s.limits.Records {
		err = s.trim()
	}
	return errors.Join(err, syncDir(s.dir))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Delete implements Keeper.
func (s *Store) Delete(_ context.Context, name string) error {
	if !validName(name) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Remove(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && s.count > 0 {
		s.count--
	}
	return err
}

// Names implements Keeper.
func (s *Store) Names(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, d := range entries {
		if validName(d.Name()) {
			out = append(out, d.Name())
		}
	}
	return out, err
}

// trim counts the records and removes the oldest above nine tenths of what is
// allowed, when there are more than that, and what a crash has left behind. The
// mutex is held.
func (s *Store) trim() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	type aged struct {
		name string
		when time.Time
	}
	var records []aged
	for _, d := range entries {
		switch {
		case strings.HasPrefix(d.Name(), temporary):
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, d.Name())))
		case validName(d.Name()):
			info, ierr := d.Info()
			if ierr != nil {
				err = errors.Join(err, ierr)
				continue
			}
			records = append(records, aged{d.Name(), info.ModTime()})
		}
	}
	s.count = len(records)
	if s.count <= s.limits.Records {
		return err
	}
	slices.SortFunc(records, func(a, b aged) int { return cmp.Or(a.when.Compare(b.when), strings.Compare(a.name, b.name)) })
	for _, r := range records[:s.count-s.limits.Records*9/10] {
		if rerr := os.Remove(filepath.Join(s.dir, r.name)); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		s.count--
	}
	return err
}
