package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// sessions makes d answer with SMTP sessions that refuse recipients called "bad"
// and are closed at those called "lost". got receives each message.
func sessions(d *daemon, got chan<- string) {
	proto.LocalSession.Handle(d.mux, func(context.Context, proto.LocalSessionRequest, []*os.File) (proto.Empty, []*os.File, error) {
		ours, theirs, err := imsg.SocketPair()
		if err != nil {
			return proto.Empty{}, nil, err
		}
		conn, err := net.FileConn(ours)
		ours.Close()
		if err != nil {
			return proto.Empty{}, nil, err
		}
		go session(conn, got)
		return proto.Empty{}, []*os.File{theirs}, nil
	})
}

func session(conn net.Conn, got chan<- string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 mail.test ESMTP\r\n")
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil || strings.Contains(line, "<lost@"):
			return
		case strings.HasPrefix(line, "DATA"):
			fmt.Fprint(conn, "354 go ahead\r\n")
			var text strings.Builder
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				text.WriteString(line)
			}
			got <- text.String()
			fmt.Fprint(conn, "250 2.0.0 accepted\r\n")
		case strings.Contains(line, "<bad@"):
			fmt.Fprint(conn, "550 5.1.1 no such user\r\n")
		case strings.Contains(line, "<later@"):
			fmt.Fprint(conn, "451 4.3.0 later\r\n")
		case strings.HasPrefix(line, "QUIT"):
			fmt.Fprint(conn, "221 2.0.0 Bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 2.0.0 Ok\r\n")
		}
	}
}

func TestSendmailSubmits(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := newDaemon(t, dir)
	got := make(chan string, 1)
	sessions(d, got)
	res := run(t, dir, "Subject: s\n\nhello\n", "sendmail", "-v", "-f", "a@x.test", "bob")
	if res.status != 0 || !strings.Contains(res.stdout, "<<< 354 go ahead\n") || res.stderr != "" {
		t.Errorf("got %+v", res)
	}
	if text := <-got; !strings.HasPrefix(text, "From: ") || !strings.HasSuffix(text, "\r\nSubject: s\r\n\r\nhello\r\n.\r\n") {
		t.Errorf("message %q", text)
	}
}

func TestRefusedMailIsSaved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rcpt   string
		status int
		stderr string
	}{
		{"bad", 70, "sendmail: bad@mail.test: 550 5.1.1 no such user\n"},
		{"later", 75, "sendmail: later@mail.test: 451 4.3.0 later\n"},
	} {
		dir := shortDir(t)
		sessions(newDaemon(t, dir), nil)
		for range 2 {
			res := run(t, dir, "Subject: s\n\nFrom here\n", "sendmail", tt.rcpt)
			if res.status != tt.status || res.stderr != "sendmail: message saved in "+dir+"/dead.letter\n"+tt.stderr {
				t.Errorf("%s: got %+v", tt.rcpt, res)
			}
		}
		text, err := os.ReadFile(filepath.Join(dir, "dead.letter"))
		if err != nil || strings.Count(string(text), "\n\n>From here\n\n\n") != 2 || !strings.HasPrefix(string(text), "From MAILER-DAEMON ") {
			t.Errorf("%s: dead.letter %q, %v", tt.rcpt, text, err)
		}
	}
}

func TestDeadLetterIsNotWrittenThroughALink(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	sessions(newDaemon(t, dir), nil)
	if err := os.Symlink(filepath.Join(dir, "victim"), filepath.Join(dir, "dead.letter")); err != nil {
		t.Fatal(err)
	}
	if res := run(t, dir, "\nx\n", "sendmail", "bad"); res.status != 70 {
		t.Errorf("got %+v", res)
	}
	if _, err := os.Stat(filepath.Join(dir, "victim")); err == nil {
		t.Error("the link was followed")
	}
}

