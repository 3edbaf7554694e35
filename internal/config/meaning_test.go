package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

func TestCommandLineMacrosBeatTheFile(t *testing.T) {
	t.Parallel()
	opts := testOptions("name = \"file\"\nname = \"again\"\nadmd $name\n"+rule, nil)
	opts.Macros = []string{"name=given"}
	c, errs := Parse(opts)
	if len(errs) > 0 || c.AdminDomain != "given" {
		t.Fatalf("got %+v %v", c, errs)
	}
	opts.Macros = []string{"", "noequal", "=x", "a b=c"}
	_, errs = Parse(opts)
	if len(errs) != 4 || errs[3].Pos.File != "command line" || errs[3].Pos.Line != 4 {
		t.Errorf("got %v", errs)
	}
}

func TestCommandLineMacroMayHoldEqualSigns(t *testing.T) {
	t.Parallel()
	opts := testOptions("admd $a\n"+rule, nil)
	opts.Macros = []string{`a="b=c"`}
	c, errs := Parse(opts)
	if len(errs) > 0 || c.AdminDomain != "b=c" {
		t.Fatalf("got %+v %v", c, errs)
	}
}

func TestLastMacroDefinitionWins(t *testing.T) {
	t.Parallel()
	c := mustParse(t, "n = one\nn = \"two\"\nadmd $n")
	if c.AdminDomain != "two" {
		t.Errorf("got %q", c.AdminDomain)
	}
}

func TestErrorsNameTheLineOfTheirToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		line       int
		message    string
	}{
		{"joined lines", "listen on \\\n localhost \\\n port 0\n" + rule, 3, "invalid port: 0"},
		{"end of statement", "match from any\n\n" + rule, 1, "syntax error near end of line"},
		{"after a string over lines", "table t { \"a\nb\"\n+ }\n" + rule, 3, `syntax error near "+"`},
		{"inside a macro", "m = \"port 0\"\n\nlisten on localhost $m\n" + rule, 3, "invalid port"},
		{"a comment that goes on", "# x \\\n y\nadmd 1\n" + rule, 3, "syntax error"},
		{"open quote", "\n" + rule + "admd \"x\n\n", 3, "reached end of file while parsing quoted string"},
		{"value that starts with /", "table t /etc/x\n" + rule, 1, `syntax error near "/etc/x": quote values that start with "/"`},
		{"unknown table", rule + "match for domain <foo> reject\n", 2, `unknown table <foo>: declare it above with "table foo ..."`},
		{"DOS line ends", "admd a\r\n" + rule, 1, "LF"},
		{"NUL in quotes", "admd \"a\x00\"\n" + rule, 1, "NUL"},
		{"NUL outside", "\x00\n" + rule, 1, "syntax error"},
		{"table declared below its use", "match for domain <t> reject\ntable t { a }\n", 1, "unknown table <t>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, errs := parse(tt.text)
			oneError(t, errs, "smtpd.conf", tt.line, tt.message)
		})
	}
}

func TestMistakenDeclarationIsReportedOnce(t *testing.T) {
	t.Parallel()
	_, errs := parse("table t { tag }\naction a relay host <t> auth <t>\nmatch from src <t> for any action a\nmatch for domain <t> action a\n")
	oneError(t, errs, "smtpd.conf", 1, "syntax error")
	_, errs = parse("action a teleport\nmatch for any action a\n")
	oneError(t, errs, "smtpd.conf", 1, "syntax error")
	_, errs = parse("filter f phase x\nlisten on socket filter f\nlisten on localhost filter { f }\n" + rule)
	oneError(t, errs, "smtpd.conf", 1, "syntax error")
}

func TestUnclosedBraceDoesNotSwallowTheFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"table t { a,\n  tag\n\naction x teleport\n", // the mistake is inside
		"table t { a,\n  b\naction x teleport\n",     // the brace itself is the mistake
	} {
		_, errs := parse(text + rule)
		if len(errs) != 2 || !strings.Contains(errs[1].Message, "teleport") {
			t.Errorf("%q: got %v", text, errs)
		}
	}
}

