package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

// logBuffer takes the log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testList is a filter with a clock that the test sets.
type testList struct {
	*greylist
	t   *testing.T
	d   *filtertest.Daemon
	at  time.Time
	log *logBuffer
}

func list(t *testing.T, file string, lines ...string) *testList {
	t.Helper()
	r, err := readRules("", lines)
	if err != nil {
		t.Fatal(err)
	}
	log := new(logBuffer)
	l := &testList{greylist: newGreylist(r, file, log), t: t, at: time.Unix(1_700_000_000, 0), log: log}
	l.now = func() time.Time { return l.at }
	return l
}

func start(t *testing.T, lines ...string) *testList {
	t.Helper()
	l := list(t, "", lines...)
	l.d = filtertest.Start(t, l.filter(), filtertest.OpenSMTPD())
	return l
}

// send sends one message in a session of its own and returns what was said to the
// recipient, "" for taken.
func (l *testList) send(source, from, to string) string {
	s := l.d.Open(source+":4321", "mx.example.net")
	defer s.Close()
	return s.Send(filtertest.Mail{From: from, To: []string{to}, Text: "\nhello\n"}).Rcpts[to]
}

const (
	wait5m   = "reject|451 4.7.1 Greylisted, try again in 5m0s"
	ann, joe = "ann@example.net", "joe@example.org"
)

func TestMailIsTakenWhenItComesAgainInTime(t *testing.T) {
	t.Parallel()
	l := start(t, "window 1h", "expire 2d", "auto 0")
	for i, tt := range []struct {
		after                time.Duration
		source, from, to, is string
	}{
		{0, "192.0.2.1", ann, joe, wait5m},
		{299 * time.Second, "192.0.2.1", ann, joe, "reject|451 4.7.1 Greylisted, try again in 1s"},
		{0, "192.0.3.1", ann, joe, wait5m},                        // another network
		{0, "192.0.2.1", "bob@example.net", joe, wait5m},          // another sender
		{0, "192.0.2.1", ann, "eve@example.org", wait5m},          // another recipient
		{time.Second, "192.0.2.99", ann, "JOE@example.org", ""},   // the same network
		{47 * time.Hour, "192.0.2.1", "Ann@Example.net", joe, ""}, // known
		{47 * time.Hour, "192.0.2.1", ann, joe, ""},               // used since
		{49 * time.Hour, "192.0.2.1", ann, joe, wait5m},           // forgotten
		{61 * time.Minute, "192.0.2.1", ann, joe, wait5m},         // too late
		{6 * time.Minute, "192.0.2.1", ann, joe, ""},
		{0, "192.0.2.1", "", joe, wait5m},
		{0, "[2001:db8::1]", ann, joe, wait5m},
		{5 * time.Minute, "[2001:db8::ffff:1]", ann, joe, ""},
		{0, "[2001:db8:0:1::1]", ann, joe, wait5m},
	} {
		l.at = l.at.Add(tt.after)
		if got := l.send(tt.source, tt.from, tt.to); got != tt.is {
			t.Errorf("%d: %s from %q to %q: %q, want %q", i, tt.source, tt.from, tt.to, got, tt.is)
		}
	}
	for _, want := range []string{
		`has to come again: 192.0.2.0/24, from "ann@example.net" to "joe@example.org"`,
		`came again after 5m0s: 192.0.2.0/24, from "ann@example.net" to "joe@example.org"`,
	} {
		if !strings.Contains(l.log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, l.log)
		}
	}
}

