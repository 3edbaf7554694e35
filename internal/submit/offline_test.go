package submit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// dialer returns a dial function of s that waits for each session's end in order.
func dialer(t testing.TB, s *server) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		conn, wait := s.dial(t)
		return &waiting{conn, wait}, nil
	}
}

// waiting waits on Close until the server has seen the end.
type waiting struct {
	net.Conn
	wait func()
}

func (w *waiting) Close() error { w.wait(); return nil }

func TestKeptMailIsSubmittedLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := Read(strings.NewReader("To: bob\nBcc: carol@x.test\n\nhello\n.\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := Request{User: "alice", FullName: "Alice|Adams", FromHeader: true, Recipients: []string{"-dash@x.test"}, Notify: "never"}
	s, err := r.Resolve(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Spool(dir, r); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 || !regexp.MustCompile(`^\d+\.\w{10}$`).MatchString(filepath.Base(names[0])) {
		t.Fatalf("files %q, %v", names, err)
	}
	if fi, err := os.Stat(names[0]); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	f, err := os.Open(names[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if line, err := firstLine(f); err != nil || string(line) != "-f|alice|-F|Alice Adams|-N|NEVER|-t|--|-dash@x.test" {
		t.Errorf("first line %q, %v", line, err)
	}
	var srv server
	if err := InjectOffline(t.Context(), f, dialer(t, &srv)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(srv.commands, "|"); !strings.Contains(got, "MAIL FROM:<alice@mail.test>|RCPT TO:<-dash@x.test> NOTIFY=NEVER|RCPT TO:<bob@mail.test> NOTIFY=NEVER|RCPT TO:<carol@x.test> NOTIFY=NEVER|DATA") {
		t.Errorf("commands %q", got)
	}
	if len(srv.messages) != 1 || !strings.HasPrefix(srv.messages[0], "From: Alice Adams <alice@mail.test>\r\nDate: ") ||
		!strings.HasSuffix(srv.messages[0], "\r\nTo: bob\r\n\r\nhello\r\n.\r\n") {
		t.Errorf("messages %q", srv.messages)
	}
}

func TestArgumentsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	for _, r := range []Request{
		{User: "a", Recipients: []string{"a|b@x.test"}},
		{Sender: "a|b@x.test", Recipients: []string{"b"}},
	} {
		m, _ := Read(strings.NewReader("\n"))
		s, err := r.Resolve(m)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := s.Spool(dir, r); !errors.Is(err, errUnspoolable) {
			t.Errorf("%+v: error %v", r, err)
		}
		if names, _ := os.ReadDir(dir); len(names) > 0 {
			t.Errorf("%+v: left %v", r, names)
		}
	}
}

func TestRefusedOfflineMailGoesBack(t *testing.T) {
	t.Parallel()
	const file = "-f|alice@x.test|--|bob|bad\nSubject: s\n\nhello\n"
	for _, tt := range []struct {
		name     string
		refuse   map[string]string
		messages int
		notice   []string // texts in the last message
	}{
		{"one recipient", map[string]string{"RCPT TO:<bad@": "550 5.1.1 unknown"}, 2, []string{"    bad@mail.test: 550 5.1.1 unknown\r\n", "message/rfc822\r\n\r\nFrom: alice@x.test\r\n", "\r\nhello\r\n"}},
		{"all", map[string]string{"RCPT TO:<b": "550 5.1.1 unknown"}, 1, []string{"    bob@mail.test: 550", "    bad@mail.test: 550"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := server{refuse: tt.refuse}
			if err := InjectOffline(t.Context(), messageFile(t, file), dialer(t, &s)); err != nil {
				t.Fatal(err)
			}
			if len(s.messages) != tt.messages {
				t.Fatalf("messages %q", s.messages)
			}
			if got := strings.Join(s.commands, "|"); !strings.Contains(got, "MAIL FROM:<>|RCPT TO:<alice@x.test>|DATA") {
				t.Errorf("commands %q: no notice to the sender", got)
			}
			for _, want := range tt.notice {
				if !strings.Contains(s.messages[tt.messages-1], want) {
					t.Errorf("notice lacks %q:\n%s", want, s.messages[tt.messages-1])
				}
			}
		})
	}
}

func TestFailuresOfInjection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file, greeting string
		refuse               map[string]string
		permanent            bool
	}{
		{"no line of arguments", "-f|a|b", "", nil, true},
		{"empty", "", "", nil, true},
		{"unknown option", "-Z|b\n\nx\n", "", nil, true},
		{"mode", "-bs\n\nx\n", "", nil, true},
		{"no recipients", "-f|a\n\nx\n", "", nil, true},
		{"first line too long", strings.Repeat("x", maxArgs+1) + "\n", "", nil, true},
		{"null sender, refused", "-f|<>|b\n\nx\n", "", map[string]string{"RCPT": "550 no"}, true},
		{"notice refused too", "-f|a|b\n\nx\n", "", map[string]string{"MAIL": "550 no"}, true},
		{"one refusal is temporary", "-f|a|b|c\n\nx\n", "", map[string]string{"RCPT TO:<b@": "450 later", "RCPT TO:<c@": "550 no"}, false},
		{"notice deferred", "-f|a|b\n\nx\n", "", map[string]string{"RCPT TO:<b@": "550 no", "RCPT TO:<a@": "450 later"}, false},
		{"server refuses the session", "-f|a|b\n\nx\n", "554 go away", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := server{greeting: tt.greeting, refuse: tt.refuse}
			err := InjectOffline(t.Context(), messageFile(t, tt.file), dialer(t, &s))
			e, ok := errors.AsType[*smtp.Error](err)
			if err == nil || (ok && e.Permanent()) != tt.permanent {
				t.Errorf("error %v, want permanent %v", err, tt.permanent)
			}
			if len(s.messages) > 0 {
				t.Errorf("server got %q", s.messages)
			}
		})
	}
}

// FuzzOffline: whatever the file holds, what goes to the server are whole command
// lines, and one message whose lines end with CRLF, are not too long, and never are
// a lone dot.
func FuzzOffline(f *testing.F) {
	f.Add([]byte("-f|alice|-F|Alice Adams|-t|--|bob@example.org\nTo: a (b) <c@d>, \"e\"@f\nBcc: x\n\nhello\n.\n\r\n"))
	f.Add([]byte("-N|never|a\n\n" + strings.Repeat("x\xc3\xa9", 600) + "\r\r\n.\n"))
	f.Add([]byte("a\nContent-Type: multipart/x\nX: " + strings.Repeat("y ", 600) + "\n\n" + strings.Repeat("\xe2\x82\xac", 600) + "\n\r.\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := openOffline(bytes.NewReader(data), int64(len(data)), date)
		if err != nil {
			return
		}
		d := &dialogue{host: "mail.test", extensions: map[string]bool{"DSN": true, "SMTPUTF8": true, "8BITMIME": true}}
		mail, rcpts, err := s.commands(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range append(rcpts, mail) {
			if strings.ContainsAny(c, "\r\n\x00") {
				t.Fatalf("command %q", c)
			}
		}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if err := s.Message.writeTo(w, s.missingFields(d.host)); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		text, ok := strings.CutSuffix(out.String(), "\r\n")
		if !ok {
			t.Fatalf("%q does not end with CRLF", out.String())
		}
		header := true
		for line := range strings.SplitSeq(text, "\r\n") {
			header = header && line != ""
			if strings.ContainsAny(line, "\r\n") || line == "." || !header && len(line) > hardMax+1 {
				t.Fatalf("line %q", line)
			}
		}
	})
}
