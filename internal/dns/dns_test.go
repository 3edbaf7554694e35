package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dnstest"
)

const zone = `
mx.example.org.       A     192.0.2.1
mx.example.org.       AAAA  2001:db8::1
four.example.org.     A     192.0.2.4
six.example.org.      AAAA  2001:db8::6
example.org.          MX    20 Backup.example.org.
example.org.          MX    10 mx.example.org.
example.org.          TXT   "v=spf1 " "-all \"q\" \\ \255"
example.org.          TXT   "second"
null.example.org.     MX    0 .
bad.example.org.      MX    10 a\.b\032c.example.org.
alias.example.org.    CNAME mx.example.org.
chain1.example.org.   CNAME chain2.example.org.
chain2.example.org.   CNAME alias.example.org.
loop1.example.org.    CNAME loop2.example.org.
loop2.example.org.    CNAME loop1.example.org.
dangling.example.org. CNAME none.example.org.
_25._tcp.mx.example.org. TLSA 3 1 1 0123456789abcdef
1.2.0.192.in-addr.arpa. PTR other.example.org.
1.2.0.192.in-addr.arpa. PTR MX.example.org.
2.2.0.192.in-addr.arpa. PTR four.example.org.
3.2.0.192.in-addr.arpa. PTR none.example.org.
4.2.0.192.in-addr.arpa. PTR servfail.example.org.
5.2.0.192.in-addr.arpa. PTR a\"b.example.org.
6.2.0.192.in-addr.arpa. PTR h.lan.
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR mx.example.org.
`

// start returns a server with the zone and a resolver that asks it.
func start(t *testing.T, cfg Config) (*Resolver, *dnstest.Server) {
	t.Helper()
	s := dnstest.Start(t, zone)
	s.Set("servfail.example.org", dnstest.Fault{Rcode: dnstest.ServFail})
	cfg.Servers = append(cfg.Servers, s.Addr())
	if cfg.Hosts == "" {
		cfg.Hosts = "-"
	}
	cfg.ResolvConf = "-"
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, s
}

func TestAddressesOfAHost(t *testing.T) {
	t.Parallel()
	r, _ := start(t, Config{})
	for _, tt := range []struct {
		host, want, name string
		err              error
	}{
		{"mx.example.org", "[2001:db8::1 192.0.2.1]", "mx.example.org", nil},
		{"MX.Example.ORG.", "[2001:db8::1 192.0.2.1]", "mx.example.org", nil},
		{"four.example.org", "[192.0.2.4]", "four.example.org", nil},
		{"six.example.org", "[2001:db8::6]", "six.example.org", nil},
		{"alias.example.org", "[2001:db8::1 192.0.2.1]", "mx.example.org", nil},
		{"chain1.example.org", "[2001:db8::1 192.0.2.1]", "mx.example.org", nil},
		{"localhost", "[::1 127.0.0.1]", "localhost", nil},
		{"example.org", "", "", ErrNoRecord},
		{"none.example.org", "", "", ErrNoName},
		{"dangling.example.org", "", "", ErrNoName},
		{"", "", "", ErrBadName},
		{"a b.example.org", "", "", ErrBadName},
		{"a..example.org", "", "", ErrBadName},
		{strings.Repeat("a", 64) + ".org", "", "", ErrBadName},
		{strings.Repeat("a.", 127) + "org", "", "", ErrBadName},
		{`a\.b.example.org`, "", "", ErrBadName},
	} {
		a, err := r.Addrs(t.Context(), tt.host)
		if !errors.Is(err, tt.err) {
			t.Errorf("Addrs(%.80q): error %v, want %v", tt.host, err, tt.err)
		}
		if err == nil && (fmt.Sprint(a.Addrs) != tt.want || a.Name != tt.name) {
			t.Errorf("Addrs(%q) = %v of %q, want %v of %q", tt.host, a.Addrs, a.Name, tt.want, tt.name)
		}
	}
	for _, host := range []string{"servfail.example.org", "loop1.example.org"} {
		if a, err := r.Addrs(t.Context(), host); err == nil || absent(err) {
			t.Errorf("Addrs(%s) = %v, %v; want a temporary error", host, a, err)
		}
	}
}

