// Package file is a table read from a text file, a list or a map. The content is
// held in memory; Update reads it again and keeps the old content on any error, so
// that a question never meets half a file.
//
//	# an alias file is a map
//	root: alice
//	postmaster: root
package file

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

// Table is an open table file.
type Table struct {
	path    string
	opts    static.Options
	content atomic.Pointer[static.Table]
	next    atomic.Uint64 // for Fetch; goes on across updates
}

var _ table.Table = (*Table)(nil)

// Open reads the file at path. A mistake in it is an *Error.
func Open(path string, o static.Options) (*Table, error) {
	t := &Table{path: path, opts: o}
	if err := t.Update(context.Background()); err != nil {
		return nil, err
	}
	return t, nil
}

// Kind reads the file at path and returns what it holds, without keeping it. When
// regex is set its entries must be valid patterns as well.
func Kind(path string, regex bool) (static.Kind, error) {
	t, err := load(path, static.Options{Regex: regex})
	if err != nil {
		return static.Empty, err
	}
	return t.Kind(), nil
}

func load(path string, o static.Options) (*static.Table, error) {
	text, err := read(path, o)
	if err != nil {
		return nil, err
	}
	kind, entries, err := Parse(path, text)
	if err != nil {
		return nil, err
	}
	t, err := static.New(kind, entries, o)
	if pe, ok := errors.AsType[*static.PatternError](err); ok {
		return nil, &Error{Path: path, Line: pe.Line, Message: pe.Err.Error()}
	}
	return t, err
}

// Kind returns what the file held when it was last read.
func (t *Table) Kind() static.Kind { return t.content.Load().Kind() }

// Lookup implements table.Table.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	return t.content.Load().Lookup(ctx, s, key)
}

// Fetch implements table.Table.
func (t *Table) Fetch(_ context.Context, s table.Service) (string, error) {
	if s != table.Source && s != table.RelayHost {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return t.content.Load().At(t.next.Add(1) - 1)
}

// List implements table.Lister.
func (t *Table) List(ctx context.Context, s table.Service) ([]string, error) {
	return t.content.Load().List(ctx, s)
}

// Update implements table.Table.
func (t *Table) Update(context.Context) error {
	c, err := load(t.path, t.opts)
	if err != nil {
		return err
	}
	t.content.Store(c)
	return nil
}

// Close implements table.Table.
func (t *Table) Close() error { return nil }
