package finder

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/dnstest"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

const zone = `
one.example.        MX    10 mx1.one.example.
one.example.        MX    10 mx2.one.example.
one.example.        MX    20 backup.example.
mx1.one.example.    A     192.0.2.1
mx1.one.example.    AAAA  2001:db8::1
mx2.one.example.    A     192.0.2.2
backup.example.     A     192.0.2.99

plain.example.      A     192.0.2.3
alias.example.      CNAME one.example.
mxalias.example.    MX    10 aliased.example.
aliased.example.    CNAME mx2.one.example.
null.example.       MX    0 .
oddnull.example.    MX    10 .
oddnull.example.    A     192.0.2.4
halfnull.example.   MX    0 .
halfnull.example.   MX    10 mx2.one.example.
text.example.       TXT   "no mail host here"
local.example.      MX    10 localhost.
localand.example.   MX    5 localhost.
localand.example.   MX    10 mx2.one.example.
loopback.example.   MX    10 lo.example.
lo.example.         A     127.0.0.1
lo.example.         A     0.0.0.0
lo.example.         A     224.0.0.1
lo.example.         AAAA  ::1
gone.example.       MX    10 none.example.
broken.example.     MX    10 servfail.example.
somebroken.example. MX    10 servfail.example.
somebroken.example. MX    20 mx2.one.example.
us.example.         MX    10 mail.us.example.
us.example.         MX    20 mx2.one.example.
mail.us.example.    A     192.0.2.50
second.example.     MX    5  mx1.one.example.
second.example.     MX    10 mx2.one.example.
second.example.     MX    10 other-name-of.us.example.
second.example.     MX    20 backup.example.
other-name-of.us.example. A 192.0.2.50
isus.example.       A     192.0.2.50
six.example.        AAAA  2001:db8::6
many4.example.      MX    10 many.example.
xn--mnchen-3ya.example. MX 10 mx2.one.example.
smart1.example.     A     192.0.2.11
smart2.example.     A     192.0.2.12
`

// own is this host in the tests.
var own = Own{
	Names: []string{"mail.us.example"},
	Has:   func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.50") },
}