func TestMailIsKeptWithoutADaemon(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		rcpt    string
		running bool
	}{
		{"no daemon", "bob", false},
		{"the daemon goes away", "lost", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			if tt.running {
				sessions(newDaemon(t, dir), nil)
			}
			if err := os.MkdirAll(filepath.Join(dir, "spool", "offline"), 0o700); err != nil {
				t.Fatal(err)
			}
			if res := run(t, dir, "Subject: s\n\nhello\n", "sendmail", "-f", "a@x.test", "-FName", tt.rcpt); res != (result{}) {
				t.Errorf("got %+v", res)
			}
			names, err := filepath.Glob(filepath.Join(dir, "spool", "offline", "*"))
			if err != nil || len(names) != 1 {
				t.Fatalf("files %q, %v", names, err)
			}
			if text, err := os.ReadFile(names[0]); err != nil || string(text) != "-f|a@x.test|-F|Name|--|"+tt.rcpt+"\nSubject: s\n\nhello\n" {
				t.Errorf("file %q, %v", text, err)
			}
			if res := run(t, dir, "\nx\n", "sendmail", "-S", tt.rcpt); res.status != 75 {
				t.Errorf("-S: got %+v", res)
			}
		})
	}
}

func TestSendmailFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, stdin string
		args        []string
		status      int
		stderr      string
	}{
		{"no recipients", "\n", nil, 70, "sendmail: no recipients\n"},
		{"none in the header", "Subject: s\n\n", []string{"-t"}, 70, "sendmail: no recipients\n"},
		{"line break", "\n", []string{"a@x.test\nRCPT TO:<b@x.test>"}, 70, "line break in address"},
		{"unknown option", "", []string{"-J"}, 64, "usage: sendmail"},
		{"daemon mode", "", []string{"-bd", "-q15m"}, 64, "start smtpd(8) instead"},
		{"cannot be kept", "\n", []string{"a|b@x.test"}, 70, "cannot keep the message"},
		{"nowhere to keep", "\n", []string{"b@x.test"}, 75, "cannot keep the message"},
		{"queue run without a daemon", "", []string{"-q"}, 75, "smtpd doesn't seem to be running"},
		{"stdio without a daemon", "", []string{"-bs"}, 69, "smtpd doesn't seem to be running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			res := run(t, shortDir(t), tt.stdin, "sendmail", tt.args...)
			if res.status != tt.status || !strings.Contains(res.stderr, tt.stderr) || res.stdout != "" {
				t.Errorf("got %+v, want %d, %q", res, tt.status, tt.stderr)
			}
		})
	}
}

func TestSendmailSpeaksSMTP(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	sessions(newDaemon(t, dir), nil)
	res := run(t, dir, "EHLO x\r\nQUIT\r\n", "sendmail", "-bs")
	if want := (result{0, "220 mail.test ESMTP\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n", ""}); res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
}

func TestSendmailSpeaksSMTPWithTheLineEndsOfTheSystem(t *testing.T) {
	t.Parallel()
	const text = "EHLO x\nDATA\nSubject: x\n\nhello\r\n.\nQUIT\n"
	for _, tt := range []struct{ written, want string }{
		{text, "EHLO x\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n"},
		{"EHLO x\r\nBDAT 2\r\n\n\n", "EHLO x\r\nBDAT 2\r\n\n\n"},
		{"\n", "\r\n"},
		{"\r\n\n", "\r\n\n"},
		{"QUIT", "QUIT"},
	} {
		for size := 1; size <= len(tt.written); size++ {
			var got strings.Builder
			e := lineEnds{w: &got}
			for b := []byte(tt.written); len(b) > 0; b = b[min(size, len(b)):] {
				if n, err := e.Write(b[:min(size, len(b))]); n != min(size, len(b)) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			if got.String() != tt.want {
				t.Errorf("%q by %d: %q, want %q", tt.written, size, got.String(), tt.want)
			}
		}
	}
	dir := shortDir(t)
	texts := make(chan string, 1)
	sessions(newDaemon(t, dir), texts)
	res := run(t, dir, text, "sendmail", "-bs")
	if got := <-texts; res.status != 0 || got != "Subject: x\r\n\r\nhello\r\n.\r\n" {
		t.Errorf("the daemon got %q; %+v", got, res)
	}
}

func TestFullName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ gecos, want string }{
		{"Alice Adams,Room 1,,", "Alice Adams"}, {"& Adams", "Alice Adams"}, {"", ""},
	} {
		if got := fullName(tt.gecos, "alice"); got != tt.want {
			t.Errorf("fullName(%q) = %q, want %q", tt.gecos, got, tt.want)
		}
	}
}