func TestNetworkThatHasDeliveredNeedNotWait(t *testing.T) {
	t.Parallel()
	l := start(t, "auto 2", "expire 10d")
	s := l.d.Open("192.0.2.1:4321", "mx.example.net")
	send := func(from string) string {
		return s.Send(filtertest.Mail{From: from, To: []string{joe}, Text: "\nhello\n"}).Rcpts[joe]
	}
	send(ann)
	l.at = l.at.Add(6 * time.Minute)
	if got := send(ann); got != "" {
		t.Fatal(got)
	}
	if got := send("x@example.net"); got != wait5m {
		t.Errorf("after one delivery: %q", got)
	}
	send(ann)
	if got := send("y@example.net"); got != "" {
		t.Errorf("after two deliveries: %q", got)
	}
	if got := l.send("192.0.2.7", "z@example.net", joe); got != "" {
		t.Errorf("from beside it: %q", got)
	}
	if got := l.send("192.0.3.7", "y@example.net", joe); got != wait5m {
		t.Errorf("another network: %q", got)
	}
	l.at = l.at.Add(11 * 24 * time.Hour)
	if got := l.send("192.0.2.7", "y@example.net", joe); got != wait5m {
		t.Errorf("after a long silence: %q", got)
	}
}

func TestExemptNeedNotWait(t *testing.T) {
	t.Parallel()
	l := start(t, "exempt 192.0.2.0/24", "exempt recipient abuse@example.org", "exempt recipient @lists.example.org", "exempt name .example.com")
	for _, tt := range []struct{ source, to, is string }{
		{"192.0.2.1", joe, ""}, {"192.0.3.1", joe, wait5m}, {"192.0.3.1", "Abuse@example.org", ""},
		{"192.0.3.1", "x@lists.example.org", ""}, {"192.0.3.1", "x@mylists.example.org", wait5m},
	} {
		if got := l.send(tt.source, ann, tt.to); got != tt.is {
			t.Errorf("%s to %s: %q, want %q", tt.source, tt.to, got, tt.is)
		}
	}
	connect := func(name string, confirmed wire.Result, source string) *filtertest.Session {
		s := l.d.Open("192.0.3.1:1", "x")
		s.Report(wire.LinkConnect{RDNS: name, FCrDNS: confirmed, Source: source, Destination: "192.0.2.25:25"})
		return s
	}
	user := connect("x", wire.Fail, "192.0.3.1:1")
	user.Report(wire.LinkAuth{Result: wire.Pass, User: "joe"})
	for name, tt := range map[string]struct {
		s     *filtertest.Session
		taken bool
	}{
		"user":              {user, true},
		"local":             {connect("x", wire.Pass, "unix:/var/run/smtpd.sock"), true},
		"confirmed name":    {connect("mx.Example.com", wire.Pass, "192.0.4.1:1"), true},
		"name of no domain": {connect("mx.badexample.com", wire.Pass, "192.0.4.1:1"), false},
		"unconfirmed name":  {connect("mx.example.com", wire.Fail, "192.0.5.1:1"), false},
	} {
		to := strings.ReplaceAll(name, " ", "-") + "@example.org"
		if o := tt.s.Send(filtertest.Mail{From: ann, To: []string{to}, Text: "\nx\n"}); (o.Rcpts[to] == "") != tt.taken {
			t.Errorf("%s: %+v", name, o)
		}
	}
	all := start(t, "exempt confirmed")
	if got := all.send("192.0.3.1", ann, joe); got != "" {
		t.Errorf("with exempt confirmed: %q", got)
	}
}

// run serves a filter of its own on the state in file, has f talk to it, and ends it.
func run(t *testing.T, file string, at time.Time, f func(l *testList)) (log string) {
	t.Helper()
	l := list(t, file)
	l.at = at
	t.Run("run", func(t *testing.T) {
		l.d = filtertest.Run(t, filtertest.OpenSMTPD(), func(r io.Reader, w io.Writer) error {
			return serve(context.Background(), l.greylist, r, w)
		})
		l.t = t
		f(l)
	})
	return l.log.String()
}

