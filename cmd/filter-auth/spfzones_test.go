package main

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	library "blitiri.com.ar/go/spf"

	"github.com/opensmtpd/opensmtpd/cmd/filter-auth/internal/spf"
)

// dice makes up zones, the same ones each time.
type dice struct{ *rand.Rand }

// of returns one of the words.
func (d dice) of(words ...string) string { return words[d.IntN(len(words))] }

// in tells whether a chance of one in n has come.
func (d dice) in(n int) bool { return d.IntN(n) == 0 }

func (d dice) name() string {
	return d.of("d0.test", "d1.test", "d2.test", "h0.test", "h1.d0.test", "h2.test", "none.test")
}

func (d dice) target() string {
	return d.of(d.name(), d.name(), d.name(), "%{d}", "%{o}", "%{h}", "%{l}.d0.test", "%{lr-}.d0.test", "%{L}.d0.test", "%{ir}.%{v}.test", "%{i}.x.test", "h0.%{d2}", "h0.test.")
}

// record returns an SPF record without mistakes.
func (d dice) record() string {
	terms := []string{"v=spf1"}
	length := func() string { return d.of("", "", "", "/24", "//64", "/16//32", "/0", "//0", "/24//64") }
	for range d.IntN(6) {
		terms = append(terms, d.of("", "", "+", "-", "~", "?")+d.of("a"+length(), "a:"+d.target()+length(), "mx"+length(), "mx:"+d.target()+length(),
			"ptr", "ptr:"+d.target(), "exists:"+d.target(), "include:"+d.target(), "include:"+d.target(),
			"ip4:192.0.2.1", "ip4:192.0.2.0/25", "ip6:2001:db8::/48", "ip6:2001:db8::1", "A", "MX:"+d.name()))
	}
	if d.in(3) {
		terms = append(terms, d.of("-all", "~all", "?all", "all"))
	}
	if d.in(4) {
		terms = append(terms, "redirect="+d.target())
	}
	if d.in(9) {
		terms = append(terms, d.of("exp=x.test", "foo=bar", "foo=%{d}"))
	}
	return strings.Join(terms, " ")
}

func (d dice) zone() suiteZone {
	z := suiteZone{}
	add := func(name, kind, value string) {
		if z[name] == nil {
			z[name] = map[string][]string{}
		}
		z[name][kind] = append(z[name][kind], value)
	}
	for _, domain := range []string{"d0.test", "d1.test", "d2.test"} {
		if d.in(12) {
			continue
		}
		add(domain, "TXT", d.record())
		if d.in(20) {
			add(domain, "TXT", d.of("v=spf1", "v=spf10 x", "other"))
		}
	}
	for _, host := range []string{"d0.test", "d1.test", "d2.test", "h0.test", "h1.d0.test", "h2.test", "user.d0.test", "some.user.d0.test", "1.2.0.192.in-addr.test", "192.0.2.1.x.test"} {
		for range d.IntN(3) {
			if d.in(3) {
				add(host, "AAAA", d.of("2001:db8::1", "2001:db8::2", "2001:db8:1::2"))
			} else {
				add(host, "A", d.of("192.0.2.1", "192.0.2.2", "198.51.100.7"))
			}
		}
		for range d.IntN(3) {
			add(host, "MX", "1 "+d.name())
		}
	}
	for range d.IntN(3) {
		add("1.2.0.192.in-addr.arpa", "PTR", d.name())
		add("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR", d.name())
	}
	return z
}

// The library answers alike for zones that are made up, without what it does not do as
// it should: mistakes, the null sender, names of one label, failures of a mail host.
func TestSecondOpinionOnMadeUpZones(t *testing.T) {
	t.Parallel()
	d := dice{rand.New(rand.NewPCG(72, 8))}
	seen := map[spf.Result]int{}
	for range 20_000 {
		zone := dnsOf{d.zone()}
		host := d.of("192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1")
		sender := d.of("user@d0.test", "some-user@d0.test", "user@d1.test", "x+y@h1.d0.test", "@d2.test")
		helo := d.of("d0.test", "h0.test", "none.test", "h2.test")
		ours := spf.Check(t.Context(), zone, spf.Query{IP: netip.MustParseAddr(host), Helo: helo, Sender: sender})
		theirs, why := library.CheckHostWithSender(net.ParseIP(host), helo, sender, library.WithContext(t.Context()), library.WithResolver(zone))
		seen[ours.Result]++
		if string(ours.Result) != string(theirs) {
			t.Errorf("%v\n%s at %s from %s: %s (%v), the library says %s (%v)", zone.zone, sender, helo, host, ours.Result, ours.Err, theirs, why)
		}
	}
	for _, r := range []spf.Result{spf.None, spf.Neutral, spf.Pass, spf.Fail, spf.SoftFail, spf.PermError} {
		if seen[r] < 500 {
			t.Errorf("%s occurs %d times only", r, seen[r])
		}
	}
}
