package mbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLockHoldsWithinTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "box")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	now := func() *wait { return &wait{abandoned: func() bool { return false }} }
	first, second := open(), open()
	if err := lockFile(first, now()); err != nil {
		t.Fatal(err)
	}
	if err := lockFile(second, now()); !errors.Is(err, errLocked) {
		t.Errorf("second open: got %v, want %v", err, errLocked)
	}
	open().Close() // must not give up the lock
	if err := lockFile(second, now()); !errors.Is(err, errLocked) {
		t.Errorf("after closing a third: got %v, want %v", err, errLocked)
	}
	first.Close()
	if err := lockFile(second, now()); err != nil {
		t.Errorf("after unlocking: got %v", err)
	}
}
