package envelope

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// full is an envelope with every field set.
func full() *Envelope {
	return &Envelope{
		Type: MDA, Flags: Authenticated | IsBounce | Internal | EightBit | UTF8,
		Action: "local", Tag: "in", SMTPName: "mx.example.org", HELO: "client", Hostname: "<unknown>",
		Source: "[2001:db8::1]", Username: "ann",
		Sender: smtp.Path{Local: "a b", Domain: "x.org"}, Rcpt: smtp.Path{Local: `q"\@`, Domain: "[192.0.2.1]"},
		Dest: smtp.Path{Local: "postmaster"},
		User: "bob", Exec: "|exec cat > /dev/null", Subaddress: "tag",
		Notify: NotifyFailure | NotifyDelay, Ret: "HDRS", EnvID: "QQ314159", OrigRcpt: "rfc822;bob@x.org",
		BounceType: BounceDelayed, BounceDelay: 4 * time.Hour, BounceTTL: 96 * time.Hour,
		Created: time.Unix(1790000000, 0).UTC(), TTL: 96 * time.Hour, LastTry: time.Unix(1790000100, 0).UTC(),
		NextTry: time.Unix(1790000500, 0).UTC(), LastBounce: time.Unix(1790000200, 0).UTC(), Retry: 3,
		Status: smtp.EnhancedCode{4, 4, 10}, ErrorLine: "451 4.4.10 later: please",
		Relay: "192.0.2.9 (mx.example.com)", Held: "host mx.example.com",
	}
}

func TestTextOfEveryFieldReadsBack(t *testing.T) {
	t.Parallel()
	e := full()
	b, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	if !reflect.DeepEqual(got, e) {
		t.Errorf("text\n%s\ngave %+v\nwant %+v", b, got, e)
	}
	// Each line is needed: none is written for nothing.
	if n, keys := strings.Count(string(b), "\n"), len(keys)-2; n != keys {
		t.Errorf("%d lines for %d keys:\n%s", n, keys, b)
	}
}

const version3 = `version: 3
dispatcher: local_mail
type: mda
smtpname: mx.example.org
helo: localhost
hostname: localhost
errorline: mail.maildir: exit
sockaddr: local
sender: @
rcpt: bob@mx.example.org
dest: bob@mx.example.org
ctime: 1700000000
last-try: 1700000100
ttl: 0
retry: 2
flags: bounce|internal, authenticated
dsn-notify: 3
dsn-ret: FULL
dsn-envid: e1
dsn-orcpt: rfc822;bob@mx.example.org
esc-class: 4
esc-code: 46
mda-exec: exec cat
mda-user: bob
mda-subaddress: x
`

func TestVersionThreeIsRead(t *testing.T) {
	t.Parallel()
	got, err := Parse([]byte(version3))
	if err != nil {
		t.Fatal(err)
	}
	bob := smtp.Path{Local: "bob", Domain: "mx.example.org"}
	want := &Envelope{
		Type: MDA, Flags: IsBounce | Internal | Authenticated, Action: "local_mail", SMTPName: "mx.example.org",
		HELO: "localhost", Hostname: "localhost", Source: "local", Rcpt: bob, Dest: bob,
		User: "bob", Exec: "|exec cat", Subaddress: "x", Notify: NotifySuccess | NotifyFailure, Ret: "FULL",
		EnvID: "e1", OrigRcpt: "rfc822;bob@mx.example.org", Created: time.Unix(1700000000, 0).UTC(),
		LastTry: time.Unix(1700000100, 0).UTC(), Retry: 2, Status: smtp.EnhancedCode{4, 4, 6},
		ErrorLine: "mail.maildir: exit",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestBadTextsAreRefused(t *testing.T) {
	t.Parallel()
	good, err := full().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("no %q in the text", old)
		}
		return strings.Replace(string(good), old, new, 1)
	}
	for _, tt := range []struct{ name, in string }{
		{"empty", ""},
		{"cut in the last line", string(good[:len(good)-2])},
		{"cut after a line", string(good[:strings.Index(string(good), "ctime")])},
		{"unknown key", string(good) + "colour: red\n"},
		{"repeated key", string(good) + "tag: in\n"},
		{"no colon", string(good) + "tag\n"},
		{"empty line", string(good) + "\n"},
		{"carriage return", replace("tag: in", "tag: in\r")},
		{"NUL", replace("tag: in", "tag: i\x00n")},
		{"version 2", replace("version: 4", "version: 2")},
		{"version 5", replace("version: 4", "version: 5")},
		{"type", replace("type: mda", "type: mbox")},
		{"flag", replace("utf8", "utf7")},
		{"negative time", replace("ctime: ", "ctime: -")},
		{"huge time", replace("ctime: ", "ctime: 99999999")},
		{"huge ttl", replace("\nttl: ", "\nttl: 99999999")},
		{"retry", replace("retry: 3", "retry: 4294967296")},
		{"status of two parts", replace("status: 4.4.10", "status: 4.4")},
		{"status of four parts", replace("status: 4.4.10", "status: 4.4.1.0")},
		{"status part too large", replace("status: 4.4.10", "status: 4.4.256")},
		{"notify", replace("dsn-notify: 6", "dsn-notify: 16")},
		{"ret", replace("HDRS", "BODY")},
		{"bounce-type", replace("bounce-type: delayed", "bounce-type: late")},
		{"open quote", replace(`"a b"@x.org`, `"a b@x.org`)},
		{"text behind quote", replace(`"a b"@x.org`, `"a b"c@x.org`)},
		{"no domain behind at", replace(`"a b"@x.org`, `"a b"@`)},
		{"no sender", replace("sender", "username")},
		{"too long", replace("tag: in", "tag: "+strings.Repeat("x", MaxText))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if e, err := Parse([]byte(tt.in)); err == nil {
				t.Errorf("parsed as %+v", e)
			}
		})
	}
}

func TestUnwritableEnvelopesAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(*Envelope)
	}{
		{"line feed injects a key", func(e *Envelope) { e.ErrorLine = "x\nmda-exec: |sh" }},
		{"carriage return", func(e *Envelope) { e.HELO = "x\r" }},
		{"NUL", func(e *Envelope) { e.Hostname = "\x00" }},
		{"line feed in a local part", func(e *Envelope) { e.Rcpt.Local = "a\nb" }},
		{"line feed in a domain", func(e *Envelope) { e.Dest.Domain = "a\nb" }},
		{"at sign in a domain", func(e *Envelope) { e.Dest.Domain = "a@b" }},
		{"no type", func(e *Envelope) { e.Type = 0 }},
		{"bounce type", func(e *Envelope) { e.BounceType = 9 }},
		{"flag", func(e *Envelope) { e.Flags = 1 << 7 }},
		{"time before 1970", func(e *Envelope) { e.Created = time.Unix(-1, 0) }},
		{"negative ttl", func(e *Envelope) { e.TTL = -time.Hour }},
		{"too long", func(e *Envelope) { e.Exec = "|" + strings.Repeat("x", MaxText) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := full()
			tt.spoil(e)
			if b, err := e.Append([]byte("kept")); err == nil || string(b) != "kept" {
				t.Errorf("got %q, %v, want an error and dst as it was", b, err)
			}
		})
	}
}

func TestCleanGivesOneShortPrintableLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "550 5.1.1 no such user", "550 5.1.1 no such user"},
		{"lines become one", "550-a\r\n550 b\n", "550-a 550 b"},
		{"controls and bad UTF-8", " \x00a\x1b\xffb\u2028é ", "a ?b?é"},
		{"long", strings.Repeat("é", 2000), strings.Repeat("é", 511)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Clean(tt.in)
			if got != tt.want {
				t.Errorf("Clean(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

// FuzzEnvelope: what parses prints, within the bound of size, and the print
// parses to the same envelope.
func FuzzEnvelope(f *testing.F) {
	b, err := full().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(version3))
	f.Add([]byte("VERSION :4\ntype:mta\nsender: \"\"@x\nrcpt:a@b@c\ndest: \"\\\"\"\ntag:  x \nctime:0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		b, err := e.Append(nil)
		if err != nil {
			if len(data) > MaxText/2 {
				return // quoting may double the length
			}
			t.Fatalf("%q parsed but does not print: %v", data, err)
		}
		again, err := Parse(b)
		if err != nil {
			t.Fatalf("%q prints as %q: %v", data, b, err)
		}
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("%q prints as %q: %+v became %+v", data, b, e, again)
		}
	})
}

// FuzzClean: the result can be stored and is short.
func FuzzClean(f *testing.F) {
	f.Add("a\r\nb\xff")
	f.Fuzz(func(t *testing.T, s string) {
		e := full()
		e.ErrorLine = Clean(s)
		if _, err := e.Append(nil); err != nil || len(e.ErrorLine) > maxErrorLine || !utf8.ValidString(e.ErrorLine) {
			t.Fatalf("Clean(%q) = %q: %v", s, e.ErrorLine, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	e := full()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Append(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text, err := full().Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
