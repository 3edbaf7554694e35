package submit

import (
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// joined returns addresses parted by "|".
func joined(list []smtp.Path) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, "|")
}

func TestAddressesAreFoundInAList(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "a@x.test", "a@x.test"},
		{"several", "a@x.test, b@y.test ,c", "a@x.test|b@y.test|c"},
		{"empty elements", ",, a@x.test,,", "a@x.test"},
		{"nothing", " \r\n ", ""},
		{"name and brackets", "Alice Adams <a@x.test>", "a@x.test"},
		{"comments", "a@x.test (Alice, (nested) \\) Adams), (b) b@y.test", "a@x.test|b@y.test"},
		{"folded, comma in comment and quotes", " Alice (x, y)\r\n <a@x.test>,\n\t\"B, ob\" <b@x.test>", "a@x.test|b@x.test"},
		{"quoted local part", `"a b,c"@x.test`, `"a b,c"@x.test`},
		{"quoted local part in brackets", `X <"a >b"@x.test>`, `"a >b"@x.test`},
		{"quotes that are not needed", `"ab"@x.test`, "ab@x.test"},
		{"group", "Friends: a@x.test, B <b@y.test>;, c@z.test", "a@x.test|b@y.test|c@z.test"},
		{"empty group", "undisclosed-recipients:;", ""},
		{"blanks around dots and at sign", "a . b @ x . test", "a.b@x.test"},
		{"blanks inside brackets", "< a@x.test >", "a@x.test"},
		{"source route is dropped", "<@r.test,@s.test:a@x.test>", "a@x.test"},
		{"address literal", "a@[IPv6:2001:db8::1], b@[192.0.2.1]", "a@[IPv6:2001:db8::1]|b@[192.0.2.1]"},
		{"UTF-8", "Jörg <jörg@müller.test>", "jörg@müller.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list, err := ParseList(tt.in)
			if got := joined(list); err != nil || got != tt.want {
				t.Errorf("ParseList(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestMalformedListsAreRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"Alice Adams", "a@x.test b@y.test", "a@", "@x.test", "<a@x.test", "a@x.test>", "(a@x.test", `"a@x.test`,
		"<>", "<a b@x.test>", "<a@x.test> b@y.test", "<a@x.test> <b@y.test>", "g: a@x.test", "a@x.test;", "g: h: a;",
		"a@x.test\x00", "a..b@x.test", "a@x.test\\", ":a", "<a@x.test,b@y.test>", "a@[1.2.3.4",
	} {
		if list, err := ParseList(in); err == nil {
			t.Errorf("ParseList(%q) = %q, want an error", in, joined(list))
		}
	}
}

// FuzzRecipients: the addresses found, written as a list, are found again; none has
// a line break or a character that would end its place in a command.
func FuzzRecipients(f *testing.F) {
	f.Add("Alice (x, y)\r\n <a@x.test>,\n\t\"B, ob\" <b@x.test>, g: c@d;, <@r:e@f>")
	f.Add(`"a \" b"@[IPv6:::1], a . b @ c`)
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseList(s)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, p := range list {
			if strings.ContainsAny(p.String(), "\r\n\x00") || p.IsNull() {
				t.Fatalf("ParseList(%q) found %q", s, p.String())
			}
			again.WriteString("<" + p.String() + ">, ")
		}
		second, err := ParseList(again.String())
		if err != nil || joined(second) != joined(list) {
			t.Fatalf("%q gave %q, which gave %q, %v", s, joined(list), joined(second), err)
		}
	})
}
