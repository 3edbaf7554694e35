package main

import (
	"strings"
	"testing"
)

// What claims to be this server's is taken out in all forms that the syntax has, and
// in those that it does not have (RFC 8601 sections 2.2 and 5).
func TestForgedResultsAreTakenOut(t *testing.T) {
	t.Parallel()
	for value, stays := range map[string]bool{
		"mx.example.net; dmarc=pass":                             false,
		"MX.Example.Net 1; dmarc=pass":                           false,
		"(x) mx.example.net; dmarc=pass":                         false,
		"(x (y\\)) z) (\n ) mx.example.net; dmarc=pass":          false,
		"(folded\n\tover ) \n mx.example.net (c) 1 ; dmarc=pass": false,
		"\"mx.example.net\"; dmarc=pass":                         false,
		"\"mx\\.example.net\"; dmarc=pass":                       false,
		"\n mx.example.net\n\t; dmarc=pass":                      false,
		"mx.example.net(c); dmarc=pass":                          false,
		"mx.example.net":                                         false,
		"mx.example.net.; dmarc=pass":                            false,
		"(never closed mx.example.net; dmarc=pass":               false,
		"\"never closed mx.example.net; dmarc=pass":              false,
		"; dmarc=pass":                                           false,
		")mx.example.net; dmarc=pass":                            false,
		"mx.example.net, dmarc=pass":                             false,
		"m\u00adx.example.net; dmarc=pass":                       true,
		"mx.example.org; dmarc=pass":                             true,
		"(mx.example.net) mx.example.org; dmarc=pass":            true,
		"\"mx.example.org\" 1; dmarc=pass (by mx.example.net)":   true,
		"mx.example.org/mx.example.net; dmarc=pass":              true,
	} {
		o, log := check(t, zone{}, "x@example.org", "Authentication-Results: "+strings.ReplaceAll(value, "\n", "\r\n")+"\r\n"+message)
		if got := strings.Count(o.Text, "Authentication-Results:") == 2; got != stays {
			t.Errorf("%q: stays %v, want %v; log %s", value, got, stays, log)
		}
	}
}

// Mail programs show fields behind a line that is none.
func TestForgedResultsBehindALineThatIsNoFieldAreTakenOut(t *testing.T) {
	t.Parallel()
	rest := "garbage\r\nAuthentication-Results: mx.example.org; dmarc=fail\r\n" + message + "Authentication-Results: mx.example.net; of the body\r\n"
	o, log := check(t, zone{}, "x@example.org", "garbage\r\nAuthentication-Results: mx.example.net;\r\n\tdmarc=pass\r\n"+rest)
	_, got, _ := strings.Cut(o.Text, "\ngarbage\n")
	if got = "\ngarbage\n" + got; got != "\ngarbage\n"+strings.ReplaceAll(rest, "\r\n", "\n") || o.Refused != "" {
		t.Errorf("%q\nlog %s", o.Text, log)
	}
}

// A field of this server is found whatever comments are around its name; nothing makes
// the parser panic.
func FuzzForgedResults(f *testing.F) {
	f.Add("x", "mx.example.org 1; dmarc=pass")
	f.Add(" \t", "(a(b)\\")
	f.Add("\\", "\"a\\")
	f.Fuzz(func(t *testing.T, comment, value string) {
		_ = mayBeOf(value, "mx.example.net")
		comment = strings.NewReplacer("(", "", ")", "", "\\", "").Replace(comment)
		for _, v := range []string{"(" + comment + ")mx.example.net(" + comment + ");", "\"mx.example.net\"(" + comment + ")1 ; " + value} {
			if !mayBeOf(v, "MX.example.net") {
				t.Errorf("%q stays", v)
			}
		}
	})
}
