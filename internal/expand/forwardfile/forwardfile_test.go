package forwardfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func TestForwardFileIsReadWhenSafe(t *testing.T) {
	t.Parallel()
	uid := os.Getuid()
	write := func(t *testing.T, home, content string, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(home, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, home string)
		uid     int
		want    string
		found   bool
		code    int
		cause   error
	}{
		{name: "none", prepare: func(*testing.T, string) {}, uid: uid},
		{name: "no home", prepare: func(t *testing.T, home string) {
			if err := os.Remove(home); err != nil {
				t.Fatal(err)
			}
		}, uid: uid},
		{name: "plain", prepare: func(t *testing.T, home string) { write(t, home, "bob\n", 0o644) }, uid: uid, want: "bob\n", found: true},
		{name: "empty", prepare: func(t *testing.T, home string) { write(t, home, "", 0o600) }, uid: uid, found: true},
		{name: "largest", prepare: func(t *testing.T, home string) { write(t, home, strings.Repeat("a", MaxSize-1), 0o600) }, uid: uid,
			want: strings.Repeat("a", MaxSize-1), found: true},
		{name: "too large", prepare: func(t *testing.T, home string) { write(t, home, strings.Repeat("a", MaxSize), 0o600) }, uid: uid, code: 424, cause: ErrTooLarge},
		{name: "group may write", prepare: func(t *testing.T, home string) { write(t, home, "x", 0o620) }, uid: uid, code: 524, cause: ErrInsecure},
		{name: "others may write", prepare: func(t *testing.T, home string) { write(t, home, "x", 0o602) }, uid: uid, code: 524, cause: ErrInsecure},
		{name: "of another user", prepare: func(t *testing.T, home string) { write(t, home, "x", 0o600) }, uid: uid + 1, code: 524, cause: ErrInsecure},
		{name: "symbolic link", prepare: func(t *testing.T, home string) {
			if err := os.Symlink("/etc/passwd", filepath.Join(home, name)); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 524, cause: ErrSymlink},
		{name: "directory", prepare: func(t *testing.T, home string) {
			if err := os.Mkdir(filepath.Join(home, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 524, cause: ErrInsecure},
		{name: "pipe", prepare: func(t *testing.T, home string) {
			if err := syscall.Mkfifo(filepath.Join(home, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 524, cause: ErrInsecure},
		{name: "home that others may write", prepare: func(t *testing.T, home string) {
			write(t, home, "x", 0o600)
			if err := os.Chmod(home, 0o777); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 524, cause: ErrInsecure},
		{name: "sticky home", prepare: func(t *testing.T, home string) {
			write(t, home, "x", 0o600)
			if err := os.Chmod(home, 0o700|os.ModeSticky); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 424, cause: ErrSticky},
		{name: "sticky home without the file", prepare: func(t *testing.T, home string) {
			if err := os.Chmod(home, 0o700|os.ModeSticky); err != nil {
				t.Fatal(err)
			}
		}, uid: uid, code: 424, cause: ErrSticky},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			home := filepath.Join(t.TempDir(), "home")
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			tt.prepare(t, home)
			got, found, err := Read(home, tt.uid)
			if tt.code == 0 {
				if err != nil || found != tt.found || string(got) != tt.want {
					t.Errorf("Read = %q, %v, %v, want %q, %v", got, found, err, tt.want, tt.found)
				}
				return
			}
			se, ok := errors.AsType[*smtp.Error](err)
			if !ok || se.Code != tt.code || !errors.Is(err, tt.cause) || found {
				t.Errorf("Read = %q, %v, %v, want code %d because %v", got, found, err, tt.code, tt.cause)
			}
			if ok && strings.Contains(se.Text, home) {
				t.Errorf("public text %q names the file", se.Text)
			}
		})
	}
}

func TestHomeMayBeASymbolicLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "real", name), []byte("bob"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "home")); err != nil {
		t.Fatal(err)
	}
	if got, found, err := Read(filepath.Join(dir, "home"), os.Getuid()); err != nil || !found || string(got) != "bob" {
		t.Errorf("Read = %q, %v, %v, want bob", got, found, err)
	}
}

func TestRelativeHomeIsRefused(t *testing.T) {
	t.Parallel()
	if _, _, err := Read("home/x", 1); !errors.Is(err, ErrHome) {
		t.Errorf("error %v, want %v", err, ErrHome)
	}
}
