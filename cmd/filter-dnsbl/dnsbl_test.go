package main

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// zone answers lookups, and notes them.
type zone struct {
	mu      sync.Mutex
	records map[string]string // by name; "!" fails, other words are answers; a TXT is by "txt NAME"
	asked   []string          // guarded by mu
}

func (z *zone) lookup(kind wire.Query, name string) ([]string, wire.Status) {
	name = strings.TrimSuffix(name, ".")
	if kind == wire.QueryTXT {
		name = "txt " + name
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, name)
	text, ok := z.records[name]
	switch {
	case !ok:
		return nil, wire.StatusNotFound
	case text == "!":
		return nil, wire.StatusTempFail
	case kind == wire.QueryTXT:
		return []string{text}, wire.StatusOK
	}
	return strings.Fields(text), wire.StatusOK
}

func (z *zone) questions() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	asked := slices.Clone(z.asked)
	slices.Sort(asked)
	return asked
}

func start(t *testing.T, records map[string]string, lines ...string) (*filtertest.Daemon, *zone) {
	t.Helper()
	r, err := readRules("", lines)
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{records: records}
	d := filtertest.Start(t, newFilter(r), filtertest.Current())
	d.Lookup(z.lookup)
	return d, z
}

func mail(text string) filtertest.Mail {
	return filtertest.Mail{From: "a@example.net", To: []string{"b@example.org"}, Text: text}
}

func TestListedClientIsRefusedInTheListsWords(t *testing.T) {
	t.Parallel()
	d, z := start(t, map[string]string{
		"1.100.51.198.bl.example":     "127.0.0.4",
		"txt 1.100.51.198.bl.example": "Spam seen,\r\n\x1b[1m see\thttps://bl.example/q \u00e9",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.1.c.6.1.0.0.2.bl.example": "127.0.0.2",
	}, "client bl.example")
	for _, tt := range []struct{ source, is string }{
		{"198.51.100.1:1", "mail-from: reject|550 5.7.1 Refused: 198.51.100.1 is listed by bl.example: Spam seen, [1m see https://bl.example/q"},
		{"[2001:6c11::1]:1", "mail-from: reject|550 5.7.1 Refused: 2001:6c11::1 is listed by bl.example"},
		{"198.51.100.2:1", ""},
	} {
		if o := d.Open(tt.source, "x").Send(mail("\nhello\n")); o.Refused != tt.is {
			t.Errorf("%s: %q, want %q", tt.source, o.Refused, tt.is)
		}
	}
	before := len(z.questions())
	user := d.Open("198.51.100.1:1", "x")
	user.Report(wire.LinkAuth{Result: wire.Pass, User: "joe"})
	for name, s := range map[string]*filtertest.Session{
		"user": user, "local": d.Open("unix:/var/run/smtpd.sock", ""), "private": d.Open("10.0.0.1:1", ""), "this host": d.Open("[::1]:1", ""),
	} {
		if o := s.Send(mail("\nhello\n")); o.Refused != "" {
			t.Errorf("%s: %q", name, o.Refused)
		}
	}
	if asked := z.questions(); len(asked) != before {
		t.Errorf("asked about sessions that are not to be asked about: %q", asked)
	}
	if want := "refused: score 1: 198.51.100.1 by bl.example (127.0.0.4, weight 1)"; !strings.Contains(d.Log(), want) {
		t.Errorf("no %q in the log:\n%s", want, d.Log())
	}
}

func TestWeightsOfListsAddUp(t *testing.T) {
	t.Parallel()
	records := make(map[string]string)
	for addr, answers := range map[string][3]string{
		"1": {"127.0.0.2"}, "2": {"127.0.0.10"}, "3": {"127.0.0.2 127.0.0.10"}, "4": {"127.0.0.2", "127.0.0.9"},
		"5": {"127.0.0.2 127.0.0.10", "127.0.0.9", "127.0.5.1"}, "6": {"127.0.0.99"},
	} {
		for i, list := range []string{"zen.example", "other.example", "good.example"} {
			if answers[i] != "" {
				records[addr+".100.51.198."+list] = answers[i]
			}
		}
	}
	d, z := start(t, records, "client zen.example=127.0.0.2-127.0.0.4,127.0.0.9 3", "client zen.example=127.0.0.10-127.0.0.11 2",
		"client other.example 1", "client good.example -5", "junk 2", "reject 4")
	for last, is := range map[string]string{"1": "junk", "2": "junk", "3": "reject", "4": "reject", "5": "", "6": "", "7": ""} {
		o := d.Open("198.51.100."+last+":1", "x").Send(mail("\nhello\n"))
		got := map[bool]string{true: "junk"}[o.Junk]
		if o.Refused != "" {
			got = "reject"
		}
		if got != is {
			t.Errorf("%s: %q, want %q: %+v\n%s", last, got, is, o, d.Log())
		}
	}
	n := 0
	for _, name := range z.questions() {
		if name == "7.100.51.198.zen.example" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("a zone in two rules was asked %d times", n)
	}
}

