package userdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// TestMain lets the test binary be getent(1) and id(1) of a system whose directory
// server knows the users below.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "passwd" {
		os.Exit(getentMain(os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == "-G" {
		os.Exit(idMain(os.Args[2]))
	}
	os.Exit(m.Run())
}

func getentMain(name string) int {
	switch name {
	case "ldap", "nogroups":
		fmt.Printf("%s:x:5000:5001:From the directory:/home/%s:\n", name, name)
	case "LDAP":
		fmt.Println("ldap:x:5000:5001::/home/ldap:/bin/ksh")
	case "5000":
		fmt.Println("ldap:x:5000:5001::/home/ldap:/bin/ksh")
	case "down":
		return 1
	case "garbage":
		fmt.Println("garbage")
	case "two":
		fmt.Print("two:x:1:1::/:/bin/sh\ntwo:x:2:2::/:/bin/sh\n")
	case "hangs":
		select {}
	case "flood":
		for range 3 << 10 {
			fmt.Print(strings.Repeat("x", 1<<10))
		}
	default:
		return getentUnknown
	}
	return 0
}

func idMain(name string) int {
	switch name {
	case "ldap":
		fmt.Println("5001 6000 6001")
	case "alice":
		fmt.Println("1000 7000")
	default:
		return 1
	}
	return 0
}

const passwdText = `root:x:0:0:root:/root:/bin/bash
alice:x:1000:1000:Alice,,,:/home/alice:/bin/ksh
noshell:x:1001:100::/home/noshell:
badid:x:+5:100::/home/badid:/bin/sh
short:x:5
`

const groupText = `root:x:0:
users:x:100:alice,noshell
mail:x:8:alice
alicia:x:9:alicealice
bad:x:zz:alice
`

// newDB returns a DB over files of the given text; passwd "" means the usual one.
func newDB(t *testing.T, nsswitch, passwd string) *DB {
	t.Helper()
	dir := t.TempDir()
	if passwd == "" {
		passwd = passwdText
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group"),
		NSSwitch: filepath.Join(dir, "nsswitch.conf"), Getent: exe, ID: exe,
		Systemd: []string{filepath.Join(dir, "*.user")},
	}
	for path, text := range map[string]string{cfg.Passwd: passwd, cfg.Group: groupText, cfg.NSSwitch: nsswitch} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(cfg)
}

const (
	filesOnly = "passwd: files systemd # local\ngroup:\tfiles [SUCCESS=merge] systemd\nhosts: files dns\n"
	withSSS   = "passwd: files sss\ngroup: files sss\n"
)

func TestUserOfFiles(t *testing.T) {
	t.Parallel()
	db := newDB(t, filesOnly, "")
	for _, want := range []platform.User{
		{Name: "root", Groups: []int{0}, Home: "/root", Shell: "/bin/bash", Gecos: "root"},
		{Name: "alice", UID: 1000, GID: 1000, Groups: []int{1000, 100, 8}, Home: "/home/alice", Shell: "/bin/ksh", Gecos: "Alice,,,"},
		{Name: "noshell", UID: 1001, GID: 100, Groups: []int{100}, Home: "/home/noshell", Shell: "/bin/sh"},
	} {
		got, err := db.User(t.Context(), want.Name)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("User(%s) = %+v, %v; want %+v", want.Name, got, err, want)
		}
	}
}

func TestAbsenceIsProvenOrTemporary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, nsswitch, passwd, user string
		proven                       bool
	}{
		{"not in files, files only", filesOnly, "", "ldap", true},
		{"not in files, no sources named", "hosts: files\n", "", "ldap", true},
		{"the directory says no", withSSS, "", "nobody-else", true},
		{"a number is not a name", withSSS, "", "5000", true},
		{"the directory is down", withSSS, "", "down", false},
		{"the directory answers nonsense", withSSS, "", "garbage", false},
		{"the directory answers twice", withSSS, "", "two", false},
		{"the directory answers too much", withSSS, "", "flood", false},
		{"a user's groups cannot be had", withSSS, "", "nogroups", false},
		{"a line of passwd is broken", filesOnly, "", "short", false},
		{"an id of passwd is broken", filesOnly, "", "badid", false},
		{"a line of passwd is too long", filesOnly, strings.Repeat("x", maxLine+1), "ldap", false},
		{"compat without a plus line", "passwd: compat\ngroup: compat\n", "", "ldap", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u, err := newDB(t, tt.nsswitch, tt.passwd).User(t.Context(), tt.user)
			if err == nil {
				t.Fatalf("User(%s) = %+v, want an error", tt.user, u)
			}
			if got := errors.Is(err, platform.ErrNoUser); got != tt.proven {
				t.Errorf("User(%s): %v; proven absent %v, want %v", tt.user, err, got, tt.proven)
			}
		})
	}
}

