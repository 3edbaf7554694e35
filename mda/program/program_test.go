package program

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// started returns what a program of an ordinary user finds, and its complaints.
func started(stdin string, env map[string]string, args ...string) (*Environ, *strings.Builder) {
	var stderr strings.Builder
	return &Environ{
		Name: "prog", Args: args, Stdin: strings.NewReader(stdin), Stderr: &stderr,
		Getenv: func(k string) string { return env[k] }, UID: 1000, Host: "mx.example.org",
	}, &stderr
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: got %q, %v, want one file", pattern, names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMaildirProgram(t *testing.T) {
	t.Parallel()
	big := "A: b\n\n" + strings.Repeat("0123456789\n", maxMemory/10)
	for _, tt := range []struct {
		name, body, ext string
		args            []string
		file            string
	}{
		{"default", "A: b\n", "", nil, "home/Maildir/new/*"},
		{"directory", "A: b\n", "", []string{"DIR/M"}, "M/new/*"},
		{"directory after --", "A: b\n", "", []string{"-j", "--", "DIR/M"}, "M/new/*"},
		{"junk", "X-Spam: yes\n\n", "", []string{"-j"}, "home/Maildir/.Junk/new/*"},
		{"folder", "A: b\n", "ext", nil, "home/Maildir/.ext/new/*"},
		{"too big for memory", big, "", nil, "home/Maildir/new/*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for i := range tt.args {
				tt.args[i] = strings.Replace(tt.args[i], "DIR", dir, 1)
			}
			if err := os.MkdirAll(filepath.Join(dir, "home/Maildir/.ext"), 0o700); err != nil {
				t.Fatal(err)
			}
			e, stderr := started(tt.body, map[string]string{"HOME": dir + "/home", "EXTENSION": tt.ext}, tt.args...)
			if status := Maildir(t.Context(), e); status != 0 {
				t.Fatalf("got %d, %s", status, stderr)
			}
			if got := only(t, filepath.Join(dir, tt.file)); got != tt.body {
				t.Errorf("got %.80q, want %.80q", got, tt.body)
			}
		})
	}
}

func TestMboxFileProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "box")
	e, stderr := started("A: b\n\nFrom me\n", nil, "-f", "bob@example.com", path)
	if status := MboxFile(t.Context(), e); status != 0 {
		t.Fatalf("got %d, %s", status, stderr)
	}
	from, rest, _ := strings.Cut(only(t, path), "\n")
	if want := "A: b\n\n>From me\n\n"; !strings.HasPrefix(from, "From bob@example.com ") || rest != want {
		t.Errorf("got %q %q, want %q", from, rest, want)
	}
}

func TestLocalProgram(t *testing.T) {
	t.Parallel()
	lookup := func(_ context.Context, name string) (int, bool, error) {
		switch name {
		case "alice", "bob", "..":
			return os.Geteuid(), true, nil
		case "sick":
			return 0, false, errors.New("directory service is away")
		}
		return 0, false, nil
	}
	for _, tt := range []struct {
		users  string
		status int
		files  int
	}{
		{"alice", 0, 1}, {"alice bob", 0, 2}, {"nobody", exitNoUser, 0}, {"sick", exitTempFail, 0},
		{"nobody alice sick", exitTempFail, 1}, {"alice nobody", exitNoUser, 1}, {"..", exitNoUser, 0},
	} {
		dir := t.TempDir()
		e, stderr := started("A: b\n", nil, append([]string{"-l", "-f", ""}, strings.Fields(tt.users)...)...)
		status := Local(t.Context(), e, dir, lookup)
		entries, err := os.ReadDir(dir)
		if status != tt.status || err != nil || len(entries) != tt.files {
			t.Errorf("%s: got %d, %v, %v (%s), want %d and %d files", tt.users, status, entries, err, stderr, tt.status, tt.files)
		}
		for _, f := range entries {
			if got := only(t, filepath.Join(dir, f.Name())); !strings.HasPrefix(got, "From MAILER-DAEMON ") {
				t.Errorf("%s: got %q", tt.users, got)
			}
		}
	}
}

func TestMDAProgram(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		command string
		status  int
	}{
		{"cat | grep -q 'A: b'", 0}, {"exit 67", 67}, {"kill -9 $$", exitTempFail},
	} {
		e, _ := started("A: b\n", nil, tt.command)
		if status := MDA(t.Context(), e); status != tt.status {
			t.Errorf("%s: got %d, want %d", tt.command, status, tt.status)
		}
	}
}

