package berkeley

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// load returns a file of testdata.
func load(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entries(t testing.TB, name string) map[string]string {
	t.Helper()
	b := load(t, name)
	if !Is(b[:64]) {
		t.Errorf("%s: Is says no", name)
	}
	m := map[string]string{}
	err := Read(bytes.NewReader(b), int64(len(b)), func(k, v []byte) error {
		if _, dup := m[string(k)]; dup {
			t.Errorf("%s: key %.30q twice", name, k)
		}
		m[string(k)] = string(v)
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// The files hold user0 to user399 of example.org with the value of their number.
// Every 40th and the one behind it have values of more than 7000 bytes, the latter a
// key of more than 5000 too; some were deleted again. They were written by the
// library of version 1.85 and by 5.3, the latter through its interface for 1.85.
func TestFilesOfTheLibrariesAreRead(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{
		"old-hash": 342, "new-hash": 342, "new-btree": 342,
		"old-btree": 343, // the library has failed to delete one, and still finds it
	} {
		got := entries(t, name)
		deleted := map[int]bool{}
		for i := range 60 {
			deleted[i*3+2] = true
		}
		n := 0
		for i := range 400 {
			key, value := fmt.Sprintf("user%d@example.org", i), fmt.Sprintf("value %d", i)
			if i%40 <= 1 {
				value += strings.Repeat("v", 7000+i)
			}
			if i%40 == 1 {
				key += strings.Repeat("k", 5000)
			} else if deleted[i] && got[key] == "" {
				continue
			}
			n++
			if got[key] != value {
				t.Errorf("%s: %.30q = %.30q, want %.30q", name, key, got[key], value)
			}
		}
		if n != len(got) || n != want {
			t.Errorf("%s: %d entries, %d of them right, want %d", name, len(got), n, want)
		}
	}
}

func TestOtherByteOrderAndChecksums(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"new-hash-swapped", "new-btree-swapped"} {
		got := entries(t, name)
		for i := range 200 {
			if key, want := fmt.Sprintf("user%d@example.org", i), fmt.Sprintf("value %d", i); got[key] != want {
				t.Errorf("%s: %q = %q, want %q", name, key, got[key], want)
			}
		}
		if len(got) != 200 {
			t.Errorf("%s: %d entries", name, len(got))
		}
	}
}

// Files that makemap of OpenSMTPD 6.8 wrote on Debian.
func TestFilesOfMakemap(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"hash", "btree"} {
		aliases := entries(t, "aliases-"+kind)
		for k, v := range map[string]string{"root": "alice", "postmaster": "root", "sales": "bob, carol+x"} {
			if aliases[k] != v {
				t.Errorf("%s: %q = %q, want %q", kind, k, aliases[k], v)
			}
		}
		if dom := entries(t, "dom-"+kind); len(dom) != 2 || dom["*.example.net"] != "<set>" {
			t.Errorf("%s: domains %q", kind, dom)
		}
	}
}

func TestErrorOfTheCallerEndsTheReading(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	for _, name := range []string{"old-hash", "old-btree", "new-hash", "new-btree"} {
		b := load(t, name)
		n := 0
		err := Read(bytes.NewReader(b), int64(len(b)), func(_, _ []byte) error { n++; return stop })
		if !errors.Is(err, stop) || n != 1 {
			t.Errorf("%s: %v after %d entries", name, err, n)
		}
	}
}

func TestCutFilesAreDamaged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"old-btree", "new-hash-swapped"} {
		b := load(t, name)
		for _, n := range []int{0, 16, 60, 600, 5000} {
			if err := Read(bytes.NewReader(b[:n]), int64(n), func(_, _ []byte) error { return nil }); n < 60 && !errors.Is(err, ErrFormat) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
	}
}

// FuzzRead states that no file makes Read panic, hand out more than the file can
// hold, or run for ever.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"aliases-hash", "aliases-btree", "dom-hash"} {
		f.Add(load(f, name))
	}
	f.Add(load(f, "old-hash")[:32<<10])
	f.Add(load(f, "old-btree")[:32<<10])
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		_ = Read(bytes.NewReader(b), int64(len(b)), func(k, v []byte) error { total += len(k) + len(v); return nil })
		if total > 2*len(b)+1<<20 {
			t.Errorf("%d bytes out of a file of %d", total, len(b))
		}
	})
}
