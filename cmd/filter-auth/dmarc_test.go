package main

import (
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
