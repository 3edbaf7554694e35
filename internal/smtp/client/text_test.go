package client

import (
	"bytes"
	"strings"
	"testing"
)

func TestEncoder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"lines", "a\nb\n", "a\r\nb\r\n"},
		{"a last line without end", "a", "a\r\n"},
		{"dots at the beginning of lines", ".\n..\na.\n.a\n", "..\r\n...\r\na.\r\n..a\r\n"},
		{"CRLF is a line end", "a\r\n.\r\nb", "a\r\n..\r\nb\r\n"},
		{"other CRs are none", "a\rb\n\r.\n\r\r\n.\n", "a b\r\n .\r\n \r\n..\r\n"},
		{"a CR at the end", "a\r", "a\r\n"},
		{"a CR alone", "\r", "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= max(len(tt.in), 1); size++ {
				if got := encodeIn(tt.in, size, true); got != tt.want {
					t.Errorf("%q in pieces of %d: %q, want %q", tt.in, size, got, tt.want)
				}
			}
		})
	}
}

// encodeIn encodes text in pieces of size.
func encodeIn(text string, size int, stuff bool) string {
	var e encoder
	var out []byte
	for len(text) > 0 {
		n := min(size, len(text))
		out = e.add(out, []byte(text[:n]), stuff)
		text = text[n:]
	}
	return string(e.end(out))
}

// FuzzEncoder: what is sent has no CR or LF but in CRLF, no line that is a lone dot,
// does not depend on how the text arrives, and read back by the rules of RFC 5321
// gives the text, if that had no CR.
func FuzzEncoder(f *testing.F) {
	for _, s := range []string{"", "a\n.\nb", "\r\n.\r\n", "\n.\r", ".\r\r\n."} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, text string, size int) {
		sent := encodeIn(text, len(text)+1, true)
		if size > 0 {
			if got := encodeIn(text, size, true); got != sent {
				t.Fatalf("in pieces of %d %q, at once %q", size, got, sent)
			}
		}
		if strings.ContainsAny(strings.ReplaceAll(sent, "\r\n", ""), "\r\n") {
			t.Fatalf("bare CR or LF in %q", sent)
		}
		if strings.Contains("\r\n"+sent, "\r\n.\r\n") {
			t.Fatalf("end of message within %q", sent)
		}
		if strings.Contains(text, "\r") {
			return
		}
		back := strings.ReplaceAll(strings.ReplaceAll("\r\n"+sent, "\r\n.", "\r\n"), "\r\n", "\n")[1:]
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		if back != text {
			t.Fatalf("%q reads back as %q", text, back)
		}
	})
}

func BenchmarkEncoder(b *testing.B) {
	text := []byte(strings.Repeat(strings.Repeat("x", 76)+"\n", 1000))
	var e encoder
	var out []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		out = e.add(out[:0], text, true)
	}
	if !bytes.HasSuffix(out, []byte("x\r\n")) {
		b.Fatal("text is lost")
	}
}