func TestAnswersThatAreNoneCountNothingAndAreLoggedOnce(t *testing.T) {
	t.Parallel()
	records := map[string]string{}
	for _, last := range []string{"1", "2"} {
		records[last+".100.51.198.no.example"] = "127.255.255.254"
		records[last+".100.51.198.sold.example"] = "203.0.113.7"
		records[last+".100.51.198.dead.example"] = "!"
		records[last+".100.51.198.one.example"] = "127.0.0.1"
	}
	d, _ := start(t, records, "client no.example", "client sold.example", "client dead.example", "client one.example",
		"client no.example=127.0.0.0-127.255.255.255")
	for _, last := range []string{"1", "2"} {
		if o := d.Open("198.51.100."+last+":1", "x").Send(mail("\nhello\n")); o.Refused != "" || o.Junk {
			t.Errorf("%s: %+v", last, o)
		}
	}
	for _, want := range []string{
		"no.example refuses to answer this resolver: 127.255.255.254", "sold.example is no list: it answers 203.0.113.7",
		"dead.example does not answer and counts nothing: ",
	} {
		if n := strings.Count(d.Log(), want); n != 1 {
			t.Errorf("%q logged %d times:\n%s", want, n, d.Log())
		}
	}
}

func TestDomainsOfAMessageAreAskedAndAddToTheClients(t *testing.T) {
	t.Parallel()
	d, z := start(t, map[string]string{
		"spam.co.uk.uri.example": "127.0.1.2", "txt spam.co.uk.uri.example": "spam domain",
		"bad.com.uri.example": "127.0.1.4", "3.100.51.198.bl.example": "127.0.0.2",
	}, "domain uri.example=127.0.1.2-127.0.1.99 2", "client bl.example 1", "junk 2", "reject 3", "exempt domain example.org")
	const html = "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n<a href=3D\"HTTPS://x@www.sp=\nam.co.uk/=41\">http://www.example.org</a>\n"
	if o := d.Open("198.51.100.1:1", "x").Send(mail(html)); !o.Junk && !strings.Contains(o.Text, "X-Spam: Yes\n") || o.Refused != "" {
		t.Errorf("two points: %+v\n%s", o, d.Log())
	}
	o := d.Open("198.51.100.3:1", "x").Send(mail(html))
	if o.Refused != "commit: reject|550 5.7.1 Refused: spam.co.uk is listed by uri.example: spam domain" {
		t.Errorf("three points: %+v", o)
	}
	if o := d.Open("198.51.100.1:1", "x").Send(mail("\nhttp://good.com/\n")); o.Refused != "" || o.Text != "\nhttp://good.com/\n" {
		t.Errorf("no points: %+v", o)
	}
	for _, name := range z.questions() {
		if strings.HasPrefix(name, "example.org.") {
			t.Errorf("asked about an exempt domain: %s", name)
		}
	}
}

