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

// everyFile names the files of testdata.
func everyFile() []string {
	return []string{"old-hash", "old-btree", "new-hash", "new-btree", "new-hash-swapped", "new-btree-swapped", "aliases-hash", "aliases-btree", "dom-hash", "dom-btree"}
}

// A file that has lost its end, as one that is still being written, is damaged, unless
// what it has lost holds no entry.
func TestCutFilesAreDamaged(t *testing.T) {
	t.Parallel()
	for _, name := range everyFile() {
		b := load(t, name)
		all := len(entries(t, name))
		for _, n := range []int{0, 3, 16, 20, 60, 100, 600, 4096, 5000, len(b) / 2, len(b) * 9 / 10, len(b) - 1} {
			n = min(n, len(b)-1)
			got := 0
			err := Read(bytes.NewReader(b[:n]), int64(n), func(_, _ []byte) error { got++; return nil })
			if err == nil && got < all || err != nil && !errors.Is(err, ErrFormat) {
				t.Errorf("%s cut to %d bytes of %d: %d entries of %d, %v", name, n, len(b), got, all, err)
			}
		}
	}
}

// FuzzRead states that Read ends for any file, without a panic, hands out no more than
// the file can hold, no key or value beyond its bound, the same each time, and nothing
// more when the end of the file is cut off.
func FuzzRead(f *testing.F) {
	for _, name := range everyFile() {
		b := load(f, name)
		f.Add(b[:min(len(b), 64<<10)], uint16(0))
		f.Add(b[:min(len(b), 64<<10)], uint16(len(b)/2))
	}
	read := func(b []byte) (n int, err error) {
		total := 0
		err = Read(bytes.NewReader(b), int64(len(b)), func(k, v []byte) error {
			if len(k) > maxKey || len(v) > maxValue {
				return fmt.Errorf("a key of %d bytes, a value of %d", len(k), len(v))
			}
			n++
			total += len(k) + len(v)
			return nil
		})
		if total > 2*len(b)+1<<20 {
			return n, fmt.Errorf("%d bytes out of a file of %d", total, len(b))
		}
		return n, err
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		all, err := read(b)
		again, err2 := read(b)
		if again != all || (err == nil) != (err2 == nil) {
			t.Errorf("%d entries and %v, then %d and %v", all, err, again, err2)
		}
		if err != nil {
			if strings.Contains(err.Error(), "bytes out of a file") || strings.HasPrefix(err.Error(), "a key of ") {
				t.Error(err)
			}
			return
		}
		if n, err := read(b[:len(b)-min(int(cut), len(b))]); err == nil && n > all {
			t.Errorf("%d entries, of which %d are left when the end is cut off", all, n)
		}
	})
}
