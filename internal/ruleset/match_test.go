package ruleset

import (
	"context"
	"errors"
	"strings"
	"testing"

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
	base := func(change ...func(*Facts)) *Facts {
		f := &Facts{Source: "192.0.2.7", RDNS: "a.example.org", HELO: "client.example.net",
			Sender: path("carol@example.net"), Rcpt: path("dave@example.org")}
		for _, c := range change {
			c(f)
		}
		return f
	}
	local := func(f *Facts) { f.Source = "local" }
	internal := func(f *Facts) { f.Internal = true }
	auth := func(user string) func(*Facts) { return func(f *Facts) { f.Authenticated, f.Username = true, user } }
	rcpt := func(s string) func(*Facts) { return func(f *Facts) { f.Rcpt = path(s) } }
	sender := func(s string) func(*Facts) { return func(f *Facts) { f.Sender = path(s) } }
	rdns := func(s string) func(*Facts) { return func(f *Facts) { f.RDNS = s } }
	for _, tt := range []struct {
		name  string
		c     Condition
		facts *Facts
		want  bool
	}{
		{"from any", Condition{Kind: From, How: IsAny}, base(), true},
		{"from local, remote client", Condition{Kind: From, How: IsLocal, Table: "<localhost>"}, base(), false},
		{"from local, socket", Condition{Kind: From, How: IsLocal, Table: "<localhost>"}, base(local), true},
		{"from local, expanded address of a remote session", Condition{Kind: From, How: IsLocal}, base(internal), true},
		{"from socket", Condition{Kind: From, How: IsSocket}, base(local), true},
		{"from socket, expanded address", Condition{Kind: From, How: IsSocket}, base(local, internal), false},
		{"from src", Condition{Kind: From, How: InTable, Table: "nets"}, base(), true},
		{"from src asks for local when internal", Condition{Kind: From, How: InTable, Table: "nets"}, base(internal), false},
		{"!from src", Condition{Kind: From, How: InTable, Table: "nets", Not: true}, base(), false},
		{"from src, IPv6", Condition{Kind: From, How: InTable, Table: "nets"}, base(func(f *Facts) { f.Source = "[2001:db8::1]" }), true},
		{"from rdns", Condition{Kind: From, How: HasRDNS}, base(), true},
		{"from rdns without a name", Condition{Kind: From, How: HasRDNS}, base(rdns("<unknown>")), false},
		{"!from rdns without a name", Condition{Kind: From, How: HasRDNS, Not: true}, base(rdns("<unknown>")), true},
		{"from rdns table", Condition{Kind: From, How: InTable, RDNS: true, Table: "doms"}, base(), true},
		{"from rdns regex", Condition{Kind: From, How: RegexIn, RDNS: true, Table: "re"}, base(), true},
		{"!from rdns table without a name is false", Condition{Kind: From, How: InTable, RDNS: true, Table: "doms", Not: true}, base(rdns("<unknown>")), false},
		{"for any", Condition{Kind: For, How: IsAny}, base(), true},
		{"for any does not match an empty domain", Condition{Kind: For, How: IsAny}, base(func(f *Facts) { f.Rcpt = smtp.Path{Local: "x"} }), false},
		{"for local, short host name", Condition{Kind: For, How: IsLocal, Table: "<localnames>"}, base(rcpt("root@MX")), true},
		{"for local, foreign", Condition{Kind: For, How: IsLocal}, base(), false},
		{"for domain, case and final dot", Condition{Kind: For, How: InTable, Table: "doms"}, base(rcpt("x@EXAMPLE.org.")), true},
		{"for domain, one label", Condition{Kind: For, How: InTable, Table: "doms"}, base(rcpt("x@a.example.org")), true},
		{"for domain, two labels", Condition{Kind: For, How: InTable, Table: "doms"}, base(rcpt("x@a.b.example.org")), false},
		{"for domain regex", Condition{Kind: For, How: RegexIn, Table: "re"}, base(rcpt("x@abc.org")), true},
		{"helo", Condition{Kind: HELO, How: InTable, Table: "doms"}, base(), false},
		{"!helo", Condition{Kind: HELO, How: InTable, Table: "doms", Not: true}, base(), true},
		{"auth", Condition{Kind: Auth, How: Exists}, base(auth("x")), true},
		{"!auth", Condition{Kind: Auth, How: Exists, Not: true}, base(), true},
		{"auth table, user", Condition{Kind: Auth, How: InTable, Table: "users"}, base(auth("Alice")), true},
		{"auth table, address", Condition{Kind: Auth, How: InTable, Table: "users"}, base(auth("bob+x@example.org")), true},
		{"auth table, not authenticated", Condition{Kind: Auth, How: InTable, Table: "users"}, base(), false},
		{"!auth table, not authenticated", Condition{Kind: Auth, How: InTable, Table: "users", Not: true}, base(), true},
		{"tls", Condition{Kind: TLS, How: Exists}, base(func(f *Facts) { f.TLS = true }), true},
		{"tls in clear", Condition{Kind: TLS, How: Exists}, base(), false},
		{"!tls in clear", Condition{Kind: TLS, How: Exists, Not: true}, base(), true},
		{"mail-from by user", Condition{Kind: MailFrom, How: InTable, Table: "senders"}, base(), true},
		{"mail-from null sender", Condition{Kind: MailFrom, How: InTable, Table: "senders"}, base(sender("")), false},
		{"rcpt-to regex", Condition{Kind: RcptTo, How: RegexIn, Table: "re"}, base(rcpt("Postmaster@x.example")), true},
		{"tag", Condition{Kind: Tag, How: InTable, Table: "tags"}, base(func(f *Facts) { f.Tag = "DKIM" }), true},
		{"tag, none", Condition{Kind: Tag, How: InTable, Table: "tags"}, base(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rule := &Rule{Conditions: []Condition{tt.c}, Action: "x"}
			got, err := Match(t.Context(), []*Rule{rule}, testTables, tt.facts)
			if err != nil || (got != nil) != tt.want {
				t.Errorf("Match(%+v, %+v) = %v, %v, want match %v", tt.c, tt.facts, got, err, tt.want)
			}
		})
	}
}

