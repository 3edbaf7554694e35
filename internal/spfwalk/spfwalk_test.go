package spfwalk

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// zone answers out of maps; what is missing does not exist.
type zone struct {
	txt, mx map[string][]string
	addr    map[string]string
}

func (z zone) TXT(_ context.Context, name string) (*dns.Answer, error) {
	if t, ok := z.txt[name]; ok {
		return &dns.Answer{Text: t}, nil
	}
	return nil, dns.ErrNoName
}

func (z zone) MX(_ context.Context, name string) (*dns.Answer, error) {
	a := &dns.Answer{}
	for _, host := range z.mx[name] {
		a.MX = append(a.MX, dns.MX{Host: host})
	}
	if len(a.MX) == 0 {
		return nil, dns.ErrNoRecord
	}
	return a, nil
}

func (z zone) Addrs(_ context.Context, name string) (*dns.Answer, error) {
	a := &dns.Answer{}
	for addr := range strings.FieldsSeq(z.addr[name]) {
		a.Addrs = append(a.Addrs, netip.MustParseAddr(addr))
	}
	if len(a.Addrs) == 0 {
		return nil, dns.ErrNoName
	}
	return a, nil
}

// networks returns what Walk finds, and what troubles it.
func networks(t *testing.T, z zone, domain string) (nets, troubles []string) {
	t.Helper()
	Walk(t.Context(), z, domain, func(p netip.Prefix) { nets = append(nets, p.String()) },
		func(err error) { troubles = append(troubles, err.Error()) })
	return nets, troubles
}

func TestNetworksOfARecord(t *testing.T) {
	t.Parallel()
	z := zone{
		addr: map[string]string{"x.example": "2001:db8::5 192.0.2.5", "mx1.example": "192.0.2.9", "mx2.example": "192.0.2.200"},
		mx:   map[string][]string{"x.example": {"mx1.example", "mx2.example", "."}},
		txt:  map[string][]string{"inc.example": {"unrelated", "V=SPF1 ip4:203.0.113.0/24 -all"}, "loop.example": {"v=spf1 include:loop.example ip4:198.51.100.1"}},
	}
	for _, tt := range []struct {
		name, record, want, trouble string
	}{
		{"addresses and networks", "v=spf1 ip4:192.0.2.1 ip4:192.0.2.77/24 ip6:2001:db8::/32 -all", "192.0.2.1/32 192.0.2.0/24 2001:db8::/32", ""},
		{"each once", "v=spf1 ip4:192.0.2.1 IP4:192.0.2.1/32", "192.0.2.1/32", ""},
		{"own addresses", "v=spf1 a ~all", "2001:db8::5/128 192.0.2.5/32", ""},
		{"lengths", "v=spf1 a/24//64", "2001:db8::/64 192.0.2.0/24", ""},
		{"length of IPv6 alone", "v=spf1 a://64 a:x.example//64", "2001:db8::/64 192.0.2.5/32", ""},
		{"mail hosts", "v=spf1 mx", "192.0.2.9/32 192.0.2.200/32", ""},
		{"mail hosts with a length", "v=spf1 +mx:x.example/25", "192.0.2.0/25 192.0.2.128/25", ""},
		{"include and redirect", "v=spf1 ?include:inc.example redirect=loop.example", "203.0.113.0/24 198.51.100.1/32", ""},
		{"failing mechanisms allow nothing", "v=spf1 -ip4:192.0.2.1 ~a -all", "", ""},
		{"macros, ptr and exists name no network", "v=spf1 include:%{ir}.x.example exists:x.example ptr all", "", ""},
		{"no network", "v=spf1 ip4:192.0.2.256 ip6: ip4:192.0.2.7", "192.0.2.7/32", "no network"},
		{"missing include", "v=spf1 include:none.example ip4:192.0.2.7", "192.0.2.7/32", "none.example: no such domain name"},
		{"missing host", "v=spf1 a:none.example mx:none.example", "", "no such"},
		{"no record", "v=spf10 a", "", "no SPF record"},
	} {
		z.txt["x.example"] = []string{tt.record}
		nets, troubles := networks(t, z, "X.example.")
		if got := strings.Join(nets, " "); got != tt.want {
			t.Errorf("%s: %q gives %q, want %q", tt.name, tt.record, got, tt.want)
		}
		if all := strings.Join(troubles, "; "); !strings.Contains(all, tt.trouble) || (all == "") != (tt.trouble == "") {
			t.Errorf("%s: %q troubles by %q, want %q", tt.name, tt.record, all, tt.trouble)
		}
	}
}

func TestEndlessRecordsEnd(t *testing.T) {
	t.Parallel()
	z := zone{txt: map[string][]string{}}
	deep := "d"
	for range 30 {
		z.txt[deep+".example"] = []string{"v=spf1 include:" + deep + "d.example"}
		deep += "d"
	}
	if _, troubles := networks(t, z, "d.example"); len(troubles) != 1 || !strings.Contains(troubles[0], "deep") {
		t.Errorf("nested records: %v", troubles)
	}
	z.txt["wide.example"] = []string{"v=spf1" + strings.Repeat(" a:none.example", 1000)}
	_, troubles := networks(t, z, "wide.example")
	if !slices.ContainsFunc(troubles, func(s string) bool { return strings.Contains(s, "lookups") }) || len(troubles) > maxLookups+1 {
		t.Errorf("%d troubles of a wide record", len(troubles))
	}
}

// Whatever a record holds, the walk ends and reports valid networks.
func FuzzWalk(f *testing.F) {
	for _, s := range []string{"v=spf1 a mx ip4:1.2.3.4/8 include:b -all", "v=spf1 a:/33//129 redirect=a", "v=spf1 : / // + %"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, record string) {
		z := zone{txt: map[string][]string{"a": {record}, "b": {record}}, addr: map[string]string{"a": "192.0.2.1 ::1"}, mx: map[string][]string{"a": {"a"}}}
		Walk(t.Context(), z, "a", func(p netip.Prefix) {
			if !p.IsValid() || p != p.Masked() {
				t.Fatalf("%q gives %v", record, p)
			}
		}, func(error) {})
	})
}
