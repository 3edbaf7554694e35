package dsn

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	now     = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	arrival = now.Add(-5 * time.Hour)
	ann     = smtp.Path{Local: "ann", Domain: "a.example"}
	bob     = smtp.Path{Local: "bob", Domain: "b.example"}
)

const text = `Received: from client.example by mx.a.example;
	Tue, 24 Nov 2026 03:00:00 +0000
Message-ID: <1234@a.example>
From: Ann <ann@a.example>
Subject: lunch

At noon?
`

func report(original string) *Report {
	return &Report{
		ReportingMTA: "mx.a.example", ID: "5b1f0c4a.1", To: ann, Arrival: arrival, Now: now, Type: envelope.BounceFailed,
		Original: strings.NewReader(original), Size: int64(len(original)),
		Recipients: []Recipient{{
			Rcpt: bob, Action: Failed, Status: smtp.EnhancedCode{5, 1, 1}, RemoteMTA: "mx.b.example",
			Diagnostic: "550 5.1.1 no such user here", LastAttempt: now.Add(-time.Minute),
		}},
	}
}

func compose(t *testing.T, r *Report) Message {
	t.Helper()
	m, err := Compose(r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNotificationsReadAsTheyShould(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file string
		make func() *Report
	}{
		{"failed", func() *Report {
			r := report(text)
			r.EnvID = "a+2Bb"
			r.Recipients[0].OrigRcpt = "rfc822;Bob+2Bx@b.example"
			r.Recipients = append(r.Recipients,
				Recipient{Rcpt: smtp.Path{Local: "eve", Domain: "b.example"}, Action: Failed, Status: smtp.EnhancedCode{4, 4, 7}, Diagnostic: "Envelope expired"},
				Recipient{Rcpt: smtp.Path{Local: "joe", Domain: "b.example"}, Action: Failed, Status: smtp.EnhancedCode{5, 1, 1}, RemoteMTA: "mx.b.example", Diagnostic: "550 5.1.1 no such user here"},
				Recipient{Rcpt: smtp.Path{Local: "zoe", Domain: "b.example"}, Action: Failed, Diagnostic: "550-5.7.1 " + strings.Repeat("a very long story ", 12)},
			)
			return r
		}},
		{"full", func() *Report { r := report(text); r.Full = true; return r }},
		{"delayed", func() *Report {
			r := report(text)
			r.Type = envelope.BounceDelayed
			r.Full = true // of no effect
			r.Recipients = []Recipient{FromEnvelope(&envelope.Envelope{
				Rcpt: bob, Dest: smtp.Path{Local: "secret", Domain: "c.example"}, Created: arrival, TTL: 96 * time.Hour,
				LastTry: now, Status: smtp.EnhancedCode{4, 7, 1}, ErrorLine: "451 4.7.1 Greylisted",
			}, Delayed)}
			return r
		}},
		{"delivered", func() *Report {
			r := report(text)
			r.Type = envelope.BounceDelivered
			r.Recipients = []Recipient{{Rcpt: bob, Action: Delivered}, {Rcpt: ann, Action: Relayed, RemoteMTA: "old.example", Diagnostic: "250 ok"}}
			return r
		}},
		{"utf8", func() *Report {
			r := report(strings.ReplaceAll(text, "lunch", "Mittagessen für Jürgen"))
			r.UTF8 = true
			r.To = smtp.Path{Local: "änn", Domain: "a.example"}
			r.Recipients[0].Rcpt = smtp.Path{Local: "jürgen", Domain: "b.example"}
			r.Recipients[0].OrigRcpt = "utf-8;jürgen@b.example"
			return r
		}},
		{"utf8-to-ascii", func() *Report {
			r := report(strings.ReplaceAll(text, "lunch", "Mittagessen für Jürgen"))
			r.Recipients[0].Rcpt = smtp.Path{Local: "jürgen", Domain: "b.example"}
			return r
		}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			got := compose(t, tt.make()).Body
			name := filepath.Join("testdata", tt.file+".golden")
			if *update {
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			check(t, got)
		})
	}
}

// check asserts what holds for every notification and returns the bodies of its parts.
func check(t *testing.T, body []byte) (types []string, parts [][]byte) {
	t.Helper()
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		if len(line) > 998 {
			t.Errorf("line of %d bytes", len(line))
		}
	}
	if bytes.ContainsAny(body, "\r\x00") {
		t.Error("CR or NUL in the notification")
	}
	m, err := mail.ReadMessage(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.Header["Content-Type"]); n != 1 {
		t.Fatalf("%d Content-Type fields", n)
	}
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" {
		t.Fatalf("type %q, %v", typ, err)
	}
	if got := m.Header.Get("Auto-Submitted"); got != "auto-replied" {
		t.Errorf("Auto-Submitted: %q", got)
	}
	mr := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("part %d: %v", len(parts)+1, err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		eightBit := p.Header.Get("Content-Transfer-Encoding") == "8bit"
		if isASCII(b) == eightBit {
			t.Errorf("part %d: ASCII %v, declared 8bit %v", len(parts)+1, isASCII(b), eightBit)
		}
		types = append(types, p.Header.Get("Content-Type"))
		parts = append(parts, b)
	}
	if len(parts) < 2 || len(parts) > 3 || !strings.HasSuffix(types[1], params["report-type"]) {
		t.Fatalf("parts %q of report type %q", types, params["report-type"])
	}
	return types, parts
}