// start returns a finder that asks a server with the zone. It does not shuffle.
func start(t *testing.T, cfg Config) (*Finder, *dnstest.Server) {
	t.Helper()
	s := dnstest.Start(t, zone)
	s.Set("servfail.example", dnstest.Fault{Rcode: dnstest.ServFail})
	r, err := dns.New(dns.Config{Servers: []string{s.Addr()}, Hosts: "-", ResolvConf: "-", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.DNS = r
	if cfg.Own.Has == nil {
		cfg.Own = own
	}
	if cfg.Shuffle == nil {
		cfg.Shuffle = func(int, func(i, j int)) {}
	}
	return New(cfg), s
}

// show returns hops as "host addr addr, host addr | worse host addr".
func show(h *nexthop.Hops) string {
	var groups []string
	for _, g := range h.Groups {
		var hosts []string
		for _, host := range g {
			s := host.Name
			for _, a := range host.Addrs {
				s += " " + a.String()
			}
			if host.Port != 25 {
				s += fmt.Sprintf(" port %d", host.Port)
			}
			hosts = append(hosts, s)
		}
		slices.Sort(hosts) // records of one preference come in any order
		groups = append(groups, strings.Join(hosts, ", "))
	}
	return strings.Join(groups, " | ")
}

func TestMailHostsOfADomain(t *testing.T) {
	t.Parallel()
	f, _ := start(t, Config{})
	for _, tt := range []struct{ name, domain, want string }{
		{"by preference", "one.example", "mx1.one.example 2001:db8::1 192.0.2.1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99"},
		{"case does not matter", "ONE.Example", "mx1.one.example 2001:db8::1 192.0.2.1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99"},
		{"the domain itself without MX", "plain.example", "plain.example 192.0.2.3"},
		{"alias of a domain", "alias.example", "mx1.one.example 2001:db8::1 192.0.2.1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99"},
		{"alias of a host keeps its name", "mxalias.example", "aliased.example 192.0.2.2"},
		{"address literal", "[192.0.2.77]", "192.0.2.77 192.0.2.77"},
		{"IPv6 literal", "[IPv6:2001:db8::77]", "2001:db8::77 2001:db8::77"},
		{"null MX beside a real one", "halfnull.example", "mx2.one.example 192.0.2.2"},
		{"localhost beside a real one", "localand.example", "mx2.one.example 192.0.2.2"},
		{"one host cannot be looked up", "somebroken.example", "mx2.one.example 192.0.2.2"},
		{"better than us only, by address", "second.example", "mx1.one.example 2001:db8::1 192.0.2.1"},
		{"name in UTF-8", "München.example", "mx2.one.example 192.0.2.2"},
	} {
		h, err := f.Find(t.Context(), Query{Domain: tt.domain})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := show(h); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestDomainThatCannotBeReached(t *testing.T) {
	t.Parallel()
	f, s := start(t, Config{})
	s.Set("nothing.example", dnstest.Fault{Rcode: dnstest.ServFail})
	for _, tt := range []struct{ name, domain, want string }{
		{"null MX, RFC 7505", "null.example", "556 5.1.10"},
		{"null MX with another preference", "oddnull.example", "556 5.1.10"},
		{"does not exist", "none.example", "550 5.1.2"},
		{"has neither MX nor address", "text.example", "550 5.1.2"},
		{"not a name", "a..example", "550 5.1.2"},
		{"no form in ASCII", "a♥.example", "550 5.1.2"},
		{"not an address", "[300.1.1.1]", "550 5.1.3"},
		{"servers fail", "nothing.example", "451 4.4.3"},
		{"MX localhost only", "local.example", "451 4.4.4"},
		{"addresses nobody can mean", "loopback.example", "451 4.4.4"},
		{"MX does not exist", "gone.example", "451 4.4.4"},
		{"MX cannot be looked up", "broken.example", "451 4.4.3"},
		{"best MX is us", "us.example", "554 5.4.6"},
		{"address is ours", "isus.example", "554 5.4.6"},
		{"literal of ours", "[192.0.2.50]", "554 5.4.6"},
		{"literal of this machine", "[127.0.0.1]", "554 5.4.6"},
	} {
		h, err := f.Find(t.Context(), Query{Domain: tt.domain})
		e, ok := errors.AsType[*smtp.Error](err)
		if !ok || !strings.HasPrefix(e.Reply(), tt.want+" ") {
			t.Errorf("%s: %+v, %v; want %s", tt.name, h, err, tt.want)
		}
	}
}

func TestNameServerThatDeniesADomainWithoutMX(t *testing.T) {
	t.Parallel()
	f, _ := start(t, Config{})
	f.cfg.DNS = denyMX{f.cfg.DNS}
	h, err := f.Find(t.Context(), Query{Domain: "plain.example"})
	if err != nil || show(h) != "plain.example 192.0.2.3" {
		t.Errorf("%+v, %v; want the domain itself", h, err)
	}
}

// denyMX says of all names asked for MX that they do not exist.
type denyMX struct{ DNS }

func (denyMX) MX(context.Context, string) (*dns.Answer, error) { return nil, dns.ErrNoName }

func TestBackupRelaysToBetterHostsOnly(t *testing.T) {
	t.Parallel()
	f, _ := start(t, Config{})
	for _, tt := range []struct {
		name, domain, backup, want string
	}{
		{"by the name given", "one.example", "backup.example", "mx1.one.example 2001:db8::1 192.0.2.1, mx2.one.example 192.0.2.2"},
		{"not among the MX: all", "one.example", "elsewhere.example", "mx1.one.example 2001:db8::1 192.0.2.1, mx2.one.example 192.0.2.2 | backup.example 192.0.2.99"},
		{"by our address", "second.example", "", "mx1.one.example 2001:db8::1 192.0.2.1"},
		{"equal ones are not better", "second.example", "MX2.one.example", "mx1.one.example 2001:db8::1 192.0.2.1"},
	} {
		h, err := f.Find(t.Context(), Query{Domain: tt.domain, Backup: true, BackupName: tt.backup})
		if err != nil || show(h) != tt.want {
			t.Errorf("%s: %+v, %v; want %s", tt.name, h, err, tt.want)
		}
	}
	_, err := f.Find(t.Context(), Query{Domain: "one.example", Backup: true, BackupName: "mx1.one.example"})
	if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Enhanced != (smtp.EnhancedCode{5, 4, 6}) {
		t.Errorf("backup that is the best: %v, want a loop", err)
	}
}

func TestEquallyGoodHostsAreShuffled(t *testing.T) {
	t.Parallel()
	f, s := start(t, Config{Shuffle: func(n int, swap func(i, j int)) {
		for i := range n / 2 {
			swap(i, n-1-i)
		}
	}})
	s.Add(t, "three.example. MX 10 mx1.one.example.\nthree.example. MX 5 mx2.one.example.\nthree.example. MX 10 backup.example.")
	h, err := f.Find(t.Context(), Query{Domain: "three.example"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range h.Groups {
		for _, host := range g {
			got = append(got, host.Name)
		}
	}
	if want := []string{"mx2.one.example", "backup.example", "mx1.one.example"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHostsAndAddressesAreBounded(t *testing.T) {
	t.Parallel()
	f, s := start(t, Config{})
	var b strings.Builder
	for i := range 60 {
		fmt.Fprintf(&b, "huge.example. MX %d h%d.huge.example.\n", 100+i, i)
		fmt.Fprintf(&b, "h%d.huge.example. A 192.0.2.%d\n", i, 60+i)
		fmt.Fprintf(&b, "many.example. A 198.51.100.%d\n", i)
		fmt.Fprintf(&b, "many.example. AAAA 2001:db8::%d\n", i)
	}
	s.Add(t, b.String())
	h, err := f.Find(t.Context(), Query{Domain: "huge.example"})
	if err != nil || len(h.Groups) != maxHosts || h.Groups[0][0].Name != "h0.huge.example" {
		t.Errorf("%+v, %v; want the %d best", h, err, maxHosts)
	}
	if n := s.Asked("h59.huge.example", "A", "udp"); n != 0 {
		t.Error("the worst host was looked up")
	}
	for _, tt := range []struct {
		family    nexthop.Family
		four, six int
	}{
		{nexthop.AnyFamily, 4, 4}, {nexthop.Prefer4, 4, 4}, {nexthop.Prefer6, 4, 4}, {nexthop.Only4, 8, 0}, {nexthop.Only6, 0, 8},
	} {
		h, err := f.Find(t.Context(), Query{Domain: "many4.example", Family: tt.family})
		if err != nil {
			t.Fatal(err)
		}
		four := 0
		addrs := h.Groups[0][0].Addrs
		for _, a := range addrs {
			if a.Is4() {
				four++
			}
		}
		if four != tt.four || len(addrs)-four != tt.six {
			t.Errorf("family %d: %v", tt.family, addrs)
		}
	}
}

func TestAddressFamily(t *testing.T) {
	t.Parallel()
	f, _ := start(t, Config{})
	for family, want := range map[nexthop.Family]string{
		nexthop.AnyFamily: "mx1.one.example 2001:db8::1 192.0.2.1",
		nexthop.Prefer6:   "mx1.one.example 2001:db8::1 192.0.2.1",
		nexthop.Prefer4:   "mx1.one.example 192.0.2.1 2001:db8::1",
		nexthop.Only4:     "mx1.one.example 192.0.2.1",
		nexthop.Only6:     "mx1.one.example 2001:db8::1",
	} {
		if h, err := f.Find(t.Context(), Query{Domain: "second.example", Family: family}); err != nil || show(h) != want {
			t.Errorf("family %d: %+v, %v; want %s", family, h, err, want)
		}
	}
	for _, domain := range []string{"six.example", "[IPv6:2001:db8::77]"} {
		_, err := f.Find(t.Context(), Query{Domain: domain, Family: nexthop.Only4})
		if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Permanent() || !strings.Contains(e.Text, "family mismatch") {
			t.Errorf("%s: %v, want a temporary mismatch of families", domain, err)
		}
	}
}

func TestLoopbackIsForWhoAllowsIt(t *testing.T) {
	t.Parallel()
	f, _ := start(t, Config{Loopback: true, Port: 2525})
	h, err := f.Find(t.Context(), Query{Domain: "loopback.example", Family: nexthop.Only4})
	if err != nil || show(h) != "lo.example 127.0.0.1 port 2525" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestNamesInUTF8(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"bücher.example":      "xn--bcher-kva.example",
		"例え.テスト":              "xn--r8jz45g.xn--zckzah",
		"пример.испытание":    "xn--e1afmkfd.xn--80akhbyknj4f",
		"Faß.de":              "xn--fa-hia.de",
		"xn--bcher-kva.ORG":   "xn--bcher-kva.org",
		"他们为什么不说中文.example":   "xn--ihqwcrb4cv8a8dqg056pqjye.example",
		"3年b組金八先生.example":    "xn--3b-ww4c5e180e575a65lsy2b.example",
		"plain-ascii.example": "plain-ascii.example",
	} {
		if got, err := toASCII(in); err != nil || got != want {
			t.Errorf("toASCII(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "a b", "\xff.example", "☺.example", strings.Repeat("ü", 60) + ".example"} {
		if got, err := toASCII(in); err == nil {
			t.Errorf("toASCII(%q) = %q, want an error", in, got)
		}
	}
}

// What has a form in ASCII has one that can be asked for and stays what it is.
func FuzzToASCII(f *testing.F) {
	f.Add("bücher.example")
	f.Add("A.example.")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := toASCII(s)
		if err != nil {
			return
		}
		if again, err := toASCII(a); err != nil || again != a || !dns.ValidName(a) {
			t.Errorf("%q: %q, then %q, %v", s, a, again, err)
		}
	})
}
