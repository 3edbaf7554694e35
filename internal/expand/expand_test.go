package expand

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/srs"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

// world is a small site: its tables, .forward files and included files.
type world struct {
	aliases, virtual, users map[string]string
	forward, files          map[string]string
	forwardErr              error
	tableErr                error
	delim                   string
	srs                     *srs.Rewriter
	warnings                []string
}

type failing struct{ err error }

func (f failing) Lookup(context.Context, table.Service, string) (string, error) { return "", f.err }
func (f failing) Fetch(context.Context, table.Service) (string, error)          { return "", f.err }
func (failing) Update(context.Context) error                                    { return nil }
func (failing) Close() error                                                    { return nil }

func mapTable(t testing.TB, m map[string]string) table.Table {
	var entries []static.Entry
	for k, v := range m {
		entries = append(entries, static.Entry{Key: k, Value: v})
	}
	tab, err := static.New(static.Map, entries, static.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// expander makes the rules of all tests: local.test by aliases, virt.test by
// virtual users, fwd.test forward-only, exp.test expand-only, asuser.test as user
// vmail, refused.test refused, away.test by a table that fails, remote.test (from
// inside only) relayed.
func (w *world) expander(t testing.TB) *Expander {
	users := map[string]string{"alice": "1000:1000:/home/alice", "bob": "1001:1001:/home/bob",
		"root": "0:0:/root", "vmail": "500:500:/var/vmail", "broken": "x:y"}
	for k, v := range w.users {
		users[k] = v
	}
	tables := map[string]table.Table{
		"aliases": mapTable(t, w.aliases), "virtual": mapTable(t, w.virtual),
		"away": failing{errors.New("backend is away")},
	}
	if w.tableErr != nil {
		tables["aliases"] = failing{w.tableErr}
	}
	var rules []*policy.Rule
	rule := func(domain, action string, more ...policy.Condition) {
		tables[domain] = mapTable(t, map[string]string{domain: ""})
		rules = append(rules, &policy.Rule{Pos: policy.Position{File: "smtpd.conf", Line: len(rules) + 1}, Action: action,
			Conditions: append(more, policy.Condition{Kind: policy.For, How: policy.InTable, Table: domain})})
	}
	tables["<localhost>"] = mapTable(t, map[string]string{"local": ""})
	rule("local.test", "local")
	rule("virt.test", "virt")
	rule("fwd.test", "fwd")
	rule("exp.test", "exp")
	rule("asuser.test", "asuser")
	rule("refused.test", "")
	rule("remote.test", "relay", policy.Condition{Kind: policy.From, How: policy.IsLocal})
	rule("gone.test", "no-such-action")
	rules = append(rules, &policy.Rule{Pos: policy.Position{File: "smtpd.conf", Line: 99}, Action: "local",
		Conditions: []policy.Condition{{Kind: policy.MailFrom, How: policy.RegexIn, Table: "sender"}, {Kind: policy.For, How: policy.InTable, Table: "away"}}})
	tables["sender"] = mapTable(t, map[string]string{"^away@": ""})
	x := &Expander{
		Rules: rules,
		Actions: map[string]*policy.Action{
			"local":  {Name: "local", Method: policy.Maildir, Alias: "aliases"},
			"virt":   {Name: "virt", Method: policy.Maildir, Virtual: "virtual"},
			"fwd":    {Name: "fwd", Method: policy.ForwardOnly, Alias: "aliases"},
			"exp":    {Name: "exp", Method: policy.ExpandOnly, Alias: "aliases"},
			"asuser": {Name: "asuser", Method: policy.Maildir, User: "vmail"},
			"relay":  {Name: "relay", Method: policy.Relay},
		},
		Tables: func(name string) table.Table { return tables[name] },
		Users:  mapTable(t, users),
		Delim:  w.delim,
		SRS:    w.srs,
		Forward: func(_ context.Context, r ForwardRequest) ([]byte, bool, error) {
			if w.forwardErr != nil {
				return nil, false, w.forwardErr
			}
			s, ok := w.forward[r.User]
			return []byte(s), ok, nil
		},
		ReadFile: func(_ context.Context, path string) ([]byte, error) {
			if s, ok := w.files[path]; ok {
				return []byte(s), nil
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		},
		Warn: func(err error) { w.warnings = append(w.warnings, err.Error()) },
	}
	return x
}

func path(s string) smtp.Path {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return smtp.Path{}
	}
	return smtp.Path{Local: s[:i], Domain: s[i+1:]}
}

// show prints an envelope in one line.
func show(e *envelope.Envelope) string {
	s := fmt.Sprintf("%s %s", e.Type, e.Dest)
	if e.User != "" {
		s += " user=" + e.User
	}
	if e.Subaddress != "" {
		s += " tag=" + e.Subaddress
	}
	if e.Exec != "" {
		s += " exec=" + e.Exec
	}
	if e.Flags&envelope.Internal != 0 {
		s += " internal"
	}
	return s
}

func TestRecipientExpandsTo(t *testing.T) {
	t.Parallel()
	rewriter, err := srs.New("secret", "", 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := rewriter.Forward(path("joe@remote.test"), "local.test").String()
	type m = map[string]string
	for _, tt := range []struct {
		name string
		w    world
		rcpt string
		want string // envelopes parted by "; "
	}{
		{"plain user", world{}, "Alice@local.test", "mda Alice@local.test user=alice"},
		{"user with tag", world{}, "alice+Lists@local.test", "mda alice+Lists@local.test user=alice tag=lists"},
		{"other delimiter", world{delim: "-"}, "alice-x-y@local.test", "mda alice-x-y@local.test user=alice tag=x-y"},
		{"alias to several", world{aliases: m{"info": "alice, bob ,, alice"}}, "info@local.test",
			"mda info@local.test user=alice; mda info@local.test user=bob"},
		{"tag finds the alias without it", world{aliases: m{"info": "alice"}}, "info+x@local.test", "mda info+x@local.test user=alice"},
		{"tag finds its own alias first", world{aliases: m{"info": "alice", "info+x": "bob"}}, "info+x@local.test", "mda info+x@local.test user=bob"},
		{"alias to a user with tag keeps it", world{aliases: m{"info": "alice+info"}}, "info@local.test", "mda info@local.test user=alice tag=info"},
		{"alias to oneself with tag", world{aliases: m{"alice": "alice+spam"}}, "alice@local.test", "mda alice@local.test user=alice tag=spam"},
		{"alias that keeps a copy", world{aliases: m{"alice": "alice, bob"}}, "alice@local.test",
			"mda alice@local.test user=alice; mda alice@local.test user=bob"},
		{"copy in alias and in .forward", world{aliases: m{"alice": "alice, bob"}, forward: m{"alice": "alice, x@remote.test"}}, "alice@local.test",
			"mda alice@local.test user=bob; mda alice@local.test user=alice; mta x@remote.test internal"},
		{"alias to a remote address is relayed from inside", world{aliases: m{"info": "x@remote.test"}}, "info@local.test", "mta x@remote.test internal"},
		{"alias to another local address: dest is the last address", world{aliases: m{"info": "bob@virt.test"}, virtual: m{"bob@virt.test": "bob"}},
			"info@local.test", "mda bob@virt.test user=bob internal"},
		{"command of an alias has no user", world{aliases: m{"cmd": `"|/bin/prog \"a, b\""`}}, "cmd@local.test", `mda cmd@local.test exec=|/bin/prog "a, b"`},
		{"file of an alias", world{aliases: m{"null": `"/dev/null"`}}, "null@local.test", "mda null@local.test exec=/dev/null"},
		{"include", world{aliases: m{"list": ":include:/etc/list"}, files: m{"/etc/list": "# all\nalice\nbob,\\\n x@remote.test\n:include:/etc/other\n"}}, "list@local.test",
			"mda list@local.test user=alice; mda list@local.test user=bob; mta x@remote.test internal"},
		{".forward with a copy", world{forward: m{"alice": "\\alice, bob\n# no\n|/bin/cmd x # comment\n"}}, "alice@local.test",
			"mda alice@local.test user=alice; mda alice@local.test user=bob; mda alice@local.test user=alice exec=|/bin/cmd x"},
		{".forward to one's own address keeps a copy", world{forward: m{"alice": "ALICE@local.test, x@remote.test"}}, "alice@local.test",
			"mda alice@local.test user=alice; mta x@remote.test internal"},
		{".forward to oneself with a tag", world{forward: m{"alice": "alice+in"}}, "alice@local.test", "mda alice@local.test user=alice tag=in"},
		{".forward that is empty", world{forward: m{"alice": " \n# nothing\n"}}, "alice@local.test", "mda alice@local.test user=alice"},
		{"includes in .forward are left out", world{forward: m{"alice": "bob\n:include:/etc/passwd\n"}}, "alice@local.test", "mda alice@local.test user=bob"},
		{"action with user reads no other .forward", world{forward: m{"alice": "bob"}}, "alice@asuser.test", "mda alice@asuser.test user=alice"},
		{"action with user reads that user's .forward", world{forward: m{"vmail": "bob"}}, "vmail@asuser.test", "mda vmail@asuser.test user=bob"},
		{"virtual, full address", world{virtual: m{"joe@virt.test": "alice", "joe": "bob"}}, "Joe@virt.test", "mda Joe@virt.test user=alice"},
		{"virtual, tag stripped", world{virtual: m{"joe@virt.test": "alice"}}, "joe+x@virt.test", "mda joe+x@virt.test user=alice"},
		{"virtual, with tag first", world{virtual: m{"joe@virt.test": "alice", "joe+x@virt.test": "bob"}}, "joe+x@virt.test", "mda joe+x@virt.test user=bob"},
		{"virtual, user before domain", world{virtual: m{"joe": "alice", "@virt.test": "bob"}}, "joe@virt.test", "mda joe@virt.test user=alice"},
		{"virtual, domain before catch-all", world{virtual: m{"@virt.test": "alice", "@": "bob"}}, "any@virt.test", "mda any@virt.test user=alice"},
		{"virtual, catch-all", world{virtual: m{"@": "bob"}}, "any@virt.test", "mda any@virt.test user=bob"},
		{"virtual, name looked up again", world{virtual: m{"joe@virt.test": "team", "team": "alice, bob+t"}}, "joe@virt.test",
			"mda joe@virt.test user=alice; mda joe@virt.test user=bob tag=t"},
		{"virtual, whole domain mapped to another", world{virtual: m{"@virt.test": "@remote.test"}}, "joe+x@virt.test", "mta joe+x@remote.test internal"},
		{"forward-only to an address", world{aliases: m{"info": "x@remote.test"}}, "info@fwd.test", "mta x@remote.test internal"},
		{"expand-only to a command", world{aliases: m{"cmd": "|/bin/x"}}, "cmd@exp.test", "mda cmd@exp.test exec=|/bin/x"},
		{"expand-only by .forward", world{forward: m{"alice": "|/bin/x"}}, "alice@exp.test", "mda alice@exp.test user=alice exec=|/bin/x"},
		{"bounce to a rewritten sender", world{srs: rewriter}, rewritten, "mta joe@remote.test internal"},
		{"domain with final dot", world{}, "alice@local.test.", "mda alice@local.test. user=alice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := tt.w.expander(t)
			envs, err := x.Expand(t.Context(), &policy.Facts{Source: "192.0.2.1", Rcpt: path(tt.rcpt)})
			var got []string
			for _, e := range envs {
				got = append(got, show(e))
				if e.Rcpt != path(tt.rcpt) || x.Actions[e.Action] == nil {
					t.Errorf("envelope %+v: wrong Rcpt or Action", e)
				}
			}
			if s := strings.Join(got, "; "); err != nil || s != tt.want {
				t.Errorf("Expand(%s) = %v, %v\nwant %s", tt.rcpt, s, err, tt.want)
			}
		})
	}
}

func TestRecipientIsRefusedWith(t *testing.T) {
	t.Parallel()
	chain := map[string]string{}
	for i := range 20 {
		chain[fmt.Sprint("a", i)] = fmt.Sprint("a", i+1)
	}
	many := ""
	for i := range MaxForwardNodes + 1 {
		many += fmt.Sprintf("u%d@remote.test\n", i)
	}
	type m = map[string]string
	for _, tt := range []struct {
		name, rcpt string
		w          world
		want       string // reply without the address
		rule       string
	}{
		{"no rule", "x@elsewhere.test", world{}, "550 5.7.1 Invalid recipient", ""},
		{"remote rule holds for insiders only", "x@remote.test", world{}, "550 5.7.1 Invalid recipient", ""},
		{"reject rule", "x@refused.test", world{}, "550 5.7.1 Invalid recipient", "smtpd.conf:6"},
		{"unknown user", "nobody@local.test", world{}, "550 5.1.1 Invalid recipient", "smtpd.conf:1"},
		{"unknown action", "x@gone.test", world{}, "451 4.3.0 Temporary failure", "smtpd.conf:8"},
		{"userbase row is damaged", "broken@local.test", world{}, "451 4.3.0 Temporary failure", "smtpd.conf:1"},
		{"alias table fails", "alice@local.test", world{tableErr: errors.New("away")}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"address with underscore never becomes a local user", "info@local.test", world{aliases: m{"info": "alice@my_dom.test"}}, "550 5.7.1 Invalid recipient", ""},
		{"address with bad domain never becomes a local user", "info@local.test", world{aliases: m{"info": "alice@my dom"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"one unknown member fails all", "info@local.test", world{aliases: m{"info": "alice, nobody"}}, "550 5.1.1 Invalid recipient", "smtpd.conf:1"},
		{"alias loop", "a@local.test", world{aliases: m{"a": "b", "b": "a"}}, "524 5.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"too deep", "a0@local.test", world{aliases: chain}, "524 5.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"error alias", "no@local.test", world{aliases: m{"no": "error:550 go away"}}, "550 go away", "smtpd.conf:1"},
		{"error alias with code", "no@local.test", world{aliases: m{"no": ":error:450 4.2.1 later"}}, "450 4.2.1 later", "smtpd.conf:1"},
		{"not in the virtual table", "x@virt.test", world{}, "550 5.1.1 Invalid recipient", "smtpd.conf:2"},
		{"quoted local part is no virtual user", "joe@other.test@virt.test", world{virtual: m{"joe@other.test": "alice"}}, "550 5.1.1 Invalid recipient", "smtpd.conf:2"},
		{"quoted local part is no user", "joe@other.test@local.test", world{users: m{"joe@other.test": "1:1:/"}}, "550 5.1.1 Invalid recipient", "smtpd.conf:1"},
		{"missing include is an empty list", "list@local.test", world{aliases: m{"list": ":include:/none"}}, "524 5.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"include with a bad line", "list@local.test", world{aliases: m{"list": ":include:/l"}, files: m{"/l": "a b\n"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"forward-only without .forward", "alice@fwd.test", world{}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:3"},
		{"forward-only to a command", "alice@fwd.test", world{forward: m{"alice": "|/bin/x"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:3"},
		{"forward-only to an error", "no@fwd.test", world{aliases: m{"no": "error:550 go"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:3"},
		{"expand-only without alias", "alice@exp.test", world{}, "524 5.2.4 Mailing list expansion problem", "smtpd.conf:4"},
		{"command in the .forward of root", "root@local.test", world{forward: m{"root": "|/bin/x"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"file in the .forward of root", "root@local.test", world{forward: m{"root": "/tmp/x"}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{".forward with a mistake", "alice@local.test", world{forward: m{"alice": `"unbalanced`}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{".forward cannot be opened for now", "alice@local.test", world{forwardErr: errors.New("input/output error")}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{".forward is not safe", "alice@local.test", world{forwardErr: &smtp.Error{Code: 524, Enhanced: smtp.EnhancedCode{5, 2, 4}}}, "524 5.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"too many targets in .forward", "alice@local.test", world{forward: m{"alice": many}}, "424 4.2.4 Mailing list expansion problem", "smtpd.conf:1"},
		{"control character", "al\nice@local.test", world{}, "550 5.1.3 Invalid recipient", ""},
		{"no domain", "alice@", world{}, "550 5.1.3 Invalid recipient", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			envs, err := tt.w.expander(t).Expand(t.Context(), &policy.Facts{Source: "192.0.2.1", Rcpt: path(tt.rcpt)})
			se, ok := errors.AsType[*smtp.Error](err)
			if !ok {
				t.Fatalf("Expand(%q) = %v, %v, want an *smtp.Error", tt.rcpt, envs, err)
			}
			if want := tt.want + ": <" + strings.ReplaceAll(path(tt.rcpt).String(), "\n", "?") + ">"; se.Reply() != want {
				t.Errorf("Expand(%q): reply %q, want %q (cause: %v)", tt.rcpt, se.Reply(), want, se.Err)
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.Rule() != tt.rule {
				t.Errorf("Expand(%q): rule %q, want %q", tt.rcpt, e.Rule(), tt.rule)
			}
		})
	}
}

func TestOnlyAMissingRuleIsErrNoRule(t *testing.T) {
	t.Parallel()
	for rcpt, want := range map[string]bool{"x@elsewhere.test": true, "x@refused.test": false, "nobody@local.test": false, "away@local.test": false, "x@": false} {
		w := world{aliases: map[string]string{"away": "x@elsewhere.test"}}
		if _, err := w.expander(t).Expand(t.Context(), &policy.Facts{Rcpt: path(rcpt)}); errors.Is(err, ErrNoRule) != want {
			t.Errorf("Expand(%s): %v, want ErrNoRule: %v", rcpt, err, want)
		}
	}
}

func TestFailingTableInRuleIsTemporary(t *testing.T) {
	t.Parallel()
	w := world{}
	_, err := w.expander(t).Expand(t.Context(), &policy.Facts{Sender: path("away@x.test"), Rcpt: path("x@elsewhere.test")})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Rule() != "smtpd.conf:99" {
		t.Fatalf("error %v, want one of rule smtpd.conf:99", err)
	}
	if se, ok := errors.AsType[*smtp.Error](err); !ok || se.Code != 451 || !strings.Contains(se.Err.Error(), "away") || strings.Contains(se.Text, "away") {
		t.Errorf("error %v, want 451 whose cause alone names the table", err)
	}
}

func TestForgedRewrittenSenderIsTakenLiterally(t *testing.T) {
	t.Parallel()
	r, err := srs.New("secret", "", 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := world{srs: r}
	_, err = w.expander(t).Expand(t.Context(), &policy.Facts{Rcpt: path("SRS0=AAAA=AA=remote.test=joe@local.test")})
	if se, ok := errors.AsType[*smtp.Error](err); !ok || se.Enhanced != (smtp.EnhancedCode{5, 1, 1}) {
		t.Errorf("error %v, want unknown user", err)
	}
	if len(w.warnings) != 1 || !strings.HasPrefix(w.warnings[0], "SRS failed to decode: SRS0=AAAA=") {
		t.Errorf("warnings %q, want one about SRS", w.warnings)
	}
}

func TestCancelledExpansionEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := world{}
	_, err := w.expander(t).Expand(ctx, &policy.Facts{Rcpt: path("alice@local.test")})
	if se, ok := errors.AsType[*smtp.Error](err); !ok || se.Permanent() {
		t.Errorf("error %v, want a temporary one", err)
	}
}

func TestLargeListDropsDuplicates(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&b, "u%d@remote.test\n", i%1500)
	}
	w := world{aliases: map[string]string{"list": ":include:/l"}, files: map[string]string{"/l": b.String()}}
	envs, err := w.expander(t).Expand(t.Context(), &policy.Facts{Rcpt: path("list@local.test")})
	if err != nil || len(envs) != 1500 {
		t.Fatalf("%d envelopes, %v, want 1500", len(envs), err)
	}
	dests := map[smtp.Path]bool{}
	for _, e := range envs {
		dests[e.Dest] = true
	}
	if len(dests) != 1500 {
		t.Errorf("%d destinations, want 1500", len(dests))
	}
}

func BenchmarkPlainUser(b *testing.B) {
	w := world{aliases: map[string]string{"info": "alice"}}
	x := w.expander(b)
	f := &policy.Facts{Source: "192.0.2.1", Rcpt: path("alice@local.test")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Expand(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseTargets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     []string // nil: an error
	}{
		{"list", "alice, bob@x.org ,,/var/mail/x,|cmd a b", []string{"alice", "bob@x.org", "/var/mail/x", "|cmd a b"}},
		{"nothing", " , ,", []string{}},
		{"comma in quotes", `|"cmd a,b", bob`, []string{`|"cmd a,b"`, "bob"}},
		{"quoted command", `"|cmd \"a,b\" c"`, []string{`|cmd "a,b" c`}},
		{"escaped comma", `|cmd a\,b`, []string{"|cmd a,b"}},
		{"sendmail's mark loses its backslash", `\alice`, []string{"alice"}},
		{"error", "error:550 5.1.1 no such user", []string{"error:550 5.1.1 no such user"}},
		{"colon error", ":error:450 later", []string{"error:450 later"}},
		{"include", "include:/x", []string{":include:/x"}},
		{"quoted include", `":include:/x y", "include:/z,z"`, []string{":include:/x y", ":include:/z,z"}},
		{"quoted error", `"error:550 gone, really"`, []string{"error:550 gone, really"}},
		{"relative include in quotes", `":include:x"`, nil},
		{"underscore in domain", "joe@my_dom.org", []string{"joe@my_dom.org"}},
		{"quoted name", `"alice", "bob@x.org"`, []string{"alice", "bob@x.org"}},
		{"quoted bad name", `"a b"`, nil},
		{"address literal", "joe@[192.0.2.1]", []string{"joe@[192.0.2.1]"}},
		{"quoted local part", `"\"a b\"@x.org"`, nil},
		{"plain quoted local part", `"a b"@x.org`, []string{`"a b"@x.org`}},
		{"domain", "@x.org", []string{"@x.org"}},
		{"bad domain", "joe@my!dom", nil},
		{"empty domain", "joe@", nil},
		{"two dots in domain", "joe@a..b", nil},
		{"name with space", "a b", nil},
		{"name like an option", "-oi", nil},
		{"unbalanced quote", `"|cmd`, nil},
		{"backslash at the end", `alice\`, nil},
		{"text behind a quoted command", `"|cmd" x`, nil},
		{"error without text", "error:550", nil},
		{"error with a bad code", "error:250 fine", nil},
		{"relative include", ":include:list", nil},
		{"line break", "alice\nbob", nil},
		{"empty command", "|", nil},
		{"long item", strings.Repeat("a", 2048), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			targets, err := ParseTargets(tt.in, "+")
			got := []string{}
			for _, x := range targets {
				got = append(got, x.String())
			}
			if tt.want == nil && err == nil || tt.want != nil && (err != nil || !slices.Equal(got, tt.want)) {
				t.Errorf("ParseTargets(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

// checkTarget states what no input may break: a target holds no control character
// but tab, an address has a domain, a path is absolute, a user has no "@".
func checkTarget(t *testing.T, x Target) {
	t.Helper()
	if strings.ContainsFunc(x.String(), func(r rune) bool { return r < ' ' && r != '\t' }) {
		t.Errorf("control character in %q", x)
	}
	switch x.Kind {
	case ToAddress:
		if x.Addr.Local == "" || x.Addr.Domain == "" {
			t.Errorf("half an address: %q", x)
		}
	case ToFile, ToInclude:
		if x.Text[0] != '/' {
			t.Errorf("relative path: %q", x)
		}
	case ToUser:
		if x.Text == "" || x.Text[0] == '-' || strings.ContainsAny(x.Text, "@/| \t\",") {
			t.Errorf("bad user name: %q", x)
		}
	case ToCommand:
		if x.Text == "" {
			t.Error("empty command")
		}
	case ToError:
		if x.Error.Code < 400 || x.Error.Code > 599 || x.Error.Text == "" {
			t.Errorf("bad error: %v", x.Error)
		}
	}
}

func FuzzTargets(f *testing.F) {
	for _, s := range []string{"alice, bob", `"|cmd \"a\""`, "error:550 x", ":include:/x", "joe@my_dom", `"a b"@x`, `\`, `"`, "@d", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		targets, err := ParseTargets(s, "+")
		if err != nil {
			return
		}
		for _, x := range targets {
			checkTarget(t, x)
		}
	})
}

func FuzzForward(f *testing.F) {
	f.Add([]byte("# c\nalice, \\\n bob\n"))
	f.Add([]byte("|\"x # y\" # z\n"))
	f.Add([]byte("a\\"))
	f.Add([]byte("\\\n\\\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		targets, err := ParseForward(b, "+")
		if err != nil {
			return
		}
		for _, x := range targets {
			checkTarget(t, x)
			if x.Kind == ToInclude {
				t.Error("include out of a .forward file")
			}
		}
	})
}