func TestLMTPProgram(t *testing.T) {
	t.Parallel()
	env := map[string]string{"SENDER": `"a b"@example.com`, "USER": "alice", "RECIPIENT": "alice@example.net"}
	for _, tt := range []struct {
		name   string
		args   []string
		heard  string
		status int
		says   string
	}{
		{"user", []string{"-u"}, `LHLO localhost|MAIL FROM:<"a b"@example.com>|RCPT TO:<alice>|DATA`, 0, ""},
		{"recipient", []string{"-r", "-l", "mx"}, `LHLO mx|MAIL FROM:<"a b"@example.com>|RCPT TO:<alice@example.net>|DATA`, 0, ""},
		{"arguments", []string{"-f", "", "--", "bob"}, `LHLO localhost|MAIL FROM:<>|RCPT TO:<bob>|DATA`, 0, ""},
		{"refused", []string{"nobody"}, `LHLO localhost|MAIL FROM:<"a b"@example.com>|RCPT TO:<nobody>|RSET`, exitUnavailable, "prog: LMTP server error: 550 no\n"},
		{"later", []string{"later"}, `LHLO localhost|MAIL FROM:<"a b"@example.com>|RCPT TO:<later>|RSET`, exitTempFail, "450 later"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "s")
			heard := serveOnce(t, path)
			e, stderr := started("A: b\n", env, append([]string{"-d", path}, tt.args...)...)
			status := LMTP(t.Context(), e)
			if got := <-heard; got != tt.heard || status != tt.status || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("got %s, %d, %q, want %s, %d, %q", got, status, stderr, tt.heard, tt.status, tt.says)
			}
		})
	}
	e, stderr := started("A: b\n", env, "-d", "/nonexistent/socket", "-u")
	if status := LMTP(t.Context(), e); status != exitTempFail {
		t.Errorf("no server: got %d %s, want 75", status, stderr)
	}
}

// serveOnce serves one LMTP connection and tells the commands it had, QUIT left out.
func serveOnce(t *testing.T, path string) <-chan string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard := make(chan string, 1)
	go func() {
		var lines []string
		defer func() { heard <- strings.Join(lines, "|") }()
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "220 hi\r\n")
		for r, data := bufio.NewReader(c), false; ; {
			line, err := r.ReadString('\n')
			line = strings.TrimSpace(line)
			reply := "250 ok"
			switch {
			case err != nil || line == "QUIT":
				return
			case data && line != ".":
				continue
			case data:
				data = false
			default:
				lines = append(lines, line)
				switch line {
				case "DATA":
					data, reply = true, "354 go"
				case "RCPT TO:<nobody>":
					reply = "550 no"
				case "RCPT TO:<later>":
					reply = "450 later"
				}
			}
			fmt.Fprintf(c, "%s\r\n", reply)
		}
	}()
	return heard
}

func TestProgramsRefuseRootAndBadArguments(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(context.Context, *Environ) int{
		"maildir": Maildir, "mboxfile": MboxFile, "lmtp": LMTP, "mda": MDA,
	} {
		e, stderr := started("A: b\n", nil, "x")
		e.UID = 0
		if status := run(t.Context(), e); status != exitUsage || !strings.Contains(stderr.String(), "root") {
			t.Errorf("%s as root: got %d %q, want 1", name, status, stderr)
		}
		e, stderr = started("A: b\n", nil, "-z")
		if status := run(t.Context(), e); status != exitUsage || !strings.HasPrefix(stderr.String(), "usage: prog ") {
			t.Errorf("%s -z: got %d %q, want 1", name, status, stderr)
		}
	}
	e, _ := started("A: b\n", nil, "Mail")
	if status := Maildir(t.Context(), e); status != exitUsage {
		t.Errorf("relative directory: got %d, want 1", status)
	}
}

func TestUsersOfTheSystem(t *testing.T) {
	t.Parallel()
	if uid, ok, err := SystemUser(t.Context(), "root"); uid != 0 || !ok || err != nil {
		t.Errorf("root: got %d, %v, %v, want 0", uid, ok, err)
	}
	for _, name := range []string{"no-such-user-here", "-x", ""} {
		if _, ok, err := SystemUser(t.Context(), name); ok || err != nil {
			t.Errorf("%q: got %v, %v, want none", name, ok, err)
		}
	}
}

// FuzzParsePath: an address that is printed is parsed to the same.
func FuzzParsePath(f *testing.F) {
	f.Add("a b", "example.com")
	f.Add(`a"\@b`, "[::1]")
	f.Add("alice", "")
	f.Fuzz(func(t *testing.T, local, domain string) {
		want := smtp.Path{Local: local, Domain: domain}
		if local == "" || strings.ContainsAny(domain, `"@<>`) || domain == "" && strings.ContainsAny(local, "<>") {
			return
		}
		if got := parsePath(want.String()); got != want {
			t.Fatalf("%q: got %q, want %q", want.String(), got, want)
		}
	})
}
