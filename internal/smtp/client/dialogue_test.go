package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// counted counts the writes to a connection.
type counted struct {
	net.Conn
	writes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// play is a server that keeps to a script. Its lines are what it says ("S: "), what
// it must be told ("C: "), and "close". What it says in several lines leaves in one
// write.
func play(conn net.Conn, script string) error {
	defer conn.Close()
	r := bufio.NewReader(conn)
	out := ""
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "S: "); ok {
			out += text + "\r\n"
			continue
		}
		if out != "" {
			if _, err := conn.Write([]byte(out)); err != nil {
				return fmt.Errorf("say %q: %w", out, err)
			}
			out = ""
		}
		if line == "close" || line == "" {
			continue
		}
		want, ok := strings.CutPrefix(line, "C: ")
		if !ok && line != "C:" {
			return fmt.Errorf("bad line in script: %q", line)
		}
		if line == "C:" {
			want = ""
		}
		got, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("wait for %q: %w", want, err)
		}
		if got != want+"\r\n" {
			return fmt.Errorf("client says %q, want %q", got, want)
		}
	}
	if out != "" {
		if _, err := conn.Write([]byte(out)); err != nil {
			return fmt.Errorf("say %q: %w", out, err)
		}
	}
	if strings.HasSuffix(strings.TrimSpace(script), "close") {
		return nil
	}
	if rest, err := r.ReadString('\n'); rest != "" || err == nil {
		return fmt.Errorf("client goes on with %q", rest)
	}
	return nil
}

// dial returns a session with a server that keeps to the script. The test fails
// when the client does not, or leaves before its end.
func dial(t *testing.T, cfg Config, script string) (*Session, *counted) {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "me.test"
	}
	near, far := net.Pipe()
	result := make(chan error, 1)
	go func() { result <- play(far, script) }()
	c := &counted{Conn: near}
	s := New(c, cfg)
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
	return s, c
}

// greeted is a dialogue up to the first transaction with a server that offers these
// extensions.
func greeted(extensions ...string) string {
	return hail("EHLO", extensions...)
}

func hail(word string, extensions ...string) string {
	b := "S: 220 mx.test ESMTP\nC: " + word + " me.test\n"
	for i, line := range append([]string{"mx.test"}, extensions...) {
		separator := "-"
		if i == len(extensions) {
			separator = " "
		}
		b += "S: 250" + separator + line + "\n"
	}
	return b
}

// open opens a session that must get as far.
func open(t *testing.T, cfg Config, script string) (*Session, *counted) {
	t.Helper()
	s, c := dial(t, cfg, script)
	if err := s.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s, c
}

// path parses an address.
func path(t testing.TB, s string) smtp.Path {
	t.Helper()
	if s == "" {
		return smtp.Path{}
	}
	p, err := smtp.ParseMailbox(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// message returns a transaction from a@x.test.
func message(t testing.TB, body string, rcpts ...string) *Transaction {
	t.Helper()
	tx := &Transaction{Sender: path(t, "a@x.test"), Body: strings.NewReader(body), Size: int64(len(body))}
	for _, r := range rcpts {
		tx.Rcpts = append(tx.Rcpts, Recipient{Path: path(t, r)})
	}
	return tx
}

// summary puts results on lines: the stage, whether it is permanent, the text.
func summary(results Results) string {
	var b strings.Builder
	for _, r := range results {
		switch {
		case r.Err == nil:
			fmt.Fprintf(&b, "%v ok %v\n", r.Stage, r.Reply)
		case errors.Is(r.Err, ErrNextTransaction):
			fmt.Fprintf(&b, "%v next %v\n", r.Stage, r.Err)
		case r.Permanent():
			fmt.Fprintf(&b, "%v permanent %v\n", r.Stage, r.Err)
		default:
			fmt.Fprintf(&b, "%v temporary %v\n", r.Stage, r.Err)
		}
	}
	return b.String()
}

// expect compares results with lines.
func expect(t *testing.T, got Results, want ...string) {
	t.Helper()
	if w := strings.Join(want, "\n") + "\n"; summary(got) != w {
		t.Errorf("results\n%swant\n%s", summary(got), w)
	}
}

// quit says goodbye.
func quit(t *testing.T, s *Session) {
	t.Helper()
	if err := s.Quit(context.Background()); err != nil {
		t.Errorf("Quit: %v", err)
	}
}