func TestWhatIsReturnedOfTheOriginal(t *testing.T) {
	t.Parallel()
	big := "Subject: x\n\n" + strings.Repeat("0123456789012345678901234567890\n", 3000)
	for _, tt := range []struct {
		name, original string
		full           bool
		typ, want      string // want: the end of the third part
	}{
		{"header by default", text, false, "text/rfc822-headers", "Subject: lunch\n"},
		{"whole if asked", text, true, "message/rfc822", "\nAt noon?\n"},
		{"not if too large", big, true, "text/rfc822-headers", "Subject: x\n"},
		{"not with a line too long to send", "Subject: x\n\n" + strings.Repeat("x", 999) + "\n", true, "text/rfc822-headers", "Subject: x\n"},
		{"not with NUL", "Subject: x\n\na\x00b\n", true, "text/rfc822-headers", "Subject: x\n"},
		{"long header line is cut", "X-Long: " + strings.Repeat("x", 2000) + "\n\n", false, "text/rfc822-headers", "x\n"},
		{"no header", "\nbody\n", false, "text/rfc822-headers", ""},
		{"nothing at all", "", true, "message/rfc822", ""},
		{"header without end", "Subject: x", false, "text/rfc822-headers", "Subject: x\n"},
		{"endless header", strings.Repeat("X-Pad: 0123456789\n", 10000), false, "text/rfc822-headers", "X-Pad: 0123456789\n"},
		{"bytes that are no text", "Subject: \xff\x01\n\n", false, "text/rfc822-headers", "Subject: ? \n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := report(tt.original)
			r.Full = tt.full
			m := compose(t, r)
			types, parts := check(t, m.Body)
			if types[2] != tt.typ || !strings.HasSuffix(string(parts[2]), tt.want) || tt.want == "" && len(parts[2]) > 0 {
				t.Errorf("part of type %q ends %q, want %q and %q", types[2], tail(parts[2]), tt.typ, tt.want)
			}
			if len(m.Body) > 128<<10 {
				t.Errorf("notification of %d bytes", len(m.Body))
			}
		})
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-60):] }

func TestBoundaryOccursInNoPart(t *testing.T) {
	t.Parallel()
	p := []part{{body: []byte("--=_dsn_0000000000000007\n")}, {body: []byte("=_dsn_0000000000000008--")}}
	if got := boundary(7, p); got != "=_dsn_0000000000000009" {
		t.Errorf("got %q, want the first that is not used", got)
	}
}

func TestNothingIsSentToNobody(t *testing.T) {
	t.Parallel()
	r := report(text)
	r.To = smtp.Path{}
	if _, err := Compose(r); !errors.Is(err, ErrNoReturnPath) {
		t.Errorf("got %v, want ErrNoReturnPath", err)
	}
	r = report(text)
	r.Recipients = nil
	if _, err := Compose(r); err == nil {
		t.Error("a notification about nobody was made")
	}
}

