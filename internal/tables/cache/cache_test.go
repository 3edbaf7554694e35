package cache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/tabletest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, list bool, rows []tabletest.Row) table.Table {
		kind := static.Map
		if list {
			kind = static.List
		}
		var entries []static.Entry
		for _, r := range rows {
			entries = append(entries, static.Entry{Key: r.Key, Value: r.Value})
		}
		under, err := static.New(kind, entries, static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return New(under, time.Minute, nil)
	})
}

func TestAnswersAreKeptUntilTheirTimeIsUp(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var asked []string
	fail := false
	tab := New(table.Funcs{OnLookup: func(_ context.Context, s table.Service, key string) (string, error) {
		asked = append(asked, key)
		switch {
		case fail:
			return "", errors.New("down")
		case key == "none":
			return "", table.ErrNotFound
		}
		return "v", nil
	}}, time.Minute, func() time.Time { return now })
	look := func(s table.Service, key string, want error) {
		t.Helper()
		if _, err := tab.Lookup(t.Context(), s, key); !errors.Is(err, want) {
			t.Errorf("Lookup(%s): %v, want %v", key, err, want)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(asked, want) {
			t.Errorf("the table was asked %q, want %q", asked, want)
		}
		asked = nil
	}
	look(table.Alias, "a", nil)
	look(table.Alias, "A", nil)
	look(table.Alias, "none", table.ErrNotFound)
	look(table.Alias, "none", table.ErrNotFound)
	look(table.Domain, "a", nil)
	expect("a", "none", "a")
	look(table.Auth, "u:p", nil)
	look(table.Auth, "u:p", nil)
	expect("u:p", "u:p")
	look(table.Credentials, "U", nil)
	look(table.Credentials, "u", nil)
	expect("U", "u")
	now = now.Add(time.Minute)
	look(table.Alias, "a", nil)
	expect("a")
	fail = true
	now = now.Add(time.Minute)
	for range 2 {
		if _, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("Lookup while the table is down: %v", err)
		}
	}
	expect("a", "a")
	fail = false
	look(table.Alias, "a", nil)
	if err := tab.Update(t.Context()); err != nil {
		t.Error(err)
	}
	look(table.Alias, "a", nil)
	expect("a", "a")
}
