// Package maildir delivers to Maildirs: directories with tmp, new and cur, a file
// for each message.
//
// A message is written to tmp, synced, renamed to new, and delivered once new is
// synced. At a stop in between it is in tmp, or whole in new; the caller, not
// having heard of success, delivers it again. Deliveries that are waiting for
// new at the same time share one sync of it. Directories that do not exist are
// made with mode 0700; those that do keep theirs.
//
// Folders follow Maildir++: a subaddress EXT leads to the folder .EXT if there is
// one, and mail marked as spam to .Junk where that is asked for.
//
// Files are named SECONDS.MmicrosecondsPpidQsequenceRrandom.HOST, for example
//
//	1735689600.M000123P4711Q1R5f3c9a10.mx.example.org
package maildir

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/mda"
)

// maxFolders bounds how many folders are kept open without being in use.
const maxFolders = 32

// Target is where in the file system a message goes.
type Target struct {
	Dir  string // absolute path of the Maildir
	Junk bool   // mail marked as spam goes to the folder .Junk
}

// Store delivers to any number of Maildirs. Its methods may be called at the same
// time from several goroutines.
type Store struct {
	host   string
	unique string // of this Store: process id and a random number
	count  atomic.Uint64
	files  files

	mu      sync.Mutex
	folders map[string]*folder // by path; guarded by mu, as is folder.users
}

// files are the steps whose order makes a delivery durable.
type files struct {
	syncFile func(*os.File) error
	rename   func(from, to string) error
	syncDir  func(*os.File) error
}

// New returns a Store that names its files after the host.
func New(hostName string) *Store {
	var r [4]byte
	rand.Read(r[:])
	if hostName == "" {
		hostName = "localhost"
	}
	return &Store{
		host:    strings.NewReplacer("/", `\057`, ":", `\072`).Replace(hostName),
		unique:  "R" + strconv.FormatUint(uint64(binary.BigEndian.Uint32(r[:])), 16),
		files:   files{(*os.File).Sync, os.Rename, (*os.File).Sync},
		folders: make(map[string]*folder),
	}
}

// Close frees the folders that are kept open.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for path, f := range s.folders {
		if f.users == 0 {
			err = errors.Join(err, f.close())
			delete(s.folders, path)
		}
	}
	return err
}

// Deliver puts one message into the Maildir or a folder of it. Every failure is
// temporary: what is wrong with a directory can be put right.
func (s *Store) Deliver(ctx context.Context, t Target, d *mda.Delivery) mda.Result {
	if !filepath.IsAbs(t.Dir) {
		return mda.Fail("maildir path is not absolute", errors.New(t.Dir))
	}
	path, err := s.choose(t, d)
	if err != nil {
		return mda.Fail("cannot read message", err)
	}
	if err := ctx.Err(); err != nil {
		return mda.Fail("maildir", err)
	}
	if t.Junk {
		junk, err := s.open(junkFolder(t.Dir))
		if err != nil {
			return mda.Fail("cannot open maildir", err)
		}
		s.release(junk)
	}
	// A folder that was deleted since it was opened is made anew, once.
	for retry := false; ; retry = true {
		f, err := s.open(path)
		if err != nil {
			return mda.Fail("cannot open maildir", err)
		}
		r := s.write(f, d)
		s.release(f)
		if retry || !errors.Is(r.Err, fs.ErrNotExist) {
			return r
		}
		s.forget(f)
	}
}

func junkFolder(dir string) string { return filepath.Join(dir, ".Junk") }

// choose returns the directory the message goes to.
func (s *Store) choose(t Target, d *mda.Delivery) (string, error) {
	if t.Junk {
		spam, err := d.Spam()
		if err != nil {
			return "", err
		}
		if spam {
			return junkFolder(t.Dir), nil
		}
	}
	if name := folderName(d.Subaddress); name != "" {
		path := filepath.Join(t.Dir, name)
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			return path, nil
		}
	}
	return filepath.Clean(t.Dir), nil
}

// folderName returns the name of a subaddress's folder, "" if it can have none.
// Characters that mean something to a shell or the file system become colons.
func folderName(subaddress string) string {
	if strings.Trim(subaddress, ".") == "" || len(subaddress) > 200 {
		return ""
	}
	return "." + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune("!#$%&'*/?^`{|}~", r) {
			return ':'
		}
		return r
	}, subaddress)
}

// write makes the message durable in the folder.
func (s *Store) write(f *folder, d *mda.Delivery) mda.Result {
	name := s.name(time.Now())
	tmp, final := f.path+"/tmp/"+name, f.path+"/new/"+name
	if err := s.writeFile(tmp, d); err != nil {
		os.Remove(tmp)
		return mda.Fail("cannot write message", err)
	}
	if err := s.files.rename(tmp, final); err != nil {
		os.Remove(tmp)
		return mda.Fail("cannot store message", err)
	}
	if err := f.arrived.sync(func() error { return f.sync(s.files.syncDir) }); err != nil {
		os.Remove(final) // it will be delivered again
		return mda.Fail("cannot store message", err)
	}
	return mda.OK()
}

func (s *Store) writeFile(path string, d *mda.Delivery) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = d.WriteTo(file)
	if err == nil {
		err = s.files.syncFile(file)
	}
	return errors.Join(err, file.Close())
}

// name returns a file name that no other delivery to the same Maildir has, on
// this host or another.
func (s *Store) name(now time.Time) string {
	b := make([]byte, 0, 64+len(s.host))
	b = strconv.AppendInt(b, now.Unix(), 10)
	b = append(b, ".M"...)
	b = strconv.AppendInt(b, int64(now.Nanosecond()/1000), 10)
	b = append(b, 'P')
	b = strconv.AppendInt(b, int64(os.Getpid()), 10)
	b = append(b, 'Q')
	b = strconv.AppendUint(b, s.count.Add(1), 10)
	b = append(b, s.unique...)
	b = append(b, '.')
	b = append(b, s.host...)
	return string(b)
}
