package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func TestRepliesBecomeValues(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s     table.Service
		reply any
		want  string // empty: not found
	}{
		{table.Domain, int64(1), "1"}, {table.Domain, int64(0), ""}, {table.Domain, "example.org", "example.org"},
		{table.Alias, []any{"a", "b"}, "a, b"}, {table.Alias, "a", "a"}, {table.Alias, []any{}, ""},
		{table.Credentials, []any{"u", "p"}, "u:p"}, {table.Credentials, []any{nil, nil}, ""}, {table.Credentials, "p", "p"},
		{table.UserInfo, []any{"1", int64(2), "/h"}, "1:2:/h"}, {table.UserInfo, []any{"1", nil, "/h"}, ""},
	} {
		rows, err := rowsOf(tt.s, tt.reply)
		if err != nil {
			t.Errorf("%s %v: %v", tt.s, tt.reply, err)
			continue
		}
		got, err := remote.Value(tt.s, rows)
		if got != tt.want || (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, table.ErrNotFound) {
			t.Errorf("%s %v = %q, %v, want %q", tt.s, tt.reply, got, err, tt.want)
		}
	}
	if _, err := rowsOf(table.Alias, map[any]any{}); err == nil {
		t.Error("a reply of another kind: no error")
	}
}

func TestServerThatIsAwayIsATemporaryFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "conf")
	if err := os.WriteFile(path, []byte("master unix:"+dir+"/none\nquery_alias GET alias:%s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("t", path, open)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Lookup(t.Context(), table.Alias, "a"); err == nil || errors.Is(err, table.ErrNotFound) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Lookup: %v, want a temporary error", err)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}
