// Package platformtest holds what every platform.Host must do alike. The test of
// each host is a call of Run.
package platformtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
)

// Run checks h against the contract of platform.Host, as far as that can be done
// without changing the process. The system must have a user root of uid 0.
func Run(t *testing.T, h platform.Host) {
	t.Run("name is a lower-case word", func(t *testing.T) {
		if n := h.Name(); n == "" || n != strings.ToLower(n) || strings.ContainsAny(n, " \t/") {
			t.Errorf("Name() = %q", n)
		}
	})
	t.Run("executable is a file by absolute path", func(t *testing.T) { executable(t, h) })
	t.Run("paths are absolute", func(t *testing.T) { paths(t, h.Paths()) })
	t.Run("root is found", func(t *testing.T) { root(t, h) })
	t.Run("absence is proven", func(t *testing.T) { unknown(t, h) })
	t.Run("peer is this process", func(t *testing.T) { peer(t, h) })
	t.Run("contradictory profile is refused", func(t *testing.T) { contradiction(t, h) })
	if a, ok := h.(platform.Authenticator); ok {
		t.Run("wrong password is told apart", func(t *testing.T) { authenticate(t, a) })
	}
}

func executable(t *testing.T, h platform.Host) {
	got, err := h.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(got) {
		t.Errorf("Executable() = %q, not absolute", got)
	}
	if fi, err := os.Stat(got); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("Executable() = %q, not a regular file: %v", got, err)
	}
}

func paths(t *testing.T, p platform.Paths) {
	for name, path := range map[string]string{
		"Config": p.Config, "Spool": p.Spool, "Run": p.Run, "Empty": p.Empty, "Libexec": p.Libexec,
		"Mail": p.Mail, "Aliases": p.Aliases, "MailName": p.MailName, "Shell": p.Shell,
	} {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			t.Errorf("Paths().%s = %q, not absolute and clean", name, path)
		}
	}
	for dir := range strings.SplitSeq(p.DefPath, ":") {
		if !filepath.IsAbs(dir) {
			t.Errorf("Paths().DefPath = %q holds a relative directory", p.DefPath)
		}
	}
}

func root(t *testing.T, h platform.Host) {
	u, err := h.User(t.Context(), "root")
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "root" || u.UID != 0 || !filepath.IsAbs(u.Home) || u.Shell == "" {
		t.Errorf("User(root) = %+v", u)
	}
	found := false
	for _, g := range u.Groups {
		found = found || g == u.GID
	}
	if !found {
		t.Errorf("groups %v of root lack its gid %d", u.Groups, u.GID)
	}
}

func unknown(t *testing.T, h platform.Host) {
	for _, name := range []string{
		"", "-h", "--help", "+", "+root", "root:x", "root\n", "ro\x00ot", "../root", "no such user",
		"nobody-is-called-this", "0", "00", strings.Repeat("a", 256), strings.Repeat("a", 1<<20),
	} {
		u, err := h.User(t.Context(), name)
		if !errors.Is(err, platform.ErrNoUser) {
			t.Errorf("User(%.40q) = %+v, %v; want ErrNoUser", name, u, err)
		}
	}
}

func peer(t *testing.T, h platform.Host) {
	// The directory of t.TempDir may be too long for the name of a socket.
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got, err := h.Peer(in.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != os.Geteuid() || got.GID != os.Getegid() {
		t.Errorf("Peer() = %+v, want uid %d gid %d", got, os.Geteuid(), os.Getegid())
	}
	if got.PID != 0 && got.PID != os.Getpid() {
		t.Errorf("Peer().PID = %d, want %d or 0", got.PID, os.Getpid())
	}
}

func contradiction(t *testing.T, h platform.Host) {
	for _, p := range []platform.Profile{
		{Role: "zero ids"},
		{Role: "root", UID: 0, GID: 1000},
		{Role: "group root", UID: 1000, GID: 1000, Groups: []int{0}},
		{Role: "relative", UID: -1, GID: -1, Root: "empty"},
		{Role: "dots", UID: -1, GID: -1, Read: []string{"/etc/../root"}},
	} {
		if g, err := h.Confine(p); err == nil {
			t.Errorf("Confine(%+v) = %+v, want an error", p, g)
		}
	}
}

func authenticate(t *testing.T, a platform.Authenticator) {
	if os.Geteuid() != 0 {
		t.Skip("passwords are checked by root only")
	}
	for _, user := range []string{"", "nobody-is-called-this", "root:", "a\nb"} {
		if err := a.Authenticate(t.Context(), user, "wrong"); !errors.Is(err, platform.ErrBadPassword) {
			t.Errorf("Authenticate(%q) = %v, want ErrBadPassword", user, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Authenticate(ctx, "nobody-is-called-this", "wrong"); err == nil {
		t.Error("Authenticate succeeded under a cancelled context")
	}
}
