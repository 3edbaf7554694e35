package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestResolvConf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       conf
	}{
		{"empty", "", conf{servers: []string{"127.0.0.1:53"}, timeout: 5 * time.Second, attempts: 2}},
		{"servers", "search lan\nnameserver 192.0.2.1 # first\n;nameserver 192.0.2.2\nnameserver fe80::1%eth0\n",
			conf{servers: []string{"192.0.2.1:53", "[fe80::1%eth0]:53"}, timeout: 5 * time.Second, attempts: 2}},
		{"port", "nameserver [127.0.0.1]:5353\nnameserver [::1]:x\nnameserver name\n",
			conf{servers: []string{"[127.0.0.1]:5353"}, timeout: 5 * time.Second, attempts: 2}},
		{"options", "options timeout:2 attempts:99 edns0 trust-ad\nnameserver ::1",
			conf{servers: []string{"[::1]:53"}, timeout: 2 * time.Second, attempts: 5, trustAD: true}},
		{"options out of range", "options timeout:-1 attempts:x",
			conf{servers: []string{"127.0.0.1:53"}, timeout: time.Second, attempts: 2}},
		{"too many", strings.Repeat("nameserver ::1\n", 100),
			conf{servers: slicesRepeat("[::1]:53", maxServers), timeout: 5 * time.Second, attempts: 2}},
	} {
		got, err := parseConf(strings.NewReader(tt.text))
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

func slicesRepeat(s string, n int) []string {
	var out []string
	for range n {
		out = append(out, s)
	}
	return out
}

func TestHostsFileIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hosts")
	w := watched[hosts]{path: path, parse: parseHosts}
	now := time.Unix(1_000_000, 0)
	find := func(name string) []netip.Addr {
		t.Helper()
		h, err := w.get(now)
		if err != nil {
			t.Fatal(err)
		}
		return h.addrs[name]
	}
	if got := find("a.lan"); got != nil {
		t.Errorf("missing file holds %v", got)
	}
	if err := os.WriteFile(path, []byte("192.0.2.1 A.lan\n::1%lo x\nbad a.lan\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := find("a.lan"); got != nil {
		t.Errorf("read again at once: %v", got)
	}
	now = now.Add(recheck)
	if got := find("a.lan"); len(got) != 1 {
		t.Errorf("a.lan has %v, want one address", got)
	}
	if err := os.WriteFile(path, []byte("192.0.2.1 b.lan c.lan\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	now = now.Add(recheck)
	if a, c := find("a.lan"), find("c.lan"); a != nil || len(c) != 1 {
		t.Errorf("after a change a.lan has %v, c.lan %v", a, c)
	}
}
