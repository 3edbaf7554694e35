package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

func put(t *testing.T, f FS, name, text string, sync bool) {
	t.Helper()
	file, err := f.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := file.SyncData(); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file, or "-" when it does not exist.
func get(t *testing.T, f FS, name string) string {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDONLY, 0)
	if os.IsNotExist(err) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); n != len(b) {
		t.Fatal(n, err)
	}
	return string(b)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBothTreesBehaveAlike(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fs   FS
	}{{"disk", OS(t.TempDir())}, {"memory", NewMem()}} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.fs
			must(t, MkdirAll(f, "a/b", 0o700))
			must(t, MkdirAll(f, "a/b", 0o700))
			put(t, f, "a/b/x", "text", true)
			must(t, f.Link("a/b/x", "a/y"))
			must(t, f.Rename("a/b/x", "a/x"))
			must(t, f.SyncDir("a"))
			if got := get(t, f, "a/x") + get(t, f, "a/y") + get(t, f, "a/b/x"); got != "texttext-" {
				t.Errorf("files read %q", got)
			}
			list, err := f.ReadDir("a")
			must(t, err)
			if len(list) != 3 {
				t.Errorf("ReadDir gave %v, want 3 entries", list)
			}
			if err := f.Remove("a"); err == nil {
				t.Error("a directory with entries was removed")
			}
			if err := f.Rename("a/b", "a/x"); err == nil {
				t.Error("a directory replaced a file")
			}
			if _, err := f.OpenFile("a/x", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); !errors.Is(err, fs.ErrExist) {
				t.Errorf("exclusive creation over a file: %v", err)
			}
			if err := f.Remove("nothing"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("removing nothing: %v", err)
			}
			for _, name := range []string{"../x", "/etc", ""} {
				if _, err := f.Stat(name); err == nil {
					t.Errorf("name %q was accepted", name)
				}
			}
			must(t, RemoveAll(f, "a"))
			must(t, RemoveAll(f, "a"))
			if there, err := Exists(f, "a"); there || err != nil {
				t.Errorf("after RemoveAll: %v, %v", there, err)
			}
		})
	}
}

func TestDescriptorsSeeAndMakeTheFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fs   FS
	}{{"disk", OS(t.TempDir())}, {"memory", NewMem()}} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := tt.fs.OpenFile("x", os.O_CREATE|os.O_RDWR, 0o600)
			must(t, err)
			real, err := file.OS()
			must(t, err)
			_, err = real.WriteString("spilled")
			must(t, err)
			must(t, real.Close())
			if got := get(t, tt.fs, "x"); got != "spilled" {
				t.Errorf("got %q", got)
			}
			file, err = tt.fs.OpenFile("x", os.O_RDONLY, 0)
			must(t, err)
			real, err = file.OS()
			must(t, err)
			b := make([]byte, 10)
			n, _ := real.Read(b)
			must(t, real.Close())
			if string(b[:n]) != "spilled" {
				t.Errorf("descriptor read %q", b[:n])
			}
		})
	}
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	t.Parallel()
	m := NewMem()
	must(t, MkdirAll(m, "tmp", 0o700))
	must(t, MkdirAll(m, "new", 0o700))
	put(t, m, "tmp/a", "synced and moved", true)
	must(t, m.Rename("tmp/a", "new/a"))
	must(t, m.SyncDir("new"))
	put(t, m, "tmp/b", "bytes only", true)
	put(t, m, "new/c", "entry only", false)
	must(t, m.SyncDir("new"))
	must(t, m.Rename("new/a", "tmp/gone"))

	none := m.Crash(KeepNone)
	for name, want := range map[string]string{
		"new/a": "synced and moved", "tmp/a": "-", "tmp/b": "-", "new/c": "", "tmp/gone": "-",
	} {
		if got := get(t, none, name); got != want {
			t.Errorf("keeping nothing, %s is %q, want %q", name, got, want)
		}
	}
	all := m.Crash(KeepAll)
	for name, want := range map[string]string{
		"new/a": "-", "tmp/b": "bytes only", "new/c": "entry only", "tmp/gone": "synced and moved",
	} {
		if got := get(t, all, name); got != want {
			t.Errorf("keeping all, %s is %q, want %q", name, got, want)
		}
	}
	for seed := range uint64(50) {
		some := m.Crash(KeepSome(seed))
		a, gone := get(t, some, "new/a"), get(t, some, "tmp/gone")
		if (a == "-") == (gone == "-") {
			t.Errorf("seed %d: a rename was torn: %q and %q", seed, a, gone)
		}
	}
}

func TestCrashTearsUnsyncedWrites(t *testing.T) {
	t.Parallel()
	m := NewMem()
	put(t, m, "f", string(bytes.Repeat([]byte("0"), 4096)), true)
	must(t, m.SyncDir("."))
	f, err := m.OpenFile("f", os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("1"), 2048), 1024)
	must(t, err)
	torn := 0
	for seed := range uint64(20) {
		got := get(t, m.Crash(KeepSome(seed)), "f")
		if len(got) != 4096 || got[:1024] != string(bytes.Repeat([]byte("0"), 1024)) {
			t.Fatalf("seed %d changed synced bytes", seed)
		}
		if n := bytes.Count([]byte(got), []byte("1")); n > 0 && n < 2048 {
			torn++
		}
	}
	if torn < 10 {
		t.Errorf("%d of 20 seeds tore the write", torn)
	}
}

func TestStopAndInjectedErrors(t *testing.T) {
	t.Parallel()
	m := NewMem()
	m.FailWith(func(op, _ string, _ int) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	f, err := m.OpenFile("f", os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	if n, err := f.Write([]byte("1234")); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("injected write gave %d, %v", n, err)
	}
	m.FailWith(nil)
	m.StopAfter(1)
	must(t, m.Mkdir("d", 0o700))
	if err := m.Mkdir("e", 0o700); !errors.Is(err, ErrStopped) {
		t.Errorf("after the stop: %v", err)
	}
	if there, _ := Exists(m.Crash(KeepAll), "e"); there {
		t.Error("an operation after the stop had an effect")
	}
}
