// Package tabletest is the conformance suite of tables that hold rows given to
// them: what every list and map must answer, whatever stores it.
package tabletest

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/table"
)

// Row is an entry. Value is empty in a list.
type Row struct{ Key, Value string }

// Open returns a table of the rows, in their order; the suite closes it. list says
// that rows have no values.
type Open func(t *testing.T, list bool, rows []Row) table.Table

// Run tests the table that open makes.
func Run(t *testing.T, open Open) {
	t.Run("lookup", func(t *testing.T) { t.Parallel(); lookups(t, open) })
	t.Run("unknown service", func(t *testing.T) { t.Parallel(); unsupported(t, open) })
	t.Run("empty", func(t *testing.T) { t.Parallel(); empty(t, open) })
	t.Run("fetch", func(t *testing.T) { t.Parallel(); fetch(t, open) })
	t.Run("update", func(t *testing.T) { t.Parallel(); update(t, open) })
	t.Run("many rows at once", func(t *testing.T) { t.Parallel(); many(t, open) })
}

// start opens a table that is closed with the test.
func start(t *testing.T, open Open, list bool, rows []Row) table.Table {
	t.Helper()
	tab := open(t, list, rows)
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tab
}

// keys makes a list.
func keys(k ...string) []Row {
	rows := make([]Row, len(k))
	for i := range k {
		rows[i].Key = k[i]
	}
	return rows
}

// lookups asks every service.
func lookups(t *testing.T, open Open) {
	aliases := []Row{{"root", "alice"}, {"info+x", "Bob, carol"}, {"joe@example.org", "joe"}, {"@", "all"}}
	addrs := keys("carol", "@example.org", "dave@example.net", "eve+x@example.net", "@*.example.com", "frank@")
	nets := keys("192.0.2.0/24", "10/8", "local", "[2001:db8::]/32", "::1")
	domains := keys("example.org", "*.example.net", "mx*.example.com", "x.*")
	for _, tt := range []struct {
		name string
		list bool
		rows []Row
		s    table.Service
		key  string
		want string // empty: not found
	}{
		{"alias", false, aliases, table.Alias, "root", "alice"},
		{"alias in capitals", false, aliases, table.Alias, "ROOT", "alice"},
		{"value keeps its case", false, aliases, table.Alias, "info+x", "Bob, carol"},
		{"tag is part of an alias", false, aliases, table.Alias, "root+x", ""},
		{"catch-all is a key of its own", false, aliases, table.Alias, "@", "all"},
		{"alias, empty key", false, aliases, table.Alias, "", ""},
		{"userinfo", false, []Row{{"alice", "1000:1000:/home/Alice"}}, table.UserInfo, "alice", "1000:1000:/home/Alice"},
		{"credentials", false, []Row{{"alice", "alice:Secret"}}, table.Credentials, "alice", "alice:Secret"},
		{"addrname", false, []Row{{"192.0.2.1", "mx.example.org"}}, table.AddrName, "192.0.2.1", "mx.example.org"},
		{"addrname, IPv6", false, []Row{{"[::1]", "localhost"}}, table.AddrName, "[::1]", "localhost"},
		{"mailaddrmap", false, []Row{{"alice", "alice@example.org, @example.net"}}, table.MailAddrMap, "alice", "alice@example.org, @example.net"},
		{"relayhost by domain", false, []Row{{"example.org", "smtp://mx.example.org"}}, table.RelayHost, "Example.org", "smtp://mx.example.org"},
		{"string", true, keys("Tag"), table.String, "tag", "Tag"},
		{"string is no pattern", true, keys("*"), table.String, "tag", ""},
		{"domain", true, domains, table.Domain, "EXAMPLE.org", "example.org"},
		{"glob of one label", true, domains, table.Domain, "a.example.net", "*.example.net"},
		{"glob is no domain above", true, domains, table.Domain, "example.net", ""},
		{"glob is no two labels", true, domains, table.Domain, "a.b.example.net", ""},
		{"glob in a label", true, domains, table.Domain, "mx12.example.com", "mx*.example.com"},
		{"glob at the end", true, domains, table.Domain, "x.any.where", "x.*"},
		{"empty domain", true, keys("*"), table.Domain, "", ""},
		{"any domain", true, keys("*"), table.Domain, "x", "*"},
		{"first that fits wins", true, keys("a.*", "*.b", "a.b"), table.Domain, "a.b", "a.*"},
		{"address by user", true, addrs, table.MailAddr, "Carol@any.where", "carol"},
		{"address by user, tag dropped", true, addrs, table.MailAddr, "carol+x@any.where", "carol"},
		{"address by domain", true, addrs, table.MailAddr, "any@example.ORG", "@example.org"},
		{"address", true, addrs, table.MailAddr, "dave+y@example.net", "dave@example.net"},
		{"address with tag", true, addrs, table.MailAddr, "eve+x@example.net", "eve+x@example.net"},
		{"address without its tag", true, addrs, table.MailAddr, "eve@example.net", ""},
		{"address by domain glob", true, addrs, table.MailAddr, "any@a.example.com", "@*.example.com"},
		{"address by user@", true, addrs, table.MailAddr, "frank@any.where", "frank@"},
		{"null sender", true, addrs, table.MailAddr, "@", ""},
		{"null sender, catch-all", true, keys("@"), table.MailAddr, "@", "@"},
		{"address in quotes is not its inner one", true, addrs, table.MailAddr, "dave@example.net@evil.example", ""},
		{"network", true, nets, table.NetAddr, "192.0.2.255", "192.0.2.0/24"},
		{"short network", true, nets, table.NetAddr, "10.1.2.3", "10/8"},
		{"IPv6 network", true, nets, table.NetAddr, "[2001:db8::1]", "[2001:db8::]/32"},
		{"IPv6 address", true, nets, table.NetAddr, "[::1]", "::1"},
		{"local socket", true, nets, table.NetAddr, "local", "local"},
		{"outside", true, nets, table.NetAddr, "192.0.3.1", ""},
		{"regular expression", true, keys(`^ab+c$`), table.Regex, "abbbc", "^ab+c$"},
		{"regular expression in small letters", true, keys(`^ab+c$`), table.Regex, "ABC", "^ab+c$"},
		{"regular expression that does not match", true, keys(`^ab+c$`), table.Regex, "xabc", ""},
		{"membership in a map", false, aliases, table.MailAddr, "joe@example.org", "joe@example.org"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tab := start(t, open, tt.list, tt.rows)
			got, err := tab.Lookup(t.Context(), tt.s, tt.key)
			if tt.want == "" {
				if !errors.Is(err, table.ErrNotFound) {
					t.Errorf("Lookup(%s, %q) = %q, %v, want ErrNotFound", tt.s, tt.key, got, err)
				}
			} else if err != nil || !strings.EqualFold(got, tt.want) && !(member(tt.s) && strings.EqualFold(got, tt.key)) {
				t.Errorf("Lookup(%s, %q) = %q, %v, want %q", tt.s, tt.key, got, err, tt.want)
			} else if !member(tt.s) && got != tt.want {
				t.Errorf("Lookup(%s, %q) = %q, want the value as written, %q", tt.s, tt.key, got, tt.want)
			}
		})
	}
}

