package mda

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// body is a reader that is not a bytes.Reader, so that short reads can be tried.
type body struct {
	io.Reader
	text string
	wrap func(io.Reader) io.Reader
}

func (b *body) Seek(int64, int) (int64, error) {
	b.Reader = b.wrap(strings.NewReader(b.text))
	return 0, nil
}

func TestWholeMessageIsWritten(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 2*smallMessage)
	for _, wrap := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, iotest.HalfReader} {
		for _, text := range []string{"", "a", "A: b\n\nc\n", big} {
			for _, off := range []int64{-1, 0, 1} {
				size := int64(len(text)) + off
				if size < 0 {
					continue
				}
				d := &Delivery{Prefix: []byte("P: q\n"), Body: &body{text: text, wrap: wrap}, Size: size}
				for range 2 { // a second attempt reads from the start again
					var out bytes.Buffer
					n, err := d.WriteTo(&out)
					switch {
					case off == 0 && (err != nil || n != d.Len() || out.String() != "P: q\n"+text):
						t.Errorf("%.20q: got %d, %v, %.20q", text, n, err, out.String())
					case off < 0 && !errors.Is(err, ErrSize):
						t.Errorf("%.20q, announced one shorter: got %v, want ErrSize", text, err)
					case off > 0 && !errors.Is(err, io.ErrUnexpectedEOF):
						t.Errorf("%.20q, announced one longer: got %v, want ErrUnexpectedEOF", text, err)
					}
				}
			}
		}
	}
}

func TestSmallMessageIsOneWrite(t *testing.T) {
	t.Parallel()
	var w counter
	d := &Delivery{Prefix: []byte("P: q\n"), Body: strings.NewReader("x\n"), Size: 2}
	if _, err := d.WriteTo(&w); err != nil || w != 1 {
		t.Errorf("got %d writes, %v, want one", w, err)
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c++; return len(p), nil }

func TestHeaderLinesAreShown(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*maxHeaderLine)
	for _, tt := range []struct {
		name, body string
		want       []string
	}{
		{"until the empty line", "A: b\n c\nD: e\n\nF: g\n", []string{"A: b", " c", "D: e"}},
		{"CR LF", "A: b\r\n\r\nF: g\r\n", []string{"A: b"}},
		{"no text", "A: b", []string{"A: b"}},
		{"no header", "\nA: b\n", nil},
		{"nothing", "", nil},
		{"long line is cut", long + "\nA: b\n", []string{long[:maxHeaderLine], "A: b"}},
		{"long line at the end", long, []string{long[:maxHeaderLine]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &Delivery{Body: strings.NewReader(tt.body)}
			var got []string
			err := d.Header(func(line []byte) bool {
				got = append(got, string(line))
				return true
			})
			if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %.100q, %v, want %.100q", got, err, tt.want)
			}
		})
	}
}

