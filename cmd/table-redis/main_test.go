package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
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

// listen serves a local socket until the test ends.
func listen(t *testing.T, path string, serve func(c net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// A master that takes questions and answers none leaves time to ask the slave, for
// every question.
func TestSlaveIsAskedWhenTheMasterHangs(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "redis") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listen(t, dir+"/m", func(c net.Conn) { <-t.Context().Done() })
	listen(t, dir+"/s", func(c net.Conn) {
		in := bufio.NewScanner(c)
		for in.Scan() { // *2 $3 GET $1 a
			switch word := strings.ToLower(in.Text()); word {
			case "hello", "client":
				fmt.Fprint(c, "-ERR unknown command\r\n")
			case "get":
				fmt.Fprint(c, "$1\r\nx\r\n")
			}
		}
	})
	path := filepath.Join(dir, "conf")
	if err := os.WriteFile(path, []byte("master unix:"+dir+"/m\nslave unix:"+dir+"/s\ntimeout 1s\nquery_alias GET %s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("t", path, open)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if v, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || v != "x" {
			t.Errorf("question %d: %q, %v", i, v, err)
		}
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}
