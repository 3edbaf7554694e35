package keep

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var _ Keeper = (*Store)(nil)

func TestRecordIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := New(dir, Limits{Records: 10, Size: 100})
	if _, err := s.Get(t.Context(), "a.example"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("before anything was kept: %v", err)
	}
	if names, err := s.Names(t.Context()); err != nil || len(names) > 0 {
		t.Fatalf("%q, %v", names, err)
	}
	for _, text := range []string{"first", "second", ""} {
		if err := s.Put(t.Context(), "a.example", []byte(text)); err != nil {
			t.Fatal(err)
		}
		// Another Store is what is there after a restart.
		if b, err := New(dir, s.limits).Get(t.Context(), "a.example"); err != nil || string(b) != text {
			t.Fatalf("%q, %v; want %q", b, err, text)
		}
	}
	if err := s.Put(t.Context(), "b", nil); err != nil {
		t.Fatal(err)
	}
	if names, err := s.Names(t.Context()); err != nil || !slices.Equal(names, []string{"a.example", "b"}) {
		t.Errorf("%q, %v", names, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "a.example"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get(t.Context(), "a.example"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left := filepath.Join(dir, temporary+"left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(dir, Limits{Records: 10, Size: 100})
	for i := range 40 {
		name := fmt.Sprintf("d%d.example", i)
		for range 2 {
			if err := s.Put(t.Context(), name, []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := s.Get(t.Context(), name); err != nil || string(b) != name {
			t.Fatalf("%s: %q, %v", name, b, err)
		}
		names, err := s.Names(t.Context())
		if err != nil || len(names) > 10 {
			t.Fatalf("%d records, %v", len(names), err)
		}
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file left behind by a crash: %v", err)
	}
	if err := s.Put(t.Context(), "big", bytes.Repeat([]byte("x"), 101)); !errors.Is(err, ErrBad) {
		t.Errorf("record that is too large: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("x"), 101), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Get(t.Context(), "big"); !errors.Is(err, ErrBad) {
		t.Errorf("file that is too large: %d bytes, %v", len(b), err)
	}
}

func TestNamesThatCannotBeFilesAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := New(filepath.Join(dir, "store"), Limits{Records: 10, Size: 100})
	for _, name := range []string{"", ".", "..", ".hidden", "../x", "/etc/passwd", "A.example", "a b", "a\x00", "ä", strings.Repeat("x", 241)} {
		if err := s.Put(t.Context(), name, nil); !errors.Is(err, ErrBad) {
			t.Errorf("put %q: %v", name, err)
		}
		if _, err := s.Get(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: %v", name, err)
		}
	}
}
