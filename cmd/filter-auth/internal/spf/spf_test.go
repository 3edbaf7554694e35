package spf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// zone answers lookups. Keys are a type and a name: "txt example.org". The value
// "timeout" stands for a server that does not answer.
type zone map[string][]string

func (z zone) ask(kind, name string) ([]string, error) {
	if short, ok := strings.CutSuffix(name, "."); ok || kind == "addr" {
		if values, ok := z[kind+" "+strings.ToLower(short)]; ok {
			if values[0] == "timeout" {
				return nil, &net.DNSError{Err: "timeout", Name: name, IsTimeout: true}
			}
			return values, nil
		}
	} else {
		return nil, fmt.Errorf("%q has no final dot", name)
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z zone) LookupTXT(_ context.Context, name string) ([]string, error) { return z.ask("txt", name) }
func (z zone) LookupHost(_ context.Context, name string) ([]string, error) {
	return z.ask("host", name)
}
func (z zone) LookupAddr(_ context.Context, a string) ([]string, error) { return z.ask("addr", a) }
func (z zone) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	values, err := z.ask("mx", name)
	var hosts []*net.MX
	for _, v := range values {
		hosts = append(hosts, &net.MX{Host: v})
	}
	return hosts, err
}

// from asks about a sender from 192.0.2.1.
func from(t *testing.T, z zone, sender string) Answer {
	t.Helper()
	return Check(t.Context(), z, Query{IP: netip.MustParseAddr("192.0.2.1"), Helo: "client.example.org", Sender: sender})
}

func TestRecordsAreReadAsAWhole(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		record string
		ok     bool
	}{
		{"v=spf1", true},
		{"V=SPF1 +A -ALL", true},
		{"v=spf1 a:foo:bar/baz.example.com/24//64 -all", true},
		{"v=spf1 a:foo:bar/baz.example.com//0", true},
		{"v=spf1 mx/0//0 ptr ptr:example.org. ?exists:%{i}.x.example.org", true},
		{"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip6:::ffff:192.0.2.1/128", true},
		{"v=spf1 redirect=%{d2} exp=%{d} x-1.y_z=%{c}%{t}%{r}", true},
		{"v=spf1 x==", true},
		{"v=spf1 a:%{d}/24", true},
		{"v=spf1 a:%{d/}/24//64", true},
		{"v=spf1 exists:%%%_%-.example.org", true},
		{"v=spf1 exists:%{l9999999999999999999999r+-.}.example.org", true},

		{"v=spf1 -all moo", false},
		{"v=spf1 -all\ta", false},
		{"v=spf1 all:example.org", false},
		{"v=spf1 all/24", false},
		{"v=spf1 -", false},
		{"v=spf1 --all", false},
		{"v=spf1 include", false},
		{"v=spf1 include:", false},
		{"v=spf1 include:example.org/24", false},
		{"v=spf1 exists/24", false},
		{"v=spf1 ptr/24", false},
		{"v=spf1 a/33", false},
		{"v=spf1 a/024", false},
		{"v=spf1 a/", false},
		{"v=spf1 a//", false},
		{"v=spf1 a//129", false},
		{"v=spf1 a/24/64", false},
		{"v=spf1 a:/24", false},
		{"v=spf1 a:example", false},
		{"v=spf1 a:example.123", false},
		{"v=spf1 a:example.-org", false},
		{"v=spf1 a:b\xc3\xbccher.example", false},
		{"v=spf1 a:%{d}.", false},
		{"v=spf1 a:%{c}", false},
		{"v=spf1 a:%{d0}", false},
		{"v=spf1 a:%{dr2}", false},
		{"v=spf1 a:%{d", false},
		{"v=spf1 a:%{}", false},
		{"v=spf1 a:%d.example.org", false},
		{"v=spf1 a:x%.example.org", false},
		{"v=spf1 ip4", false},
		{"v=spf1 ip4:2001:db8::1", false},
		{"v=spf1 ip4:192.0.2", false},
		{"v=spf1 ip4:192.0.2.1/33", false},
		{"v=spf1 ip4:192.0.2.1/", false},
		{"v=spf1 ip6:192.0.2.1", false},
		{"v=spf1 ip6:fe80::1%1", false},
		{"v=spf1 redirect=a.example.org redirect=a.example.org", false},
		{"v=spf1 exp=a.example.org exp=a.example.org", false},
		{"v=spf1 redirect=", false},
		{"v=spf1 1up=foo", false},
		{"v=spf1 =all", false},
		{"v=spf1 foo=%x", false},
		{"v=spf10", false},
		{"v=spf1 " + strings.Repeat("a ", maxRecord/2), false},
	} {
		if _, err := parse(tt.record); (err == nil) != tt.ok {
			t.Errorf("%.80q: %v, want ok %v", tt.record, err, tt.ok)
		}
	}
}

