package table

import "testing"

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		s          Service
		entry, key string
		want       bool
	}{
		{Domain, "example.org", "Example.ORG", true},
		{Domain, "*", "", false},
		{Domain, "*", "a.b", true},
		{Domain, "**", "a", true},
		{Domain, "*.example.org", "a.example.org", true},
		{Domain, "*.example.org", ".example.org", true},
		{Domain, "*.example.org", "a.b.example.org", false},
		{Domain, "*.*.example.org", "a.b.example.org", true},
		{Domain, "*.example.org", "example.org", false},
		{Domain, "a*", "a", false},
		{Domain, "a*c", "ac", true},
		{Domain, "a*c", "abcc", false}, // no second try
		{Domain, "?.org", "a.org", false},
		{MailAddr, "@", "@", true},
		{MailAddr, "", "a@b", true},
		{MailAddr, "a", "A+t@b", true},
		{MailAddr, "a+t", "a@b", false},
		{MailAddr, "a@*", "a@b", true},
		{MailAddr, "*@b", "a@b", false},
		{MailAddr, "a@", "a@b", true},
		{NetAddr, "192.0.2.1/24", "192.0.2.200", true},
		{NetAddr, "192.0.2.1", "192.0.2.2", false},
		{NetAddr, "10", "10.1.1.1", true},
		{NetAddr, "172.16", "172.16.5.5", true},
		{NetAddr, "172.16", "172.17.5.5", false},
		{NetAddr, "192.168", "192.168.5.5", false}, // class C: 192.168.0/24
		{NetAddr, "192.168/16", "192.168.5.5", true},
		{NetAddr, "[IPv6:2001:db8::]/32", "[2001:db8::5]", true},
		{NetAddr, "2001:db8::/129", "2001:db8::", false},
		{NetAddr, "0.0.0.0/0", "::1", false},
		{NetAddr, "192.0.2.0/24", "[::ffff:192.0.2.7]", true},
		{NetAddr, "::ffff:192.0.2.0/120", "192.0.2.7", true},
		{NetAddr, "fe80::/10", "[fe80::1%eth0]", true},
		{NetAddr, "local", "LOCAL", true},
		{NetAddr, "10/", "10.0.0.1", false},
		{NetAddr, "10/+8", "10.0.0.1", false},
		{NetAddr, "1.2.3.4.5", "1.2.3.4", false},
		{Regex, `^[A-Z]+$`, "ABC", true},
		{Regex, `^[A-Z]+$`, "abc", false},
		{Regex, `^abc$`, "ABC", true},
		{Regex, `(?i)^ABC$`, "abc", true},
		{Regex, `\<spam\>`, "is spam here", true},
		{Regex, `\<spam\>`, "antispam", false},
		{Regex, `[[:<:]]x[[:>:]]`, "a x b", true},
		{Regex, `[[:digit:]]{2}`, "a12", true},
		{Regex, `\\<`, `a\<`, true},
		{Regex, `(`, "(", false},
		{String, "Tag", "tag", true},
		{String, "*", "tag", false},
		{Credentials, "Bob", "bob", false},
	} {
		if got := Match(tt.s, tt.entry, tt.key, "+"); got != tt.want {
			t.Errorf("Match(%s, %q, %q) = %v, want %v", tt.s, tt.entry, tt.key, got, tt.want)
		}
	}
}

func TestBadPatternIsAnError(t *testing.T) {
	t.Parallel()
	for _, s := range []string{`(`, `a**`, `(a)\1`, string(make([]byte, maxRegex+1))} {
		if _, err := CompileRegex(s); err == nil {
			t.Errorf("CompileRegex(%.20q) gave no error", s)
		}
	}
}

// FuzzMatch states that no input makes a match panic, and that text always fits
// itself where entries are plain.
func FuzzMatch(f *testing.F) {
	f.Add("*.a", "b.a")
	f.Add("10/8", "10.1.1.1")
	f.Add("a@b", "a+c@b")
	f.Fuzz(func(t *testing.T, entry, key string) {
		for _, s := range []Service{Domain, MailAddr, NetAddr, String} {
			Match(s, entry, key, "+")
		}
		if !Match(NetAddr, key, key, "+") || !Match(String, key, key, "+") {
			t.Errorf("%q does not fit itself", key)
		}
		if p, ok := ParsePrefix(entry); ok && !p.Contains(p.Addr()) {
			t.Errorf("network %q does not hold its own address", entry)
		}
	})
}
