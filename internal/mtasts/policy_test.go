package mtasts

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const good = "version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmx: *.Backup.example.net\r\nmax_age: 604800\r\n"

func TestPolicyText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     Policy
	}{
		{"the usual", good, Policy{Mode: Enforce, MX: []string{"mx.example.org", "*.backup.example.net"}, MaxAge: 7 * 24 * time.Hour}},
		{"line ends of Unix, any order", "max_age:60\nmx:a.example\nmode:testing\nversion:STSv1", Policy{Mode: Testing, MX: []string{"a.example"}, MaxAge: time.Minute}},
		{"none needs no mx", "version: STSv1\nmode: none\nmax_age: 0\n", Policy{Mode: None}},
		{"first of a field counts", "version: STSv1\nmode: none\nmode: enforce\nmax_age: 1\nmax_age: 2\n", Policy{Mode: None, MaxAge: time.Second}},
		{"unknown fields", good + "\r\nx-new: a: b\r\n", Policy{Mode: Enforce, MX: []string{"mx.example.org", "*.backup.example.net"}, MaxAge: 7 * 24 * time.Hour}},
		{"blanks", "version:\tSTSv1 \n mode : none\nmax_age:  5  \n", Policy{Mode: None, MaxAge: 5 * time.Second}},
		{"greatest age", "version: STSv1\nmode: none\nmax_age: 9999999999\n", Policy{Mode: None, MaxAge: maxMaxAge}},
	} {
		p, err := ParsePolicy([]byte(tt.in))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := *p
		got.text = ""
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	p, err := ParsePolicy([]byte(good + "\r\n"))
	want := []string{"version: STSv1", "mode: enforce", "mx: mx.example.org", "mx: *.Backup.example.net", "max_age: 604800"}
	if err != nil || !reflect.DeepEqual(p.Lines(), want) {
		t.Errorf("lines %q, %v", p.Lines(), err)
	}
}

func TestMalformedPolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in string }{
		{"empty", ""},
		{"no version", "mode: none\nmax_age: 1\n"},
		{"other version", "version: STSv2\nmode: none\nmax_age: 1\n"},
		{"empty version before a good one", "version:\nversion: STSv1\nmode: none\nmax_age: 1\n"},
		{"no mode", "version: STSv1\nmax_age: 1\n"},
		{"other mode", "version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 1\n"},
		{"no max_age", "version: STSv1\nmode: none\n"},
		{"negative max_age", "version: STSv1\nmode: none\nmax_age: -1\n"},
		{"max_age of 11 digits", "version: STSv1\nmode: none\nmax_age: 99999999999\n"},
		{"max_age no number", "version: STSv1\nmode: none\nmax_age: 1d\n"},
		{"no mx", "version: STSv1\nmode: enforce\nmax_age: 1\n"},
		{"star inside", "version: STSv1\nmode: enforce\nmx: a.*.example\nmax_age: 1\n"},
		{"star alone", "version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n"},
		{"two stars", "version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1\n"},
		{"final dot", "version: STSv1\nmode: enforce\nmx: a.example.\nmax_age: 1\n"},
		{"HTML", "<!DOCTYPE html>\n<html></html>\n"},
		{"control character", good + "x: \x00\n"},
		{"too many mx", "version: STSv1\nmode: enforce\nmax_age: 1\n" + strings.Repeat("mx: a.example\n", maxMX+1)},
		{"too many lines", good + strings.Repeat("x: y\n", maxLines)},
		{"too long", good + strings.Repeat("\n", maxText)},
	} {
		if p, err := ParsePolicy([]byte(tt.in)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v; want ErrInvalid", tt.name, p, err)
		}
	}
}

func TestHostsThatAPolicyCovers(t *testing.T) {
	t.Parallel()
	p := &Policy{MX: []string{"mx.example.org", "*.backup.example.net"}}
	for host, want := range map[string]bool{
		"mx.example.org":           true,
		"MX.Example.ORG.":          true,
		"a.backup.example.net":     true,
		"a.b.backup.example.net":   false,
		"backup.example.net":       false,
		".backup.example.net":      false,
		"xbackup.example.net":      false,
		"mx2.example.org":          false,
		"sub.mx.example.org":       false,
		"mx.example.org.evil.test": false,
		"":                         false,
	} {
		if p.Match(host) != want {
			t.Errorf("Match(%q) = %v, want %v", host, !want, want)
		}
	}
}

func TestRecordThatAnnouncesAPolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		texts []string
		id    string
	}{
		{[]string{"v=STSv1; id=20260102T000000;"}, "20260102T000000"},
		{[]string{"v=STSv1;id=a"}, "a"},
		{[]string{"v=STSv1 ; id = a ; x=y"}, "a"},
		{[]string{"v=STSv1; x=y; id=a"}, "a"},
		{[]string{"v=spf1 -all", "v=STSv1; id=a;"}, "a"},
		{[]string{"v=STSv1; id=a", "v=STSv1; id=a"}, ""},
		{[]string{"v=STSv10; id=a"}, ""},
		{[]string{"V=STSv1; id=a"}, ""},
		{[]string{" v=STSv1; id=a"}, ""},
		{[]string{"v=STSv1"}, ""},
		{[]string{"v=STSv1; id="}, ""},
		{[]string{"v=STSv1; id=a-b"}, ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		{nil, ""},
	} {
		id, err := parseRecord(tt.texts)
		if id != tt.id && err == nil || (err == nil) != (tt.id != "") {
			t.Errorf("%q: %q, %v; want %q", tt.texts, id, err, tt.id)
		}
	}
}

// A policy that parses keeps its bounds, covers hosts made from its own patterns,
// and its lines are a policy that means the same.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("version:STSv1\nmode:none\nmax_age:1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			return
		}
		if len(p.MX) > maxMX || p.MaxAge < 0 || p.MaxAge > maxMaxAge || p.Mode != None && len(p.MX) == 0 {
			t.Fatalf("%+v", p)
		}
		for _, mx := range p.MX {
			if !p.Match(strings.Replace(mx, "*", "x", 1)) {
				t.Errorf("%q does not cover itself", mx)
			}
		}
		again, err := ParsePolicy([]byte(strings.Join(p.Lines(), "\n")))
		if err != nil || again.Mode != p.Mode || again.MaxAge != p.MaxAge || !reflect.DeepEqual(again.MX, p.MX) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

// The id of a record is short and plain.
func FuzzRecord(f *testing.F) {
	f.Add("v=STSv1; id=20260102T000000;")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := parseRecord([]string{s}); err == nil && (!validID(id) || !strings.HasPrefix(s, "v=STSv1")) {
			t.Errorf("%q has id %q", s, id)
		}
	})
}
