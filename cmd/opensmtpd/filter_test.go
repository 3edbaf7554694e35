package main

import (
	"bytes"
	"fmt"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// The test binary is a filter as well: with this variable it does what the value says,
// in words parted by blanks:
//
//	PHASE=RESULT[|PARAMETER]  answers so ("+" stands for a blank, "die" and "hang" do that)
//	PHASE                     lets pass
//	events                    takes all reports
//	record=FILE               writes down all lines
//	hold                      gives a message out when all of it has come
//	add=TEXT                  puts a line in front of messages
const filterVariable = "FILTER_TEST"

// testFilter is a filter of the tests. It knows the protocol from package wire alone.
type testFilter struct {
	out     *wire.Writer
	answers map[string]string
	record  *os.File
	hold    bool
	add     string
	held    map[uint64][]byte // lines, by token
	began   map[uint64]bool
}

// filterCommand returns a command of smtpd.conf that runs the test binary as a filter.
func filterCommand(t testing.TB, says ...string) string {
	return fmt.Sprintf("%q", "/usr/bin/env '"+filterVariable+"="+strings.Join(says, " ")+"' "+program(t))
}

func runTestFilter(says string) int {
	f := &testFilter{out: wire.NewWriter(os.Stdout, 1<<20), answers: map[string]string{}, held: map[uint64][]byte{}, began: map[uint64]bool{}}
	var register []byte
	for word := range strings.FieldsSeq(says) {
		name, value, _ := strings.Cut(word, "=")
		value = strings.ReplaceAll(value, "+", " ")
		switch name {
		case "events":
			register = wire.AppendRegisterReport(register, wire.In, wire.EventAll)
			register = wire.AppendRegisterReport(register, wire.Out, wire.EventAll)
		case "record":
			file, err := os.OpenFile(value, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			f.record = file
		case "hold":
			f.hold = true
		case "add":
			f.add = value
		default:
			d, phase := wire.In, name
			if rest, ok := strings.CutPrefix(name, "out:"); ok {
				d, phase = wire.Out, rest
			}
			p, ok := wire.ParsePhase(phase)
			if !ok {
				fmt.Fprintln(os.Stderr, "no phase", name)
				return 1
			}
			register = wire.AppendRegisterFilter(register, d, p)
			f.answers[d.String()+phase] = value
		}
	}
	if err := f.serve(wire.AppendRegisterReady(register)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (f *testFilter) note(direction string, lines []byte) {
	if f.record == nil {
		return
	}
	var b []byte
	for line := range bytes.SplitSeq(bytes.TrimSuffix(lines, []byte("\n")), []byte("\n")) {
		b = fmt.Appendf(b, "%s %s\n", direction, line)
	}
	_, _ = f.record.Write(b) // the test misses the lines
}

func (f *testFilter) serve(register []byte) error {
	in := wire.NewReader(os.Stdin)
	var out []byte
	for {
		line, err := in.Line()
		if err != nil {
			return nil // the daemon has ended
		}
		f.note("<<", line)
		m, err := wire.ParseToFilter(line)
		if err != nil {
			return err
		}
		before := len(out)
		switch m.Kind {
		case wire.KindReady:
			out = append(out, register...)
		case wire.KindRequest:
			out = f.answer(out, &m)
		}
		if len(out) > before {
			f.note(">>", out[before:])
		}
		if !in.More() && len(out) > 0 {
			if err := f.out.Send(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
}

func (f *testFilter) answer(out []byte, m *wire.ToFilter) []byte {
	says := f.answers[m.Direction.String()+m.Phase.String()]
	switch verdict, param, _ := strings.Cut(says, "|"); {
	case says == "die":
		_ = f.out.Send(out)
		os.Exit(3)
	case says == "hang":
		_ = f.out.Send(out)
		time.Sleep(time.Hour)
	case m.Phase == wire.PhaseDataLine:
		return f.line(out, m)
	case says == "":
		return wire.AppendResult(out, wire.Current, m.Session, m.Token, wire.VerdictProceed, "")
	default:
		out = fmt.Appendf(out, "filter-result|%016x|%016x|%s", m.Session, m.Token, verdict)
		if param != "" {
			out = fmt.Appendf(out, "|%s", param)
		}
		return append(out, '\n')
	}
	return out
}

func (f *testFilter) line(out []byte, m *wire.ToFilter) []byte {
	if f.add != "" && !f.began[m.Token] {
		f.began[m.Token] = true
		out = wire.AppendDataLine(out, wire.Current, m.Session, m.Token, false, f.add)
	}
	if f.hold {
		f.held[m.Token] = wire.AppendDataLine(f.held[m.Token], wire.Current, m.Session, m.Token, false, m.Text)
		if string(m.Text) != "." {
			return out
		}
		out = append(out, f.held[m.Token]...)
		delete(f.held, m.Token)
		return out
	}
	return wire.AppendDataLine(out, wire.Current, m.Session, m.Token, false, m.Text)
}

// allPhases are those that a filter can register for.
const allPhases = "connect helo ehlo starttls auth mail-from rcpt-to data data-line rset quit noop help wiz commit"

// filtered is keepAll with a filter on its listener, which declarations make.
func filtered(declarations, use string) string {
	conf := declarations + "\n" + keepAll
	return strings.Replace(conf, "hostname mx.example.org\n", "hostname mx.example.org filter "+use+"\n", 1)
}

func TestFilterSeesAllOfASessionAndMessagePasses(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	record := m.file("record", "")
	m.writeConf(filtered(`filter "f" proc-exec `+filterCommand(t, allPhases, "events", "record="+record), `"f"`))
	m.start()
	m.send("somebody@example.org", "hello\r\n..dot|x")
	m.wait(`mda delivery .* result=Ok`)
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", b)
	if mails := m.mails(); len(mails) != 1 || !strings.HasSuffix(mails[0], "\nhello\n.dot|x") {
		t.Errorf("the Maildir holds %q", mails)
	}
}

// begin is a dialogue up to an accepted recipient.
func begin() []string {
	return []string{"^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<somebody@example.org>", "^250"}
}

func TestVerdictsOfFilterProcess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		says  string
		steps []string // of the dialogue, see mta.dialogue
		mail  string   // pattern of what arrives; "" when nothing shall
	}{
		{"greeting is refused", "connect=reject|554+5.7.1+not+you", []string{"^554 5.7.1 not you"}, ""},
		{"rejected name", "ehlo=reject|550+bad+name", []string{"^220", "EHLO a.example", "^550 5.0.0 bad name", "HELO a.example", "^250"}, ""},
		{"rewritten name", "ehlo=rewrite|b.example", []string{"^220", "EHLO a.example", `^250 mx.example.org Hello b\.example `}, ""},
		{"rejected sender", "mail-from=reject|451+4.7.1+later", []string{"^220", "EHLO a.example", "^250", "MAIL FROM:<x@y.example>", "^451 4.7.1 later"}, ""},
		{"disconnected", "rcpt-to=disconnect|550+5.7.1+go", append(begin()[:6], "^550 5.7.1 go"), ""},
		{"no reply", "rcpt-to=reject|go+away", append(begin()[:6], "^421 4.3.0 Internal server error"), ""},
		{"rewritten recipient", "rcpt-to=rewrite|<other@example.org>", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `Delivered-To: other@example\.org\n`},
		{"rewritten without brackets", "mail-from=rewrite|who@else.example", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `Return-Path: <who@else\.example>\n`},
		{"rejected data", "data=reject|554+no", append(begin(), "DATA", "^554 5.0.0 no"), ""},
		{"rejected at the end", "commit=reject|550+5.7.1+spam", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^550 5.7.1 spam", "QUIT", "^221"), ""},
		{"junk session", "ehlo=junk", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `\nX-Spam: Yes\nReceived: `},
		{"junk sender", "mail-from=junk", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `\nX-Spam: Yes\nReceived: `},
		{"junk at the end", "commit=junk", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `\nX-Spam: Yes\nReceived: `},
		{"remark", "mail-from=report|a+remark", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250"), `Return-Path: <sender@example\.net>\n`},
		{"refused RSET, QUIT and NOOP", "rset=reject|450+no noop=reject|450+no", []string{"^220", "HELO a.example", "^250", "RSET", "^450 4.0.0 no", "NOOP", "^450 4.0.0 no"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := startMTA(t, filtered(`filter "f" proc-exec `+filterCommand(t, strings.Fields(tt.says)...), `"f"`))
			c := m.dialogue(tt.steps...)
			if strings.Contains(tt.says, "disconnect") || strings.Contains(tt.says, "connect=") || strings.Contains(tt.name, "no reply") {
				if _, err := c.ReadLine(); err == nil {
					t.Error("the connection stays open")
				}
			}
			if tt.says == "mail-from=report|a+remark" {
				m.wait(`smtp filter-report filter=f kind=proc message="a remark"`)
			}
			if tt.mail == "" {
				return
			}
			m.wait(`mda delivery .* result=Ok`)
			if mails := m.mails(); len(mails) != 1 || !regexp.MustCompile(tt.mail).MatchString(mails[0]) {
				t.Errorf("the Maildir holds %q, want %q", mails, tt.mail)
			}
		})
	}
}

func TestRelayFilterMarksJunk(t *testing.T) {
	t.Parallel()
	for _, says := range []string{"out:mail-from=junk", "out:rcpt-to=junk", "out:data-line out:commit=junk"} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			far, m := startMTA(t, keepAll), newMTA(t, "")
			m.writeConf(prelude + `
filter "f" proc-exec ` + filterCommand(t, strings.Fields(says)...) + `
action "out" relay host "smtp+notls://` + far.addr + `" filter "f"
match from any for any action "out"
`)
			m.start()
			m.dialogue(append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221")...)
			far.wait(`mda delivery .* result=Ok`)
			want := regexp.MustCompile(`(?s)^Return-Path: .*\nReceived: .*\nX-Spam: Yes\nReceived: .*\n\nx$`)
			if mails := far.mails(); len(mails) != 1 || !want.MatchString(mails[0]) {
				t.Errorf("the Maildir of the far host holds %q, want %q", mails, want)
			}
		})
	}
}

func TestLargeMessageIsMarkedAsJunkAtItsEnd(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("x", 70)
	for _, size := range []int{256<<10 - 300, 256 << 10, 3 << 20} { // near the bound of what is kept in memory, and far beyond
		for _, phases := range []string{"commit=junk", "data-line commit=junk"} {
			t.Run(fmt.Sprint(phases, " ", size), func(t *testing.T) {
				t.Parallel()
				m := startMTA(t, filtered(`filter "f" proc-exec `+filterCommand(t, strings.Fields(phases)...), `"f"`))
				body := strings.Repeat(line+"\n", size/71)
				m.dialogue(append(begin(), "DATA", "^354", "Subject: x\r\n\r\n"+strings.ReplaceAll(body, "\n", "\r\n")+".", "^250", "QUIT", "^221")...)
				m.wait(`mda delivery .* result=Ok`)
				mails := m.mails()
				if len(mails) != 1 {
					t.Fatalf("%d messages arrived", len(mails))
				}
				head, text, _ := strings.Cut(mails[0], "\n\n")
				if !strings.Contains(head, "\nX-Spam: Yes\nReceived: ") || text+"\n" != body {
					t.Errorf("a message arrived with the header %q and a body of %d bytes, want %d", head, len(text)+1, len(body))
				}
			})
		}
	}
}

func TestChainAsksOneAfterTheOther(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	record := m.file("record", "")
	m.writeConf(filtered(strings.Join([]string{
		`filter "first" proc-exec ` + filterCommand(t, "mail-from=rewrite|<second@example.com>", "data-line", "add=X-First:+1"),
		`filter "second" proc-exec ` + filterCommand(t, "mail-from", "data-line", "hold", "add=X-Second:+2", "record="+record),
		`filter "third" phase mail-from match mail-from { "second@example.com" } rewrite "<third@example.com>"`,
		`filter "fourth" phase rcpt-to match rcpt-to { "bad@example.org" } reject "550 5.7.1 not this one"`,
		`filter "fifth" proc-exec ` + filterCommand(t, "data-line", "add=X-Third:+3"),
		`filter "all" chain { "first", "second", "third", "fourth", "fifth" }`,
	}, "\n"), `"all"`))
	m.start()
	m.dialogue(append(begin(), "RCPT TO:<bad@example.org>", "^550 5.7.1 not this one", "DATA", "^354", "Subject: x\r\n\r\nx\r\n..\r\n.", "^250", "QUIT", "^221")...)
	m.wait(`mda delivery .* result=Ok`)
	want := regexp.MustCompile(`(?s)^Return-Path: <third@example\.com>\nDelivered-To: \S+\nX-Third: 3\nX-Second: 2\nX-First: 1\nReceived: .*\n\nx\n\.$`)
	if mails := m.mails(); len(mails) != 1 || !want.MatchString(mails[0]) {
		t.Errorf("the Maildir holds %q, want %q", mails, want)
	}
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`\|mail-from\|[0-9a-f]{16}\|[0-9a-f]{16}\|second@example\.com\n`).Match(b) {
		t.Errorf("the second filter was not asked about what the first had made of the sender:\n%s", b)
	}
}

func TestChunkedTextPassesThroughFilters(t *testing.T) {
	t.Parallel()
	m := startMTA(t, filtered(`filter "f" proc-exec `+filterCommand(t, allPhases, "add=X-Added:+1"), `"f"`))
	c := m.dialogue(begin()...)
	if _, err := c.W.WriteString("BDAT 16\r\nSubject: x\r\n\r\n.aBDAT 5 LAST\r\nb\r\n.c"); err != nil {
		t.Fatal(err)
	}
	m.talk(c, "", "^250") // the blank line is the end of the command that follows the chunks
	m.wait(`mda delivery .* result=Ok`)
	want := regexp.MustCompile(`(?s)\nX-Added: 1\nReceived: .*\n\n\.ab\n\.c$`)
	if mails := m.mails(); len(mails) != 1 || !want.MatchString(mails[0]) {
		t.Errorf("the Maildir holds %q, want %q", mails, want)
	}
}

func TestFilterThatFailsIsTreatedAsConfigured(t *testing.T) {
	t.Parallel()
	mail := func(answer string) []string {
		return []string{"^220", "EHLO a.example", "^250", "MAIL FROM:<x@y.example>", answer}
	}
	for _, tt := range []struct {
		name, command, options string
		steps                  []string
		log                    string
	}{
		{"dies, tempfail", "mail-from=die", "", mail("^451 4.3.0"), `filter process f: it closed its output; starting it again`},
		{"dies, bypass", "mail-from=die", "on-failure bypass", mail("^250"), `filter process f ended: exit status 3`},
		{"dies before it was asked anything that counts", "helo=die", "", []string{"^220", "HELO a.example", "^250", "MAIL FROM:<x@y.example>", "^250"}, `filter process f ended`},
		{"hangs, tempfail", "mail-from=hang", "timeout mail-from 1s", mail("^451 4.3.0"), `no answer to mail-from within 1s`},
		{"hangs, bypass", "mail-from=hang", "on-failure bypass timeout 1s", mail("^250"), `it does not answer any more; starting it again`},
		{"dies within a message", "data-line=die", "on-failure bypass", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^451 4.3.0"), `cause=\"filter f: `},
		{"does not let go of a message", "data-line=hang", "timeout data-line 1s", append(begin(), "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^451 4.3.0"), `no end of the message within 1s`},
		{"talks nonsense", "mail-from=what|is+this", "timeout mail-from 1s", mail("^451 4.3.0"), `unknown result: .*what\|is this`},
		{"is not there", "", "", mail("^451 4.3.0"), `filter process f ended: exit status`},
		{"is not there, bypass", "", "on-failure bypass", mail("^250"), `filter process f ended: exit status`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			command := `"no-such-program"`
			if tt.command != "" {
				command = filterCommand(t, tt.command)
			}
			m := startMTA(t, filtered(`filter "f" proc-exec `+command+" "+tt.options, `"f"`))
			m.dialogue(tt.steps...)
			m.wait(tt.log)
		})
	}
}

// The end of the daemon is the end of a filter's input, and no failure of the filter.
func TestFilterEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	for range 3 {
		m := newMTA(t, "")
		record := m.file("record", "")
		m.writeConf(filtered(`filter "f" proc-exec `+filterCommand(t, "events", "record="+record, "data-line"), `"f"`))
		m.start()
		m.send("somebody@example.org", "text")
		m.stop()
		for _, line := range m.lines() {
			if strings.Contains(line, "filter process") {
				t.Error(line)
			}
		}
		told, err := os.ReadFile(record)
		if err != nil || !strings.Contains(string(told), "|smtp-in|link-disconnect|") {
			t.Errorf("%v; the filter was told:\n%s", err, told)
		}
	}
}

func TestSessionGoesOnWithFilterThatWasStartedAgain(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	record := m.file("record", "")
	m.writeConf(filtered(`filter "f" proc-exec `+filterCommand(t, "mail-from rcpt-to events noop=die record="+record), `"f"`))
	m.start()
	c := m.dialogue("^220", "EHLO client.example.net", "^250", "NOOP", "^250")
	m.wait(`filter process f ended: exit status 3`)
	m.talk(c, "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<somebody@example.org>", "^250", "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .* result=Ok`)
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	_, second, _ := strings.Cut(strings.TrimPrefix(string(b), "<< config"), "<< config|smtpd-version")
	want := regexp.MustCompile(`(?s)register\|ready\n<< report\S+\|link-connect\|\S+\n<< report\S+\|link-greeting\|.*\n<< report\S+\|link-identify\|\w+\|EHLO\|client\.example\.net\n.*\|mail-from\|`)
	if !want.MatchString(second) {
		t.Errorf("the second life of the filter was told\n%s\nwhich does not match\n%s", second, want)
	}
}

func TestRelayFilterDecidesOnOutgoingMail(t *testing.T) {
	t.Parallel()
	far := startMTA(t, keepAll)
	m := newMTA(t, "")
	record := m.file("record", "")
	host, port, _ := strings.Cut(far.addr, ":")
	m.writeConf(prelude + `
filter "f" proc-exec ` + filterCommand(t, "out:mail-from=rewrite|<changed@example.net>", "out:rcpt-to", "out:data-line", "add=X-Out:+1", "out:commit", "events", "record="+record) + `
filter "g" phase rcpt-to match rcpt-to { "bad@example.org" } reject "550 5.7.1 not to this one"
filter "all" chain { "f", "g" }
action "out" relay host "smtp+notls://` + host + ":" + port + `" filter "all"
match from any for any action "out"
`)
	m.start()
	m.dialogue(append(begin(), "RCPT TO:<bad@example.org>", "^250", "DATA", "^354", "Subject: x\r\n\r\nx\r\n.", "^250", "QUIT", "^221")...)
	m.wait(`mta delivery .*to=<bad@example\.org>.* result="PermFail" stat=".*not to this one`)
	m.wait(`mta delivery .*to=<somebody@example\.org>.* result="Ok"`)
	far.wait(`mda delivery .* result=Ok`)
	want := regexp.MustCompile(`(?s)^Return-Path: <changed@example\.net>\nDelivered-To: somebody@example\.org\nReceived: .*\nX-Out: 1\nReceived: .*\n\nx$`)
	if mails := far.mails(); len(mails) != 1 || !want.MatchString(mails[0]) {
		t.Errorf("the Maildir of the far host holds %q, want %q", mails, want)
	}
	m.stop() // then it has been told all
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`link-connect\|%s\|[^|]*\|\w+\|127\.0\.0\.1:\d+\|` + regexp.QuoteMeta(far.addr), `link-greeting\|%s\|mx\.example\.org`, `link-identify\|%s\|EHLO\|`,
		`protocol-client\|%s\|EHLO `, `protocol-server\|%s\|220 `, `tx-begin\|%s\|[0-9a-f]{8}`, `tx-mail\|%s\|[0-9a-f]{8}\|ok\|changed@example\.net`,
		`tx-envelope\|%s\|[0-9a-f]{8}\|[0-9a-f]{16}`, `tx-rcpt\|%s\|[0-9a-f]{8}\|ok\|somebody@example\.org`, `tx-commit\|%s\|[0-9a-f]{8}\|\d+`, `tx-reset\|%s\|[0-9a-f]{8}`,
	} {
		if !regexp.MustCompile(`\|smtp-out\|` + strings.ReplaceAll(line, "%s", "[0-9a-f]{16}")).Match(b) {
			t.Errorf("the filter was not told of %s:\n%s", line, b)
		}
	}
}

// expected is what a filter of OpenSMTPD 7.8 was told in a session, made comparable; see
// comparable. The dialogue of the session is in the test.
func expected(t *testing.T) (reports, text []string) {
	t.Helper()
	b, err := os.ReadFile("../../filter/wire/testdata/session.txt")
	if err != nil {
		t.Fatal(err)
	}
	return comparable(string(b))
}

// documented are lines that only we have, or only the original: the words of EHLO and
// HELP, and what is done to a submitted message before filters see it.
var documented = regexp.MustCompile(`protocol-server\|S\|250[- ](PIPELINING|CHUNKING|SMTPUTF8|LIMITS .*)$|protocol-server\|S\|214|data-line\|S\|T\|(Date|Message-ID): `)

// comparable takes the lines that a filter was told, without what differs from session to
// session, and the lines of messages apart from the rest: those are not ordered among
// each other.
func comparable(record string) (reports, text []string) {
	for _, r := range []struct{ from, to string }{
		{`\|0\.7\|\d+\.\d+\|`, "|"},
		{`\|[0-9a-f]{16}\|[0-9a-f]{16}\|`, "|S|T|"}, // session and token
		{`(tx-envelope)\|[0-9a-f]{16}\|[0-9a-f]{8}\|[0-9a-f]{16}`, "$1|S|M|E"},
		{`\|[0-9a-f]{16}(\||\n)`, "|S$1"},
		{`\|S\|[0-9a-f]{8}(\||\n)`, "|S|M$1"},
		{`127\.0\.0\.1:\d+`, "127.0.0.1:PORT"},
		{`(Accepted|250 2\.0\.0) [0-9a-f]{8} `, "$1 M "},
		{`id [0-9a-f]{8}`, "id M"},
		{`\t\w{3}, \d+ \w{3} \d{4} [0-9:]+ \S+ \S+`, "\tDATE"},
		{`tx-commit\|S\|M\|\d+`, "tx-commit|S|M|SIZE"},
	} {
		record = regexp.MustCompile(r.from).ReplaceAllString(record, r.to)
	}
	for line := range strings.SplitSeq(record, "\n") {
		line, ok := strings.CutPrefix(line, "<< ")
		switch {
		case !ok || strings.HasPrefix(line, "config|") || documented.MatchString(line):
		case strings.Contains(line, "|data-line|"):
			text = append(text, line)
		default:
			reports = append(reports, line)
		}
	}
	return reports, text
}

func TestFilterIsToldWhatTheOriginalTells(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	record := m.file("record", "")
	conf := strings.ReplaceAll(filtered(`filter "f" proc-exec `+filterCommand(t, allPhases, "events", "record="+record), `"f"`), "example.org", "test")
	m.writeConf(strings.ReplaceAll(conf, `"test"`, `"mx.test"`) + "\n")
	b, err := os.ReadFile(m.conf)
	if err != nil {
		t.Fatal(err)
	}
	m.writeConf(strings.ReplaceAll(string(b), `"@test"`, `"@mx.test"`))
	m.start()
	m.dialogue("^220", "EHLO cli.test", "^250", "MAIL FROM:<a@b.c> SIZE=3", "^250", "RCPT TO:<root+ext@mx.test>", "^250",
		"RCPT TO:<pipe@mx.test>", "^250", "DATA", "^354", "Subject: f\r\n\r\nx|y\r\n..z\r\n.", "^250", "HELP", "^214", "RSET", "^250",
		"NOOP", "^250", "QUIT", "^221")
	m.wait(`smtp disconnected`)
	m.stop() // then it has been told all
	if b, err = os.ReadFile(record); err != nil {
		t.Fatal(err)
	}
	reports, text := comparable(string(b))
	wantReports, wantText := expected(t)
	for _, c := range []struct{ got, want []string }{{reports, wantReports}, {text, wantText}} {
		if got, want := strings.Join(c.got, "\n"), strings.Join(c.want, "\n"); got != want {
			t.Errorf("the filter was told\n%s\n\nand the original tells\n%s", got, want)
		}
	}
}

// A client whose session has not begun for filters when the configuration is replaced
// still meets those that it was accepted under.
func TestReloadLeavesFiltersToClientsThatWereAccepted(t *testing.T) {
	t.Parallel()
	conf := func(answer string) string {
		return filtered(`filter "f" proc-exec `+filterCommand(t, "mail-from=reject|550+"+answer), `"f" proxy`)
	}
	m := startMTA(t, conf("old"))
	c, err := textproto.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.writeConf(conf("new"))
	m.hangUp()
	m.wait(`configuration reloaded`)
	m.talk(c, "PROXY TCP4 192.0.2.7 192.0.2.8 1111 25", "^220", "EHLO client.example.net", "^250", "MAIL FROM:<a@b.example>", `^550 5\.0\.0 (old|new)`)
}

// Limits of a new configuration hold for new sessions.
func TestReloadChangesLimitsOfSessions(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	m.dialogue("^220", "NOOP", "^250") // stays
	m.writeConf("smtp limit max-session-per-source 1\n" + keepAll)
	m.hangUp()
	m.wait(`configuration reloaded`)
	m.dialogue("^421 4.7.0")
	m.writeConf("smtp limit max-session 1\n" + keepAll)
	m.hangUp()
	m.wait(`configuration reloaded`)
	m.dialogue("^421 4.7.0")
	m.writeConf(keepAll)
	m.hangUp()
	m.wait(`configuration reloaded`)
	m.dialogue("^220", "QUIT", "^221")
}

// A client that goes away within the text has not sent a message.
func TestFilterIsNotGivenAPartOfAMessageForTheWhole(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	record := m.file("record", "")
	m.writeConf(filtered(`filter "f" proc-exec `+filterCommand(t, "data-line", "events", "record="+record), `"f"`))
	m.start()
	c := m.dialogue(append(begin(), "DATA", "^354")...)
	if err := c.PrintfLine("Subject: x\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	m.wait(`smtp disconnected reason=disconnect`)
	m.stop() // then it has been told all
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if told := string(b); !strings.Contains(told, "|half\n") || strings.Contains(told, "|.\n") || !strings.Contains(told, "|tx-rollback|") {
		t.Errorf("the filter was told\n%s", told)
	}
}
