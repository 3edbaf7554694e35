package maildir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	gomaildir "github.com/emersion/go-maildir"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// deliver fails the test unless d is delivered.
func deliver(t *testing.T, s *Store, to Target, d *mda.Delivery) {
	t.Helper()
	if r := s.Deliver(t.Context(), to, d); r.Outcome != mda.Delivered {
		t.Fatalf("deliver: got %+v, want Delivered", r)
	}
}

// contents returns the messages waiting in a folder, by go-maildir.
func contents(t *testing.T, dir string) []string {
	t.Helper()
	unseen, err := gomaildir.Dir(dir).Unseen()
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, 0, len(unseen))
	for _, m := range unseen {
		b, err := os.ReadFile(m.Filename())
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	slices.Sort(texts)
	return texts
}

// list returns the names in a directory.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func open(t *testing.T) (*Store, string) {
	t.Helper()
	s := New("mx.example.org")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, filepath.Join(t.TempDir(), "home", "Maildir")
}

func TestMessageArrivesInNewMaildir(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	deliver(t, s, Target{Dir: dir}, message("Subject: hi\n\ntext\n"))
	for _, p := range []string{filepath.Dir(dir), dir, dir + "/tmp", dir + "/new", dir + "/cur"} {
		fi, err := os.Stat(p)
		if err != nil || fi.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: got %v, %v, want drwx------", p, fi.Mode(), err)
		}
	}
	names := list(t, dir+"/new")
	if len(names) != 1 || !strings.HasSuffix(names[0], ".mx.example.org") {
		t.Fatalf("new: got %q, want one file named after the host", names)
	}
	if fi, err := os.Stat(dir + "/new/" + names[0]); err != nil || fi.Mode() != 0o600 {
		t.Errorf("message: got %v, %v, want -rw-------", fi.Mode(), err)
	}
	want := "Return-Path: <bob@example.com>\nDelivered-To: alice@example.org\nSubject: hi\n\ntext\n"
	if got := contents(t, dir); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if left := list(t, dir+"/tmp"); len(left) != 0 {
		t.Errorf("tmp: got %q, want nothing", left)
	}
}

func TestExistingDirectoryKeepsItsMode(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	deliver(t, s, Target{Dir: dir}, message("\n"))
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("got %v, %v, want mode 0750", fi.Mode(), err)
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body, ext, existing string
		junk                      bool
		want                      string
	}{
		{"subaddress with folder", "\n", "lists", ".lists", false, ".lists"},
		{"subaddress without folder", "\n", "lists", "", false, ""},
		{"subaddress is made harmless", "\n", "a/b*", ".a:b:", false, ".a:b:"},
		{"subaddress cannot climb", "\n", ".", "", false, ""},
		{"spam", "X-Spam: Yes\n\n", "", "", true, ".Junk"},
		{"spam flag in any case", "a: b\nx-spam-flag: YES\n\n", "", "", true, ".Junk"},
		{"spam before subaddress", "X-Spam: Yes\n\n", "lists", ".lists", true, ".Junk"},
		{"not spam", "X-Spam: No\n\n", "", "", true, ""},
		{"spam line must match whole", "X-Spam: Yes, maybe\n\n", "", "", true, ""},
		{"spam in the text", "a: b\n\nX-Spam: Yes\n", "", "", true, ""},
		{"spam not asked for", "X-Spam: Yes\n\n", "", "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t)
			if tt.existing != "" {
				if err := os.MkdirAll(filepath.Join(dir, tt.existing), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			d := message(tt.body)
			d.Subaddress = tt.ext
			deliver(t, s, Target{Dir: dir, Junk: tt.junk}, d)
			if got := contents(t, filepath.Join(dir, tt.want)); len(got) != 1 {
				t.Errorf("%q: got %q, want one message", tt.want, got)
			}
			_, err := os.Stat(filepath.Join(dir, ".Junk/cur"))
			if (err == nil) != tt.junk {
				t.Errorf("Junk folder: got %v, want it: %v", err, tt.junk)
			}
		})
	}
}

func TestRenameFollowsSyncAndPrecedesDirectorySync(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	deliver(t, s, Target{Dir: dir}, message("\n")) // makes the directories
	var steps []string
	s.files = files{
		syncFile: func(f *os.File) error {
			b, err := os.ReadFile(f.Name())
			steps = append(steps, fmt.Sprintf("sync %s with %d bytes", filepath.Base(filepath.Dir(f.Name())), len(b)))
			return err
		},
		rename: func(from, to string) error {
			steps = append(steps, "rename to "+filepath.Base(filepath.Dir(to)))
			return os.Rename(from, to)
		},
		syncDir: func(f *os.File) error {
			steps = append(steps, fmt.Sprintf("sync directory %s with %d files", filepath.Base(f.Name()), len(list(t, f.Name()))))
			return nil
		},
	}
	d := message("Subject: x\n\n")
	deliver(t, s, Target{Dir: dir}, d)
	want := []string{fmt.Sprintf("sync tmp with %d bytes", d.Len()), "rename to new", "sync directory new with 2 files"}
	if !slices.Equal(steps, want) {
		t.Errorf("got %q, want %q", steps, want)
	}
}

func TestFailureIsTemporaryAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		set  func(*files)
		code smtp.EnhancedCode
	}{
		{"quota", func(f *files) { f.syncFile = func(*os.File) error { return syscall.EDQUOT } }, smtp.EnhancedCode{4, 2, 2}},
		{"full disk", func(f *files) { f.syncFile = func(*os.File) error { return syscall.ENOSPC } }, smtp.EnhancedCode{4, 3, 1}},
		{"rename", func(f *files) { f.rename = func(_, _ string) error { return syscall.EACCES } }, smtp.EnhancedCode{4, 3, 0}},
		{"directory", func(f *files) { f.syncDir = func(*os.File) error { return syscall.EIO } }, smtp.EnhancedCode{4, 3, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t)
			deliver(t, s, Target{Dir: dir}, message("\n"))
			contents(t, dir)
			tt.set(&s.files)
			r := s.Deliver(t.Context(), Target{Dir: dir}, message("\n"))
			if r.Outcome != mda.TempFail || r.Enhanced != tt.code || strings.Contains(r.Text, dir) {
				t.Errorf("got %+v, want a temporary failure %v that names no path", r, tt.code)
			}
			if left := append(list(t, dir+"/tmp"), list(t, dir+"/new")...); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestShortBodyIsNotDelivered(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	d := message("Subject: x\n")
	d.Size++
	if r := s.Deliver(t.Context(), Target{Dir: dir}, d); r.Outcome != mda.TempFail {
		t.Errorf("got %+v, want TempFail", r)
	}
	if got := contents(t, dir); len(got) != 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestMaildirDeletedMeanwhileIsMadeAnew(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	deliver(t, s, Target{Dir: dir}, message("\n"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	deliver(t, s, Target{Dir: dir}, message("\n"))
	if got := contents(t, dir); len(got) != 1 {
		t.Errorf("got %q, want one message", got)
	}
}

func TestReplacedDirectoryIsTheOneSynced(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	deliver(t, s, Target{Dir: dir}, message("\n"))
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := gomaildir.Dir(dir).Init(); err != nil {
		t.Fatal(err)
	}
	var synced bool
	s.files.syncDir = func(f *os.File) error {
		got, err := f.Stat()
		want, err2 := os.Stat(dir + "/new")
		synced = os.SameFile(got, want)
		return errors.Join(err, err2)
	}
	deliver(t, s, Target{Dir: dir}, message("\n"))
	if !synced {
		t.Error("a directory was synced that is not in use any more")
	}
}

func TestRelativePathIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if r := s.Deliver(t.Context(), Target{Dir: "Maildir"}, message("\n")); r.Outcome != mda.TempFail {
		t.Errorf("got %+v, want TempFail", r)
	}
}

func TestConcurrentDeliveriesAllArrive(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if r := s.Deliver(t.Context(), Target{Dir: dir}, message(fmt.Sprintln(i))); r.Outcome != mda.Delivered {
				t.Errorf("got %+v, want Delivered", r)
			}
		})
	}
	wg.Wait()
	if got := contents(t, dir); len(got) != n || len(slices.Compact(got)) != n {
		t.Errorf("got %d messages, want %d different ones", len(got), n)
	}
}

func TestThoseWaitingShareOneSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g syncer
		var syncs atomic.Int64
		release := make(chan struct{})
		fail := errors.New("second")
		var failed atomic.Int64
		run := func() {
			err := g.sync(func() error {
				if syncs.Add(1) == 1 {
					<-release
					return nil
				}
				return fail
			})
			if errors.Is(err, fail) {
				failed.Add(1)
			}
		}
		go run()
		synctest.Wait()
		for range 9 {
			go run()
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if syncs.Load() != 2 || failed.Load() != 9 {
			t.Errorf("got %d syncs and the second's error %d times, want 2 and 9", syncs.Load(), failed.Load())
		}
	})
}

func TestFoldersKeptOpenAreBounded(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	for i := range maxFolders + 8 {
		deliver(t, s, Target{Dir: fmt.Sprint(dir, i)}, message("\n"))
	}
	if n := len(s.folders); n > maxFolders {
		t.Errorf("got %d folders open, want at most %d", n, maxFolders)
	}
}
