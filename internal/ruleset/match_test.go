package ruleset

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// list is a table of entries; an entry "!" makes every lookup fail.
type list []string

func (l list) Lookup(_ context.Context, s table.Service, key string) (string, error) {
	for _, e := range l {
		if e == "!" {
			return "", errors.New("backend is away")
		}
		if table.Match(s, e, key, "+") {
			return e, nil
		}
	}
	return "", table.ErrNotFound
}
func (list) Fetch(context.Context, table.Service) (string, error) { return "", table.ErrUnsupported }
func (list) Update(context.Context) error                         { return nil }
func (list) Close() error                                         { return nil }

func testTables(name string) table.Table {
	tables := map[string]list{
		"<localnames>": {"localhost", "mx.example.org", "mx"},
		"<localhost>":  {"local", "127.0.0.1"},
		"doms":         {"example.org", "*.example.org"},
		"nets":         {"192.0.2.0/24", "[2001:db8::]/32"},
		"re":           {`^a.*\.org$`, `^postmaster@`},
		"tags":         {"DKIM"},
		"users":        {"alice", "bob@example.org"},
		"senders":      {"@example.org", "carol"},
		"away":         {"!"},
	}
	if t, ok := tables[name]; ok {
		return t
	}
	return nil
}

func path(s string) smtp.Path {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return smtp.Path{}
	}
	return smtp.Path{Local: s[:i], Domain: s[i+1:]}
}

