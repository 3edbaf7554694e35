package smtp

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 255)
	for _, tt := range []struct {
		name, in string
		want     Path
		rest     string
		ok       bool
	}{
		{"null reverse-path", "<>", Path{}, "", true},
		{"plain, parameters behind", "<u@c.test> SIZE=1", Path{"u", "c.test"}, " SIZE=1", true},
		{"case is kept", "<User@C.Test>", Path{"User", "C.Test"}, "", true},
		{"all of atext", "<!#$%&'*+-/=?^_`{|}~@c>", Path{"!#$%&'*+-/=?^_`{|}~", "c"}, "", true},
		{"source route is dropped", "<@a,@b.test:u@c>", Path{"u", "c"}, "", true},
		{"source route without a mailbox", "<@a:>", Path{}, "", false},
		{"source route with a bad hop", "<@a,b:u@c>", Path{}, "", false},
		{"no domain", "<postmaster>", Path{"postmaster", ""}, "", true},
		{"quoted", `<"a b"@c>`, Path{"a b", "c"}, "", true},
		{"quoted specials", `<"a\"b\\c>@,"@c>`, Path{`a"b\c>@,`, "c"}, "", true},
		{"needless quotes go", `<"ab"@c>`, Path{"ab", "c"}, "", true},
		{"quoted without a domain", `<"a b">`, Path{"a b", ""}, "", true},
		{"empty quoted", `<""@c>`, Path{}, "", false},
		{"open quote", `<"a@c>`, Path{}, "", false},
		{"backslash at the end", `<"a\`, Path{}, "", false},
		{"control in quotes", "<\"a\rb\"@c>", Path{}, "", false},
		{"escaped control in quotes", "<\"a\\\nb\"@c>", Path{}, "", false},
		{"blank outside quotes", "<a b@c>", Path{}, "", false},
		{"empty atoms", "<a..b@c>", Path{}, "", false},
		{"leading dot", "<.a@c>", Path{}, "", false},
		{"trailing dot", "<a.@c>", Path{}, "", false},
		{"no local part", "<@c>", Path{}, "", false},
		{"two at signs", "<a@b@c>", Path{}, "", false},
		{"no brackets", "a@c", Path{}, "", false},
		{"open bracket", "<a@c", Path{}, "", false},
		{"UTF-8", "<ä@ö.test>", Path{"ä", "ö.test"}, "", true},
		{"broken UTF-8", "<\xff@c>", Path{}, "", false},
		{"IPv4 literal", "<u@[192.0.2.1]>", Path{"u", "[192.0.2.1]"}, "", true},
		{"IPv6 literal", "<u@[IPv6:2001:db8::1]>", Path{"u", "[IPv6:2001:db8::1]"}, "", true},
		{"IPv6 literal without tag", "<u@[::1]>", Path{"u", "[::1]"}, "", true},
		{"IPv4 in IPv6 clothes", "<u@[IPv6:192.0.2.1]>", Path{}, "", false},
		{"literal with a zone", "<u@[fe80::1%eth0]>", Path{}, "", false},
		{"open literal", "<u@[::1>", Path{}, "", false},
		{"trailing dot of a domain", "<u@c.>", Path{}, "", false},
		{"hyphen at an end", "<u@-c>", Path{}, "", false},
		{"underscore", "<u@_c>", Path{"u", "_c"}, "", true},
		{"empty domain", "<u@>", Path{}, "", false},
		{"longest local part", "<" + long + "@c>", Path{long, "c"}, "", true},
		{"longer local part", "<" + long + "a@c>", Path{}, "", false},
		{"longer quoted local part", `<"` + long + `a"@c>`, Path{}, "", false},
		{"long label", "<u@" + strings.Repeat("a", 64) + ">", Path{}, "", false},
		{"long domain", "<u@" + strings.Repeat("a.", 127) + "aa>", Path{}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, rest, err := ParsePath(tt.in)
			if got != tt.want || rest != tt.rest || (err == nil) != tt.ok {
				t.Errorf("%q: got %+v, %q, %v; want %+v, %q, ok %v", tt.in, got, rest, err, tt.want, tt.rest, tt.ok)
			}
		})
	}
}

func TestMailboxFillsItsString(t *testing.T) {
	t.Parallel()
	if p, err := ParseMailbox("u@c.test"); err != nil || p != (Path{"u", "c.test"}) {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, in := range []string{"", "u@c.test>", "u@c x", "<u@c>", "u x"} {
		if p, err := ParseMailbox(in); err == nil {
			t.Errorf("%q parses as %+v", in, p)
		}
	}
}

// FuzzPath: what parses prints back the same, and holds no control character.
func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"<>", "<u@c.test> SIZE=1", "<@a,@b:u@c>", `<"a b"@c>`, `<"a\"\\b">`, "<ä@ö>", "<u@[IPv6:::1]>", "<u@[127.0.0.1]>", "<a.b@c>", `<".a"@c>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, rest, err := ParsePath(s)
		if err != nil {
			return
		}
		if !strings.HasSuffix(s, rest) {
			t.Errorf("%q: rest %q", s, rest)
		}
		again, rest, err := ParsePath("<" + p.String() + ">")
		if err != nil || again != p || rest != "" {
			t.Errorf("%q is %+v, prints as %q, which is %+v, %q, %v", s, p, p, again, rest, err)
		}
		for _, c := range []byte(p.Local + p.Domain) {
			if c < ' ' || c == 0x7f {
				t.Errorf("%q: control character in %+v", s, p)
			}
		}
		if !p.IsNull() && p.Local == "" {
			t.Errorf("%q: no local part", s)
		}
	})
}
