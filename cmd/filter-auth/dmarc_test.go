package main

import (
	"slices"
	"strings"
	"testing"
)

// A stranger chooses whose key and whose SPF record cannot be looked up; only those of
// the author's domain may make DMARC wait.
func TestOnlyTheAuthorsLookupsMakeDMARCWait(t *testing.T) {
	t.Parallel()
	keys, z := signers(t)
	z["_dmarc.example.org"] = []string{"v=DMARC1; p=reject"}
	z["slow.test"] = nil
	z["spf.example.org"] = nil
	z["ed._domainkey.evil.test"] = nil
	z["late._domainkey.example.org"] = nil
	evil := signed(t, "evil.test", "ed", "relaxed/relaxed", keys["ed"], message)
	late := signed(t, "example.org", "late", "relaxed/relaxed", keys["ed"], message)
	const refused = "commit: reject|550 5.7.1 Message refused: dmarc=fail for example.org"
	for name, tt := range map[string]struct{ from, text, want, refused string }{
		"key of a stranger":           {"x@evil.test", evil, "dmarc=fail", refused},
		"SPF of a stranger":           {"x@slow.test", message, "dmarc=fail", refused},
		"key of the author":           {"x@evil.test", late, "dmarc=temperror", ""},
		"SPF of the author":           {"x@spf.example.org", message, "dmarc=temperror", ""},
		"both keys":                   {"x@evil.test", signed(t, "evil.test", "ed", "relaxed/relaxed", keys["ed"], late), "dmarc=temperror", ""},
		"a stranger's signature good": {"x@evil.test", signed(t, "list.example", "ed", "relaxed/relaxed", keys["ed"], late), "dmarc=temperror", ""},
	} {
		o, log := check(t, z, tt.from, tt.text, "p dmarc=fail:obey")
		if !strings.Contains(log, tt.want) || o.Refused != tt.refused {
			t.Errorf("%s: refused %q, log %s, want %s and %q", name, o.Refused, log, tt.want, tt.refused)
		}
	}
}

// Mail programs show an author however broken the field is, so a policy is obeyed.
func TestAuthorsOfFieldsThatAreBroken(t *testing.T) {
	t.Parallel()
	z := zone{
		"_dmarc.example.org": {"v=DMARC1; p=reject"}, "_dmarc.example.com": {"v=DMARC1; p=quarantine"},
		"_dmarc.list.example": {"v=DMARC1; p=none"}, "evil.test": {"v=spf1 ip4:192.0.2.1 -all"}, "_dmarc.evil.test": {"v=DMARC1; p=reject"},
		"_dmarc.broken.test": {"v=DMARC1; p=what"}, "_dmarc.slow.test": nil,
	}
	const refused = "commit: reject|550 5.7.1 Message refused: dmarc=fail for example.org"
	const unclear = "commit: reject|550 5.7.1 Message refused: dmarc=permerror"
	six := "a@1.test, a@2.test, a@3.test, a@4.test, a@5.test, ceo@example.org"
	for from, want := range map[string]string{
		"From: ceo@example.org <ceo@example.org>":                refused,
		"From: CEO, Inc. <ceo@example.org>":                      refused,
		"From: CEO (x <ceo@example.org>":                         refused,
		"From: CEO (x (y) <ceo@example.org>":                     refused,
		"From: CEO <ceo@example.org>;":                           refused,
		"From: J\xf6rg \xff <ceo@example.org>":                   refused,
		"From: J\u00f6rg <ceo@example.org>":                      refused,
		"From: a@evil.test, b@example.org":                       refused,
		"From: a@example.org, b@evil.test":                       refused,
		"From: a@evil.test, b@example.com, c@example.org":        refused,
		"From: a@broken.test, b@slow.test, c@example.org":        refused,
		"From: a@list.example, c@example.org":                    refused,
		"From: a@evil.test\r\nFrom: CEO <ceo@example.org>":       refused,
		"From: CEO <ceo@example.org>\r\nfrom : a@evil.test":      refused,
		"garbage\r\nFrom: CEO <ceo@example.org>":                 refused,
		"From: CEO <@evil.test:ceo@example.org>":                 refused,
		"From: CEO <ceo@example.org@evil.test>":                  refused,
		"From: CEO <ceo@example.org> <a@evil.test>":              refused,
		"From: CEO <ceo@example.org":                             refused,
		"From: \"CEO <ceo@example.org>":                          refused,
		"From: \\\" <ceo@example.org> \\\" <a@evil.test>":        refused,
		"From: \"CEO\" ceo@example.org":                          refused,
		"From: ceo @ example.org":                                refused,
		"From: ceo@(x)example(y) . (z)org (CEO)":                 refused,
		"From: <ceo@example.org.>":                               refused,
		"From: ceo@EXAMPLE.org <>":                               refused,
		"From: CEO\r\n\t<ceo@example.org>":                       refused,
		"From: ceo@example.org\u00a0x":                           refused,
		"From: CEO: ceo@example.org, x@example.org;":             refused,
		"From: mailto:ceo@example.org":                           refused,
		"From: \"a b\"@example.org":                              refused,
		"From: a@b.test, c@d.test, e@f.test, g@h.test, i@j.test": "",
		"From: \"ceo@example.org\" <a@evil.test>":                "",
		"From: a@evil.test (ceo@example.org)":                    "",
		"From: ceo@example.org <a@evil.test>":                    "",
		"From: A <a@evil.test>, \"A, too\" <a@evil.test>":        "",
		"From: " + six:                        unclear,
		"From: root":                          unclear,
		"From: =?utf-8?q?ceo=40example.org?=": unclear,
		"From: ":                              unclear,
		"To: x@example.org":                   unclear,
		"From: a@broken.test":                 unclear + " for broken.test",
		"From: " + strings.Repeat("(", 20000) + "\r\n <ceo@example.org>": unclear,
	} {
		o, log := check(t, z, "x@evil.test", "Subject: x\r\n"+from+"\r\n\r\ntext\r\n", "p dmarc=fail:obey", "p dmarc=permerror:reject")
		if o.Refused != want {
			t.Errorf("%.100q: refused %q, want %q; log %.300s", from, o.Refused, want, log)
		}
	}
}