func TestDomainsAreFoundInTextParts(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte("see https://one.example.com/x and www.two.net."))
	many := strings.Builder{}
	for i := range 30 {
		fmt.Fprintf(&many, "http://shop-%d.com ", i)
	}
	for name, tt := range map[string]struct {
		text string
		is   []string
	}{
		"plain":        {"\n\nhttp://user:pw@A.B.Example.CO.UK:80/x?y\\nhttps://example.co.uk HTTP://other.org.\n", []string{"example.co.uk", "other.org"}},
		"without head": {"hello\n\nwww.one.com, (WWW.two.com) mail@three.com\n", []string{"one.com", "two.com"}},
		"no names":     {"\n\nhttp://192.0.2.1/ http://[2001:db8::1]/ http://localhost/ http://x.invalid-tld-y/ http://com/ // a.b\n", nil},
		"escaped":      {"\n\nhttp://%65xample.com/\n", []string{"example.com"}},
		"base64":       {"Content-Type: text/plain;\n charset=utf-8\nContent-Transfer-Encoding: BASE64\n\n" + encoded[:10] + "\n" + encoded[10:] + "\n", []string{"example.com", "two.net"}},
		"entities":     {"Content-Type: text/html\n\n<a href='http&#58;//exam&#112;le.com'>\n", []string{"example.com"}},
		"parts": {"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\nhttp://one.com\n--c\nContent-Type: text/html\n" +
			"Content-Transfer-Encoding: quoted-printable\n\nhttp://tw=6F.com\n--c--\n--b\nContent-Type: application/pdf\n\nhttp://three.com\n--b\nContent-Type: message/rfc822\n\n" +
			"Subject: x\n\nhttp://four.com\n--b--\n", []string{"one.com", "two.com", "four.com"}},
		"broken part":      {"Content-Type: multipart/mixed; boundary=b\n\n--b\nno field\n\nhttp://one.com\n--b--\n", []string{"one.com"}},
		"without boundary": {"Content-Type: multipart/mixed\n\nhttp://one.com\n", []string{"one.com"}},
		"not closed":       {"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nhttp://one.com\n", []string{"one.com"}},
	} {
		got := domains(strings.NewReader(strings.ReplaceAll(tt.text, "\n", "\r\n")))
		if !slices.Equal(got, tt.is) {
			t.Errorf("%s: %q, want %q", name, got, tt.is)
		}
	}
	if got := domains(strings.NewReader("\r\n" + many.String())); len(got) != maxNames || got[19] != "shop-19.com" {
		t.Errorf("%q", got)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, err string }{
		{"client bl.example", ""}, {"client BL.example. 5", ""}, {"domain x.example=127.0.0.2,127.0.0.4-127.0.0.8 -1000", ""},
		{"timeout 10s", ""}, {"junk 1", ""}, {"exempt 2001:db8::/32", ""}, {"exempt domain Example.org", ""},
		{"client", "expected"}, {"client bl", "not a domain"}, {"client b_l..example", "not a domain"}, {"client bl.example=", "not an answer"},
		{"client bl.example=10.0.0.1", "not an answer"}, {"client bl.example=127.0.0.3-127.0.0.2", "not an answer"}, {"client bl.example 0", "not a weight"},
		{"client bl.example x", "not a weight"}, {"client bl.example 1001", "not a weight"}, {"junk 0", "not a score"}, {"reject -1", "not a score"},
		{"timeout 2m", "longer than"}, {"timeout 5", "needs a unit"}, {"exempt joe", "not a network"}, {"exempt domain joe", "not a domain"}, {"user x", "expected"},
	} {
		_, err := readRules("", []string{"client first.example", tt.line})
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %v, want %q", tt.line, err, tt.err)
		}
	}
	if _, err := readRules("", []string{"reject 2"}); err == nil {
		t.Error("no list: no error")
	}
	r, err := readRules("", []string{"client bl.example"})
	if err != nil || r.reject != 1 || r.junk != 0 || r.timeout != 5*time.Second {
		t.Errorf("without thresholds: %+v, %v", r, err)
	}
}

// Whatever the message, there are 20 names at most, each of two labels or more, in
// lower case and its own registered domain.
func FuzzDomains(f *testing.F) {
	f.Add("\r\n\r\nhttp://www.example.co.uk/")
	f.Add("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\naHR0cDovL2EuY29t\r\n--b--\r\n")
	f.Add("Content-Transfer-Encoding: quoted-printable\r\n\r\nwww.a=2Ecom=\r\n//x.org=")
	f.Fuzz(func(t *testing.T, text string) {
		names := domains(strings.NewReader(text))
		if len(names) > maxNames {
			t.Fatalf("%d names", len(names))
		}
		for _, name := range names {
			again := domains(strings.NewReader("\r\nhttp://" + name + "/"))
			if !validName(name) || len(again) != 1 || again[0] != name {
				t.Fatalf("%q, then %q", name, again)
			}
		}
	})
}

// An address reversed twice is itself.
func FuzzReversed(f *testing.F) {
	f.Add("192.0.2.1")
	f.Add("2001:db8::1")
	f.Fuzz(func(t *testing.T, text string) {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return
		}
		parts := strings.Split(reversed(addr), ".")
		slices.Reverse(parts)
		back := strings.Join(parts, ".")
		if addr.Is6() {
			back = ""
			for i, digit := range parts {
				if i > 0 && i%4 == 0 {
					back += ":"
				}
				back += digit
			}
		}
		if again, err := netip.ParseAddr(back); err != nil || again != addr {
			t.Fatalf("%v reversed is %s", addr, reversed(addr))
		}
	})
}
