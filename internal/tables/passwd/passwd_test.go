package passwd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

const sample = `# mail users
alice:$2b$10$hash:1000:1001:Alice, x:/home/alice:/bin/sh
bob@example.org:$6$salt$hash:2000:2000::/var/vmail/bob:
carol:$1$x$y
dave::1:1::/home/dave:
erin:*:1:2:staff:0:0:Erin:/home/erin:/bin/ksh
frank:x:7:8:Frank:/home/frank::userdb_quota=1G:x=y:z
+::::::
alice:other:0:0::/:
`

func TestLookup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	tab, err := Open(path, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		s         table.Service
		key, want string
		err       error
	}{
		{table.Credentials, "alice", "alice:$2b$10$hash", nil},
		{table.Credentials, "ALICE", "alice:$2b$10$hash", nil},
		{table.Credentials, "carol", "carol:$1$x$y", nil},
		{table.Credentials, "dave", "", table.ErrNotFound},
		{table.Credentials, "zoe", "", table.ErrNotFound},
		{table.UserInfo, "alice", "1000:1001:/home/alice", nil},
		{table.UserInfo, "bob@example.org", "2000:2000:/var/vmail/bob", nil},
		{table.UserInfo, "erin", "1:2:/home/erin", nil},
		{table.UserInfo, "frank", "7:8:/home/frank", nil},
		{table.UserInfo, "carol", "", table.ErrNotFound},
		{table.String, "Alice", "alice", nil},
		{table.MailAddr, "bob+x@example.org", "bob@example.org", nil},
		{table.Alias, "alice", "", table.ErrUnsupported},
	} {
		if got, err := tab.Lookup(t.Context(), tt.s, tt.key); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("Lookup(%s, %q) = %q, %v, want %q, %v", tt.s, tt.key, got, err, tt.want, tt.err)
		}
	}
	if err := os.WriteFile(path, []byte("alice:x:y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tab.Update(t.Context()); err == nil || !strings.HasPrefix(err.Error(), path+":1: ") {
		t.Errorf("Update: %v, want an error at line 1", err)
	}
	if _, err := tab.Lookup(t.Context(), table.UserInfo, "alice"); err != nil {
		t.Errorf("a failed update lost the users: %v", err)
	}
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"alice", "a:b:c", ":x", "a:x:one:1::/:", "a:x:1:4294967295::/:", "a:x:1:1::home:", strings.Repeat("a", maxLine) + ":x"} {
		if _, err := parse("\n" + line + "\n"); err == nil || !strings.HasPrefix(err.Error(), "2: ") {
			t.Errorf("parse(%.30q): %v, want an error for line 2", line, err)
		}
	}
}

// FuzzPasswd states that every user has a name, and userinfo of three fields or none.
func FuzzPasswd(f *testing.F) {
	f.Add(sample)
	f.Fuzz(func(t *testing.T, text string) {
		users, err := parse(text)
		if err != nil {
			return
		}
		for _, u := range users {
			if u.name == "" || u.info != "" && strings.Count(u.info, ":") != 2 {
				t.Errorf("bad user %+v", u)
			}
		}
	})
}
