package header

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 3, 22, 21, 12, 0, time.UTC)

// edit passes in through an editor in pieces of n bytes.
func edit(e *Editor, in string, n int) string {
	var out []byte
	p := []byte(in)
	for len(p) > n {
		out = e.Edit(out, p[:n])
		p = p[n:]
	}
	return string(e.End(e.Edit(out, p)))
}

var messageID = regexp.MustCompile(`Message-ID: <[0-9a-f]{16}@`)

func TestSubmissionIsCompleted(t *testing.T) {
	t.Parallel()
	const stamps = "Date: Tue, 3 Nov 2026 22:21:12 +0000 (UTC)\nMessage-ID: <ID@h.test>\n"
	const have = "Date: x\nMessage-ID: <y>\n"
	for _, tt := range []struct{ name, in, want string }{
		{"empty message gets both stamps", "", stamps},
		{"stamps go to the end of the block", "Subject: a\n\nbody\n", "Subject: a\n" + stamps + "\nbody\n"},
		{"stamps present are kept, any case", "DATE: x\nmessage-id : <y>\n\nb\n", "DATE: x\nmessage-id : <y>\n\nb\n"},
		{"bcc is dropped with its folding", have + "Bcc: a@b,\n c@d\nTo: e@f\n\n", have + "To: e@f\n\n"},
		{"bcc in the body stays", have + "\nBcc: a\n", have + "\nBcc: a\n"},
		{"bare address", have + "To: joe\n\n", have + "To: joe@h.test\n\n"},
		{"list, qualified ones untouched", have + "To: joe, ann@x , bob\n\n", have + "To: joe@h.test, ann@x , bob@h.test\n\n"},
		{"inside brackets, folding kept", have + "Cc: \"Joe, X\"\n\t<joe>,\n ann <ann@x>\n\n", have + "Cc: \"Joe, X\"\n\t<joe@h.test>,\n ann <ann@x>\n\n"},
		{"comments are skipped", have + "From: joe (a, b@c)\n\n", have + "From: joe@h.test (a, b@c)\n\n"},
		{"quoted local part", have + "From: \"a b\"\n\n", have + "From: \"a b\"@h.test\n\n"},
		{"groups are left alone", have + "To: friends: joe, ann;\n\n", have + "To: friends: joe, ann;\n\n"},
		{"unbalanced quotes are left alone", have + "To: \"joe\n\n", have + "To: \"joe\n\n"},
		{"unbalanced brackets are left alone", have + "To: <joe, ann\n\n", have + "To: <joe, ann\n\n"},
		{"words without brackets are left alone", have + "To: Joe Doe\n\n", have + "To: Joe Doe\n\n"},
		{"null brackets are left alone", have + "To: <>\n\n", have + "To: <>\n\n"},
		{"other fields are left alone", have + "Reply-To: joe\n\n", have + "Reply-To: joe\n\n"},
		{"headers only, no empty line", have + "To: joe\n", have + "To: joe@h.test\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range []int{1, 3, 7, 10000} {
				var e Editor
				e.Reset(Options{Submission: true, Hostname: "h.test", Now: now})
				got := messageID.ReplaceAllString(edit(&e, tt.in, n), "Message-ID: <ID@")
				if got != tt.want || e.Err() != nil {
					t.Errorf("in pieces of %d: %q\n got %q, %v\nwant %q", n, tt.in, got, e.Err(), tt.want)
				}
			}
		})
	}
}