func TestConditionMatches(t *testing.T) {
	t.Parallel()
	base := func(change ...func(*policy.Facts)) *policy.Facts {
		f := &policy.Facts{Source: "192.0.2.7", RDNS: "a.example.org", HELO: "client.example.net",
			Sender: path("carol@example.net"), Rcpt: path("dave@example.org")}
		for _, c := range change {
			c(f)
		}
		return f
	}
	local := func(f *policy.Facts) { f.Source = "local" }
	internal := func(f *policy.Facts) { f.Internal = true }
	auth := func(user string) func(*policy.Facts) {
		return func(f *policy.Facts) { f.Authenticated, f.Username = true, user }
	}
	rcpt := func(s string) func(*policy.Facts) { return func(f *policy.Facts) { f.Rcpt = path(s) } }
	sender := func(s string) func(*policy.Facts) { return func(f *policy.Facts) { f.Sender = path(s) } }
	rdns := func(s string) func(*policy.Facts) { return func(f *policy.Facts) { f.RDNS = s } }
	for _, tt := range []struct {
		name  string
		c     policy.Condition
		facts *policy.Facts
		want  bool
	}{
		{"from any", policy.Condition{Kind: policy.From, How: policy.IsAny}, base(), true},
		{"from local, remote client", policy.Condition{Kind: policy.From, How: policy.IsLocal, Table: "<localhost>"}, base(), false},
		{"from local, socket", policy.Condition{Kind: policy.From, How: policy.IsLocal, Table: "<localhost>"}, base(local), true},
		{"from local, expanded address of a remote session", policy.Condition{Kind: policy.From, How: policy.IsLocal}, base(internal), true},
		{"from socket", policy.Condition{Kind: policy.From, How: policy.IsSocket}, base(local), true},
		{"from socket, expanded address", policy.Condition{Kind: policy.From, How: policy.IsSocket}, base(local, internal), false},
		{"from src", policy.Condition{Kind: policy.From, How: policy.InTable, Table: "nets"}, base(), true},
		{"from src asks for local when internal", policy.Condition{Kind: policy.From, How: policy.InTable, Table: "nets"}, base(internal), false},
		{"!from src", policy.Condition{Kind: policy.From, How: policy.InTable, Table: "nets", Not: true}, base(), false},
		{"from src, IPv6", policy.Condition{Kind: policy.From, How: policy.InTable, Table: "nets"}, base(func(f *policy.Facts) { f.Source = "[2001:db8::1]" }), true},
		{"from rdns", policy.Condition{Kind: policy.From, How: policy.HasRDNS}, base(), true},
		{"from rdns without a name", policy.Condition{Kind: policy.From, How: policy.HasRDNS}, base(rdns("<unknown>")), false},
		{"!from rdns without a name", policy.Condition{Kind: policy.From, How: policy.HasRDNS, Not: true}, base(rdns("<unknown>")), true},
		{"from rdns table", policy.Condition{Kind: policy.From, How: policy.InTable, RDNS: true, Table: "doms"}, base(), true},
		{"from rdns regex", policy.Condition{Kind: policy.From, How: policy.RegexIn, RDNS: true, Table: "re"}, base(), true},
		{"!from rdns table without a name is false", policy.Condition{Kind: policy.From, How: policy.InTable, RDNS: true, Table: "doms", Not: true}, base(rdns("<unknown>")), false},
		{"for any", policy.Condition{Kind: policy.For, How: policy.IsAny}, base(), true},
		{"for any does not match an empty domain", policy.Condition{Kind: policy.For, How: policy.IsAny}, base(func(f *policy.Facts) { f.Rcpt = smtp.Path{Local: "x"} }), false},
		{"for local, short host name", policy.Condition{Kind: policy.For, How: policy.IsLocal, Table: "<localnames>"}, base(rcpt("root@MX")), true},
		{"for local, foreign", policy.Condition{Kind: policy.For, How: policy.IsLocal}, base(), false},
		{"for domain, case and final dot", policy.Condition{Kind: policy.For, How: policy.InTable, Table: "doms"}, base(rcpt("x@EXAMPLE.org.")), true},
		{"for domain, one label", policy.Condition{Kind: policy.For, How: policy.InTable, Table: "doms"}, base(rcpt("x@a.example.org")), true},
		{"for domain, two labels", policy.Condition{Kind: policy.For, How: policy.InTable, Table: "doms"}, base(rcpt("x@a.b.example.org")), false},
		{"for domain regex", policy.Condition{Kind: policy.For, How: policy.RegexIn, Table: "re"}, base(rcpt("x@abc.org")), true},
		{"helo", policy.Condition{Kind: policy.HELO, How: policy.InTable, Table: "doms"}, base(), false},
		{"!helo", policy.Condition{Kind: policy.HELO, How: policy.InTable, Table: "doms", Not: true}, base(), true},
		{"auth", policy.Condition{Kind: policy.Auth, How: policy.Exists}, base(auth("x")), true},
		{"!auth", policy.Condition{Kind: policy.Auth, How: policy.Exists, Not: true}, base(), true},
		{"auth table, user", policy.Condition{Kind: policy.Auth, How: policy.InTable, Table: "users"}, base(auth("Alice")), true},
		{"auth table, address", policy.Condition{Kind: policy.Auth, How: policy.InTable, Table: "users"}, base(auth("bob+x@example.org")), true},
		{"auth table, not authenticated", policy.Condition{Kind: policy.Auth, How: policy.InTable, Table: "users"}, base(), false},
		{"!auth table, not authenticated", policy.Condition{Kind: policy.Auth, How: policy.InTable, Table: "users", Not: true}, base(), true},
		{"tls", policy.Condition{Kind: policy.TLS, How: policy.Exists}, base(func(f *policy.Facts) { f.TLS = true }), true},
		{"tls in clear", policy.Condition{Kind: policy.TLS, How: policy.Exists}, base(), false},
		{"!tls in clear", policy.Condition{Kind: policy.TLS, How: policy.Exists, Not: true}, base(), true},
		{"mail-from by user", policy.Condition{Kind: policy.MailFrom, How: policy.InTable, Table: "senders"}, base(), true},
		{"mail-from null sender", policy.Condition{Kind: policy.MailFrom, How: policy.InTable, Table: "senders"}, base(sender("")), false},
		{"rcpt-to regex", policy.Condition{Kind: policy.RcptTo, How: policy.RegexIn, Table: "re"}, base(rcpt("Postmaster@x.example")), true},
		{"tag", policy.Condition{Kind: policy.Tag, How: policy.InTable, Table: "tags"}, base(func(f *policy.Facts) { f.Tag = "DKIM" }), true},
		{"tag, none", policy.Condition{Kind: policy.Tag, How: policy.InTable, Table: "tags"}, base(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rule := &policy.Rule{Conditions: []policy.Condition{tt.c}, Action: "x"}
			got, err := Match(t.Context(), []*policy.Rule{rule}, testTables, tt.facts)
			if err != nil || (got != nil) != tt.want {
				t.Errorf("Match(%+v, %+v) = %v, %v, want match %v", tt.c, tt.facts, got, err, tt.want)
			}
		})
	}
}

