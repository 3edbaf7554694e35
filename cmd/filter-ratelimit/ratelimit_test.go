package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

// start serves the rules with a clock that the test sets.
func start(t *testing.T, config filtertest.Config, now *time.Time, lines ...string) *filtertest.Daemon {
	t.Helper()
	r, err := readRules("", lines)
	if err != nil {
		t.Fatal(err)
	}
	l := newLimiter(r)
	l.now = func() time.Time { return *now }
	return filtertest.Start(t, functions(l), config)
}

func mail(to ...string) filtertest.Mail {
	return filtertest.Mail{From: "a@example.net", To: to, Text: "\nhello\n"}
}

func TestSourceIsHeldToItsConnections(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	d := start(t, filtertest.OpenSMTPD(), &now, "source connections 2/m", "exempt 192.0.2.128/25")
	ask := func(address string) string {
		s := d.Open(address, "x")
		defer s.Close()
		return s.Ask(wire.PhaseConnect, "x|192.0.2.1")
	}
	const refused = "disconnect|421 4.7.0 Too many connections, try again in 30s"
	for i, tt := range []struct {
		after           time.Duration
		address, answer string
	}{
		{0, "192.0.2.1:1", "proceed"},
		{0, "192.0.2.1:2", "proceed"},
		{0, "192.0.2.1:3", refused},
		{0, "192.0.2.2:1", "proceed"},
		{29 * time.Second, "192.0.2.1:4", "disconnect|421 4.7.0 Too many connections, try again in 1s"},
		{time.Second, "192.0.2.1:5", "proceed"},
		{0, "192.0.2.1:6", refused},
		{0, "[2001:db8::1]:1", "proceed"},
		{0, "[2001:db8::2]:1", "proceed"},
		{0, "[2001:db8::3]:1", refused},
		{0, "192.0.2.200:1", "proceed"},
		{0, "192.0.2.200:1", "proceed"},
		{0, "192.0.2.200:1", "proceed"},
		{0, "unix:/var/run/smtpd.sock", "proceed"},
		{time.Hour, "192.0.2.1:7", "proceed"},
		{0, "192.0.2.1:8", "proceed"},
		{0, "192.0.2.1:9", refused},
	} {
		now = now.Add(tt.after)
		if got := ask(tt.address); got != tt.answer {
			t.Errorf("%d: %s: %s, want %s", i, tt.address, got, tt.answer)
		}
	}
	if n := strings.Count(d.Log(), "source 192.0.2.1: limit reached: source connections 2/1m0s"); n != 3 {
		t.Errorf("logged %d times:\n%s", n, d.Log())
	}
}

func TestUserIsHeldToMessagesAndRecipients(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	d := start(t, filtertest.Current(), &now, "user messages 2/hour", "user recipients 3/day", "source messages 1/day", "exempt user root")
	login := func(user string) *filtertest.Session {
		s := d.Open("192.0.2.1:1", "x")
		s.Report(wire.LinkAuth{Result: wire.Pass, User: user})
		return s
	}
	joe := login("joe")
	if o := joe.Send(mail("a@x", "b@x")); o.Refused != "" || len(o.Rcpts) != 0 {
		t.Errorf("first: %+v", o)
	}
	joe = login("joe") // another session, the same user
	if o := joe.Send(mail("a@x", "b@x")); o.Rcpts["b@x"] != "reject|450 4.7.1 Too many recipients, try again in 8h0m0s" || len(o.Rcpts) != 1 {
		t.Errorf("second: %+v", o)
	}
	if o := joe.Send(mail("a@x")); o.Refused != "mail-from: reject|450 4.7.1 Too many messages, try again in 30m0s" {
		t.Errorf("third: %+v", o)
	}
	if o := login("ann").Send(mail("a@x")); o.Refused != "" {
		t.Errorf("another user: %+v", o)
	}
	for range 5 {
		if o := login("root").Send(mail("a@x")); o.Refused != "" {
			t.Errorf("an exempt user: %+v", o)
		}
	}
	stranger := d.Open("192.0.2.1:1", "x") // users have not used up what their address has
	if o := stranger.Send(mail("a@x")); o.Refused != "" {
		t.Errorf("stranger: %+v", o)
	}
	if o := stranger.Send(mail("a@x")); !strings.HasPrefix(o.Refused, "mail-from: reject|450") {
		t.Errorf("stranger: %+v", o)
	}
}

