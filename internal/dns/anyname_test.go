package dns

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNamesOfVisibleCharacters(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	s.Add(t, `
user+tag=x._spf.example.org.  A   192.0.2.1
foo:bar/baz.example.org.      MX  10 mx.example.org.
foo:bar/baz.example.org.      TXT "text"
per%cent.example.org.         A   192.0.2.2
q\"\(\)\;\@\'\\.example.org.  A   192.0.2.3
s\ p.example.org.             A   192.0.2.4
`)
	asker := AnyName{r}
	for name, want := range map[string]string{
		"user+tag=x._spf.example.org":            "192.0.2.1",
		"USER+tag=x._SPF.example.org.":           "192.0.2.1",
		"per%cent.example.org":                   "192.0.2.2",
		`q"();@'\.example.org`:                   "192.0.2.3",
		"s p.example.org":                        "192.0.2.4",
		"alias.example.org":                      "2001:db8::1",
		"no+such.example.org":                    "",
		`q\"\(\)\;\@\'\\.example.org`:            "",
		"s\\032p.example.org":                    "",
		"a..example.org":                         "",
		"":                                       "",
		".":                                      "",
		"tab\t.example.org":                      "",
		"ü.example.org":                          "",
		strings.Repeat("x", 64) + ".example.org": "",
		strings.Repeat("x.", 126) + "xx":         "",
		strings.Repeat(strings.Repeat("(", 63)+".", 3) + "org": "",
	} {
		a, err := asker.Addrs(t.Context(), name)
		switch {
		case want == "" && !absent(err):
			t.Errorf("%q: %+v, %v, want nothing", name, a, err)
		case want != "" && (err != nil || a.Addrs[0] != netip.MustParseAddr(want)):
			t.Errorf("%q: %+v, %v, want %s", name, a, err, want)
		}
	}
	if a, err := asker.MX(t.Context(), "foo:bar/baz.example.org"); err != nil || len(a.MX) != 1 || a.MX[0].Host != "mx.example.org" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := asker.TXT(t.Context(), "foo:bar/baz.example.org"); err != nil || !slices.Equal(a.Text, []string{"text"}) {
		t.Errorf("%+v, %v", a, err)
	}
	// Mail goes to hosts only.
	if _, err := r.MX(t.Context(), "foo:bar/baz.example.org"); !errors.Is(err, ErrBadName) {
		t.Errorf("a mail host of a name that is none of a host: %v", err)
	}
}

func TestAllNamesOfAnAddress(t *testing.T) {
	t.Parallel()
	r, s := start(t, Config{})
	for _, c := range "abcdefghijkl" {
		s.Add(t, "20.2.0.192.in-addr.arpa. PTR "+string(c)+".example.org.\n")
	}
	for addr, want := range map[string]string{
		"192.0.2.1":        "other.example.org mx.example.org",
		"::ffff:192.0.2.1": "other.example.org mx.example.org",
		"2001:db8::1":      "mx.example.org",
		"192.0.2.3":        "none.example.org",
		"192.0.2.20":       "a.example.org b.example.org c.example.org d.example.org e.example.org f.example.org g.example.org h.example.org i.example.org j.example.org",
		"192.0.2.7":        "",
	} {
		names, err := r.ReverseNames(t.Context(), netip.MustParseAddr(addr))
		if got := strings.Join(names, " "); got != want || (err == nil) != (want != "") || err != nil && !absent(err) {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
}

// What can be asked for is written so that the library reads the same name.
func FuzzWritten(f *testing.F) {
	f.Add("user+tag.example.org")
	f.Add(`a\. "b.example.org.`)
	f.Fuzz(func(t *testing.T, name string) {
		form, ok := written(name)
		if !ok {
			return
		}
		var b strings.Builder
		unescape(&b, form)
		if got := b.String(); got != strings.ToLower(strings.TrimSuffix(name, ".")) {
			t.Errorf("%q: %q, which is %q", name, form, got)
		}
		if ValidName(name) && form != canonical(name) {
			t.Errorf("%q: %q", name, form)
		}
	})
}
