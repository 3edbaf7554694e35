package nexthop

import (
	"net/netip"
	"strings"
	"testing"
)

func TestRelayURL(t *testing.T) {
	t.Parallel()
	four := netip.MustParseAddr("192.0.2.1")
	six := netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		in   string
		want URL
	}{
		{"mx.example.org", URL{Host: "mx.example.org", Port: 25}},
		{"MX.Example.org:2525", URL{Host: "mx.example.org", Port: 2525}},
		{"smtp://mx.example.org", URL{Host: "mx.example.org", Port: 25}},
		{"SMTP+TLS://isp@mx.example.org:587", URL{TLS: Verified, Label: "isp", Host: "mx.example.org", Port: 587}},
		{"smtp+notls://mx", URL{TLS: Never, Host: "mx", Port: 25}},
		{"smtps://isp:x@mx.example.org", URL{TLS: Verified, Implicit: true, Label: "isp:x", Host: "mx.example.org", Port: 465}},
		{"lmtp://localhost:24", URL{TLS: Never, LMTP: true, Host: "localhost", Port: 24}},
		{"mx://example.org", URL{MX: true, Host: "example.org", Port: 25}},
		{"mx+tls://a@example.org:26", URL{MX: true, TLS: Verified, Label: "a", Host: "example.org", Port: 26}},
		{"mx+notls://example.org", URL{MX: true, TLS: Never, Host: "example.org", Port: 25}},
		{"[192.0.2.1]", URL{Addr: four, Port: 25}},
		{"192.0.2.1:26", URL{Addr: four, Port: 26}},
		{"smtp://[IPv6:2001:db8::1]:26", URL{Addr: six, Port: 26}},
		{"[2001:db8::1]", URL{Addr: six, Port: 25}},
		{"[::ffff:192.0.2.1]", URL{Addr: four, Port: 25}},
		{"my_relay.example.org", URL{Host: "my_relay.example.org", Port: 25}},
		// Spellings of OpenSMTPD before 6.4.
		{"tls://mx.example.org", URL{TLS: Verified, Host: "mx.example.org", Port: 25}},
		{"tls+auth://isp@mx.example.org:587", URL{TLS: Verified, Label: "isp", Host: "mx.example.org", Port: 587}},
		{"smtp+auth://isp@mx.example.org", URL{TLS: Verified, Label: "isp", Host: "mx.example.org", Port: 25}},
		{"ssl://mx.example.org", URL{TLS: Verified, Implicit: true, Host: "mx.example.org", Port: 465}},
		{"smtps+auth://isp@mx.example.org", URL{TLS: Verified, Implicit: true, Label: "isp", Host: "mx.example.org", Port: 465}},
		{"ssl+auth://isp@mx.example.org", URL{TLS: Verified, Implicit: true, Label: "isp", Host: "mx.example.org", Port: 465}},
	} {
		got, err := ParseURL(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseURL(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestRelayURLThatMeansNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, why string }{
		{"", "malformed host name"},
		{"http://x", "unknown scheme"},
		{"://x", "unknown scheme"},
		{"smtp://", "malformed host name"},
		{"smtp://isp@mx.example.org", "label needs"},
		{"isp@mx.example.org", "label needs"},
		{"lmtp://isp@localhost:24", "label needs"},
		{"smtps://@mx.example.org", "malformed label"},
		{"smtps://a b@mx.example.org", "malformed label"},
		{"smtps://a@b@mx.example.org", "text after the host"},
		{"smtps://a@mx.example.org@c", "text after the host"},
		{"tls+auth://mx.example.org", "without a label"},
		{"lmtp://localhost", "without a port"},
		{"mx.example.org:", "malformed port"},
		{"mx.example.org:0", "out of range"},
		{"mx.example.org:65536", "out of range"},
		{"mx.example.org:25x", "malformed port"},
		{"mx.example.org:+25", "malformed port"},
		{"mx.example.org/path", "text after the host"},
		{"mx.example.org 25", "text after the host"},
		{"[192.0.2.1]25", "text after the host"},
		{"mx.example.org.", "malformed host name"},
		{"-mx.example.org", "malformed host name"},
		{"mx..example.org", "malformed host name"},
		{"192.0.2", "malformed host name"},
		{"192.0.2.256", "malformed host name"},
		{"2001:db8::1", "malformed host name"},
		{"[2001:db8::1", "malformed address"},
		{"[mx.example.org]", "malformed address"},
		{"[fe80::1%eth0]", "malformed address"},
		{"mx://[192.0.2.1]", "no MX hosts"},
		{"mx://192.0.2.1", "malformed host name"},
		{"münchen.example", "text after the host"},
		{"mx.example.org\x00", "text after the host"},
		{strings.Repeat("a.", 600), "longer than"},
	} {
		if u, err := ParseURL(tt.in); err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("ParseURL(%.40q) = %+v, %v; want an error about %q", tt.in, u, err, tt.why)
		}
	}
}

func TestSeveralRelaysInOneEntry(t *testing.T) {
	t.Parallel()
	urls, err := ParseURLs("smtp+tls://a@one.example.org:587 ,\tsmtps://a@two.example.org")
	if err != nil || len(urls) != 2 || urls[0].Host != "one.example.org" || urls[1].Port != 465 {
		t.Errorf("%+v, %v", urls, err)
	}
	for _, in := range []string{"", ",", "a.example.org,", "a.example.org,,b.example.org", strings.Repeat("a,", 16) + "a"} {
		if urls, err := ParseURLs(in); err == nil {
			t.Errorf("ParseURLs(%q) = %+v, want an error", in, urls)
		}
	}
}

// What parses prints in a form that parses to the same.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"smtp+tls://isp@mx.example.org:587", "[IPv6:2001:db8::1]:26", "mx://example.org", "lmtp://[127.0.0.1]:24,smtps://x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		urls, err := ParseURLs(s)
		if err != nil {
			return
		}
		for _, u := range urls {
			again, err := ParseURL(u.String())
			if err != nil || again != u {
				t.Errorf("%+v prints as %q, which is %+v, %v", u, u, again, err)
			}
			if u.Port == 0 || (u.Host == "") != u.Addr.IsValid() || u.Label != "" && u.TLS != Verified {
				t.Errorf("%q: %+v", s, u)
			}
		}
	})
}