// Tables of credentials find a user by any case of the name, which is no way around a limit.
func TestUserIsOneInAnyCase(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	d := start(t, filtertest.Current(), &now, "user messages 1/hour", "exempt user Root")
	send := func(user string) string {
		s := d.Open("192.0.2.1:1", "x")
		s.Report(wire.LinkAuth{Result: wire.Pass, User: user})
		return s.Send(mail("a@x")).Refused
	}
	if got := send("alice"); got != "" {
		t.Errorf("alice: %q", got)
	}
	for _, user := range []string{"alice", "Alice", "ALICE"} {
		if got := send(user); !strings.Contains(got, "450 4.7.1 Too many messages") {
			t.Errorf("%s: %q", user, got)
		}
	}
	for _, user := range []string{"root", "ROOT", "Root"} {
		if got := send(user); got != "" {
			t.Errorf("%s: %q", user, got)
		}
	}
}

func TestDestinationIsHeldToItsRecipientsInBothDirections(t *testing.T) {
	t.Parallel()
	r, err := readRules("", []string{"destination recipients 1/h"})
	if err != nil {
		t.Fatal(err)
	}
	d := filtertest.Start(t, newFilter(r), filtertest.Current())
	for name, s := range map[string]*filtertest.Session{"in": d.Open("192.0.2.1:1", "x"), "out": d.OpenOut("192.0.2.2:25", "y")} {
		o := s.Send(mail("a@example.org", "b@EXAMPLE.org", "c@example.com"))
		if !strings.HasPrefix(o.Rcpts["b@EXAMPLE.org"], "reject|450 4.7.1 Too many recipients") || len(o.Rcpts) != 1 {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	r, err := readRules("", []string{"source connections 1/h"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLimiter(r)
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	for i := range maxKeys + 1000 {
		l.take("connections", map[string]string{"source": fmt.Sprint(i)})
	}
	if n := len(l.counters[0].full); n > maxKeys || n < maxKeys/2 {
		t.Errorf("%d keys", n)
	}
	now = now.Add(2 * time.Hour)
	for i := range maxKeys {
		l.take("connections", map[string]string{"source": "new" + fmt.Sprint(i)})
	}
	if refused, _, _, _ := l.take("connections", map[string]string{"source": "new0"}); refused == nil {
		t.Error("one that is not quiet was forgotten for one that is")
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, err string }{
		{"", ""}, {"# comment", ""}, {" user  messages 10/30minutes # x", ""}, {"exempt 2001:db8::/32", ""}, {"exempt ::1", ""},
		{"source connections 1/s", ""}, {"source connections 1/31d", ""}, {"source recipients 1/2hours", ""},
		{"user connections 1/s", "no such limit"}, {"destination messages 1/s", "no such limit"}, {"user messages", "expected"},
		{"user messages 10", "not a count"}, {"user messages 0/s", "not a count"}, {"user messages x/s", "not a count"},
		{"user messages 1/", "needs a unit"}, {"user messages 1/5", "needs a unit"}, {"user messages 1/week", "not a period"},
		{"user messages 1/32d", "longer than 31d"}, {"user messages 1/0s", "not within"}, {"user messages 1/99999999999999999999s", "not a period"},
		{"exempt joe", "not a network"}, {"exempt user", "not a network"}, {"exempt user a b", "expected"},
	} {
		err := rulefile.Read("", []string{tt.line}, new(rules).add)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %v, want %q", tt.line, err, tt.err)
		}
	}
}

func TestRulesOfAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("# limits\nuser messages 10/h\n\nuser letters 1/h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readRules(file, nil); err == nil || !strings.HasPrefix(err.Error(), file+":4: ") {
		t.Errorf("error %v", err)
	}
	if _, err := readRules("", nil); err == nil {
		t.Error("no limits: no error")
	}
}

// Rules never panic, and a limit prints as a rule that is the same limit.
func FuzzRules(f *testing.F) {
	f.Add("user messages 10/h")
	f.Add("exempt 192.0.2.0/24")
	f.Fuzz(func(t *testing.T, line string) {
		r := new(rules)
		if rulefile.Read("", []string{line}, r.add) != nil || len(r.limits) == 0 {
			return
		}
		l := r.limits[0]
		again := new(rules)
		text := fmt.Sprintf("%s %s %d/%ds", l.who, l.what, l.count, int(l.period.Seconds()))
		if err := again.add(strings.Fields(text)); err != nil || again.limits[0] != l {
			t.Fatalf("%q is %v, then %v, %v", line, l, again.limits, err)
		}
	})
}
