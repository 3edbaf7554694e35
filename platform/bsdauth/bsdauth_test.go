package bsdauth

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

// login is a program of an authentication style: it writes down how it was called, and
// answers over the back channel as login_passwd(8) does.
const login = `#!/bin/sh
echo "$*" >"$(dirname "$0")/called"
case $4 in
deaf) exit 1 ;;
hangs) exec sleep 100 ;;
silent) exit 0 ;;
chatty) yes 'value x y' 2>/dev/null | head -c 20000 >&3; exit 0 ;;
lies) echo authorize >&3; exit 1 ;;
esac
answer=$(dd bs=1024 count=1 <&3 2>/dev/null | tr '\000' '|')
case $4:$answer in
'alice:|Sesame|') echo authorize >&3 ;;
expired:*) echo 'reject expired' >&3; exit 1 ;;
radius:*) printf 'value errormsg no server\001answers\nreject\n' >&3; exit 1 ;;
torn:*) printf 'authorize\nreject silent\n' >&3 ;;
shows:*) printf 'value errormsg %s\nreject\n' "$(env | sort | tr '\n' ' ')" >&3 ;;
*) echo 'reject' >&3; exit 1 ;;
esac
`

func programs(t *testing.T) *Programs {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "login_passwd"), []byte(login), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(dir)
}

func TestProgramOfTheStyleDecides(t *testing.T) {
	t.Setenv("OPENSMTPD_TEST_SECRET", "secret")
	p := programs(t)
	bad := platform.ErrBadPassword.Error()
	for _, tt := range []struct{ style, user, class, password, want string }{
		{"passwd", "alice", "staff", "Sesame", ""},
		{"passwd", "alice", "", "Sesame", ""},
		{"passwd", "alice", "", "sesame", bad},
		{"passwd", "mallory", "", "Sesame", bad},
		{"passwd", "expired", "", "Sesame", bad + ": expired"},
		{"passwd", "radius", "", "Sesame", bad + ": no server?answers"},
		{"passwd", "torn", "", "Sesame", bad + ": silent"},
		{"passwd", "shows", "", "Sesame", bad + ": PATH=/bin:/usr/bin PWD=/ SHELL=/bin/sh "},
		{"passwd", "silent", "", "Sesame", "login_passwd: no verdict"},
		{"passwd", "deaf", "", "Sesame", "login_passwd: exit status 1: "},
		{"passwd", "lies", "", "Sesame", "login_passwd: exit status 1: "},
		{"passwd", "chatty", "", "Sesame", "login_passwd: answer is too long"},
		{"passwd", "", "", "Sesame", bad},
		{"passwd", "alice:skey", "", "Sesame", bad},
		{"passwd", "alice", "", "Sesame\x00", bad},
		{"passwd", "alice", "", strings.Repeat("x", maxSecret+1), bad},
		{"../passwd", "alice", "", "Sesame", `authentication style "../passwd": not a name`},
	} {
		got := ""
		err := p.Check(t.Context(), tt.style, tt.user, tt.class, tt.password)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("Check(%q, %q, %q) = %q, want %q", tt.style, tt.user, tt.password, got, tt.want)
		}
		if errors.Is(err, platform.ErrBadPassword) != strings.HasPrefix(tt.want, bad) {
			t.Errorf("Check(%q, %q, %q): %v is of the wrong kind", tt.style, tt.user, tt.password, err)
		}
	}
	if err := p.Check(t.Context(), "skey", "alice", "", "x"); !errors.Is(err, os.ErrNotExist) || errors.Is(err, platform.ErrBadPassword) {
		t.Errorf("a style without a program: %v", err)
	}
}

func TestProgramIsCalledAsTheManualSays(t *testing.T) {
	t.Parallel()
	p := programs(t)
	for class, want := range map[string]string{"staff": "-s response -- alice staff\n", "": "-s response -- alice\n"} {
		if err := p.Check(t.Context(), "passwd", "alice", class, "Sesame"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(p.dir, "called")); err != nil || string(got) != want {
			t.Errorf("called with %q, %v; want %q", got, err, want)
		}
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := programs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Check(ctx, "passwd", "hangs", "", "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Check = %v, want the error of the context", err)
	}
}

const classes = `# a comment :auth=skey:
default:\
	:path=/usr/bin /bin:\
	:auth=passwd,skey:\
	:tc=limits:
limits:\
	:openfiles-cur=128:
staff|wheel:\
	:auth-smtp=yubikey:\
	:auth=radius:\
	:tc=default:
plain:\
	:openfiles-cur=512:\
	:tc=default:
hidden:\
	:auth@:\
	:tc=default:
loop:tc=loop2:
loop2:tc=loop:
`

func TestStyleOfAClass(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "login.conf")
	if err := os.WriteFile(file, []byte(classes), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own"), []byte("own:auth-smtp=token:tc=staff:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ class, kind, want string }{
		{"", "smtp", "passwd"},
		{"default", "smtp", "passwd"},
		{"staff", "smtp", "yubikey"},
		{"wheel", "smtp", "yubikey"},
		{"staff", "ftp", "radius"},
		{"plain", "smtp", "passwd"},
		{"hidden", "smtp", "passwd"},
		{"nobody-knows", "smtp", "passwd"},
		{"own", "smtp", "token"},
		{"own", "ftp", "radius"},
	} {
		if got, err := Style(file, dir, tt.class, tt.kind); err != nil || got != tt.want {
			t.Errorf("style of class %q for %s: %q, %v; want %q", tt.class, tt.kind, got, err, tt.want)
		}
	}
	for _, class := range []string{"loop", "../own", ".."} {
		if got, err := Style(file, dir, class, "smtp"); err == nil {
			t.Errorf("style of class %q: %q", class, got)
		}
	}
	if got, err := Style(file+".none", dir+".none", "staff", "smtp"); err != nil || got != "passwd" {
		t.Errorf("without login.conf: %q, %v; want passwd", got, err)
	}
}

// What is read as classes names no class that is empty, and asking for a capability
// comes to an end.
func FuzzClasses(f *testing.F) {
	f.Add(classes)
	f.Fuzz(func(t *testing.T, text string) {
		records := parseClasses(text)
		if _, ok := records[""]; ok {
			t.Error("a class without a name")
		}
		for name := range records {
			if value, ok, err := capability(records, name, "auth", 0); ok && err == nil && strings.Contains(value, ":") {
				t.Errorf("class %q has the style %q", name, value)
			}
		}
	})
}

// A verdict is printable, and a rejection is never overlooked.
func FuzzVerdict(f *testing.F) {
	f.Add("authorize\nvalue errormsg x\nreject expired\n")
	f.Fuzz(func(t *testing.T, answer string) {
		_, rejected, why := verdict(answer)
		if strings.ContainsAny(why, "\n\x00\x1b") {
			t.Errorf("reason %q", why)
		}
		if _, again, _ := verdict(answer + "\nreject\n"); !again || rejected && !again {
			t.Error("a rejection was overlooked")
		}
	})
}