// member tells whether a service only asks for membership. The entry returned may
// then have lost its case.
func member(s table.Service) bool {
	switch s {
	case table.String, table.Domain, table.MailAddr, table.NetAddr, table.Regex:
		return true
	}
	return false
}

func unsupported(t *testing.T, open Open) {
	tab := start(t, open, true, keys("alice:secret"))
	if _, err := tab.Lookup(t.Context(), table.Auth, "alice:secret"); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("Lookup(auth): %v, want ErrUnsupported: rows are no password check", err)
	}
	if _, err := tab.Fetch(t.Context(), table.Alias); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("Fetch(alias): %v, want ErrUnsupported", err)
	}
}

func empty(t *testing.T, open Open) {
	for _, list := range []bool{false, true} {
		tab := start(t, open, list, nil)
		for _, s := range []table.Service{table.Alias, table.Domain, table.MailAddr, table.NetAddr, table.Regex, table.String} {
			if _, err := tab.Lookup(t.Context(), s, "x"); !errors.Is(err, table.ErrNotFound) {
				t.Errorf("list %v: Lookup(%s): %v, want ErrNotFound", list, s, err)
			}
		}
		if _, err := tab.Fetch(t.Context(), table.Source); !errors.Is(err, table.ErrNotFound) {
			t.Errorf("list %v: Fetch: %v, want ErrNotFound", list, err)
		}
	}
}

func fetch(t *testing.T, open Open) {
	tab := start(t, open, true, keys("192.0.2.9", "192.0.2.1", "[2001:db8::1]"))
	for i, want := range []string{"192.0.2.9", "192.0.2.1", "[2001:db8::1]", "192.0.2.9"} {
		if got, err := tab.Fetch(t.Context(), table.Source); err != nil || got != want {
			t.Errorf("Fetch %d = %q, %v, want %q: the order written, round and round", i, got, err, want)
		}
	}
	l, ok := tab.(table.Lister)
	if !ok {
		return
	}
	for _, service := range []table.Service{table.Source, table.RelayHost} {
		got, err := l.List(t.Context(), service)
		if want := []string{"192.0.2.9", "192.0.2.1", "[2001:db8::1]"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("List(%s) = %q, %v, want %q: all of Fetch in its order", service, got, err, want)
		}
	}
	if _, err := l.List(t.Context(), table.Alias); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("List(alias): %v, want ErrUnsupported", err)
	}
	none := start(t, open, true, nil).(table.Lister)
	if _, err := none.List(t.Context(), table.RelayHost); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("List of an empty table: %v, want ErrNotFound", err)
	}
}

func update(t *testing.T, open Open) {
	tab := start(t, open, false, []Row{{"a", "b"}})
	if err := tab.Update(t.Context()); err != nil {
		t.Fatalf("Update: %v", err)
	}
	if got, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || got != "b" {
		t.Errorf("Lookup after Update = %q, %v, want b", got, err)
	}
}

// many asks from several goroutines while the table is reloaded.
func many(t *testing.T, open Open) {
	const n = 2000
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{"user" + strconv.Itoa(i) + "@example.org", "v" + strconv.Itoa(i)}
	}
	tab := start(t, open, false, rows)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; i < n; i += 4 {
				if got, err := tab.Lookup(t.Context(), table.Alias, rows[i].Key); err != nil || got != rows[i].Value {
					t.Errorf("Lookup(%q) = %q, %v, want %q", rows[i].Key, got, err, rows[i].Value)
					return
				}
				if _, err := tab.Lookup(t.Context(), table.MailAddr, rows[i].Key); err != nil {
					t.Errorf("Lookup(mailaddr, %q): %v", rows[i].Key, err)
					return
				}
			}
		})
	}
	for range 3 {
		if err := tab.Update(t.Context()); err != nil {
			t.Errorf("Update: %v", err)
		}
	}
	wg.Wait()
}
