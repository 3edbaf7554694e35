package mtasts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// Entry is a policy as it is kept. Its text form is
//
//	mta-sts 1 ID SECONDS-SINCE-1970 DOMAIN
//	the policy text …
type Entry struct {
	Domain  string
	ID      string // of the TXT record that announced it
	Fetched time.Time
	Text    []byte
}

// Store keeps policies so that they outlive the process. Its methods may be called
// concurrently. It may refuse or forget entries; the policies are fetched again.
type Store interface {
	// Load returns the entry of a domain, or an error.
	Load(ctx context.Context, domain string) (Entry, error)
	// Save keeps an entry instead of the one there is for the domain.
	Save(ctx context.Context, e Entry) error
}

// maxHead bounds the first line of an entry, in bytes.
const maxHead = 512

// Append appends the text form of e.
func (e Entry) Append(b []byte) []byte {
	b = fmt.Appendf(b, "mta-sts 1 %s %d %s\n", e.ID, e.Fetched.Unix(), e.Domain)
	return append(b, e.Text...)
}

// errEntry says that what a store holds is no entry.
var errEntry = errors.New("malformed stored policy")

// ParseEntry parses the text form of an entry; the policy is not looked at.
func ParseEntry(b []byte) (Entry, error) {
	head, text, ok := bytes.Cut(b, []byte("\n"))
	if !ok || len(head) > maxHead || len(text) > maxText {
		return Entry{}, errEntry
	}
	f := strings.Split(string(head), " ")
	if len(f) != 5 || f[0] != "mta-sts" || f[1] != "1" || !validID(f[2]) || !storable(f[4]) {
		return Entry{}, errEntry
	}
	seconds, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 || f[3] != strconv.FormatInt(seconds, 10) {
		return Entry{}, errEntry
	}
	return Entry{Domain: f[4], ID: f[2], Fetched: time.Unix(seconds, 0), Text: text}, nil
}

// storable tells whether domain, in lower case, can be part of a file name.
func storable(domain string) bool {
	return dns.ValidName(domain) && !strings.HasSuffix(domain, ".") && domain == strings.ToLower(domain) && len(domain) <= 240
}

// Files is a Store in a directory that is its own, one file for each domain. A file
// is written under another name, synced and renamed. What does not parse is ignored
// and in time overwritten.
type Files struct {
	dir string
	max int

	mu    sync.Mutex
	count int // guarded by mu; files in dir, -1: unknown
}

const (
	prefix    = "policy-"
	temporary = "tmp-"
)

// NewFiles returns a Store in dir, which exists, of at most max files. When there
// are more, the oldest make room.
func NewFiles(dir string, max int) *Files { return &Files{dir: dir, max: max, count: -1} }

// Load implements Store.
func (s *Files) Load(_ context.Context, domain string) (Entry, error) {
	if !storable(domain) {
		return Entry{}, fs.ErrNotExist
	}
	f, err := os.Open(filepath.Join(s.dir, prefix+domain))
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHead+maxText+2))
	if err != nil {
		return Entry{}, err
	}
	e, err := ParseEntry(b)
	if err == nil && e.Domain != domain {
		err = errEntry
	}
	return e, err
}

// Save implements Store.
func (s *Files) Save(_ context.Context, e Entry) error {
	if !storable(e.Domain) || !validID(e.ID) || len(e.Text) > maxText {
		return errEntry
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.CreateTemp(s.dir, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(e.Append(nil))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, prefix+e.Domain))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if s.count >= 0 {
		s.count++ // too many when the file was there; counting again mends it
	}
	if s.count < 0 || s.count > s.max {
		return s.trim()
	}
	return nil
}

// trim counts the files and removes the oldest ones above nine tenths of what is
// allowed, when there are more than that, and files left behind by a crash. The
// caller holds mu.
func (s *Files) trim() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var files []aged
	for _, d := range entries {
		switch {
		case strings.HasPrefix(d.Name(), temporary):
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, d.Name())))
		case strings.HasPrefix(d.Name(), prefix):
			info, ierr := d.Info()
			if ierr != nil {
				err = errors.Join(err, ierr)
				continue
			}
			files = append(files, aged{d.Name(), info.ModTime()})
		}
	}
	s.count = len(files)
	if s.count <= s.max {
		return err
	}
	for _, name := range oldest(files, s.count-s.max*9/10) {
		if rerr := os.Remove(filepath.Join(s.dir, name)); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		s.count--
	}
	return err
}

// aged is a file and when it was written.
type aged struct {
	name string
	when time.Time
}

// oldest returns the names of the n oldest files.
func oldest(files []aged, n int) []string {
	slices.SortFunc(files, func(a, b aged) int { return a.when.Compare(b.when) })
	out := make([]string, 0, n)
	for _, f := range files[:min(n, len(files))] {
		out = append(out, f.name)
	}
	return out
}
