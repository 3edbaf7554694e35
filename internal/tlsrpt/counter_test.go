package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// clock is the time of the tests.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// noon returns a clock that stands in the middle of a day, in a zone of its own.
func noon() *clock {
	return &clock{now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC).In(time.FixedZone("", 9*3600))}
}

// full is a Keeper that has no room.
type full struct{ keep.Keeper }

var errFull = errors.New("full")

func (full) Put(context.Context, string, []byte) error { return errFull }

func newStore(t *testing.T) keep.Keeper {
	return keep.New(t.TempDir(), keep.Limits{Records: 10, Size: 1 << 20})
}

var stsPolicy = Policy{Type: TypeSTS, Domain: "example.org", Strings: []string{"version: STSv1", "mode: testing"}, MX: []string{"*.example.org"}}

// failed is an event of the domain example.org.
func failed(mx string) Event {
	return Event{
		Domain: "Example.org", Policy: stsPolicy, Failure: CertificateExpired, MX: mx, HELO: "helo." + mx,
		Source: netip.MustParseAddr("192.0.2.1"), Addr: netip.MustParseAddr("2001:db8::1"), Reason: "expired\nyesterday",
	}
}

func TestSessionsAreCountedByDay(t *testing.T) {
	t.Parallel()
	c := noon()
	n := NewCounter(nil, c.Now)
	for range 3 {
		n.Add(Event{Domain: "example.org", Policy: stsPolicy})
		n.Add(failed("mx1.example.org"))
	}
	n.Add(failed("mx2.example.org"))
	n.Add(Event{Domain: "example.org", Policy: Policy{Type: TypeNone, Domain: "example.org"}})
	n.Add(Event{Domain: "a.example", Policy: Policy{Type: TypeNone, Domain: "a.example"}})
	for _, bad := range []string{"", "a b", "a\r\nb", "[192.0.2.1]", "münchen.example"} {
		n.Add(Event{Domain: bad})
	}
	if got := n.Finished(); len(got) != 0 {
		t.Fatalf("the day is not over: %+v", got)
	}
	c.pass(12 * time.Hour)
	n.Add(Event{Domain: "example.org", Policy: stsPolicy}) // the next day's
	got := n.Finished()
	if len(got) != 2 || got[0].Domain != "a.example" || got[1].Domain != "example.org" || len(got[1].Policies) != 2 {
		t.Fatalf("%+v", got)
	}
	p := got[1].Policies[0]
	if p.Success != 3 || p.Failure != 4 || len(p.Failures) != 2 || p.Failures[0].Count != 3 || p.Failures[1].Count != 1 ||
		p.Failures[0].Reason != "expired?yesterday" {
		t.Errorf("%+v", p)
	}
	n.Reported("example.org", got[1].Day)
	if got := n.Finished(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	first := n.List(Summary{}, 1500)
	if len(first) != 2 || first[0].Domain != "a.example" || !first[1].Reported {
		t.Errorf("%+v", first)
	}
	if rest := n.List(first[1], 0); len(rest) != 1 || !rest[0].Day.After(first[1].Day) {
		t.Errorf("%+v", rest)
	}
	c.pass(8 * 24 * time.Hour)
	if err := n.Expire(t.Context()); err != nil || len(n.List(Summary{}, 10)) != 0 || n.size != 0 {
		t.Errorf("after a week: %+v, %v", n.Finished(), err)
	}
}

func TestCountsAreBounded(t *testing.T) {
	t.Parallel()
	c := noon()
	n := NewCounter(nil, c.Now)
	for i := range maxDetails + 50 {
		n.Add(failed(fmt.Sprintf("mx%d.example.org", i)))
	}
	for i := range maxPolicies + 5 {
		n.Add(Event{Domain: "example.org", Policy: Policy{Type: TypeDANE, Domain: fmt.Sprint(i)}})
	}
	n.Add(Event{Domain: "strings.example", Policy: Policy{Strings: make([]string, 1000), MX: []string{strings.Repeat("x", 5000)}}})
	for i := range maxDomains {
		n.Add(Event{Domain: fmt.Sprintf("d%d.example", i)})
	}
	c.pass(24 * time.Hour)
	got := n.Finished()
	if len(got) != maxDomains {
		t.Errorf("%d domains", len(got))
	}
	for _, s := range got {
		switch s.Domain {
		case "example.org":
			p := s.Policies[0]
			if len(s.Policies) != maxPolicies || len(p.Failures) != maxDetails || p.Failure != maxDetails+50 {
				t.Errorf("%d policies, %d kinds of %d failures", len(s.Policies), len(p.Failures), p.Failure)
			}
		case "strings.example":
			if p := s.Policies[0].Policy; len(p.Strings) != maxStrings || len(p.MX[0]) != maxString {
				t.Errorf("%d strings, one of %d bytes", len(p.Strings), len(p.MX[0]))
			}
		}
	}
}

func TestCountsSurviveARestart(t *testing.T) {
	t.Parallel()
	c := noon()
	store := newStore(t)
	n := NewCounter(store, c.Now)
	n.Add(failed("mx1.example.org"))
	n.Add(Event{Domain: "a.example", Policy: stsPolicy})
	n.Reported("a.example", n.today())
	n.store = full{store}
	if err := n.Save(t.Context()); !errors.Is(err, errFull) {
		t.Errorf("a store that is full: %v", err)
	}
	n.store = store
	if err := n.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	n = NewCounter(store, c.Now)
	n.Add(failed("mx1.example.org"))
	n.Add(failed("mx2.example.org"))
	if err := n.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Add(failed("mx1.example.org"))
	if err := n.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.pass(24 * time.Hour)
	n = NewCounter(store, c.Now)
	if err := n.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := n.Finished()
	if len(got) != 1 || got[0].Domain != "example.org" || got[0].Policies[0].Failure != 4 ||
		got[0].Policies[0].Failures[0].Count != 3 || got[0].Policies[0].Failures[1].MX != "mx2.example.org" {
		t.Fatalf("%+v", got)
	}
	c.pass(8 * 24 * time.Hour)
	if err := NewCounter(store, c.Now).Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names, err := store.Names(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("after a week there are %q, %v", names, err)
	}
}

// What a record holds was counted: domains that can be, and no more than are.
func FuzzStored(f *testing.F) {
	day := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	record, err := encode([]Summary{{Domain: "example.org", Day: day, Policies: []PolicySummary{{Policy: stsPolicy, Success: 1}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decode(b, day)
		if err != nil {
			return
		}
		for _, s := range list {
			if !countable(s.Domain) || !s.Day.Equal(day) || len(s.Policies) > maxPolicies {
				t.Errorf("%+v", s)
			}
		}
	})
}

// reporter and summary are those of the golden report.
var reporter = Reporter{Organization: "Example Inc.", Contact: "postmaster@sender.example", Host: "mail.sender.example"}

func summary(t *testing.T) *Summary {
	t.Helper()
	c := noon()
	n := NewCounter(nil, c.Now)
	n.Add(Event{Domain: "example.org", Policy: stsPolicy})
	n.Add(failed("mx1.example.org"))
	n.Add(Event{Domain: "example.org", Policy: stsPolicy, Failure: STSPolicyFetchError})
	n.Add(Event{Domain: "example.org", Policy: Policy{Type: TypeDANE, Domain: "mx2.example.org", Strings: []string{"3 1 1 00ff"}}})
	c.pass(24 * time.Hour)
	return &n.Finished()[0]
}

func TestReportInJSON(t *testing.T) {
	t.Parallel()
	got, err := reporter.JSON(summary(t))
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(indented.String()) != strings.TrimSpace(string(want)) {
		t.Errorf("got\n%s\nwant\n%s", indented.String(), want)
	}
}

func TestReportInAMessage(t *testing.T) {
	t.Parallel()
	s := summary(t)
	text, err := reporter.Message(s, smtp.Path{Local: "tlsrpt", Domain: "sender.example"}, smtp.Path{Local: "a b", Domain: "example.org"},
		time.Date(2026, 1, 3, 4, 5, 6, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\r\n")) || len(line) > 1000 {
			t.Fatalf("line %q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"From":                 "<tlsrpt@sender.example>",
		"To":                   `<"a b"@example.org>`,
		"Date":                 "Sat, 3 Jan 2026 04:05:06 +0000",
		"Subject":              "Report Domain: example.org Submitter: mail.sender.example Report-ID: <20260102.example.org@mail.sender.example>",
		"TLS-Report-Domain":    "example.org",
		"TLS-Report-Submitter": "mail.sender.example",
		"TLS-Required":         "No",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" {
		t.Fatalf("%s %v, %v", kind, params, err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	if p, err := r.NextPart(); err != nil || p.Header.Get("Content-Type") != "text/plain; charset=us-ascii" {
		t.Fatalf("first part: %v, %v", p, err)
	}
	p, err := r.NextPart()
	if err != nil || p.Header.Get("Content-Type") != "application/tlsrpt+gzip" ||
		p.FileName() != "mail.sender.example!example.org!1767312000!1767398399!001.json.gz" {
		t.Fatalf("second part: %v, %v", p, err)
	}
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, p))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	want, jerr := reporter.JSON(s)
	if err := errors.Join(err, jerr); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := r.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("a third part: %v", err)
	}
}

func BenchmarkAdd(b *testing.B) {
	n := NewCounter(nil, nil)
	e := failed("mx1.example.org")
	b.ReportAllocs()
	for b.Loop() {
		n.Add(e)
	}
}
