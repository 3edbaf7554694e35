package client

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// quiet is a connection of which only reading matters.
type quiet struct {
	net.Conn
	io.Reader
}

func (q quiet) Read(p []byte) (int, error) { return q.Reader.Read(p) }

// readOne reads a reply from r.
func readOne(r io.Reader) (Reply, *wire, error) {
	near, far := net.Pipe() // for its deadlines
	defer near.Close()
	defer far.Close()
	conn := quiet{near, r}
	w := &wire{raw: conn, conn: conn, r: bufio.NewReaderSize(conn, readSize)}
	end := w.begin(context.Background(), Timeouts{}.withDefaults().Open)
	defer end()
	reply, err := w.reply(context.Background(), Timeouts{}.withDefaults().Mail, nil)
	return reply, w, err
}

func TestReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     Reply
		err      error
	}{
		{"one line", "250 2.1.5 Ok\r\n", Reply{250, smtp.EnhancedCode{2, 1, 5}, "Ok"}, nil},
		{"no text", "250\r\n", Reply{Code: 250}, nil},
		{"bare LF", "250 ok\n", Reply{Code: 250, Text: "ok"}, nil},
		{"enhanced code of another class is text", "550 2.1.5 no\r\n", Reply{Code: 550, Text: "2.1.5 no"}, nil},
		{"enhanced code and nothing else", "250 2.0.0\r\n", Reply{250, smtp.EnhancedCode{2, 0, 0}, ""}, nil},
		{"something like an enhanced code", "250 2.0.0.1 x\r\n", Reply{Code: 250, Text: "2.0.0.1 x"}, nil},
		{"a number out of range", "250 2.0.999 x\r\n", Reply{Code: 250, Text: "2.0.999 x"}, nil},
		{"several lines", "550-5.7.1 one\r\n550-5.7.1 two\r\n550-\r\n550 5.7.1 three\r\n",
			Reply{550, smtp.EnhancedCode{5, 7, 1}, "one two three"}, nil},
		{"control characters", "250 a\x00b\x1b[31m\u2028\x7f\xffc\r\n", Reply{Code: 250, Text: "a b [31m  ?c"}, nil},
		{"empty", "\r\n", Reply{}, ErrLineTooShort},
		{"no number", "2x0 ok\r\n", Reply{}, ErrReplyCode},
		{"a provisional code", "100 wait\r\n", Reply{}, ErrReplyCode},
		{"no blank behind the code", "2500 ok\r\n", Reply{}, ErrReplyLines},
		{"a line that does not end", strings.Repeat("2", 1<<20), Reply{}, ErrLineTooLong},
		{"a line too long by one", "250 " + strings.Repeat("x", maxLine-3) + "\r\n", Reply{}, ErrLineTooLong},
		{"a reply that does not end", strings.Repeat("250-x\r\n", 1000), Reply{}, ErrReplyTooLong},
		{"cut off", "250 o", Reply{}, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for how, r := range map[string]io.Reader{"at once": strings.NewReader(tt.in), "by bytes": iotest.OneByteReader(strings.NewReader(tt.in))} {
				got, _, err := readOne(r)
				if got != tt.want || err != tt.err {
					t.Errorf("%s: %+v, %v; want %+v, %v", how, got, err, tt.want, tt.err)
				}
			}
		})
	}
}

func TestTheLongestReplyIsCut(t *testing.T) {
	t.Parallel()
	got, _, err := readOne(strings.NewReader(strings.Repeat("550-"+strings.Repeat("é", maxLine/2-2)+"\r\n", maxLines-1) + "550 end\r\n"))
	if err != nil || len(got.Text) > maxText || len(got.Text) < maxText-1 || !utf8.ValidString(got.Text) {
		t.Errorf("%d bytes, %v", len(got.Text), err)
	}
}

// FuzzReply: a reply that is read has a code from 200 to 599 and one bounded line of
// printable text, and does not depend on how its bytes arrive; what follows it is
// still there.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.7.1 a\r\n550 5.7.1 b\r\nrest", "250-\n250\n", "421 4.3.2 \xff\x00\r\n", "250 2.1\r\n", "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, w, err := readOne(strings.NewReader(string(in)))
		again, _, errAgain := readOne(iotest.OneByteReader(strings.NewReader(string(in))))
		if got != again || err != errAgain {
			t.Fatalf("at once %+v, %v; by bytes %+v, %v", got, err, again, errAgain)
		}
		if err != nil {
			return
		}
		if got.Code < 200 || got.Code > 599 || len(got.Text) > maxText || !utf8.ValidString(got.Text) || strings.ContainsFunc(got.Text, unicode.IsControl) {
			t.Fatalf("reply %+v", got)
		}
		rest, err := io.ReadAll(w.r)
		if err != nil || !strings.HasSuffix(string(in), string(rest)) || w.received+len(rest) != len(in) {
			t.Fatalf("%q is left of %q (%v)", rest, in, err)
		}
	})
}
