package main

import (
	"crypto/rsa"
	"strings"
	"testing"
)

// Who is trusted is believed about what it found, not about what it let through.
func TestTrustedSealersMustHaveFoundTheAuthor(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	key := keys["rsa"].(*rsa.PrivateKey)
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject; aspf=s"}
	z["_dmarc.evil.test"] = []string{"v=DMARC1; p=quarantine"}
	one := func(results ...string) string { return seal(t, "list.example", 1, key, "none", message, results...) }
	two := func(text, sealer string, results ...string) string {
		return seal(t, sealer, 2, key, "pass", text, results...)
	}
	both := strings.Replace(message, "From: ", "From: x@evil.test, ", 1)
	for name, tt := range map[string]struct {
		text   string
		passes bool
	}{
		"DMARC":                          {one("dmarc=pass header.from=example.org"), true},
		"DMARC with all that may be":     {one("spf=fail (a;b) smtp.mailfrom=x@y", "dmarc=pass (p=REJECT (sp=\\) NONE)) reason=\"a; b\"\r\n\theader.from=Example.ORG policy.x=y"), true},
		"version":                        {one("dkim/1=pass header.d=example.org"), true},
		"DMARC without the domain":       {one("dmarc=pass"), true},
		"a signature":                    {one("dkim=fail header.d=evil.test", "dkim=pass header.d=sub.example.org"), true},
		"a signature's identity":         {one("dkim=pass header.i=@example.org header.s=x header.b=abc"), true},
		"an SPF sender":                  {one("spf=pass (x: domain of y) smtp.mailfrom=\"a b\"@example.org"), true},
		"an SPF domain":                  {one("spf=pass smtp.mailfrom=example.org"), true},
		"SPF of the name given":          {one("spf=pass smtp.helo=example.org"), true},
		"DMARC failed":                   {one("dmarc=fail header.from=example.org"), false},
		"nothing":                        {one("none"), false},
		"SPF of nobody":                  {one("spf=pass"), false},
		"SPF of a stranger":              {one("spf=pass smtp.mailfrom=example.org@evil.test smtp.helo=example.org"), false},
		"SPF of a sub domain":            {one("spf=pass smtp.mailfrom=x@sub.example.org"), false},
		"a signature of a stranger":      {one("dkim=pass header.d=evil.test header.i=@evil.test"), false},
		"a signature that failed":        {one("dkim=fail header.d=example.org"), false},
		"DMARC of another author":        {one("dmarc=pass header.from=evil.test"), false},
		"said in a comment":              {one("spf=none (; dmarc=pass header.from=example.org ;)"), false},
		"said in quotes":                 {one("spf=none reason=\"; dmarc=pass header.from=example.org\""), false},
		"in quotes without an end":       {one("spf=none reason=\"; dmarc=pass header.from=example.org"), false},
		"in a comment without an end":    {one("spf=none (; dmarc=pass header.from=example.org"), false},
		"another method":                 {one("x-dmarc=pass header.from=example.org"), false},
		"the newest is not trusted":      {two(one("dmarc=pass header.from=example.org"), "evil.test", "dmarc=pass header.from=example.org"), false},
		"only the newest is trusted":     {two(seal(t, "evil.test", 1, key, "none", message, "dmarc=pass header.from=example.org"), "list.example", "dmarc=fail header.from=example.org"), false},
		"the newest found it":            {two(seal(t, "evil.test", 1, key, "none", message, "dmarc=fail"), "list.example", "dmarc=pass header.from=example.org"), true},
		"both are trusted, first passes": {two(one("dmarc=pass header.from=example.org"), "list.example", "dmarc=fail header.from=example.org"), true},
		"one of two authors":             {seal(t, "list.example", 1, key, "none", both, "dmarc=pass header.from=example.org"), false},
		"two of two authors":             {seal(t, "list.example", 1, key, "none", both, "dmarc=pass header.from=example.org", "dkim=pass header.d=evil.test"), true},
	} {
		o, log := check(t, z, "x@list.example", tt.text, "p dmarc=fail:reject", "t List.example.")
		if !strings.Contains(log, "dmarc=fail arc=pass") || (o.Refused == "") != tt.passes {
			t.Errorf("%s: refused %q, want pass %v; log %s", name, o.Refused, tt.passes, log)
		}
		if sealed := strings.Contains(o.Text, "but sealed by list.example"); sealed != tt.passes {
			t.Errorf("%s: %.300s", name, o.Text)
		}
	}
}

// What is in quotes or a comment is never a result.
func FuzzSealedResults(f *testing.F) {
	f.Add("spf=pass smtp.mailfrom=a@b;", "x")
	f.Add("dmarc=pass (", "\\")
	r := ruling{domain: "example.org"}
	f.Fuzz(func(t *testing.T, results, hidden string) {
		_ = vouches("i=1; x; "+results, r)
		hidden = strings.NewReplacer("(", "", ")", "", "\\", "", "\"", "").Replace(hidden)
		const claim = "; dmarc=pass ; "
		if vouches("i=1; x; none ("+hidden+claim+")", r) || vouches("i=1; x; none reason=\""+hidden+claim+"\"", r) {
			t.Errorf("%q is believed", hidden)
		}
	})
}