func TestTermsAreTyped(t *testing.T) {
	t.Parallel()
	r, err := parse("v=spf1 ~a:foo/bar.example.com/24//64 -ip4:192.0.2.77/24 ?MX ptr:example.org redirect=x.example.org")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"softfail a [{foo/bar.example.com 0 false 0 false }] invalid Prefix 24 64",
		"fail ip4 [] 192.0.2.0/24 32 128",
		"neutral mx [] invalid Prefix 32 128",
		"pass ptr [{example.org 0 false 0 false }] invalid Prefix 32 128",
	}
	for i, d := range r.directives {
		if got := fmt.Sprint(d.result, " ", d.kind, " ", d.domain, " ", d.network, " ", d.four, " ", d.six); got != want[i] {
			t.Errorf("%q, want %q", got, want[i])
		}
	}
	if len(r.directives) != len(want) || len(r.redirect) != 1 || r.exp != nil {
		t.Errorf("%+v", r)
	}
}

// The examples of RFC 7208 section 7.4.
func TestMacros(t *testing.T) {
	t.Parallel()
	four, six := "192.0.2.3", "2001:db8::cb01"
	for _, tt := range []struct{ ip, text, want string }{
		{four, "%{s}", "strong-bad@email.example.com"},
		{four, "%{o}", "email.example.com"},
		{four, "%{d}", "email.example.com"},
		{four, "%{d4}", "email.example.com"},
		{four, "%{d3}", "email.example.com"},
		{four, "%{d2}", "example.com"},
		{four, "%{d1}", "com"},
		{four, "%{dr}", "com.example.email"},
		{four, "%{d2r}", "example.email"},
		{four, "%{l}", "strong-bad"},
		{four, "%{l-}", "strong.bad"},
		{four, "%{lr}", "strong-bad"},
		{four, "%{lr-}", "bad.strong"},
		{four, "%{l1r-}", "strong"},
		{four, "%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"},
		{four, "%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"},
		{four, "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"},
		{four, "%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"},
		{four, "%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"},
		{six, "%{ir}.%{v}._spf.%{d2}", "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"},
		{six, "%{c} %{p} %{h} %{r} %{t}", "2001:db8::cb01 unknown client.example.org mx.example.net 0"},
		{four, "%%%_%-", "% %20"},
		{four, "%{L}%{S}", "strong-badstrong-bad%40email.example.com"},
		{four, "%{p}", "mail.email.example.com"},
	} {
		c := &check{
			dns: zone{"addr 192.0.2.3": {"x.example.org.", "forged.example.com.", "mail.email.example.com."}, "host x.example.org": {four}, "host mail.email.example.com": {four}},
			ip:  netip.MustParseAddr(tt.ip), local: "strong-bad", origin: "email.example.com", helo: "client.example.org", receiver: "mx.example.net",
			now: time.Unix(0, 0),
		}
		tmpl, err := parseTemplate(tt.text, textLetters, true)
		if err != nil {
			t.Fatal(tt.text, err)
		}
		if got := tmpl.line(c.values(t.Context(), "email.example.com")); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestNamesThatCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 63)
	z := zone{
		"txt example.org": {"v=spf1 -all"}, "txt label." + long + ".org": {"v=spf1 -all"},
		"txt xn--bcher-kva.example": {"v=spf1 -all"},
		"txt a.test":                {"v=spf1 a:a..example.org a:" + long + "x.example.org a:%{h}.example.org -all"},
		"txt b.test":                {"v=spf1 include:a..example.org -all"},
		"txt c.test":                {"v=spf1 redirect=a..example.org"},
		"txt d.test":                {"v=spf1 exists:%{l} -all"},
		// Labels are left out on the left until there are 253 bytes.
		"txt e.test": {"v=spf1 exists:" + strings.Repeat("y.", 20) + strings.Repeat(strings.Repeat("x", 49)+".", 5) + "org -all"},
		"host " + strings.Repeat(strings.Repeat("x", 49)+".", 5) + "org": {"127.0.0.2"},
		"host localhost": {"127.0.0.1"},
	}
	for _, tt := range []struct {
		sender string
		want   Result
	}{
		{"a@example.org.", Fail},
		{"a@EXAMPLE.org", Fail},
		{"a@b@example.org", Fail},
		{"@example.org", Fail},
		{"a@label." + long + ".org", Fail},
		{"a@label." + long + "x.org", None},
		{"a@" + strings.Repeat("x.", 126) + "org", None},
		{"a@a..example.org", None},
		{"a@.example.org", None},
		{"a@org", None},
		{"a@", None},
		{"a", None}, // client.example.org
		{"", None},
		{"a@[192.0.2.1]", None},
		{"a@exa mple.org", None},
		{"a@bücher.example", Fail},
		{"a@BÜCHER.example", Fail},
		{"a@\xff.example", None},
		{strings.Repeat("a", 2000) + "@example.org", None},
		{"a@a.test", Fail},
		{"a@b.test", PermError},
		{"a@c.test", PermError},
		{"localhost@d.test", Fail}, // a name has several labels
		{"a@e.test", Pass},
	} {
		if got := from(t, z, tt.sender); got.Result != tt.want {
			t.Errorf("%.80q: %s (%v), want %s", tt.sender, got.Result, got.Err, tt.want)
		}
	}
	if got := from(t, z, "a@BÜCHER.example.").Domain; got != "xn--bcher-kva.example" {
		t.Errorf("domain %q", got)
	}
}