func TestRelayCertificatesAreResolved(t *testing.T) {
	t.Parallel()
	_, errs := parse("action a relay pki Nosuch\n" + rule)
	oneError(t, errs, "smtpd.conf", 1, "pki name not found: nosuch")
	_, errs = parse("action a relay ca nosuch\n" + rule)
	oneError(t, errs, "smtpd.conf", 1, "ca name not found: nosuch")
	_, errs = parse("pki x cert \"/x\"\naction a relay pki x\n" + rule)
	oneError(t, errs, "smtpd.conf", 2, "has no key")
	_, errs = parse("pki x key \"/x\"\naction a relay pki x\n" + rule)
	oneError(t, errs, "smtpd.conf", 2, "has no certificate")

	// Declared below is fine: it always was for actions.
	mustParse(t, "action a relay pki x ca y\npki x cert \"/c\" key \"/k\"\nca Y cert \"/y\"")
}

func TestMatchTLSIsACondition(t *testing.T) {
	t.Parallel()
	c := mustParse(t, "match tls for any reject\nmatch ! tls for any reject")
	for i, not := range []bool{false, true} {
		want := policy.Condition{Kind: policy.TLS, How: policy.Exists, Not: not}
		if got := c.Rules[i].Conditions[2]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestConditionsOfARule(t *testing.T) {
	t.Parallel()
	local := policy.Condition{Kind: policy.From, How: policy.IsLocal, Table: "<localhost>"}
	localNames := policy.Condition{Kind: policy.For, How: policy.IsLocal, Table: "<localnames>"}
	anyFrom := policy.Condition{Kind: policy.From, How: policy.IsAny}
	anyFor := policy.Condition{Kind: policy.For, How: policy.IsAny}
	for _, tt := range []struct {
		text string
		want []policy.Condition
	}{
		{"match reject", []policy.Condition{local, localNames}},
		{"match from any for any reject", []policy.Condition{anyFrom, anyFor}},
		{"match !from socket !for any reject", []policy.Condition{
			{Kind: policy.From, How: policy.IsSocket, Not: true}, {Kind: policy.For, How: policy.IsAny, Not: true}}},
		{"match !from auth <m> reject", []policy.Condition{anyFrom, localNames}}, // refused: auth needs keys only
		{"match !from auth for any reject", []policy.Condition{anyFrom, anyFor,
			{Kind: policy.Auth, How: policy.Exists, Not: true}}},
		{"match from rdns reject", []policy.Condition{
			{Kind: policy.From, How: policy.HasRDNS, RDNS: true}, localNames}},
		{"match from rdns <l> reject", []policy.Condition{
			{Kind: policy.From, How: policy.InTable, RDNS: true, Table: "l"}, localNames}},
		{"match !from rdns regex <l> reject", []policy.Condition{
			{Kind: policy.From, How: policy.RegexIn, RDNS: true, Table: "l", Not: true}, localNames}},
		{"match from src regex <l> for domain regex <l> reject", []policy.Condition{
			{Kind: policy.From, How: policy.RegexIn, Table: "l"}, {Kind: policy.For, How: policy.RegexIn, Table: "l"}}},
		{"match from mail-from <m> for rcpt-to <m> tag <l> reject", []policy.Condition{
			{Kind: policy.Tag, How: policy.InTable, Table: "l"}, anyFrom, anyFor,
			{Kind: policy.MailFrom, How: policy.InTable, Table: "m"}, {Kind: policy.RcptTo, How: policy.InTable, Table: "m"}}},
	} {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			c, errs := parse("table l { a, b }\ntable m { a = b, c = d }\n" + tt.text + "\n")
			if strings.Contains(tt.text, "auth <m>") {
				oneError(t, errs, "smtpd.conf", 3, "may not be used for auth lookups")
				return
			}
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			if got := c.Rules[0].Conditions; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestASlotHasOneConditionInEitherOrder(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"match auth \"a\" from auth for any reject",
		"match from auth auth \"a\" for any reject",
		"match mail-from \"a\" from mail-from \"b\" reject",
		"match rcpt-to \"a\" for rcpt-to \"b\" reject",
	} {
		_, errs := parse(text + "\n")
		oneError(t, errs, "smtpd.conf", 1, "already specified for this rule")
	}
}

func TestEmptyTableFileFitsEverywhere(t *testing.T) {
	t.Parallel()
	mustParse(t, "table e file:/x.empty\naction a mbox alias <e>\nmatch from src <e> for domain <e> action a")
}

func TestNamesSentToPeersHoldNoWhiteSpace(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"listen on localhost hostname \"a b\"",
		"listen on localhost hostname \"\"",
		"action a relay helo \"a\rb\"",
		"action a relay backup mx \"a b\"",
	} {
		_, errs := parse(text + "\n" + rule)
		oneError(t, errs, "smtpd.conf", 1, "cannot be a host name")
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"1s", time.Second, true},
		{"90m", 90 * time.Minute, true},
		{"4h", 4 * time.Hour, true},
		{"24855d", 24855 * 24 * time.Hour, true},
		{"24856d", 0, false},
		{"2147483647s", 2147483647 * time.Second, true},
		{"2147483648s", 0, false},
		{"0s", 0, false}, {"4", 0, false}, {"h", 0, false}, {"4H", 0, false}, {"1h30m", 0, false},
		{"-1h", 0, false}, {"+1h", 0, false}, {"", 0, false}, {"1.5h", 0, false}, {"4w", 0, false},
	} {
		got, ok := parseDelay(tt.in)
		if got != tt.want || ok != tt.ok {
			t.Errorf("parseDelay(%q) = %v, %v, want %v, %v", tt.in, got, ok, tt.want, tt.ok)
		}
		if ok {
			if again, _ := parseDelay(formatDelay(got)); again != got {
				t.Errorf("%q prints as %q", tt.in, formatDelay(got))
			}
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"35M", 35 << 20, true}, {"35m", 35 << 20, true}, {"10", 10, true}, {"1.5K", 1536, true},
		{"7E", 7 << 60, true}, {"8E", 0, false}, {"9223372036854775807", 1<<63 - 1, true},
		{"9223372036854775808", 0, false}, {"1B", 1, true}, {".5G", 1 << 29, true},
		{"-5M", 0, false}, {"M", 0, false}, {"", 0, false}, {"5Q", 0, false}, {"1.", 0, false}, {"1..5M", 0, false},
		{"5MB", 0, false}, {"0x5", 0, false},
	} {
		got, ok := parseSize(tt.in)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("parseSize(%q) = %d, %v, want %d, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func TestNewWordsAreNotReserved(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `proxy = "x"
table reserve { zstd, gzip, retry, proxy, file, space, inodes, normalize }
action file maildir space
listen on localhost tag proxy hostname normalize
match tag proxy for domain <reserve> action file`)
	if c.Listeners[0].Tag != "proxy" || c.Actions[0].Path != "space" {
		t.Errorf("got %+v %+v", c.Listeners[0], c.Actions[0])
	}
}

func TestQueueSettings(t *testing.T) {
	t.Parallel()
	defaults := mustParse(t, "").Queue
	key := strings.Repeat("k", 32)
	for _, tt := range []struct {
		text string
		want func(q *QueueConfig)
	}{
		{"", func(*QueueConfig) {}},
		{"queue compression", func(q *QueueConfig) { q.Compression = "gzip" }},
		{"queue compression gzip", func(q *QueueConfig) { q.Compression = "gzip" }},
		{"queue compression zstd", func(q *QueueConfig) { q.Compression = "zstd" }},
		{"queue encryption", func(q *QueueConfig) { q.Encryption = KeyAsk }},
		{"queue encryption stdin", func(q *QueueConfig) { q.Encryption = KeyStdin }},
		{"queue encryption \"-\"", func(q *QueueConfig) { q.Encryption = KeyStdin }},
		{"queue encryption " + key, func(q *QueueConfig) { q.Encryption, q.Key = KeyInline, key }},
		{"queue encryption file \"/k\"", func(q *QueueConfig) { q.Encryption, q.KeyFile = KeyInFile, "/k" }},
		{"queue encryption file \"/k\"\nqueue encryption stdin", func(q *QueueConfig) { q.Encryption = KeyStdin }},
		{"queue reserve inodes 0", func(q *QueueConfig) { q.ReserveInodes = 0 }},
		{"queue reserve space 7% inodes \"8%\"", func(q *QueueConfig) { q.ReserveSpace, q.ReserveInodes = 7, 8 }},
		{"queue retry mta 1m", func(q *QueueConfig) { q.RetryMTA = time.Minute }},
		{"queue ttl 12h", func(q *QueueConfig) { q.TTL = 12 * time.Hour }},
	} {
		c := mustParse(t, tt.text)
		want := defaults
		tt.want(&want)
		if c.Queue != want {
			t.Errorf("%s: got %+v, want %+v", tt.text, c.Queue, want)
		}
		roundTrip(t, c, testOptions("", nil))
	}
	_, errs := parse(rule + "queue encryption file\n")
	oneError(t, errs, "smtpd.conf", 2, "must be exactly 32 bytes")
}

func TestDefaultPorts(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `pki a cert "/c" key "/k"
listen on localhost
listen on localhost smtps pki a
listen on localhost tls-require pki a
listen on localhost port submissions smtps pki a`)
	for i, want := range []uint16{25, 465, 25, 465} {
		if got := c.Listeners[i].Port; got != want {
			t.Errorf("listener %d: port %d, want %d", i, got, want)
		}
	}
}

func TestFunctionsOfTheHostMayBeMissing(t *testing.T) {
	t.Parallel()
	_, errs := Parse(Options{Path: "x", ReadFile: files(map[string]string{
		"x": "table t nosuch:/x\nlisten on whatever0\nmatch from src <t> for local reject\n"})})
	if len(errs) > 0 {
		t.Errorf("got %v", errs)
	}
}

func TestTableOfNoKindIsAMistake(t *testing.T) {
	t.Parallel()
	opts := testOptions("table t \"/x\"\nmatch from src <t> for any reject\n", nil)
	opts.TableKind = func(string, string) (TableKind, error) { return 0, nil }
	_, errs := Parse(opts)
	oneError(t, errs, "smtpd.conf", 1, "neither a list nor a map")
}

func TestBackendNamesArePlainWords(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../evil", ".hidden", "a b", "a/b", "a\tb"} {
		_, errs := parse("table t \"" + name + ":/x\"\n" + rule)
		oneError(t, errs, "smtpd.conf", 1, "does not exist")
	}
}

func TestHostileNamesOfTheHostStayInsideAComment(t *testing.T) {
	t.Parallel()
	opts := testOptions(rule, nil)
	opts.ServerName = "a\nadmd evil\n\\"
	c, errs := Parse(opts)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	roundTrip(t, c, opts)
}

func TestNamesOfFilesCannotBreakThePrintedForm(t *testing.T) {
	t.Parallel()
	opts := testOptions("", nil)
	opts.Path = "x\\\nadmd evil"
	opts.ReadFile = files(map[string]string{opts.Path: rule})
	c, errs := Parse(opts)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	roundTrip(t, c, opts)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		rule,
		"a = \"b c\"\ntable t { $a $a }\nmatch for domain <t> reject\n",
		"table t { \"a\\\\\n\" = 'b\\ \\\\ ' }\naction x mbox alias <t>\nmatch for any action x\n",
		"mta limit for domain a inet4 task-lowat 0\nmta limit inet6\nmta limit for domain B\n" + rule,
		"listen on socket filter { f }\nfilter f phase connect match rdns \"a\" junk\n" + rule,
		"include \"smtpd.conf\"\ninclude \"more.conf\"\nmatch for domain <\"more\"> reject",
		"match from rdns regex { \"\\\\\" } for rcpt-to { '\"', \"'\" } tag \"<localhost>\" helo <localhost> reject\n",
	} {
		f.Add(s)
	}
	paths, err := filepath.Glob("testdata/*.conf")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	// A text either has mistakes, each with its place, or it prints to a form that
	// reads as the same configuration.
	f.Fuzz(func(t *testing.T, text string) {
		opts := testOptions(text, map[string]string{"more.conf": "table more { one, two }\n"})
		c, errs := Parse(opts)
		if (c == nil) == (len(errs) == 0) {
			t.Fatalf("got configuration %v and errors %v", c, errs)
		}
		for _, e := range errs {
			if e.Pos.Line < 1 || e.Pos.File == "" || e.Message == "" {
				t.Errorf("error without its place: %+v", e)
			}
		}
		if c != nil {
			roundTrip(t, c, opts)
		}
	})
}