func TestMailHostsOfADomain(t *testing.T) {
	t.Parallel()
	r, _ := start(t, Config{})
	a, err := r.MX(t.Context(), "example.org")
	want := []MX{{"mx.example.org", 10}, {"backup.example.org", 20}}
	if err != nil || !reflect.DeepEqual(a.MX, want) {
		t.Errorf("MX = %v, %v; want %v", a, err, want)
	}
	a, err = r.MX(t.Context(), "null.example.org")
	if err != nil || !reflect.DeepEqual(a.MX, []MX{{".", 0}}) {
		t.Errorf("null MX = %v, %v", a, err)
	}
	if _, err = r.MX(t.Context(), "four.example.org"); !errors.Is(err, ErrNoRecord) {
		t.Errorf("host without MX: %v, want ErrNoRecord", err)
	}
	if _, err = r.MX(t.Context(), "bad.example.org"); err == nil || absent(err) {
		t.Errorf("malformed MX: %v, want a temporary error", err)
	}
}

func TestTextRecordsAreRawBytes(t *testing.T) {
	t.Parallel()
	r, _ := start(t, Config{})
	a, err := r.TXT(t.Context(), "example.org")
	want := []string{"v=spf1 -all \"q\" \\ \xff", "second"}
	if err != nil || !reflect.DeepEqual(a.Text, want) {
		t.Errorf("TXT = %+v, %v; want %q", a, err, want)
	}
}

func TestAuthenticIsSaidOfTrustedServersOnly(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	s.Set("_25._tcp.mx.example.org", dnstest.Fault{Authentic: true})
	a, err := r.TLSA(t.Context(), "mx.example.org", 25)
	if err != nil || !a.Authentic || fmt.Sprintf("%x", a.TLSA) != "[{3 1 1 0123456789abcdef}]" {
		t.Errorf("TLSA = %+v, %v; want an authentic record", a, err)
	}
	if a, err := r.MX(t.Context(), "example.org"); err != nil || a.Authentic {
		t.Errorf("MX = %+v, %v; want it not authentic", a, err)
	}
	for text, want := range map[string]bool{
		"":                      true, // 127.0.0.1
		"nameserver 192.0.2.53": false,
		"nameserver 192.0.2.53\noptions trust-ad": true,
		"nameserver ::1": true,
	} {
		c, err := parseConf(strings.NewReader(text))
		if err != nil || c.trusts(c.servers[0]) != want {
			t.Errorf("%q: trusts its server %v, want %v (%v)", text, !want, want, err)
		}
	}
}

func TestReverseName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts")
	text := "192.0.2.9 lan.example.org lan # here\n192.0.2.6 h.lan\n192.0.2.6 other.lan\n"
	if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, s := start(t, Config{Hosts: hosts})
	s.Set("9.2.0.192.in-addr.arpa", dnstest.Fault{Rcode: dnstest.ServFail})
	s.Set("8.2.0.192.in-addr.arpa", dnstest.Fault{Rcode: dnstest.ServFail})
	const temporary = -1
	for _, tt := range []struct {
		why, addr, name string
		confirmed       bool
		err             any
	}{
		{"the confirmed one of two names", "192.0.2.1", "mx.example.org", true, nil},
		{"IPv6", "2001:db8::1", "mx.example.org", true, nil},
		{"IPv4 in IPv6", "::ffff:192.0.2.1", "mx.example.org", true, nil},
		{"another address", "192.0.2.2", "four.example.org", false, nil},
		{"name that does not exist", "192.0.2.3", "none.example.org", false, nil},
		{"name that cannot be looked up", "192.0.2.4", "servfail.example.org", false, temporary},
		{"name that is no host name", "192.0.2.5", "", false, ErrNoRecord},
		{"no name", "192.0.2.7", "", false, ErrNoName},
		{"servers fail", "192.0.2.8", "", false, temporary},
		{"hosts file", "192.0.2.9", "lan.example.org", true, nil},
	} {
		name, confirmed, err := r.ReverseName(t.Context(), netip.MustParseAddr(tt.addr))
		if name != tt.name || confirmed != tt.confirmed {
			t.Errorf("%s: %q confirmed %v, want %q %v", tt.why, name, confirmed, tt.name, tt.confirmed)
		}
		switch want := tt.err.(type) {
		case nil:
			if err != nil {
				t.Errorf("%s: %v", tt.why, err)
			}
		case error:
			if !errors.Is(err, want) {
				t.Errorf("%s: error %v, want %v", tt.why, err, want)
			}
		default:
			if err == nil || absent(err) {
				t.Errorf("%s: error %v, want a temporary one", tt.why, err)
			}
		}
	}
	if _, _, err := r.ReverseName(t.Context(), netip.Addr{}); !errors.Is(err, ErrBadName) {
		t.Errorf("no address: %v", err)
	}
}