// A term with a local part that is not ASCII matches nothing (RFC 8616 section 4).
func TestLocalPartInUTF8(t *testing.T) {
	t.Parallel()
	z := zone{
		"txt a.test": {"v=spf1 exists:%{l}.x.test exists:%{L}.x.test exists:%{S}.x.test exists:%{o}.x.test -all"},
		"txt b.test": {"v=spf1 exists:%{l}.x.test ~all"}, "host a.test.x.test": {"127.0.0.2"},
		"host %c3%bc.x.test": {"127.0.0.2"}, "host user.x.test": {"127.0.0.2"},
	}
	for sender, want := range map[string]Result{"ü@a.test": Pass, "ü@b.test": SoftFail, "user@b.test": Pass} {
		if got := from(t, z, sender); got.Result != want {
			t.Errorf("%s: %s (%v), want %s", sender, got.Result, got.Err, want)
		}
	}
}

func TestMappedAddressesAreIPv4(t *testing.T) {
	t.Parallel()
	z := zone{"txt a.test": {"v=spf1 ip6:::ffff:0:0/96 ~ip4:192.0.2.1"}, "txt b.test": {"v=spf1 a -all"}, "host b.test": {"192.0.2.1"}}
	for sender, want := range map[string]Result{"a@a.test": SoftFail, "a@b.test": Pass} {
		q := Query{IP: netip.MustParseAddr("::ffff:192.0.2.1"), Sender: sender}
		if got := Check(t.Context(), z, q); got.Result != want {
			t.Errorf("%s: %s (%v), want %s", sender, got.Result, got.Err, want)
		}
	}
	if got := Check(t.Context(), z, Query{Sender: "a@a.test"}); got.Result != None {
		t.Errorf("without an address: %s", got.Result)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	z := zone{
		"host there.test": {"198.51.100.1"}, "host me.test": {"192.0.2.1"},
		"txt loop.test":  {"v=spf1 include:loop.test"},
		"txt again.test": {"v=spf1 redirect=again.test"},
		"addr 192.0.2.1": {"n1.test.", "n2.test.", "n3.test.", "n4.test.", "n5.test.", "n6.test.", "n7.test.", "n8.test.", "n9.test.", "me.test.", "late.test."},
		"host late.test": {"192.0.2.1"},
		"txt none.test":  {"nothing"}, "txt two.test": {"v=spf1 -all", "v=spf1 a"}, "txt slow.test": {"timeout"}, "host slow.test": {"timeout"}, "mx slow.test": {"timeout"},
	}
	for i := range 11 {
		z["mx ten.test"] = append(z["mx ten.test"], "there.test.")
		if i == 9 {
			z["mx eleven.test"] = append(z["mx ten.test"], "me.test.", "there.test.")
			z["mx ten.test"][9] = "me.test."
		}
	}
	z["mx ten.test"] = z["mx ten.test"][:10]
	z["mx null.test"] = []string{"."}
	terms := func(n int, term string) string { return strings.Repeat(" "+term, n) }
	for _, tt := range []struct {
		terms string
		want  Result
		why   string
	}{
		{terms(10, "a:there.test") + " ip4:192.0.2.1", Pass, ""},
		{terms(10, "a:there.test") + " a:me.test", PermError, "more than 10 terms"},
		{terms(9, "a:there.test") + " redirect=own.test", Pass, ""},
		{terms(10, "a:there.test") + " redirect=own.test", PermError, "more than 10 terms"},
		{terms(9, "ptr:x.test") + " include:own.test", Pass, ""},
		{terms(10, "exists:there.test"), Pass, ""},
		{terms(1, "include:loop.test"), PermError, "more than 10 terms"},
		{terms(1, "redirect=again.test"), PermError, "more than 10 terms"},
		{terms(2, "a:void.test") + " +all", Pass, ""},
		{terms(3, "a:void.test") + " +all", PermError, "more than 2 terms"},
		{terms(3, "mx:void.test") + " +all", PermError, "more than 2 terms"},
		{terms(3, "exists:void.test") + " +all", PermError, "more than 2 terms"},
		{" mx:ten.test", Pass, ""},
		{" mx:eleven.test +all", PermError, "more than 10 mail hosts"},
		{" mx:null.test -all", Fail, ""},
		{" ptr:me.test -all", Pass, ""},
		{" ptr:late.test -all", Fail, ""},
		{" include:none.test +all", PermError, "no record"},
		{" include:two.test +all", PermError, "several records"},
		{" redirect=none.test", PermError, "no record"},
		{" include:slow.test +all", TempError, "timeout"},
		{" a:slow.test +all", TempError, "timeout"},
		{" mx:slow.test +all", TempError, "timeout"},
		{" ip4:198.51.100.1", Neutral, ""},
	} {
		z["txt q.test"] = []string{"v=spf1" + tt.terms}
		z["txt own.test"] = []string{"v=spf1 ip4:192.0.2.1"}
		got := from(t, z, "a@q.test")
		if got.Result != tt.want || (got.Err == nil) != (tt.why == "") || got.Err != nil && !strings.Contains(got.Err.Error(), tt.why) {
			t.Errorf("%q: %s (%v), want %s (%s)", tt.terms, got.Result, got.Err, tt.want, tt.why)
		}
	}
	// An address without a name is one void lookup.
	delete(z, "addr 192.0.2.1")
	for record, want := range map[string]Result{
		"v=spf1 ptr ptr ptr exists:%{p}.test +all":               Pass,
		"v=spf1 a:void.test exists:%{p}.void.test ptr ptr +all":  PermError,
		"v=spf1 a:void.test exists:%{p}.void.test ip4:192.0.2.1": Pass,
	} {
		z["txt q.test"] = []string{record}
		if got := from(t, z, "a@q.test"); got.Result != want {
			t.Errorf("%s without a name: %s (%v), want %s", record, got.Result, got.Err, want)
		}
	}
}

// ended is a resolver whose answers do not come in time.
type ended struct{ zone }

func (ended) LookupTXT(ctx context.Context, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTimeIsLimited(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := Check(ctx, ended{}, Query{IP: netip.MustParseAddr("192.0.2.1"), Sender: "a@example.org"})
	if got.Result != TempError || got.Err == nil {
		t.Errorf("%+v", got)
	}
}

func TestExplanationsAreOneLine(t *testing.T) {
	t.Parallel()
	z := zone{
		"txt a.test": {"v=spf1 include:b.test exp=why.a.test -all"}, "txt b.test": {"v=spf1 exp=why.b.test -all"},
		"txt why.a.test": {"%{l}%_from %{h}"}, "txt why.b.test": {"not this"},
		"txt c.test": {"v=spf1 exp=why.a.test redirect=d.test"}, "txt d.test": {"v=spf1 -all exp=why.d.test"},
		"txt why.d.test": {"%{s} " + strings.Repeat("x", 1000)},
		"txt e.test":     {"v=spf1 -all exp=a..test"}, "txt f.test": {"v=spf1 -all exp=why.f.test"}, "txt why.f.test": {"line\nline"},
		"txt g.test": {"v=spf1 -all"}, "txt h.test": {"v=spf1 +all exp=why.a.test"},
	}
	for _, tt := range []struct{ sender, want string }{
		{"a\r\n\x00ü@a.test", "a???? from client.example.org"},
		{"x@c.test", "x@c.test " + strings.Repeat("x", 391)},
		{"x@e.test", ""},
		{"x@f.test", ""},
		{"x@g.test", ""},
		{"x@h.test", ""},
	} {
		q := Query{IP: netip.MustParseAddr("192.0.2.1"), Helo: "client.example.org", Sender: tt.sender, Explain: true}
		if got := Check(t.Context(), z, q); got.Explanation != tt.want {
			t.Errorf("%q: %q, want %q (%s)", tt.sender, got.Explanation, tt.want, got.Result)
		}
		q.Explain = false
		if got := Check(t.Context(), z, q); got.Explanation != "" {
			t.Errorf("%q: %q without being asked", tt.sender, got.Explanation)
		}
	}
}

// What parses has typed terms in bounds, and its macros make names that can be asked for
// or none.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"a/24//64 -all", "mx:%{d2r.}.example.org ~ptr", "ip4:192.0.2.0/24 ip6:2001:db8::/32", "redirect=_spf.example.org.",
		"exists:%{ir}.x%_%%", "x-y=%{l}", "a:foo:bar/baz.example.com/3", "exp=%{S}.%{H}%{o9r-+,/_=}",
	} {
		f.Add("v=spf1 "+s, "local.part+x@sender.example.org", "client")
	}
	f.Fuzz(func(t *testing.T, text, sender, helo string) {
		r, err := parse(text)
		if err != nil {
			return
		}
		local, origin, _ := strings.Cut(sender, "@")
		c := &check{dns: zone{}, ip: netip.MustParseAddr("2001:db8::1"), local: local, origin: origin, helo: helo}
		all := []template{r.redirect, r.exp}
		for _, d := range r.directives {
			all = append(all, d.domain)
			if d.four < 0 || d.four > 32 || d.six < 0 || d.six > 128 || (d.kind == kindIP4 || d.kind == kindIP6) != d.network.IsValid() {
				t.Errorf("%+v", d)
			}
		}
		values := c.values(t.Context(), "example.org")
		for _, tmpl := range all {
			if name, ok := tmpl.domain(values); ok && !askable(name) {
				t.Errorf("%q of %q", name, text)
			}
			if line := tmpl.line(values); len(line) > maxExplanation || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("line %q", line)
			}
		}
	})
}

