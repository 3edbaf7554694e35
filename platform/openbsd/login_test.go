package openbsd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
)

const (
	masterPasswd = `root:*:0:0:daemon:0:0:Charlie:/root:/bin/ksh
alice:*:1000:1000:staff:0:0:Alice:/home/alice:/bin/ksh
bob:*:1001:1001::0:0:Bob:/home/bob:/bin/ksh
carol:*:1002:1002::0:86400:Carol:/home/carol:/bin/ksh
`
	loginConf = "default:auth=passwd:\nstaff:auth-smtp=token:tc=default:\n"
	// program is that of a style; each accepts one password, the style's name.
	program = `#!/bin/sh
echo "$0 $*" >>"$(dirname "$0")/called"
answer=$(dd bs=1024 count=1 <&3 2>/dev/null | tr '\000' '|')
[ "$answer" = "|${0##*login_}|" ] && [ "$4" != mallory ] && { echo authorize >&3; exit 0; }
echo reject >&3
exit 1
`
)

func TestUsersAreAskedForByTheStyleOfTheirClass(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("login_passwd", program, 0o755)
	write("login_token", program, 0o755)
	l := newLogin(write("master.passwd", masterPasswd, 0o600), dir, write("login.conf", loginConf, 0o644), filepath.Join(dir, "none"))
	for _, tt := range []struct{ user, password, want string }{
		{"alice", "token", ""},
		{"alice", "passwd", "wrong user name or password"},
		{"bob", "passwd", ""},
		{"bob", "token", "wrong user name or password"},
		{"carol", "passwd", "wrong user name or password: account has expired"},
		{"carol", "wrong", "wrong user name or password"},
		{"mallory", "passwd", "wrong user name or password"},
	} {
		got := ""
		err := l.check(t.Context(), tt.user, tt.password)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want || err != nil && !errors.Is(err, platform.ErrBadPassword) {
			t.Errorf("%s, %s: %q, want %q", tt.user, tt.password, got, tt.want)
		}
	}
	called, err := os.ReadFile(filepath.Join(dir, "called"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/login_token -s response -- alice staff\n", "/login_passwd -s response -- bob\n", "/login_passwd -s response -- mallory\n"} {
		if !strings.Contains(string(called), want) {
			t.Errorf("no call %q in\n%s", want, called)
		}
	}
	l.accounts.Path += ".none"
	if err := l.check(t.Context(), "bob", "passwd"); err == nil || errors.Is(err, platform.ErrBadPassword) {
		t.Errorf("without accounts: %v, want a temporary error", err)
	}
}
