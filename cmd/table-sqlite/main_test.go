//go:build !(netbsd && arm64)

package main

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

const schema = `
CREATE TABLE aliases (name TEXT, target TEXT);
CREATE TABLE users (login TEXT, password TEXT, uid INTEGER, gid INTEGER, home TEXT);
CREATE TABLE domains (name TEXT);
CREATE TABLE sources (address TEXT);
INSERT INTO aliases VALUES ('root', 'alice'), ('root', 'bob'), ('''; DROP TABLE aliases; --', 'quoted');
INSERT INTO users VALUES ('alice', '$2b$05$x', 1000, 100, '/home/alice'), ('nobody', NULL, NULL, NULL, NULL);
INSERT INTO domains VALUES ('example.org'), ('example.net');
INSERT INTO sources VALUES ('192.0.2.1'), ('192.0.2.2');
`

const queries = `
query_alias       SELECT target FROM aliases WHERE name = ? ORDER BY target;
query_credentials SELECT login, password FROM users WHERE login = ?
query_userinfo    SELECT uid, gid, home FROM users WHERE login = ? OR 'user:' || login = ?
query_domain      SELECT name FROM domains WHERE name = ? AND name <> '?'
query_mailaddr    SELECT broken FROM nowhere
fetch_source      SELECT address FROM sources ORDER BY address
`

func openTest(t *testing.T) (*remote.Table, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "mail.sqlite")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(schema); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "sqlite.conf")
	if err := os.WriteFile(conf, []byte("dbpath "+path+"\n"+queries), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := remote.Open("t", conf, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab, path
}

func TestQueries(t *testing.T) {
	t.Parallel()
	tab, _ := openTest(t)
	for _, tt := range []struct {
		s         table.Service
		key, want string // empty: not found
	}{
		{table.Alias, "root", "alice, bob"},
		{table.Alias, "nosuch", ""},
		{table.Alias, "'; DROP TABLE aliases; --", "quoted"},
		{table.Credentials, "alice", "alice:$2b$05$x"},
		{table.Credentials, "nobody", ""},
		{table.UserInfo, "alice", "1000:100:/home/alice"},
		{table.UserInfo, "user:alice", "1000:100:/home/alice"},
		{table.UserInfo, "nobody", ""},
		{table.Domain, "example.net", "example.net"},
		{table.Domain, "example.com", ""},
	} {
		got, err := tab.Lookup(t.Context(), tt.s, tt.key)
		if got != tt.want || (tt.want == "") != errors.Is(err, table.ErrNotFound) || tt.want != "" && err != nil {
			t.Errorf("Lookup(%s, %q) = %q, %v, want %q", tt.s, tt.key, got, err, tt.want)
		}
	}
	for _, want := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"} {
		if got, err := tab.Fetch(t.Context(), table.Source); err != nil || got != want {
			t.Errorf("Fetch = %q, %v, want %q", got, err, want)
		}
	}
	if _, err := tab.Lookup(t.Context(), table.MailAddr, "x"); err == nil || errors.Is(err, table.ErrNotFound) {
		t.Errorf("a broken statement: %v, want a temporary error", err)
	}
	if _, err := tab.Lookup(t.Context(), table.RelayHost, "x"); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("a service without a statement: %v, want ErrUnsupported", err)
	}
}

func TestDatabaseThatIsAwayIsATemporaryFailure(t *testing.T) {
	t.Parallel()
	tab, path := openTest(t)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Lookup(t.Context(), table.Alias, "root"); err == nil || errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup: %v, want a temporary error", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := tab.Lookup(t.Context(), table.Alias, "root"); err == nil {
			break
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"query_alias x\n": "dbpath is missing", "dbpath /x\n": "no service", "dbpath /x\nquery_alias x\nquery_foo y\n": "unknown key",
		"dbpath /x\nquery_alias x\nconnections 0\n": "line 3",
	} {
		conf := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := remote.Open("t", conf, open); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