func TestFirstMatchingRuleWins(t *testing.T) {
	t.Parallel()
	org := []Condition{{Kind: For, How: InTable, Table: "doms"}}
	rules := []*Rule{
		{Conditions: append([]Condition{{Kind: Auth}}, org...), Action: "submit"},
		{Conditions: org, Action: "deliver"},
		{Conditions: org, Action: "never"},
	}
	got, err := Match(t.Context(), rules, testTables, &Facts{Rcpt: path("x@example.org")})
	if err != nil || got != rules[1] {
		t.Errorf("Match = %v, %v, want the second rule", got, err)
	}
	got, err = Match(t.Context(), rules, testTables, &Facts{Rcpt: path("x@example.net")})
	if err != nil || got != nil {
		t.Errorf("Match = %v, %v, want none", got, err)
	}
}

func TestFailingTableNamesRuleAndTable(t *testing.T) {
	t.Parallel()
	facts := &Facts{Rcpt: path("x@example.org")}
	for _, not := range []bool{false, true} {
		rules := []*Rule{{Pos: Position{"smtpd.conf", 12}, Action: "a",
			Conditions: []Condition{{Kind: For, How: InTable, Table: "away", Not: not}}}}
		_, err := Match(t.Context(), rules, testTables, facts)
		te, ok := errors.AsType[*TableError](err)
		if !ok || te.Table != "away" || te.Rule() != "smtpd.conf:12" {
			t.Errorf("negated %v: error %v, want a TableError for away at smtpd.conf:12", not, err)
		}
	}
}

func TestFailingTableBehindFalseConditionIsNotAsked(t *testing.T) {
	t.Parallel()
	rules := []*Rule{
		{Conditions: []Condition{{Kind: Auth}, {Kind: RcptTo, How: InTable, Table: "away"}}, Action: "a"},
		{Conditions: []Condition{{Kind: For, How: IsAny}}, Action: "b"},
	}
	got, err := Match(t.Context(), rules, testTables, &Facts{Rcpt: path("x@example.org")})
	if err != nil || got != rules[1] {
		t.Errorf("Match = %v, %v, want the second rule", got, err)
	}
}

func BenchmarkMatch(b *testing.B) {
	var rules []*Rule
	for range 20 {
		rules = append(rules, &Rule{Conditions: []Condition{{Kind: From, How: IsAny}, {Kind: For, How: InTable, Table: "doms"}, {Kind: Auth}}, Action: "a"})
	}
	rules = append(rules, &Rule{Conditions: []Condition{{Kind: From, How: IsAny}, {Kind: For, How: IsAny}}, Action: "b"})
	doms := table.Table(list{"example.org"})
	facts := &Facts{Rcpt: path("dave@example.org"), Source: "192.0.2.1"}
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Match(b.Context(), rules, func(string) table.Table { return doms }, facts); r == nil || err != nil {
			b.Fatal(r, err)
		}
	}
}
