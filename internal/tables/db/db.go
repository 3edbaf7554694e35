// Package db is a table in a constant database file, as makemap writes it: for
// tables too large to be held in memory, or made by another program. The format is
// the one of cdb, so that cdb tools read and write it as well; numbers are 32 bits,
// little endian:
//
//	header    256 × { position of a hash table, number of its slots }
//	records   { length of key, length of value, key, value } …, in the order written
//	tables    256 × slots { hash of the key, position of the record, 0 when free }
//
// Databases of Berkeley DB are read as well, whole and into memory: what package
// berkeley understands.
//
// A list has empty values. Keys are in lower case, but for lists of regular
// expressions. A file that was replaced is opened by the next question; when the
// new one is damaged the old one stays in use.
package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/tables/berkeley"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

// inMemory is the largest file, in bytes, that is read whole; of larger ones each
// question reads the few places it needs.
const inMemory = 16 << 20

// Table is an open database.
type Table struct {
	path    string
	delim   string
	opts    static.Options
	content atomic.Pointer[content]

	mu     sync.Mutex  // held while the file is opened anew
	failed fs.FileInfo // the file that could not be opened, guarded by mu
}

var _ table.Table = (*Table)(nil)

// Open opens the database at path.
func Open(path string, o static.Options) (*Table, error) {
	t := &Table{path: path, delim: o.Delim, opts: o}
	if t.delim == "" {
		t.delim = "+"
	}
	c, err := load(path, o)
	if err != nil {
		return nil, err
	}
	t.content.Store(c)
	if o.Regex {
		if _, err := c.member(table.Regex, "", t.delim); err != nil && !errors.Is(err, table.ErrNotFound) {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), t.Close())
		}
	}
	return t, nil
}

// content is one file. It is not closed when another takes its place, since
// questions may still be using it: that is left to the garbage collector.
type content struct {
	*reader
	file *os.File // nil when the file is held in memory
	info fs.FileInfo

	globsOnce sync.Once
	globs     []record // keys that no hash lookup finds, in order
	globsErr  error

	allOnce sync.Once
	allKeys *static.Table // for networks and regular expressions
	allErr  error

	fetchMu sync.Mutex
	next    uint32 // position of the record to fetch next, guarded by fetchMu
}

