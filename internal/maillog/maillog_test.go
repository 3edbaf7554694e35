package maillog

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const sid = report.Session(0xdeadbeef)

func path(s string) smtp.Path {
	l, d, _ := strings.Cut(s, "@")
	return smtp.Path{Local: l, Domain: d}
}

func env(t envelope.Type, from, to, rcpt string) *envelope.Envelope {
	return &envelope.Envelope{ID: 0x5b1f0c4a9d8e7f60, Type: t, Sender: path(from), Dest: path(to), Rcpt: path(rcpt), User: "ann"}
}

// events is one of each kind, and hostile ones.
func events() []report.Event {
	ann, bob := "ann@a.example", "bob@b.example"
	next := time.Date(2026, 11, 24, 8, 6, 40, 0, time.FixedZone("", 3600))
	return []report.Event{
		report.Connected{Session: sid, Address: "192.0.2.1", Host: "client.example"},
		report.Connected{Session: sid, Address: "[2001:db8::1]", Host: "<unknown>"},
		report.Proxied{Session: sid, Address: "192.0.2.7"},
		report.TLS{Session: sid, Ciphers: "TLSv1.3:TLS_AES_128_GCM_SHA256:128"},
		report.CertCheck{Session: sid, Result: "unchecked", Fingerprint: "SHA256:00ff"},
		report.Authentication{Session: sid, User: "ann", Result: "ok"},
		report.Envelope{Session: sid, ID: 0x5b1f0c4a9d8e7f60, From: path(ann), To: path(bob)},
		report.Message{Session: sid, MsgID: 0x5b1f0c4a, Size: 1234, Rcpts: 2, Proto: "ESMTP"},
		report.FailedCommand{Session: sid, Command: "RCPT TO:<x@y>", Result: "550 Invalid recipient"},
		report.FailedCommand{Session: sid, Command: "RCPT TO:<x@y>", Result: "550 Invalid recipient", Rule: "/etc/mail/smtpd.conf:12", Cause: "table users: not found"},
		report.BadInput{Session: sid, Result: "500 5.0.0 Line too long"},
		report.Disconnected{Session: sid, Reason: "quit"},
		report.Disconnected{Session: sid, Reason: "io-error: connection reset by peer"},
		report.FilterRemark{Session: sid, Kind: "proc", Filter: "spam", Text: "score 7.5\n\"quoted\""},
		report.Refused{Address: "192.0.2.1", Reason: "too many connections"},
		report.RelayConnecting{Session: sid, Address: "smtp+tls://192.0.2.2:25", Host: "mx.b.example"},
		report.RelayConnecting{Session: sid, Address: "smtp://192.0.2.2:25"},
		report.RelayConnected{Session: sid},
		report.RelayTLS{Session: sid, Ciphers: "TLSv1.3:TLS_AES_128_GCM_SHA256:128"},
		report.RelayCertCheck{Session: sid, Result: "valid", Fingerprint: "SHA256:00ff"},
		report.RelayCertCheck{Session: sid, Result: "no certificate presented"},
		report.RelayError{Session: sid, Reason: "Connection timeout"},
		report.RelayRejects{Session: sid},
		report.RelayClosing{Session: sid, Reason: "tls-failure"},
		report.RelayDisconnected{Session: sid, Reason: "quit", Messages: 3},
		report.Delivery{Session: sid, Envelope: env(envelope.MTA, ann, bob, bob), Relay: "192.0.2.2 (mx.b.example)", Delay: 3 * time.Second, Result: report.OK, Stat: "250 2.0.0 queued as 1"},
		report.Delivery{Session: sid, Envelope: env(envelope.MTA, "@", bob, "old@b.example"), Source: "198.51.100.1", Relay: "b.example", Delay: 93784 * time.Second, Result: report.TempFail, Stat: "451 4.7.1 \"later\"", Next: next},
		report.Delivery{Session: sid, Envelope: held(env(envelope.MTA, ann, bob, bob)), Relay: "192.0.2.2 (mx.b.example)", Delay: time.Second, Result: report.TempFail, Stat: "Connection timeout", Next: next},
		report.RelayRoute{Source: "-", Relay: "192.0.2.2 (mx.b.example)", Disabled: time.Minute, Reason: "Connection timeout"},
		report.RelayRoute{Source: "198.51.100.1", Relay: "192.0.2.2 (mx.b.example)", Reason: "per admin request"},
		report.Delivery{Session: sid, Envelope: env(envelope.MDA, ann, bob, bob), Delay: 0, Result: report.OK, Stat: "Delivered"},
		report.Delivery{Session: sid, Envelope: env(envelope.MDA, ann, bob, "old@b.example"), Delay: time.Hour, Result: report.TempFail, Stat: `Error (temporary failure: "disk full")`, Next: next},
		report.Delivery{Session: sid, Envelope: env(envelope.MDA, ann, bob, bob), Delay: time.Minute, Result: report.PermFail, Stat: report.LoopDetected},
		report.QueueEnd{Envelope: env(envelope.MTA, ann, bob, bob), Verb: "Expire", Delay: 96 * time.Hour, Stat: "Envelope expired"},
		report.QueueEnd{Envelope: env(envelope.MDA, "@", bob, "old@b.example"), Verb: "Remove", Delay: time.Second, Stat: "Removed by administrator"},
		report.QueueEnd{Envelope: env(envelope.Bounce, ann, bob, bob), Verb: "Remove", Delay: time.Second, Stat: "Removed by administrator"},
		// Text of strangers.
		report.Connected{Session: sid, Address: "192.0.2.1", Host: "evil host=good.example\n0000000000000000 smtp connected"},
		report.Authentication{Session: sid, User: "root result=ok\x00\\", Result: "permfail"},
		report.FailedCommand{Session: sid, Command: "RCPT TO:<\" result=\"250 Ok\"\r\n\xff>", Result: "501 5.5.2 Syntax error"},
		report.Envelope{Session: sid, ID: 1, From: path("a> to=<b@a.example"), To: path("ü\u202e@b.example")},
		report.FailedCommand{Session: sid, Command: strings.Repeat("ä", 2000), Result: "500 5.0.0 Line too long"},
	}
}

