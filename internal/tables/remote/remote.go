// Package remote is what the table programs that ask servers share: their
// configuration files, how rows become values, lists that are fetched in turn,
// and what happens while a server is away.
package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/opensmtpd/opensmtpd/table"
)

// Source is a table that knows what it offers.
type Source interface {
	table.Table

	// Services returns the services that the configuration provides for.
	Services() []table.Service
}

// Opener makes a source for a table of a name from its configuration file. It does
// not fail because a server is away.
type Opener func(name string, c *Conf) (Source, error)

// Main is a table program: its one argument is the path of its configuration. The
// configuration is read again when the daemon asks for an update.
func Main(open Opener) {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s configuration\nThis program answers a table of smtpd; see smtpd-tables(7).\n", filepath.Base(os.Args[0]))
		os.Exit(2)
	}
	t, err := Open(os.Args[0], os.Args[1], open)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	table.Main(t, t.Offers()...)
}

// Table is a source whose configuration can be read again.
type Table struct {
	name, path string
	open       Opener
	services   []table.Service

	mu     sync.RWMutex // held while a question is being answered, and to change source
	source Source
}

// Open opens the table of a program.
func Open(name, path string, open Opener) (*Table, error) {
	t := &Table{name: name, path: path, open: open}
	s, err := t.load()
	if err != nil {
		return nil, err
	}
	if t.source, t.services = s, s.Services(); len(t.services) == 0 {
		return nil, errors.Join(fmt.Errorf("%s: no service is configured", path), s.Close())
	}
	return t, nil
}

func (t *Table) load() (Source, error) {
	c, err := ReadConf(t.path)
	if err != nil {
		return nil, err
	}
	s, err := t.open(t.name, c)
	if err == nil {
		err = c.unused()
	}
	if err != nil {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		return nil, fmt.Errorf("%s: %w", t.path, err)
	}
	return s, nil
}

// Offers returns the services of the table.
func (t *Table) Offers() []table.Service { return t.services }

// Lookup implements table.Table.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.source.Lookup(ctx, s, key)
}

// Fetch implements table.Table.
func (t *Table) Fetch(ctx context.Context, s table.Service) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.source.Fetch(ctx, s)
}

// Update implements table.Table.
func (t *Table) Update(ctx context.Context) error {
	next, err := t.load()
	if err != nil {
		return err
	}
	if !slices.Equal(next.Services(), t.services) {
		return errors.Join(fmt.Errorf("%s: other services than before; reload smtpd", t.path), next.Close())
	}
	t.mu.Lock() // waits for the questions that are being answered
	old := t.source
	t.source = next
	t.mu.Unlock()
	if err := old.Close(); err != nil {
		return err
	}
	return next.Update(ctx)
}

// Close implements table.Table.
func (t *Table) Close() error { return t.source.Close() }

// Services returns all services, in the order of their names.
func Services() []table.Service {
	return []table.Service{table.AddrName, table.Alias, table.Auth, table.Credentials, table.Domain, table.MailAddr, table.MailAddrMap,
		table.NetAddr, table.Regex, table.RelayHost, table.Source, table.String, table.UserInfo}
}

// Columns returns how many columns a row for the service has: 1 but for
// credentials, user and password, and user information, uid, gid and home.
func Columns(s table.Service) int {
	switch s {
	case table.Credentials:
		return 2
	case table.UserInfo:
		return 3
	}
	return 1
}

// Value makes the value of a service from rows. Aliases and address lists have a
// row for each item; of the others the first row counts. A row of one column is
// the value itself. Without a row, or with an empty one, it is table.ErrNotFound.
func Value(s table.Service, rows [][]string) (string, error) {
	if s == table.Alias || s == table.MailAddrMap {
		var items []string
		for _, r := range rows {
			if len(r) > 0 && r[0] != "" {
				items = append(items, r[0])
			}
		}
		if len(items) == 0 {
			return "", table.ErrNotFound
		}
		return strings.Join(items, ", "), nil
	}
	if len(rows) == 0 {
		return "", table.ErrNotFound
	}
	r := rows[0]
	n := Columns(s)
	if len(r) == 0 || slices.Contains(r[:min(n, len(r))], "") {
		return "", table.ErrNotFound
	}
	if n > 1 && len(r) != 1 && len(r) < n {
		return "", fmt.Errorf("%s: a row of %d columns, want %d", s, len(r), n)
	}
	return strings.Join(r[:min(n, len(r))], ":"), nil
}

// Rotation gives the entries of a list in turn. The list is loaded again after
// Expire, or when Refresh entries have been given.
type Rotation struct {
	Load    func(ctx context.Context) ([]string, error)
	Expire  time.Duration
	Refresh int

	loading singleflight.Group

	mu     sync.Mutex // guards what follows
	list   []string
	loaded time.Time
	given  int
	next   int
}

// Next returns the next entry, or table.ErrNotFound when there is none. Questions that
// come while the list is being loaded have what comes of that, be it a failure.
func (r *Rotation) Next(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loaded.IsZero() || time.Since(r.loaded) >= r.Expire || r.given >= r.Refresh {
		r.mu.Unlock()
		err := r.load(ctx)
		r.mu.Lock()
		if err != nil {
			return "", err
		}
	}
	if len(r.list) == 0 {
		return "", table.ErrNotFound
	}
	v := r.list[r.next%len(r.list)]
	r.next++
	r.given++
	return v, nil
}

// load loads the list, or waits for it.
func (r *Rotation) load(ctx context.Context) error {
	done := r.loading.DoChan("", func() (any, error) {
		list, err := r.Load(ctx)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list, r.loaded, r.given = list, time.Now(), 0
		return nil, nil
	})
	select {
	case result := <-done:
		return result.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Guard keeps questions from waiting for a server that is known to be away: after
// a failed connection all fail at once for a while, which grows to maxAway.
type Guard struct {
	mu    sync.Mutex // guards what follows
	err   error
	until time.Time
	pause time.Duration
}

// Bounds of a Guard's pauses.
const (
	minAway = 100 * time.Millisecond
	maxAway = 2 * time.Second
)

// Away returns why the server is away, nil when a connection may be tried.
func (g *Guard) Away() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil && time.Now().Before(g.until) {
		return g.err
	}
	return nil
}

// Tried tells what came of a connection. A cancelled question says nothing.
func (g *Guard) Tried(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err = err; err == nil {
		g.pause = 0
		return
	}
	g.pause = min(max(2*g.pause, minAway), maxAway)
	g.until = time.Now().Add(g.pause)
}