func load(path string, o static.Options) (*content, error) {
	f, err := o.Open(path)
	if err != nil {
		return nil, err
	}
	c := &content{file: f, next: headerSize}
	if err := c.init(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	if c.file == nil {
		return c, f.Close()
	}
	return c, nil
}

func (c *content) init(f *os.File) (err error) {
	if c.info, err = f.Stat(); err != nil {
		return err
	}
	if !c.info.Mode().IsRegular() {
		return fmt.Errorf("%w: not a regular file", ErrFormat)
	}
	size := c.info.Size()
	foreign, err := isBerkeley(f)
	if foreign || err != nil {
		return errors.Join(err, c.convert(f, size))
	}
	if size > inMemory {
		c.reader, err = newReader(f, size)
		return err
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return err
	}
	c.file = nil
	c.reader, err = newReader(bytes.NewReader(b), size)
	return err
}

// isBerkeley looks at the first bytes of a file.
func isBerkeley(f *os.File) (bool, error) {
	var b [64]byte
	n, err := f.ReadAt(b[:], 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return berkeley.Is(b[:n]), err
}

// convert makes a database in memory of one of Berkeley DB.
func (c *content) convert(f *os.File, size int64) error {
	var b bytes.Buffer
	l := layout{w: &b}
	if err := l.write(make([]byte, headerSize)); err != nil {
		return err
	}
	err := berkeley.Read(f, size, func(key, value []byte) error {
		v := string(value)
		if v == setValue {
			v = ""
		}
		return l.add(string(key), v)
	})
	if err != nil {
		return err
	}
	header, err := l.finish()
	if err != nil {
		return err
	}
	whole := b.Bytes()
	copy(whole, header)
	c.file = nil
	c.reader, err = newReader(bytes.NewReader(whole), int64(len(whole)))
	return err
}

// setValue is the value that makemap of OpenSMTPD stores with the keys of a list.
const setValue = "<set>"

func (c *content) close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

// current returns the content, opened anew when the file was replaced or changed.
func (t *Table) current() *content {
	c := t.content.Load()
	st, err := os.Stat(t.path)
	if err != nil || same(st, c.info) {
		return c
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c = t.content.Load()
	if same(st, c.info) || t.failed != nil && same(st, t.failed) {
		return c
	}
	n, err := load(t.path, t.opts)
	if err != nil {
		t.failed = st
		return c
	}
	t.content.Store(n)
	return n
}

// same tells whether two descriptions are of one state of one file.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Lookup implements table.Table.
func (t *Table) Lookup(_ context.Context, s table.Service, key string) (string, error) {
	c := t.current()
	if static.Member(s) {
		return c.member(s, key, t.delim)
	}
	switch s {
	case table.Alias, table.Credentials, table.UserInfo, table.AddrName, table.MailAddrMap, table.RelayHost:
	default:
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
	}
	var r record
	var ok bool
	var err error
	if s == table.Credentials {
		r, ok, err = c.find(key)
	}
	if err == nil && !ok {
		r, ok, err = c.find(strings.ToLower(key))
	}
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", table.ErrNotFound
	case r.value == "":
		return "", fmt.Errorf("entry %q has no value", r.key)
	}
	return r.value, nil
}

// member looks for the first entry that fits.
func (c *content) member(s table.Service, key, delim string) (string, error) {
	if s == table.NetAddr || s == table.Regex {
		all, err := c.all(delim)
		if err != nil {
			return "", err
		}
		return all.Lookup(context.Background(), s, key)
	}
	key = strings.ToLower(key)
	best, found := record{}, false
	for _, probe := range probes(s, key, delim) {
		r, ok, err := c.find(probe)
		if err != nil {
			return "", err
		}
		if ok && (!found || r.pos < best.pos) {
			best, found = r, true
		}
	}
	if s == table.Domain || s == table.MailAddr {
		globs, err := c.patterns()
		if err != nil {
			return "", err
		}
		for _, r := range globs {
			if found && r.pos > best.pos {
				break
			}
			if table.Match(s, r.key, key, delim) {
				best, found = r, true
				break
			}
		}
	}
	if !found {
		return "", table.ErrNotFound
	}
	return best.key, nil
}

// probes lists the keys that, when stored, fit key.
func probes(s table.Service, key, delim string) []string {
	switch s {
	case table.Domain:
		if key == "" {
			return nil
		}
		if dot := strings.IndexByte(key, '.'); dot >= 0 {
			return []string{key, "*" + key[dot:], "*"}
		}
		return []string{key, "*"}
	case table.MailAddr:
		user, domain := table.SplitAddr(key)
		list := []string{"@", "@" + domain}
		for i, u := range [2]string{user, table.CutTag(user, delim)} {
			if u == "" || i == 1 && u == user {
				continue
			}
			if domain != "" {
				list = append(list, u+"@"+domain)
			}
			if !strings.Contains(u, "@") {
				list = append(list, u, u+"@")
			}
		}
		return list
	}
	return []string{key}
}

// patterns returns the entries that probes cannot find.
func (c *content) patterns() ([]record, error) {
	c.globsOnce.Do(func() {
		c.globsErr = c.walk(func(r record) error {
			user, _ := table.SplitAddr(r.key)
			if strings.Contains(r.key, "*") && !static.SuffixGlob(r.key) || strings.Contains(user, "@") {
				r.value = ""
				r.key = strings.Clone(r.key)
				c.globs = append(c.globs, r)
			}
			return nil
		})
	})
	return c.globs, c.globsErr
}

// all returns a table in memory of all keys.
func (c *content) all(delim string) (*static.Table, error) {
	c.allOnce.Do(func() {
		var entries []static.Entry
		c.allErr = c.walk(func(r record) error {
			entries = append(entries, static.Entry{Key: strings.Clone(r.key)})
			return nil
		})
		if c.allErr == nil {
			c.allKeys, c.allErr = static.New(static.List, entries, static.Options{Delim: delim})
		}
	})
	return c.allKeys, c.allErr
}

// Fetch implements table.Table. A new file is fetched from its beginning.
func (t *Table) Fetch(_ context.Context, s table.Service) (string, error) {
	if s != table.Source && s != table.RelayHost {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	c := t.current()
	if c.end == headerSize {
		return "", table.ErrNotFound
	}
	c.fetchMu.Lock()
	defer c.fetchMu.Unlock()
	r, err := c.record(c.next)
	if err != nil {
		return "", err
	}
	if c.next = r.next; c.next >= c.end {
		c.next = headerSize
	}
	return r.key, nil
}

// List implements table.Lister.
func (t *Table) List(ctx context.Context, s table.Service) ([]string, error) {
	if s != table.Source && s != table.RelayHost {
		return nil, fmt.Errorf("%w: list %s", table.ErrUnsupported, s)
	}
	c := t.current()
	if c.end == headerSize {
		return nil, table.ErrNotFound
	}
	all, err := c.all(t.opts.Delim)
	if err != nil {
		return nil, err
	}
	return all.List(ctx, s)
}

// Update implements table.Table.
func (t *Table) Update(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := load(t.path, t.opts)
	if err != nil {
		return err
	}
	t.content.Store(c)
	t.failed = nil
	return nil
}

// Close implements table.Table.
func (t *Table) Close() error { return t.content.Load().close() }
