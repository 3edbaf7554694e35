package authprogram

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// script is a program that knows one password, and one user it cannot tell about.
const script = `#!/bin/sh
input=$(tr '\000' '|')
case $input in
"alice|right|") exit 0 ;;
"broken|"*) echo "the directory is down" >&2; echo more >&2; exit 2 ;;
"hangs|"*) exec sleep 100 ;;
"shows|"*) env >&2; exit 3 ;;
esac
exit 1
`

func program(t *testing.T) *Program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(path)
}

func TestProgramDecides(t *testing.T) {
	t.Setenv("OPENSMTPD_TEST_SECRET", "secret")
	p := program(t)
	for _, tt := range []struct{ user, password, want string }{
		{"alice", "right", ""},
		{"alice", "wrong", platform.ErrBadPassword.Error()},
		{"alice", "", platform.ErrBadPassword.Error()},
		{"", "right", platform.ErrBadPassword.Error()},
		{"alice\x00root", "right", platform.ErrBadPassword.Error()},
		{"alice", "right\x00", platform.ErrBadPassword.Error()},
		{"alice", strings.Repeat("x", maxSecret+1), platform.ErrBadPassword.Error()},
		{strings.Repeat("x", maxName+1), "right", platform.ErrBadPassword.Error()},
		{"broken", "right", p.path + ": exit status 2: the directory is down"},
	} {
		err := p.Check(t.Context(), tt.user, tt.password)
		if got := ""; err != nil {
			got = err.Error()
			if got != tt.want {
				t.Errorf("Check(%q, %q) = %q, want %q", tt.user, tt.password, got, tt.want)
			}
		} else if tt.want != "" {
			t.Errorf("Check(%q, %q) succeeds, want %q", tt.user, tt.password, tt.want)
		}
	}
	if err := p.Check(t.Context(), "shows", "x"); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("the program sees the daemon's environment: %v", err)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := p.Check(ctx, "hangs", "x")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, platform.ErrBadPassword) {
		t.Errorf("Check = %v, want the error of the context", err)
	}
}

func TestProgramThatOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	p := program(t)
	if ok, err := p.Installed(); !ok || err != nil {
		t.Errorf("Installed() = %v, %v", ok, err)
	}
	if err := os.Chmod(p.path, 0o775); err != nil {
		t.Fatal(err)
	}
	if ok, err := p.Installed(); ok || err == nil {
		t.Errorf("a program that its group can write is taken: %v, %v", ok, err)
	}
	if ok, err := New(p.path + ".none").Installed(); ok || err != nil {
		t.Errorf("a missing program: %v, %v", ok, err)
	}
}