// echo answers every question with the same, and counts.
type echo struct {
	texts, names []string
	n            *int
}

func (e echo) LookupTXT(context.Context, string) ([]string, error)  { *e.n++; return e.texts, nil }
func (e echo) LookupHost(context.Context, string) ([]string, error) { *e.n++; return e.names, nil }
func (e echo) LookupAddr(context.Context, string) ([]string, error) { *e.n++; return e.names, nil }
func (e echo) LookupMX(context.Context, string) ([]*net.MX, error) {
	*e.n++
	var hosts []*net.MX
	for _, name := range e.names {
		hosts = append(hosts, &net.MX{Host: name})
	}
	return hosts, nil
}

// Whatever the DNS says, it is asked a bounded number of times, and the answer is one.
func FuzzCheck(f *testing.F) {
	f.Add("v=spf1 mx include:a.test ptr exists:%{p}.%{l}.test -all exp=%{d}.x.test", "a@example.org", "b.test", "x.test\n192.0.2.1\ny.test")
	f.Add("v=spf1 mx mx mx mx mx mx mx mx mx redirect=a.test", "", "a.b", strings.Repeat("x.test\n", 10))
	f.Add("v=spf1 -all exp=x.test", "ü@example.org", "b.test", "")
	f.Fuzz(func(t *testing.T, text, sender, helo, names string) {
		n := 0
		e := echo{[]string{text}, strings.Split(names, "\n"), &n}
		got := Check(t.Context(), e, Query{IP: netip.MustParseAddr("192.0.2.1"), Helo: helo, Sender: sender, Explain: true})
		// A record, and for each term one question and those for ten hosts; once for ten
		// names of the address; the explanation.
		if n > 1+maxTerms*(1+maxHosts)+1+maxNames+1 {
			t.Errorf("%d questions", n)
		}
		switch got.Result {
		case TempError, PermError:
			if got.Err == nil {
				t.Errorf("%s without a reason", got.Result)
			}
		case None, Neutral, Pass, Fail, SoftFail:
			if got.Err != nil || got.Explanation != "" && got.Result != Fail {
				t.Errorf("%+v", got)
			}
		default:
			t.Errorf("result %q", got.Result)
		}
		if len(got.Explanation) > maxExplanation {
			t.Errorf("explanation of %d bytes", len(got.Explanation))
		}
	})
}