func TestFirstMatchingRuleWins(t *testing.T) {
	t.Parallel()
	org := []policy.Condition{{Kind: policy.For, How: policy.InTable, Table: "doms"}}
	rules := []*policy.Rule{
		{Conditions: append([]policy.Condition{{Kind: policy.Auth}}, org...), Action: "submit"},
		{Conditions: org, Action: "deliver"},
		{Conditions: org, Action: "never"},
	}
	got, err := Match(t.Context(), rules, testTables, &policy.Facts{Rcpt: path("x@example.org")})
	if err != nil || got != rules[1] {
		t.Errorf("Match = %v, %v, want the second rule", got, err)
	}
	got, err = Match(t.Context(), rules, testTables, &policy.Facts{Rcpt: path("x@example.net")})
	if err != nil || got != nil {
		t.Errorf("Match = %v, %v, want none", got, err)
	}
}

func TestFailingTableNamesRuleAndTable(t *testing.T) {
	t.Parallel()
	facts := &policy.Facts{Rcpt: path("x@example.org")}
	for _, not := range []bool{false, true} {
		rules := []*policy.Rule{{Pos: policy.Position{File: "smtpd.conf", Line: 12}, Action: "a",
			Conditions: []policy.Condition{{Kind: policy.For, How: policy.InTable, Table: "away", Not: not}}}}
		_, err := Match(t.Context(), rules, testTables, facts)
		te, ok := errors.AsType[*TableError](err)
		if !ok || te.Table != "away" || te.Rule() != "smtpd.conf:12" {
			t.Errorf("negated %v: error %v, want a TableError for away at smtpd.conf:12", not, err)
		}
	}
}

func TestFailingTableBehindFalseConditionIsNotAsked(t *testing.T) {
	t.Parallel()
	rules := []*policy.Rule{
		{Conditions: []policy.Condition{{Kind: policy.Auth}, {Kind: policy.RcptTo, How: policy.InTable, Table: "away"}}, Action: "a"},
		{Conditions: []policy.Condition{{Kind: policy.For, How: policy.IsAny}}, Action: "b"},
	}
	got, err := Match(t.Context(), rules, testTables, &policy.Facts{Rcpt: path("x@example.org")})
	if err != nil || got != rules[1] {
		t.Errorf("Match = %v, %v, want the second rule", got, err)
	}
}

func BenchmarkMatch(b *testing.B) {
	var rules []*policy.Rule
	for range 20 {
		rules = append(rules, &policy.Rule{Conditions: []policy.Condition{{Kind: policy.From, How: policy.IsAny}, {Kind: policy.For, How: policy.InTable, Table: "doms"}, {Kind: policy.Auth}}, Action: "a"})
	}
	rules = append(rules, &policy.Rule{Conditions: []policy.Condition{{Kind: policy.From, How: policy.IsAny}, {Kind: policy.For, How: policy.IsAny}}, Action: "b"})
	doms := table.Table(list{"example.org"})
	facts := &policy.Facts{Rcpt: path("dave@example.org"), Source: "192.0.2.1"}
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Match(b.Context(), rules, func(string) table.Table { return doms }, facts); r == nil || err != nil {
			b.Fatal(r, err)
		}
	}
}