func TestStateOutlivesTheFilter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, at := filepath.Join(dir, "state"), time.Unix(1_700_000_000, 0)
	odd := `"a b\"|"@example.net`
	log := run(t, file, at, func(l *testList) { l.send("192.0.2.1", odd, joe) })
	if !strings.Contains(log, "no such file: the list begins empty") {
		t.Errorf("log: %s", log)
	}
	log = run(t, file, at.Add(6*time.Minute), func(l *testList) {
		if got := l.send("192.0.2.1", odd, joe); got != "" {
			t.Errorf("after a restart: %q", got)
		}
	})
	if strings.Contains(log, "begins empty") {
		t.Errorf("log: %s", log)
	}
	text, err := os.ReadFile(file)
	want := "greylist 1\nnetwork 192.0.2.0/24 1 1700000360\n" +
		`tuple 192.0.2.0/24 1700000000 1700000360 passed "\"a b\\\"|\"@example.net" "joe@example.org"` + "\nend 2\n"
	if err != nil || string(text) != want {
		t.Errorf("the state is %v\n%s, want\n%s", err, text, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files: %v, %v", left, err)
	}
	// A state that is cut short, at any byte, is none.
	for n := range len(text) - 1 {
		if err := list(t, "").read(bytes.NewReader(text[:n])); err == nil {
			t.Fatalf("a state of %d bytes is whole:\n%s", n, text[:n])
		}
	}
	if err := os.WriteFile(file, text[:len(text)-6], 0o600); err != nil {
		t.Fatal(err)
	}
	log = run(t, file, at.Add(7*time.Minute), func(l *testList) {
		if got := l.send("192.0.2.1", odd, joe); got != wait5m {
			t.Errorf("with a broken state: %q", got)
		}
	})
	if !strings.Contains(log, "state: it is not whole: the list begins empty") {
		t.Errorf("log: %s", log)
	}
}

// Over a reload with other rules two filters run on one state, until the last session
// of before has ended. Neither takes from the other what it knows.
func TestFiltersOnOneStateKnowTheSame(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state")
	x, y, z := tuple{"192.0.2.0/24", ann, joe}, tuple{"198.51.100.0/24", ann, joe}, tuple{"203.0.113.0/24", ann, joe}
	old, next := list(t, file), list(t, file)
	old.attempt(x)
	old.attempt(y)
	old.save()
	next.load()
	later := old.at.Add(6 * time.Minute)
	old.at, next.at = later, later
	old.attempt(x) // passes
	old.attempt(z)
	next.attempt(y) // passes
	next.save()
	old.save() // its last
	next.save()
	for name, l := range map[string]*testList{"the next": next, "one after it": list(t, file)} {
		if l.at = later; l != next {
			l.load()
		}
		for _, tt := range []struct {
			tuple
			passed bool
		}{{x, true}, {y, true}, {z, false}} {
			if e, ok := l.tuples[tt.tuple]; !ok || e.passed != tt.passed {
				t.Errorf("%s: %v is %+v, %v, want passed %v", name, tt.tuple, e, ok, tt.passed)
			}
		}
		l.at = later.Add(6 * time.Minute)
		for _, k := range []tuple{x, y, z} {
			if wait, _ := l.attempt(k); wait != 0 {
				t.Errorf("%s: %v has to wait %v", name, k, wait)
			}
		}
	}
}

// Filters that save at the same time lose nothing.
func TestFiltersSaveAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state")
	var wg sync.WaitGroup
	for i := range 8 {
		l := list(t, file)
		wg.Go(func() {
			for j := range 10 {
				l.attempt(tuple{"192.0.2.0/24", fmt.Sprint(i, "-", j, "@example.net"), joe})
				l.save()
			}
			if l.log.String() != "" {
				t.Errorf("log: %s", l.log)
			}
		})
	}
	wg.Wait()
	l := list(t, file)
	l.load()
	if n := len(l.tuples); n != 80 {
		t.Errorf("%d tuples are left of 80; log: %s", n, l.log)
	}
}

