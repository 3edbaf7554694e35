// Package static is a table held in memory: the inline tables of smtpd.conf, and
// what table files are read into. Entries that are plain text are found by hash,
// whatever their number; only true patterns are tried one by one. Where several
// entries fit, the first in the order written wins.
package static

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/table"
)

// Kind tells a list of keys from a map of keys to values.
type Kind uint8

// The kinds of content.
const (
	Empty Kind = iota // no entry: fits wherever a list or a map is asked for
	List
	Map
)

// String returns the word used in messages.
func (k Kind) String() string {
	switch k {
	case List:
		return "list"
	case Map:
		return "map"
	}
	return "empty"
}

// Entry is one row. Value is empty in a list. Line is its line in a file, from 1,
// or 0.
type Entry struct {
	Key, Value string
	Line       int
}

// PatternError is a key that is no valid regular expression.
type PatternError struct {
	Line int // of the entry
	Err  error
}

// Error returns the message, after the line number when there is one.
func (e *PatternError) Error() string {
	if e.Line == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("line %d: %v", e.Line, e.Err)
}

// Unwrap returns the cause.
func (e *PatternError) Unwrap() error { return e.Err }

// Options say how keys are compared.
type Options struct {
	Delim string // parts a user name from its tag; empty means "+"

	// Regex says that the table is asked for Regex: its keys are compiled by New,
	// and one that is no valid pattern is an error then. Without it that happens at
	// the first question.
	Regex bool

	// OpenFile opens the file that a table is read from, each time it is; nil stands
	// for os.Open. A process without the right to open it has another one do it.
	OpenFile func(path string) (*os.File, error)
}

// Open opens a table's file.
func (o *Options) Open(path string) (*os.File, error) {
	if o.OpenFile == nil {
		return os.Open(path)
	}
	return o.OpenFile(path)
}

// Table is the table. Its content never changes.
type Table struct {
	kind    Kind
	entries []Entry
	delim   string
	exact   map[string]int32 // keys as written → index
	folded  map[string]int32 // keys in lower case → index of the last of them; exact itself when no key has capitals
	lower   bool             // no key has capitals
	next    atomic.Uint64    // for Fetch

	domain, mail, net, regex lazy
}

// lazy is an index over the entries, made when first asked for.
type lazy struct {
	once sync.Once
	idx  index
	err  error
}

var _ table.Table = (*Table)(nil)

// New returns a table with the entries, in their order. A later entry of the same
// key replaces the value of an earlier one, in the earlier one's place.
func New(kind Kind, entries []Entry, o Options) (*Table, error) {
	if o.Delim == "" {
		o.Delim = "+"
	}
	t := &Table{kind: kind, delim: o.Delim, lower: true, exact: make(map[string]int32, len(entries))}
	if len(entries) == 0 {
		t.kind = Empty
	}
	t.entries = make([]Entry, 0, len(entries))
	for _, e := range entries {
		i, dup := t.exact[e.Key]
		if dup {
			t.entries[i].Value = e.Value
			continue
		}
		t.exact[e.Key] = int32(len(t.entries))
		t.entries = append(t.entries, e)
		t.lower = t.lower && strings.ToLower(e.Key) == e.Key
	}
	t.folded = t.exact
	if !t.lower {
		t.folded = make(map[string]int32, len(t.entries))
		for i, e := range t.entries {
			t.folded[strings.ToLower(e.Key)] = int32(i)
		}
	}
	if o.Regex {
		if _, err := t.index(table.Regex); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func has(m map[string]int32, k string) bool { _, ok := m[k]; return ok }

// Kind returns whether the table is a list, a map or empty.
func (t *Table) Kind() Kind { return t.kind }

// Len returns the number of entries.
func (t *Table) Len() int { return len(t.entries) }

// Entries calls f for each entry in order until it returns false.
func (t *Table) Entries(f func(Entry) bool) {
	for _, e := range t.entries {
		if !f(e) {
			return
		}
	}
}

// Lookup implements table.Table. Credentials are looked up by the key as it is
// first, then without regard to case.
func (t *Table) Lookup(_ context.Context, s table.Service, key string) (string, error) {
	if err := t.offers(s); err != nil {
		return "", err
	}
	i, err := t.find(s, key)
	if err != nil {
		return "", err
	}
	if i < 0 {
		return "", table.ErrNotFound
	}
	if Member(s) {
		return t.entries[i].Key, nil
	}
	if t.entries[i].Value == "" {
		return "", fmt.Errorf("entry %q has no value", t.entries[i].Key)
	}
	return t.entries[i].Value, nil
}

// Member tells whether a service only asks whether a key is there.
func Member(s table.Service) bool {
	switch s {
	case table.Domain, table.NetAddr, table.MailAddr, table.String, table.Regex, table.Source:
		return true
	}
	return false
}

// offers returns an error unless the table can answer questions of the service.
func (t *Table) offers(s table.Service) error {
	switch s {
	case table.Alias, table.Credentials, table.UserInfo, table.AddrName, table.MailAddrMap, table.RelayHost:
		if t.kind == List {
			return fmt.Errorf("%w: %s of a list", table.ErrUnsupported, s)
		}
		return nil
	}
	if Member(s) {
		return nil
	}
	return fmt.Errorf("%w: %s", table.ErrUnsupported, s)
}

// find returns the index of the first entry that fits, or -1.
func (t *Table) find(s table.Service, key string) (int32, error) {
	if s == table.Credentials {
		if i, ok := t.exact[key]; ok {
			return i, nil
		}
	}
	if !s.MatchesByPattern() {
		if i, ok := t.folded[strings.ToLower(key)]; ok {
			return i, nil
		}
		return -1, nil
	}
	idx, err := t.index(s)
	if err != nil {
		return -1, err
	}
	return idx.find(key), nil
}

// Fetch implements table.Table.
func (t *Table) Fetch(_ context.Context, s table.Service) (string, error) {
	if s != table.Source && s != table.RelayHost {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return t.At(t.next.Add(1) - 1)
}

// At returns the key of entry n, counted round and round, or ErrNotFound.
func (t *Table) At(n uint64) (string, error) {
	if len(t.entries) == 0 {
		return "", table.ErrNotFound
	}
	return t.entries[n%uint64(len(t.entries))].Key, nil
}

// List implements table.Lister.
func (t *Table) List(_ context.Context, s table.Service) ([]string, error) {
	if s != table.Source && s != table.RelayHost {
		return nil, fmt.Errorf("%w: list %s", table.ErrUnsupported, s)
	}
	if len(t.entries) == 0 {
		return nil, table.ErrNotFound
	}
	keys := make([]string, len(t.entries))
	for i, e := range t.entries {
		keys[i] = e.Key
	}
	return keys, nil
}

// Update implements table.Table; there is nothing to reload.
func (t *Table) Update(context.Context) error { return nil }

// Close implements table.Table.
func (t *Table) Close() error { return nil }