func TestFromIsMasqueraded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"bare", "From: ceo@bank.test\n\n", "From: me@x\n\n"},
		{"name is kept", "From: \"The CEO\" <ceo@bank.test>\n\n", "From: \"The CEO\" <me@x>\n\n"},
		{"each of several", "From: a@b, C <c@d>\n\n", "From: me@x, C <me@x>\n\n"},
		{"what is not understood goes", "From: x <a@b\n\n", "From: <me@x>\n\n"},
		{"no address at all", "From: \n\n", "From: <me@x>\n\n"},
		{"others stay", "To: a@b\nSender: c@d\n\n", "To: a@b\nSender: c@d\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e Editor
			e.Reset(Options{Masquerade: "me@x"})
			if got := edit(&e, tt.in, 4); got != tt.want {
				t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestForeignMailIsNotChanged(t *testing.T) {
	t.Parallel()
	const in = "Received: a\nreceived : b\n c\nBcc: x\nTo: joe\nX\tY: odd but a field\n\nReceived: not a field\n"
	var e Editor
	e.Reset(Options{})
	if got := edit(&e, in, 5); got != in {
		t.Errorf("got %q, want %q", got, in)
	}
	if e.Hops() != 2 || !e.Done() || e.Err() != nil {
		t.Errorf("hops %d, done %v, error %v; want 2, true, nil", e.Hops(), e.Done(), e.Err())
	}
}

func TestMalformedBlockIsNoticed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"text without header", "hello\n", ErrMalformed},
		{"continuation first", " a: b\n", ErrMalformed},
		{"text behind fields", "A: b\nhello\n\n", ErrMalformed},
		{"empty name", ": b\n", ErrMalformed},
		{"longest name", strings.Repeat("a", 1023) + ": b\n", nil},
		{"name too long", strings.Repeat("a", 1024) + ": b\n", ErrMalformed},
		{"text in a line without end", "hello", ErrMalformed},
		{"field to edit too long", "To: " + strings.Repeat("a@b,\n ", 11000) + "\n", ErrTooLarge},
		{"other field may be long", "X: " + strings.Repeat("a@b,\n ", 11000) + "\n", nil},
		{"block too long", strings.Repeat("A: b\n", 210000), ErrTooLarge},
		{"line too long for the block", strings.Repeat("A", 1<<20+1), ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e Editor
			e.Reset(Options{Submission: true, Hostname: "h", Now: now})
			edit(&e, tt.in, 4096)
			if !errors.Is(e.Err(), tt.want) {
				t.Errorf("got %v, want %v", e.Err(), tt.want)
			}
		})
	}
}

// FuzzEditor: how the input is cut into pieces does not matter, a foreign message
// comes through unchanged or is malformed, and completing a completed message
// changes nothing.
func FuzzEditor(f *testing.F) {
	for _, s := range []string{
		"", "\n", "To: a\n\nb\n", "Bcc: a\n b\nFrom: \"x\" <a>, (c) d\nReceived: x\n\n", "From: a\\\n", "To: <a b>\n",
		"To: \"\\\"\n", "a", " ", "To: ((a)) b <\"q r\"> , c\n", "Date: x\nMessage-ID: y\nTo: a;b\n",
	} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 1 || strings.Contains(s, "\r") {
			return
		}
		var e Editor
		e.Reset(Options{})
		if got := edit(&e, s, n); e.Err() == nil && strings.TrimSuffix(got, "\n") != strings.TrimSuffix(s, "\n") {
			t.Errorf("foreign message %q became %q", s, got)
		}
		o := Options{Submission: true, Hostname: "h.test", Now: now}
		e.Reset(o)
		a := edit(&e, s, n)
		err := e.Err()
		e.Reset(o)
		b := edit(&e, s, len(s)+1)
		a, b = messageID.ReplaceAllString(a, "Message-ID: <ID@"), messageID.ReplaceAllString(b, "Message-ID: <ID@")
		if (err == nil) != (e.Err() == nil) || err == nil && a != b {
			t.Errorf("%q in pieces of %d: %q %v, whole: %q %v", s, n, a, err, b, e.Err())
		}
		if err != nil {
			return
		}
		e.Reset(o)
		if c := edit(&e, b, 5); e.Err() == nil && c != b {
			t.Errorf("completing twice: %q became %q", b, c)
		}
	})
}

func BenchmarkForeignMessage(b *testing.B) {
	msg := []byte(strings.Repeat("Received: from a by b with SMTP id 12345678; Tue, 3 Nov 2026\n", 5) +
		"From: a@b\nTo: c@d\nSubject: x\n\n" + strings.Repeat("text text text text text text text\n", 20))
	var e Editor
	var out []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		e.Reset(Options{})
		out = e.End(e.Edit(out[:0], msg))
	}
}