// held says what held an envelope back.
func held(e *envelope.Envelope) *envelope.Envelope {
	e.Held = "route - <-> 192.0.2.2 (mx.b.example) disabled until 2026-09-20T10:13:20Z"
	return e
}

// capture is a LineWriter that keeps the lines.
type capture struct {
	mu    sync.Mutex
	lines []string
}

func (c *capture) WriteLine(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, string(line))
}

func TestLines(t *testing.T) {
	for _, tt := range []struct {
		file   string
		format Format
	}{{"text.golden", Text}, {"json.golden", JSON}} {
		t.Run(tt.file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // for a fixed clock
				var c capture
				l := New(&c, tt.format)
				for _, ev := range events() {
					l.Report(ev)
				}
				got := strings.Join(c.lines, "\n") + "\n"
				name := filepath.Join("testdata", tt.file)
				if *update {
					if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
					for i := range min(len(g), len(w)) {
						if g[i] != w[i] {
							t.Errorf("line %d\n got %s\nwant %s", i+1, g[i], w[i])
						}
					}
					t.Errorf("%d lines, want %d", len(g), len(w))
				}
			})
		})
	}
}

func TestEveryEventHasALine(t *testing.T) {
	t.Parallel()
	var c capture
	l := New(&c, Text)
	for i, ev := range events() {
		l.Report(ev)
		if len(c.lines) != i+1 {
			t.Fatalf("%T: no line", ev)
		}
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0s"}, {999 * time.Millisecond, "0s"}, {time.Minute, "1m"}, {93784 * time.Second, "1d2h3m4s"},
		{24 * time.Hour, "1d"}, {-5 * time.Second, "-5s"},
	} {
		if got := string(AppendDuration(nil, tt.d)); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.d, got, tt.want)
		}
	}
}

// counter counts writes and keeps what was written.
type counter struct {
	bytes.Buffer
	writes int
}

func (c *counter) Write(p []byte) (int, error) {
	c.writes++
	return c.Buffer.Write(p)
}

func TestEachLineIsOneWrite(t *testing.T) {
	t.Parallel()
	var c counter
	l := New(Lines(&c), Text)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { l.Report(report.Disconnected{Session: sid, Reason: "quit"}) })
	}
	wg.Wait()
	want := strings.Repeat("00000000deadbeef smtp disconnected reason=quit\n", 20)
	if c.writes != 20 || c.String() != want {
		t.Errorf("%d writes of\n%s", c.writes, c.String())
	}
}

// Whatever a stranger says, a line is one printable line, its fields are where they
// belong, and JSON gives back valid text as it was.
func FuzzForeignText(f *testing.F) {
	f.Add("plain", "a@b")
	f.Add("a\" result=\"x\n", "a> to=<b@c d")
	f.Add("\xff\xfe\u2028", "\\@\x00")
	f.Add(strings.Repeat("\u00e4", 600), "@")
	f.Fuzz(func(t *testing.T, s, addr string) {
		var text, js capture
		for _, ev := range []report.Event{
			report.FailedCommand{Session: sid, Command: s, Result: s},
			report.Envelope{Session: sid, ID: 1, From: path(addr), To: path(addr)},
			report.Connected{Session: sid, Address: "local", Host: s},
			report.Delivery{Session: sid, Envelope: env(envelope.MDA, addr, addr, "r@x"), Result: report.OK, Stat: s},
		} {
			New(&text, Text).Report(ev)
			New(&js, JSON).Report(ev)
		}
		for i, line := range text.lines {
			if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("line is not printable: %q", line)
			}
			if len(line) > 10*maxText {
				t.Errorf("line of %d bytes", len(line))
			}
			var v map[string]any
			if err := json.Unmarshal([]byte(js.lines[i]), &v); err != nil {
				t.Errorf("not JSON: %v: %s", err, js.lines[i])
			}
			if c, ok := v["command"]; ok && utf8.ValidString(s) && len(s) <= maxText && c != s {
				t.Errorf("JSON command %q, want %q", c, s)
			}
		}
		if n := strings.Count(text.lines[1], " "); n != 5 {
			t.Errorf("%d blanks, want 5 between the fields of %q", n, text.lines[1])
		}
		if strings.Count(text.lines[1], "<") != 2 || strings.Count(text.lines[1], ">") != 2 {
			t.Errorf("brackets within an address of %q", text.lines[1])
		}
		if n := strings.Count(text.lines[2], " "); n != 4 {
			t.Errorf("%d blanks, want 4 in %q", n, text.lines[2])
		}
		if n := closingQuotes(text.lines[0]); n != 4 {
			t.Errorf("%d bare quotes, want 4 in %q", n, text.lines[0])
		}
	})
}

// closingQuotes counts the quotes that no backslash stands before.
func closingQuotes(s string) (n int) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			n++
		}
	}
	return n
}

type discard struct{}

func (discard) WriteLine([]byte) {}

func BenchmarkDelivery(b *testing.B) {
	l := New(discard{}, Text)
	var ev report.Event = report.Delivery{
		Session: sid, Envelope: env(envelope.MTA, "ann@a.example", "bob@b.example", "bob@b.example"),
		Relay: "192.0.2.2 (mx.b.example)", Delay: 3 * time.Second, Result: report.OK, Stat: "250 2.0.0 queued as 1",
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Report(ev)
	}
}