func TestExtensionIsOnlySetWithSubaddress(t *testing.T) {
	t.Parallel()
	d := &Delivery{User: "alice", Home: "/home/alice", Rcpt: smtp.Path{Local: "alice", Domain: "x.org"}}
	want := "[PATH=/bin SHELL=/bin/sh HOME=/home/alice USER=alice LOGNAME=alice LOCAL=alice DOMAIN=x.org ORIGINAL_RECIPIENT=alice@x.org RECIPIENT= SENDER=]"
	if got := fmt.Sprint(d.Environment("/bin/sh", "/bin")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	d.Subaddress = "tag"
	if got := fmt.Sprint(d.Environment("/bin/sh", "/bin")); got != want[:len(want)-1]+" EXTENSION=tag]" {
		t.Errorf("got %s, want EXTENSION at the end", got)
	}
}

func TestExitStatusDecides(t *testing.T) {
	t.Parallel()
	for code := range 256 {
		want := PermFail
		switch code {
		case 0:
			want = Delivered
		case 71, 75:
			want = TempFail
		}
		if code > 128 && code <= 128+64 { // what it ran was killed by a signal
			want = TempFail
		}
		if r := (Exit{Code: code}).Result(); r.Outcome != want {
			t.Errorf("exit status %d: got %v, want %v", code, r.Outcome, want)
		}
	}
	for _, tt := range []struct {
		exit Exit
		want string
	}{
		{Exit{Unread: true, Output: []byte("bye")}, "mda exited prematurely"},
		{Exit{TimedOut: true, Output: []byte("x")}, "terminated; timeout"},
		{Exit{Signal: 11}, "terminated; signal 11"},
		{Exit{Stopped: "error reading body", Signal: 15}, "error reading body"},
	} {
		if r := tt.exit.Result(); r.Outcome != TempFail || r.Text != tt.want || r.Stat() != "Error ("+tt.want+")" {
			t.Errorf("%+v: got %+v, want TempFail %q", tt.exit, r, tt.want)
		}
	}
}

func TestLastWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"\n\n", ""},
		{"one", `"one"`},
		{"one\ntwo\r\n\n", `"two"`},
		{"a\tb\\c\x1b\x7f\xe9\x81\xff", `"a` + "\t" + `b\\c\^[\^?\M-i\M^A\M^?"`},
		{strings.Repeat("x", 999), `"` + strings.Repeat("x", 254) + `"`},
		{strings.Repeat("x", 253) + "\\", `"` + strings.Repeat("x", 253) + `"`},
	} {
		if got := LastWords([]byte(tt.in)); got != tt.want {
			t.Errorf("%.40q: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestFailuresOfTheSystemAreTemporary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		code string
	}{
		{syscall.ENOSPC, "4.3.1"}, {syscall.EDQUOT, "4.2.2"}, {syscall.EACCES, "4.3.0"}, {io.ErrUnexpectedEOF, "4.3.0"},
	} {
		r := Fail("cannot write", fmt.Errorf("open /secret: %w", tt.err))
		if r.Outcome != TempFail || r.Enhanced.String() != tt.code || strings.Contains(r.Text, "secret") || !errors.Is(r.Err, tt.err) {
			t.Errorf("%v: got %+v, want TempFail %s", tt.err, r, tt.code)
		}
	}
}

// FuzzLastWords: the result is one printable line of at most 256 bytes.
func FuzzLastWords(f *testing.F) {
	f.Add([]byte("a\nb"))
	f.Add([]byte("\xff\x00\\\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got := LastWords(in)
		if len(got) > maxLastWords {
			t.Fatalf("%d bytes", len(got))
		}
		for i := 0; i < len(got); i++ {
			if c := got[i]; c != '\t' && c < ' ' || c >= 0x7f {
				t.Fatalf("byte %q in %q", c, got)
			}
		}
	})
}

// FuzzHeader: lines shown are lines of the body, in order, and a message that
// carries the headers of a delivery is found to have looped.
func FuzzHeader(f *testing.F) {
	f.Add("A: b\n\nc", "alice", "x.org")
	f.Add("", "a b", "[::1]")
	f.Fuzz(func(t *testing.T, text, local, domain string) {
		d := &Delivery{Rcpt: smtp.Path{Local: local, Domain: domain}, Body: strings.NewReader(text)}
		rest := text
		if err := d.Header(func(line []byte) bool {
			_, after, ok := strings.Cut(rest, string(line))
			if !ok {
				t.Fatalf("line %q is not in %q", line, rest)
			}
			rest = after
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if d.Check() != nil || len(d.Rcpt.String()) > 1000 || strings.TrimSpace(d.Rcpt.String()) != d.Rcpt.String() {
			return
		}
		d.Body = strings.NewReader(string(d.Headers()) + text)
		if looped, err := d.Looped(); !looped || err != nil {
			t.Fatalf("%v: got %v, %v, want a loop", d.Rcpt, looped, err)
		}
	})
}
