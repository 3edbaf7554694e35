package table

import "testing"

// What docs/regex.md says about differences and examples.
func TestRegexBehavesAsDocumented(t *testing.T) {
	t.Parallel()
	for _, s := range []string{`(a)\1`, `a**`, `a+*`, `*a`, `a{1001}`, `[a\]`, `[[.hyphen.]]`, `[[=e=]]`} {
		if _, err := CompileRegex(s); err == nil {
			t.Errorf("CompileRegex(%q) gave no error", s)
		}
	}
	for _, tt := range []struct {
		pattern, key string
		want         bool
	}{
		{`a{,3}`, "a{,3}", true},
		{`^a{,3}$`, "aa", false},
		{`^[\.]$`, ".", true},
		{`^[\.]$`, `\`, false},
		{`\>x`, " x", true},
		{`^a.b$`, "a\nb", false},
		{`@example\.org$`, "Joe@EXAMPLE.ORG", true},
		{`^[A-Z]+@`, "joe@x", false},
		{`\.example\.org$`, "a.b.example.org", true},
		{`^(www|mail)[0-9]*\.`, "mail2.example.org", true},
		{`^[^@]+\+[^@]*@`, "joe+x@y", true},
		{`^\[`, "[::1]", true},
	} {
		if got := Match(Regex, tt.pattern, tt.key, "+"); got != tt.want {
			t.Errorf("pattern %q, key %q: %v, want %v", tt.pattern, tt.key, got, tt.want)
		}
	}
}