func TestUserOfADirectoryIsFound(t *testing.T) {
	t.Parallel()
	want := platform.User{Name: "ldap", UID: 5000, GID: 5001, Groups: []int{5001, 6000, 6001},
		Gecos: "From the directory", Home: "/home/ldap", Shell: "/bin/sh"}
	for name, db := range map[string]*DB{
		"nsswitch":  newDB(t, withSSS, ""),
		"plus line": newDB(t, "passwd: compat\ngroup: files ldap\n", passwdText+"+::::::\n"),
	} {
		if got, err := db.User(t.Context(), "ldap"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: User = %+v, %v; want %+v", name, got, err, want)
		}
	}
	// The directory ignores case and tells the name as it is.
	if got, err := newDB(t, withSSS, "").User(t.Context(), "LDAP"); err != nil || got.Name != "ldap" {
		t.Errorf("User(LDAP) = %+v, %v; want ldap", got, err)
	}
}

func TestGroupsOfALocalUserMayComeFromADirectory(t *testing.T) {
	t.Parallel()
	got, err := newDB(t, "passwd: files\ngroup: files\ninitgroups: files sss\n", "").User(t.Context(), "alice")
	if err != nil || !reflect.DeepEqual(got.Groups, []int{1000, 7000}) {
		t.Errorf("groups %v, %v; want those of id", got.Groups, err)
	}
}

func TestSystemdIsAskedOnlyIfItHasUsers(t *testing.T) {
	t.Parallel()
	db := newDB(t, filesOnly, "")
	if other, err := db.otherSources("passwd", false); err != nil || other {
		t.Errorf("without user records: asked %v, %v", other, err)
	}
	record := strings.Replace(db.cfg.Systemd[0], "*", "eve", 1)
	if err := os.WriteFile(record, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if other, err := db.otherSources("passwd", false); err != nil || !other {
		t.Errorf("with a user record: asked %v, %v", other, err)
	}
}

func TestMissingPasswdIsTemporary(t *testing.T) {
	t.Parallel()
	db := newDB(t, filesOnly, "")
	db.cfg.Passwd += ".none"
	_, err := db.User(t.Context(), "alice")
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, platform.ErrNoUser) {
		t.Errorf("error %v, want that of the file", err)
	}
}

func TestLookupEndsWithItsContext(t *testing.T) {
	t.Parallel()
	db := newDB(t, withSSS, "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var done sync.WaitGroup
	// More lookups than helpers: some hang in one, others wait for their turn.
	for range maxHelpers + 2 {
		done.Go(func() {
			if _, err := db.User(ctx, "hangs"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that of the context", err)
			}
		})
	}
	done.Wait()
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	db := newDB(t, filesOnly, "")
	now := time.Unix(1_000_000, 0)
	db.now = func() time.Time { return now }
	find := func(name string) error {
		_, err := db.User(t.Context(), name)
		return err
	}
	if err := find("alice"); err != nil {
		t.Fatal(err)
	}
	if err := find("bob"); !errors.Is(err, platform.ErrNoUser) {
		t.Fatal(err)
	}
	text := "bob:x:1:1::/:/bin/sh\n"
	if err := os.WriteFile(db.cfg.Passwd, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := find("alice"); err != nil {
		t.Errorf("alice is forgotten at once: %v", err)
	}
	now = now.Add(negativeTTL)
	if err := find("bob"); err != nil {
		t.Errorf("bob is missing %v after he was added: %v", negativeTTL, err)
	}
	now = now.Add(positiveTTL)
	if err := find("alice"); !errors.Is(err, platform.ErrNoUser) {
		t.Errorf("alice is still there %v after she was removed: %v", positiveTTL, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	db := newDB(t, filesOnly, "")
	for i := range 3 * maxCached {
		db.store(fmt.Sprint("user", i), nil, time.Hour)
		if len(db.cache) > maxCached {
			t.Fatalf("%d answers kept, at most %d wanted", len(db.cache), maxCached)
		}
	}
}

// What parses is a user that can be written back as the same line.
func FuzzParsePasswd(f *testing.F) {
	for line := range strings.Lines(passwdText) {
		f.Add(strings.TrimSuffix(line, "\n"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		u, err := parsePasswd(line)
		if err != nil {
			return
		}
		again := fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", u.Name, u.UID, u.GID, u.Gecos, u.Home, u.Shell)
		v, err := parsePasswd(again)
		if err != nil || !reflect.DeepEqual(u, v) {
			t.Errorf("%q parses as %+v; %q as %+v, %v", line, u, again, v, err)
		}
	})
}

// No source holds white space or a bracket's content.
func FuzzSourcesOf(f *testing.F) {
	f.Add(filesOnly)
	f.Add("passwd: files [!UNAVAIL=return] ldap [a")
	f.Fuzz(func(t *testing.T, text string) {
		sources, ok := sourcesOf(text, "passwd")
		if !ok && sources != nil {
			t.Errorf("sources %q of a database not named", sources)
		}
		for _, s := range sources {
			if s == "" || strings.ContainsAny(s, " \t\n[#") {
				t.Errorf("source %q in %q", s, text)
			}
		}
	})
}

func BenchmarkUserCached(b *testing.B) {
	db := New(Config{})
	for b.Loop() {
		if _, err := db.User(b.Context(), "root"); err != nil {
			b.Fatal(err)
		}
	}
}
