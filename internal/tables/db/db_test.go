package db

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/tabletest"
)

func entries(kv ...string) []static.Entry {
	var list []static.Entry
	for i := 0; i < len(kv); i += 2 {
		list = append(list, static.Entry{Key: kv[i], Value: kv[i+1]})
	}
	return list
}

func write(t testing.TB, path string, list []static.Entry) string {
	t.Helper()
	if err := Write(path, list, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, _ bool, rows []tabletest.Row) table.Table {
		var list []static.Entry
		for _, r := range rows {
			list = append(list, static.Entry{Key: r.Key, Value: r.Value})
		}
		tab, err := Open(write(t, filepath.Join(t.TempDir(), "db"), list), static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	})
}

// The format is that of cdb: the file of one record is known byte by byte.
func TestWrittenFileIsAConstantDatabase(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(t.TempDir(), "db"), entries("ONE", "Hello"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const h = 0x0b875b81 // of "one"
	if got := hash("one"); got != h {
		t.Errorf("hash(one) = %#x, want %#x", got, h)
	}
	wantRecord := "\x03\x00\x00\x00\x05\x00\x00\x00oneHello"
	slots := "\x81\x5b\x87\x0b\x00\x08\x00\x00" + strings.Repeat("\x00", 8)
	if swapped := slots[8:] + slots[:8]; h>>8%2 == 1 {
		slots = swapped
	}
	if got := string(b[headerSize:]); got != wantRecord+slots {
		t.Errorf("behind the header: %q, want %q", got, wantRecord+slots)
	}
	if got := b[8*0x81 : 8*0x81+8]; !bytes.Equal(got, []byte{0x10, 8, 0, 0, 2, 0, 0, 0}) {
		t.Errorf("header of the table: % x", got)
	}
}

func TestDumpReturnsEntriesInOrder(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(t.TempDir(), "db"), entries("b", "1", "A", "Two", "b", "3", "", "4"))
	var got []string
	err := Dump(path, func(k, v string) error { got = append(got, k+"="+v); return nil })
	if want := []string{"b=3", "a=Two", "=4"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Dump: %q, %v, want %q", got, err, want)
	}
}

func TestReplacedFileIsOpenedAnew(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(t.TempDir(), "db"), entries("a", "1"))
	tab, err := Open(path, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(value string) {
		t.Helper()
		if got, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || got != value {
			t.Errorf("Lookup = %q, %v, want %q", got, err, value)
		}
	}
	want("1")
	write(t, path, entries("a", "2"))
	want("2")
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("2")
	if err := tab.Update(t.Context()); !errors.Is(err, ErrFormat) {
		t.Errorf("Update: %v, want ErrFormat", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("2")
	write(t, path, entries("a", "3"))
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	want("3")
}

func TestModeOfTheFileIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	for _, tt := range []struct{ ask, want os.FileMode }{{0o600, 0o600}, {0o644, 0o600}} {
		if err := Write(path, nil, WriteOptions{Mode: tt.ask}); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != tt.want {
			t.Errorf("mode %v, %v, want %v", st.Mode().Perm(), err, tt.want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestPatternsKeepTheirCaseWhenAsked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	if err := Write(path, entries(`^\D+$`, ""), WriteOptions{KeepCase: true}); err != nil {
		t.Fatal(err)
	}
	tab, err := Open(path, static.Options{Regex: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Lookup(t.Context(), table.Regex, "abc"); err != nil {
		t.Errorf("Lookup: %v", err)
	}
	write(t, path, entries("(", ""))
	if _, err := Open(path, static.Options{Regex: true}); err == nil {
		t.Error("Open with a bad pattern gave no error")
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("a b\n"), "zeros": make([]byte, headerSize)} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, static.Options{})
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func TestLargeFileIsReadInPlace(t *testing.T) {
	t.Parallel()
	list := []static.Entry{{Key: "first", Value: strings.Repeat("x", 1000)}}
	for i := range 18 {
		list = append(list, static.Entry{Key: fmt.Sprint("k", i), Value: strings.Repeat("y", maxValue)})
	}
	tab, err := Open(write(t, filepath.Join(t.TempDir(), "db"), list), static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if tab.content.Load().file == nil {
		t.Fatal("the file is held in memory")
	}
	if got, err := tab.Lookup(t.Context(), table.Alias, "K17"); err != nil || len(got) != maxValue {
		t.Errorf("Lookup: %d bytes, %v", len(got), err)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzDB states that no file makes a question panic, read outside of the file or
// run for ever.
func FuzzDB(f *testing.F) {
	dir := f.TempDir()
	for i, list := range [][]static.Entry{nil, entries("a", "b"), entries("a", "b", "*.x", "", "c@d", "e")} {
		b, err := os.ReadFile(write(f, filepath.Join(dir, fmt.Sprint(i)), list))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "a")
	}
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		d, err := newReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if r, ok, err := d.find(key); ok && (err != nil || r.key != key) {
			t.Errorf("find(%q) = %+v, %v", key, r, err)
		}
		n := 0
		if err := d.walk(func(r record) error { n += len(r.key) + len(r.value) + 8; return nil }); err == nil && n > len(b) {
			t.Errorf("%d bytes of records in a file of %d", n, len(b))
		}
		c := &content{reader: d, next: headerSize}
		_, _ = c.member(table.Domain, key, "+")
		_, _ = c.member(table.NetAddr, key, "+")
	})
}

func BenchmarkLookup(b *testing.B) {
	list := make([]static.Entry, 100_000)
	for i := range list {
		list[i] = static.Entry{Key: fmt.Sprintf("user%d", i), Value: "x"}
	}
	tab, err := Open(write(b, filepath.Join(b.TempDir(), "db"), list), static.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tab.Lookup(b.Context(), table.Alias, "user77777"); err != nil {
			b.Fatal(err)
		}
	}
}

// The file is one that makemap of OpenSMTPD 6.8 wrote on Debian.
func TestBerkeleyDatabasesAreRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	for _, tt := range []struct {
		file     string
		s        table.Service
		key, val string
	}{
		{"aliases-hash", table.Alias, "Sales", "bob, carol+x"},
		{"aliases-btree", table.Alias, "postmaster", "root"},
		{"dom-hash", table.Domain, "a.example.net", "*.example.net"},
		{"dom-btree", table.Domain, "example.org", "example.org"},
	} {
		if err := os.WriteFile(path, unpack(t, tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		tab, err := Open(path, static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tab.Lookup(t.Context(), tt.s, tt.key); err != nil || got != tt.val {
			t.Errorf("%s: Lookup(%s, %q) = %q, %v, want %q", tt.file, tt.s, tt.key, got, err, tt.val)
		}
		if _, err := tab.Lookup(t.Context(), tt.s, "nosuch"); !errors.Is(err, table.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", tt.file, err)
		}
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	}
}

func unpack(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "berkeley", "testdata", name+".gz"))
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
