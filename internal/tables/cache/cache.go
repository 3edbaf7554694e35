// Package cache keeps the answers of another table for a while: what it found, and
// that there was nothing to find. Errors are not kept, nor are passwords that were
// checked. Update forgets everything.
package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/table"
)

// maxAnswers bounds the answers kept; when there are more, all are forgotten. Long
// answers are not kept.
const (
	maxAnswers = 20000
	maxSize    = 16 << 10 // bytes of key and value
)

// Table is the table.
type Table struct {
	table.Table
	ttl time.Duration
	now func() time.Time

	mu   sync.Mutex
	kept map[question]answer // guarded by mu
}

// question is a key of a service.
type question struct {
	service table.Service
	key     string
}

type answer struct {
	value string
	found bool
	until time.Time
}

// New returns t with its answers kept for ttl. now tells the time; nil means
// time.Now.
func New(t table.Table, ttl time.Duration, now func() time.Time) *Table {
	if now == nil {
		now = time.Now
	}
	return &Table{Table: t, ttl: ttl, now: now, kept: map[question]answer{}}
}

// Lookup implements table.Table.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	if s == table.Auth {
		return t.Table.Lookup(ctx, s, key)
	}
	q := question{s, key}
	if s.FoldsCase() {
		q.key = strings.ToLower(key)
	}
	t.mu.Lock()
	a, ok := t.kept[q]
	t.mu.Unlock()
	if ok && t.now().Before(a.until) {
		if !a.found {
			return "", table.ErrNotFound
		}
		return a.value, nil
	}
	value, err := t.Table.Lookup(ctx, s, key)
	if err != nil && !errors.Is(err, table.ErrNotFound) || len(key)+len(value) > maxSize {
		return value, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) >= maxAnswers {
		clear(t.kept)
	}
	t.kept[q] = answer{value, err == nil, t.now().Add(t.ttl)}
	return value, err
}

// List implements table.Lister for a table that does. Its answers are not kept.
func (t *Table) List(ctx context.Context, s table.Service) ([]string, error) {
	l, ok := t.Table.(table.Lister)
	if !ok {
		return nil, table.ErrUnsupported
	}
	return l.List(ctx, s)
}

// Update implements table.Table.
func (t *Table) Update(ctx context.Context) error {
	err := t.Table.Update(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.kept)
	return err
}