// What a filter takes over from another is bounded, too; what passed is kept first.
func TestWhatIsTakenOverIsBounded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state")
	l := list(t, file)
	good := tuple{"192.0.2.0/24", ann, joe}
	l.attempt(good)
	l.at = l.at.Add(6 * time.Minute)
	l.attempt(good)
	for i := range 5000 {
		l.attempt(tuple{"198.51.100.0/24", fmt.Sprint(i, "@spam.example"), joe})
	}
	l.save()
	next := list(t, file, "entries 1000")
	next.at = l.at
	next.load()
	if n := len(next.tuples); n > 1000 || n < 800 || !next.tuples[good].passed {
		t.Errorf("%d tuples, %+v", n, next.tuples[good])
	}
}

func TestStateThatCannotBeSavedIsLoggedOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	l := list(t, filepath.Join(dir, "state"))
	l.attempt(tuple{"192.0.2.0/24", ann, joe})
	l.save()
	l.save()
	if n := strings.Count(l.log.String(), "the state is not saved"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, l.log)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.save()
	if _, err := os.Stat(l.file); err != nil {
		t.Errorf("it is not saved when it can be: %v", err)
	}
}

func TestEntriesAreBounded(t *testing.T) {
	t.Parallel()
	l := list(t, "", "entries 1000")
	good := tuple{"192.0.2.0/24", ann, joe}
	l.attempt(good)
	l.at = l.at.Add(6 * time.Minute)
	if wait, _ := l.attempt(good); wait != 0 {
		t.Fatal(wait)
	}
	for i := range 5000 {
		l.at = l.at.Add(time.Second)
		l.attempt(tuple{"198.51.100.0/24", fmt.Sprint(i, "@spam.example"), joe})
	}
	if n := len(l.tuples); n > 1000 || n < 800 {
		t.Errorf("%d tuples", n)
	}
	if wait, _ := l.attempt(good); wait != 0 {
		t.Error("one that passed was forgotten for those that wait")
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, err string }{
		{"delay 1m", ""}, {"window 4h # x", ""}, {"expire 366d", ""}, {"auto 0", ""}, {"entries 100", ""}, {"exempt ::1", ""},
		{"exempt recipient @x", ""}, {"exempt name mx.example.org", ""}, {"exempt confirmed", ""},
		{"delay 5", "needs a unit"}, {"delay", "expected"}, {"delay 1m 2m", "expected"}, {"auto -1", "not a number"}, {"auto x", "not a number"},
		{"entries 1", "not a number"}, {"exempt joe", "not a network"}, {"exempt", "expected"}, {"exempt recipient joe", "neither"},
		{"exempt user joe", "expected"}, {"expire 400d", "not within"}, {"later 1m", "expected"}, {"delay 3d", "not longer than the delay"},
	} {
		_, err := readRules("", []string{tt.line})
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %v, want %q", tt.line, err, tt.err)
		}
	}
}

// A state that is read is written so that it reads as the same, and is never more than
// may be kept.
func FuzzState(f *testing.F) {
	f.Add("greylist 1\nnetwork 192.0.2.0/24 1 1700000000\ntuple 2001:db8::/64 1700000000 1700000000 passed \"\" \"joe@example.org\"\nend 2\n")
	f.Add("greylist 1\ntuple 192.0.2.0/24 1 2 waiting \"\\xff\" \"\\\"\"\nend 1\n")
	r := defaults()
	r.window, r.expire = rulefile.MaxPeriod, rulefile.MaxPeriod
	f.Fuzz(func(t *testing.T, text string) {
		load := func(text string) (*greylist, error) {
			g := newGreylist(r, "", io.Discard)
			g.now = func() time.Time { return time.Unix(1_700_000_000, 0) }
			return g, g.read(strings.NewReader(text))
		}
		g, err := load(text)
		if err != nil {
			return
		}
		first := g.write()
		again, err := load(string(first))
		if err != nil || len(again.tuples) != len(g.tuples) || len(again.origins) != len(g.origins) {
			t.Fatalf("%v: reads as %v, %v", first, again, err)
		}
		for k, e := range g.tuples {
			if again.tuples[k] != e {
				t.Fatalf("%v was %v, is %v", k, e, again.tuples[k])
			}
		}
	})
}
