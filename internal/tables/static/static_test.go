package static_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/tabletest"
)

func kindOf(list bool) static.Kind {
	if list {
		return static.List
	}
	return static.Map
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, list bool, rows []tabletest.Row) table.Table {
		var entries []static.Entry
		for _, r := range rows {
			entries = append(entries, static.Entry{Key: r.Key, Value: r.Value})
		}
		tab, err := static.New(kindOf(list), entries, static.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	})
}

// The hash indexes must agree with trying the entries one after the other.
func TestIndexAgreesWithMatch(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	domain := func() string {
		return pick("a", "b", "*", "a*", "", "A") + pick("", ".", ".", ".*") + pick("x", "*", "b.x", "x.")
	}
	gen := map[table.Service]func() string{
		table.Domain: domain,
		table.MailAddr: func() string {
			return pick("", "u", "U+t", "v", "u@x", "+t", "u+") + pick("@", "", "@@", "@") + domain()
		},
		table.NetAddr: func() string {
			return pick("10", "10.0.0.1", "192.0.2.1", "::1", "[2001:db8::1]", "2001:db8::", "local", "::ffff:10.0.0.1") + pick("", "", "/8", "/32", "/24", "/64", "/0", "/120")
		},
	}
	for s, g := range gen {
		for range 3000 {
			var entries []static.Entry
			seen := map[string]bool{}
			for range 1 + r.IntN(6) {
				if e := g(); e != "" && !seen[e] {
					seen[e] = true
					entries = append(entries, static.Entry{Key: e})
				}
			}
			tab, err := static.New(static.List, entries, static.Options{})
			if err != nil {
				t.Fatal(err)
			}
			key, want := g(), ""
			for _, e := range entries {
				if table.Match(s, e.Key, key, "+") {
					want = e.Key
					break
				}
			}
			got, err := tab.Lookup(t.Context(), s, key)
			if got != want || (err == nil) != (want != "") {
				t.Fatalf("%s: Lookup(%q) in %v = %q, %v, want %q", s, key, entries, got, err, want)
			}
		}
	}
}

func TestLaterDuplicateReplacesValueInPlace(t *testing.T) {
	t.Parallel()
	tab, err := static.New(static.Map, []static.Entry{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "a", Value: "3"}}, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tab.Lookup(t.Context(), table.Alias, "a"); err != nil || got != "3" || tab.Len() != 2 {
		t.Errorf("Lookup = %q, %v, %d entries, want 3 and 2 entries", got, err, tab.Len())
	}
}

func TestCredentialsPreferTheExactKey(t *testing.T) {
	t.Parallel()
	tab, err := static.New(static.Map, []static.Entry{{Key: "Bob", Value: "Bob:1"}, {Key: "bob", Value: "bob:2"}}, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"Bob": "Bob:1", "bob": "bob:2", "BOB": "bob:2"} {
		if got, err := tab.Lookup(t.Context(), table.Credentials, key); err != nil || got != want {
			t.Errorf("Lookup(%q) = %q, %v, want %q", key, got, err, want)
		}
	}
}

func TestBadPatternIsALoadError(t *testing.T) {
	t.Parallel()
	_, err := static.New(static.List, []static.Entry{{Key: "ok", Line: 1}, {Key: "(", Line: 4}}, static.Options{Regex: true})
	if pe, ok := errors.AsType[*static.PatternError](err); !ok || pe.Line != 4 {
		t.Errorf("New: %v, want a PatternError for line 4", err)
	}
	tab, err := static.New(static.List, []static.Entry{{Key: "("}}, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Lookup(t.Context(), table.Regex, "("); err == nil || errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup by a bad pattern: %v, want an error that is not ErrNotFound", err)
	}
}

func TestListOffersNoValues(t *testing.T) {
	t.Parallel()
	tab, err := static.New(static.List, []static.Entry{{Key: "a"}}, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Lookup(t.Context(), table.Alias, "a"); !errors.Is(err, table.ErrUnsupported) {
		t.Errorf("Lookup(alias) in a list: %v, want ErrUnsupported", err)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, s := range []table.Service{table.Alias, table.Domain, table.MailAddr, table.NetAddr} {
		b.Run(string(s), func(b *testing.B) {
			entries := make([]static.Entry, 100_000)
			for i := range entries {
				entries[i] = static.Entry{Key: fmt.Sprintf("host%d.example.org", i), Value: "x"}
				if s == table.NetAddr {
					entries[i].Key = fmt.Sprintf("10.%d.%d.0/24", i/256%256, i%256)
				}
			}
			entries[1].Key = "mx*.example.net"
			tab, err := static.New(static.Map, entries, static.Options{})
			if err != nil {
				b.Fatal(err)
			}
			key := "HOST77777.example.org"
			if s == table.NetAddr {
				key = "10.5.5.5"
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tab.Lookup(b.Context(), s, key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