func TestUnreadableOriginalIsAnError(t *testing.T) {
	t.Parallel()
	r := report(text)
	broken := errors.New("input/output error")
	r.Original = iotest.ErrReader(broken)
	if _, err := Compose(r); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

func TestSMTPUTF8IsAskedForOnlyByTheHeader(t *testing.T) {
	t.Parallel()
	r := report(strings.ReplaceAll(text, "lunch", "für"))
	r.UTF8 = true
	if m := compose(t, r); m.UTF8 || !m.EightBit {
		t.Errorf("ASCII sender, UTF-8 header returned: %+v", m)
	}
	if m := compose(t, report(text)); m.UTF8 || m.EightBit {
		t.Error("an ASCII notification asks for more than 7 bits")
	}
	r = report(text)
	r.UTF8, r.To.Local = true, "änn"
	if m := compose(t, r); !m.UTF8 || !m.EightBit {
		t.Error("a sender outside ASCII needs SMTPUTF8")
	}
}

func TestClassOfTheStatusFollowsTheAction(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		action Action
		in     smtp.EnhancedCode
		want   string
	}{
		{Failed, smtp.EnhancedCode{4, 4, 6}, "5.4.6"}, // a loop, once temporary
		{Failed, smtp.EnhancedCode{5, 1, 1}, "5.1.1"},
		{Failed, smtp.EnhancedCode{}, "5.0.0"},
		{Delayed, smtp.EnhancedCode{}, "4.0.0"},
		{Delivered, smtp.EnhancedCode{}, "2.0.0"},
		{Relayed, smtp.EnhancedCode{2, 1, 5}, "2.1.5"},
	} {
		if got := status(&Recipient{Action: tt.action, Status: tt.in}).String(); got != tt.want {
			t.Errorf("%s with %v: got %s, want %s", tt.action, tt.in, got, tt.want)
		}
	}
}

func TestThousandRecipientsOfOneReasonAreOneGroup(t *testing.T) {
	t.Parallel()
	r := report(text)
	r.Recipients = nil
	for n := range 1000 {
		r.Recipients = append(r.Recipients, Recipient{Rcpt: smtp.Path{Local: fmt.Sprint("u", n), Domain: "b.example"}, Action: Failed, Diagnostic: "550 closed"})
	}
	_, parts := check(t, compose(t, r).Body)
	if n := strings.Count(string(parts[0]), "550 closed"); n != 1 {
		t.Errorf("the reason is told %d times to people, want once", n)
	}
	if n := strings.Count(string(parts[1]), "\nFinal-Recipient: rfc822; u"); n != 1000 {
		t.Errorf("%d recipients for programs, want 1000", n)
	}
}

// Whatever the peer, the sender and the original say, the notification is one
// proper report of which every line can be sent.
func FuzzCompose(f *testing.F) {
	f.Add(text, "550 no", "mx.b.example", "rfc822;a+2Bb@c", "bob", true, true)
	f.Add("Message-ID: <a@b>\r\nX: \n y\n\n--=_dsn_\n", "550\r\nX: y\x00", "h\nh", ";+", "a\nb", false, false)
	f.Add(strings.Repeat("\u00e4", 1200), strings.Repeat("x", 3000), "", "utf-8;\\x{E4}@b", "\u00e4\xff", true, false)
	f.Add("\n", "", "", ";"+strings.Repeat("o", 2000), strings.Repeat("l", 2000), false, false)
	f.Fuzz(func(t *testing.T, original, diag, host, orcpt, local string, full, isUTF8 bool) {
		r := report(original)
		r.Full, r.UTF8, r.EnvID = full, isUTF8, orcpt
		r.Recipients[0].Diagnostic, r.Recipients[0].RemoteMTA = diag, host
		r.Recipients[0].OrigRcpt, r.Recipients[0].Rcpt.Local = orcpt, local
		m := compose(t, r)
		types, parts := check(t, m.Body)
		if isASCII(m.Body) == m.EightBit {
			t.Errorf("EightBit %v", m.EightBit)
		}
		whole := types[2] == "message/rfc822" || types[2] == "message/global"
		if !isUTF8 && !whole && m.EightBit {
			t.Error("8-bit notification to a sender without SMTPUTF8")
		}
		if !whole && !utf8.Valid(m.Body) {
			t.Error("notification is not UTF-8")
		}
		fields, err := mail.ReadMessage(bytes.NewReader(append(parts[1], "\n\n"...)))
		if err != nil || fields.Header.Get("Reporting-MTA") == "" {
			t.Errorf("status part: %v", err)
		}
		if n := bytes.Count(parts[1], []byte("\nFinal-Recipient: ")); n != 1 {
			t.Errorf("%d recipients in\n%s", n, parts[1])
		}
	})
}