func TestTheStrictestPolicyOfSeveralAuthorsIsObeyed(t *testing.T) {
	t.Parallel()
	z := zone{
		"_dmarc.example.org": {"v=DMARC1; p=reject; pct=0"}, "_dmarc.example.com": {"v=DMARC1; p=quarantine"}, "_dmarc.list.example": {"v=DMARC1; p=none"},
		"evil.test": {"v=spf1 ip4:192.0.2.1 -all"}, "_dmarc.evil.test": {"v=DMARC1; p=reject"}, "_dmarc.slow.test": nil, "_dmarc.broken.test": {"v=DMARC1"},
	}
	for from, want := range map[string]string{
		"a@evil.test":                                  "dmarc=pass header.from=evil.test",
		"a@evil.test, a@nothing.test":                  "dmarc=none header.from=nothing.test",
		"a@evil.test, a@nothing.test, a@list.example":  "dmarc=fail reason=\"p=none\" header.from=list.example",
		"a@list.example, a@example.com, a@evil.test":   "dmarc=fail reason=\"p=quarantine\" header.from=example.com",
		"a@example.com, a@example.org":                 "dmarc=fail reason=\"p=reject\" header.from=example.org",
		"a@slow.test, a@list.example":                  "dmarc=fail reason=\"p=none\" header.from=list.example",
		"a@evil.test, a@broken.test, a@slow.test":      "dmarc=temperror header.from=slow.test",
		"a@nothing.test, a@evil.test, x@a.broken.test": "dmarc=permerror header.from=a.broken.test",
	} {
		o, log := check(t, z, "x@evil.test", "From: "+from+"\r\n\r\ntext\r\n")
		if !strings.Contains(o.Text, want+"\n") {
			t.Errorf("%s: %s\nwant %s, log %s", from, o.Text, want, log)
		}
	}
}

// What a simple address is of is always found, and the number of domains is bounded.
func FuzzAuthors(f *testing.F) {
	f.Add("CEO, Inc. (x <ceo@example.org>;")
	f.Add("\"a\\\" <@a,@b:c@d>\x80(\\")
	f.Fuzz(func(t *testing.T, value string) {
		if len(authorDomains([]string{value})) > maxAuthors+1 {
			t.Errorf("%q has many domains", value)
		}
		if len(value) > maxFrom-100 {
			return
		}
		if got := authorDomains([]string{"A <a@b.example>", value}); !slices.Contains(got, "b.example") {
			t.Errorf("%q: %q lacks the first", value, got)
		}
	})
}