func TestTruncatedAnswerIsFetchedByTCP(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	s.Set("example.org", dnstest.Fault{Truncate: true})
	if a, err := r.MX(t.Context(), "example.org"); err != nil || len(a.MX) != 2 {
		t.Errorf("MX = %+v, %v", a, err)
	}
	if s.Asked("example.org", "MX", "tcp") != 1 {
		t.Error("not asked by TCP")
	}
}

func TestServerWithoutEDNSIsAskedWithoutIt(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	s.Set("example.org", dnstest.Fault{NoEDNS: true})
	if a, err := r.MX(t.Context(), "example.org"); err != nil || len(a.MX) != 2 {
		t.Errorf("MX = %+v, %v", a, err)
	}
}

func TestResponseToAnotherQueryIsIgnored(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	s.Set("example.org", dnstest.Fault{WrongID: true})
	if a, err := r.MX(t.Context(), "example.org"); err != nil || len(a.MX) != 2 {
		t.Errorf("MX = %+v, %v", a, err)
	}
}

func TestNextServerIsAskedWhenOneFails(t *testing.T) {
	t.Parallel()
	mute := dnstest.Start(t, "")
	refuses := dnstest.Start(t, "")
	for _, name := range []string{"example.org", "four.example.org"} {
		mute.Set(name, dnstest.Fault{Drop: true})
		refuses.Set(name, dnstest.Fault{Rcode: dnstest.Refused})
	}
	r, _ := start(t, Config{Servers: []string{mute.Addr(), refuses.Addr()}, Timeout: 200 * time.Millisecond})
	if a, err := r.MX(t.Context(), "example.org"); err != nil || len(a.MX) != 2 {
		t.Fatalf("MX = %+v, %v", a, err)
	}
	// The mute server is asked last from now on, so not at all.
	if _, err := r.forward(t.Context(), "four.example.org", 1); err != nil {
		t.Fatal(err)
	}
	if n := mute.Asked("four.example.org", "A", "udp"); n != 0 {
		t.Errorf("a server that did not answer was asked %d times again", n)
	}
}

func TestAnswersAreKeptAndExpire(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	var mu sync.Mutex
	now := time.Unix(1_000_000, 0)
	r.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	pass := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	ask := func(name string, want error) {
		t.Helper()
		if _, err := r.MX(t.Context(), name); !errors.Is(err, want) {
			t.Fatalf("MX(%s): %v, want %v", name, err, want)
		}
	}
	for range 3 {
		ask("example.org", nil)
		ask("none.example.org", ErrNoName)
	}
	pass(59 * time.Second)
	ask("none.example.org", ErrNoName)
	for _, name := range []string{"example.org", "none.example.org"} {
		if n := s.Asked(name, "MX", "udp"); n != 1 {
			t.Errorf("%s was asked for %d times, want once", name, n)
		}
	}
	s.Add(t, "none.example.org. MX 5 mx.example.org.")
	pass(time.Second) // the SOA says 60 seconds
	ask("none.example.org", nil)
	s.Remove("example.org")
	pass(238 * time.Second)
	ask("example.org", nil)
	pass(2 * time.Second) // the record says 300 seconds
	ask("example.org", ErrNoName)
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	r, _ := start(t, Config{MaxCached: 100})
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range 1000 {
		r.keep(key{fmt.Sprint(i), 1}, outcome{err: ErrNoName, ttl: time.Hour})
		if len(r.cache) > 100 {
			t.Fatalf("%d answers kept, at most 100 wanted", len(r.cache))
		}
	}
}

func TestEqualQuestionsBecomeOneQuery(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	wait := make(chan struct{})
	s.Set("example.org", dnstest.Fault{Wait: wait})
	var done sync.WaitGroup
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Add(1)
		done.Go(func() {
			waiting.Done()
			if a, err := r.MX(t.Context(), "example.org"); err != nil || len(a.MX) != 2 {
				t.Errorf("MX = %+v, %v", a, err)
			}
		})
	}
	waiting.Wait()
	close(wait)
	done.Wait()
	if n := s.Asked("example.org", "MX", "udp"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestLookupEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{MaxQueries: 1})
	wait := make(chan struct{})
	t.Cleanup(func() { close(wait) })
	s.Set("example.org", dnstest.Fault{Wait: wait})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.MX(ctx, "example.org"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	// The only slot is taken by that query; another question waits for it in vain.
	if _, err := r.TXT(ctx, "example.org"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestClosedResolverFailsTemporarily(t *testing.T) {
	t.Parallel()
	r, _ := start(t, Config{})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.MX(t.Context(), "example.org"); err == nil || absent(err) {
		t.Errorf("error %v, want a temporary one", err)
	}
}
