// Package system is the table of the users of the operating system, "getpwnam" in
// smtpd.conf. It answers UserInfo only.
//
// Answers are kept for a minute, since on some systems each costs a process;
// that a user does not exist is not kept, so that mail to a new user is accepted at
// once.
package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/table"
)

// Bounds of the cache.
const (
	cacheFor = time.Minute
	maxUsers = 4096
)

// Users looks users up; platform.Host does.
type Users interface {
	User(ctx context.Context, name string) (platform.User, error)
}

// Table is the table.
type Table struct {
	users Users
	now   func() time.Time

	mu    sync.Mutex
	cache map[string]answer // guarded by mu
}

type answer struct {
	value string
	until time.Time
}

var _ table.Table = (*Table)(nil)

// New returns the table of the users that u knows. now tells the time; nil means
// time.Now.
func New(u Users, now func() time.Time) *Table {
	if now == nil {
		now = time.Now
	}
	return &Table{users: u, now: now, cache: map[string]answer{}}
}

// Lookup implements table.Table. Names are asked for in lower case.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	if s != table.UserInfo {
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
	}
	if !validName(key) {
		return "", table.ErrNotFound
	}
	name := strings.ToLower(key)
	now := t.now()
	if v, ok := t.cached(name, now); ok {
		return v, nil
	}
	u, err := t.users.User(ctx, name)
	if errors.Is(err, platform.ErrNoUser) {
		return "", table.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("user %s: %w", name, err)
	}
	if u.Name != "" && !strings.EqualFold(u.Name, name) { // found by number
		return "", table.ErrNotFound
	}
	v := fmt.Sprintf("%d:%d:%s", u.UID, u.GID, u.Home)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cache) >= maxUsers {
		clear(t.cache)
	}
	t.cache[name] = answer{v, now.Add(cacheFor)}
	return v, nil
}

func (t *Table) cached(name string, now time.Time) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.cache[name]
	return a.value, ok && now.Before(a.until)
}

// validName refuses what no user is called and a lookup program might take for
// something else: an option, a path, a second field.
func validName(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '-' || !utf8.ValidString(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f || c == ':' || c == '/' {
			return false
		}
	}
	return true
}

// Fetch implements table.Table; there is nothing to fetch.
func (t *Table) Fetch(_ context.Context, s table.Service) (string, error) {
	return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
}

// Update implements table.Table: it forgets the answers kept.
func (t *Table) Update(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.cache)
	return nil
}

// Close implements table.Table.
func (t *Table) Close() error { return nil }
