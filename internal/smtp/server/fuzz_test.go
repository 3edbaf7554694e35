package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// readText runs a textReader over in, in pieces of n bytes.
func readText(t *textReader, in []byte, n int) (text, rest []byte, done bool) {
	for len(in) > 0 && !done {
		piece := in[:min(n, len(in))]
		in = in[len(piece):]
		text, rest, done = t.read(text, piece)
	}
	return text, append(rest[:len(rest):len(rest)], in...), done
}

// FuzzData: the end of the text is the first CRLF . CRLF and nothing else, in
// whatever pieces it comes; what is stored has no CR and no NUL; a bare CR, bare
// LF or NUL in the text is always noticed; and text without them is stored as the
// straightforward reference has it.
func FuzzData(f *testing.F) {
	for _, s := range []string{
		".\r\n", "a\r\n.\r\nQUIT\r\n", "a\n.\nb\r\n.\r\n", "a\n.\r\n\r\n.\r\n", "a\r\n.\nb\r\n.\r\n", "a\r.\rb\r\n.\r\n",
		"a\r\n.\rb\r\n.\r\n", "a\r\n.\r\r\nb\r\n.\r\n", "\r\r\n.\r\r\n.\r\n", "a\r\n.\x00\r\nb\r\n.\r\n", "..\r\n.a\r\n...\r\n.\r\n",
		"\r", ".", ".\r", "\r\n.\r", "\x00", "a\r\n.\r\n.\r\n",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		if n < 1 {
			return
		}
		var r textReader
		got, rest, done := readText(&r, in, n)
		text, after, ended := strings.Cut("\r\n"+string(in), "\r\n.\r\n")
		if done != ended || done && string(rest) != after {
			t.Fatalf("%q in pieces of %d: ended %v with %q behind, want %v with %q", in, n, done, rest, ended, after)
		}
		if bytes.ContainsAny(got, "\r\x00") {
			t.Fatalf("%q: stored %q", in, got)
		}
		if !done {
			return
		}
		text = strings.TrimPrefix(text+"\r\n", "\r\n")
		bare := strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n")
		nul := strings.Contains(text, "\x00")
		if r.bare != bare || r.nul != nul {
			t.Fatalf("%q: noticed bare %v, NUL %v; want %v, %v", in, r.bare, r.nul, bare, nul)
		}
		if bare || nul || r.long {
			return
		}
		var want strings.Builder
		for line := range strings.SplitAfterSeq(text, "\r\n") {
			want.WriteString(strings.TrimPrefix(line, "."))
		}
		if want := strings.ReplaceAll(want.String(), "\r\n", "\n"); string(got) != want {
			t.Errorf("%q: stored %q, want %q", in, got, want)
		}
	})
}

// FuzzChunks: chunked text is stored whole, dots and all, whatever its pieces are.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("a\r\n.\r\n..\r\nb"), 2)
	f.Add([]byte("a\r\r\n\n\r"), 1)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		if n < 1 {
			return
		}
		r := textReader{chunked: true}
		got, rest, done := readText(&r, in, n)
		got = r.close(got)
		if done || len(rest) > 0 || bytes.ContainsAny(got, "\r\x00") {
			t.Fatalf("%q in pieces of %d: stored %q, done %v, left %q", in, n, got, done, rest)
		}
		if r.bare || r.nul || r.long {
			return
		}
		want := strings.ReplaceAll(string(in), "\r\n", "\n")
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(got) != want {
			t.Errorf("%q: stored %q, want %q", in, got, want)
		}
	})
}

// scriptConn is a connection on which all input has already arrived.
type scriptConn struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *scriptConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *scriptConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *scriptConn) Close() error                     { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) LocalAddr() net.Addr              { return nil }
func (c *scriptConn) RemoteAddr() net.Addr             { return nil }

// FuzzSession: no input panics; every reply line is well-formed; each transaction
// ends exactly once; and nothing is stored that holds a CR or a NUL.
func FuzzSession(f *testing.F) {
	const start = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
	for _, s := range []string{
		start + "DATA\r\nA: b\r\n\r\n.\r\nQUIT\r\n",
		start + "BDAT 3\r\na\r\nBDAT 0 LAST\r\nRSET\r\n",
		start + "RCPT TO:<unknown@x>\r\nRCPT TO:<later>\r\nEHLO x\r\nDATA\r\n",
		start + "DATA\r\nx\n.\r\n\r\n.\r\n", "STARTTLS\r\nAUTH LOGIN\r\n*\r\n", "HELO x\nNOOP", "EHLO x\r\nAUTH PLAIN\r\nAGFubgBzZWNyZXQ=\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		u := newSetup()
		u.cfg.Auth, u.cfg.AuthInClear, u.cfg.InlineMax = OfferAuth, true, 500
		conn := &scriptConn{in: bytes.NewReader(in)}
		New(Limits{}).ServeConn(context.Background(), conn, u.cfg)
		out := conn.out.String()
		if !strings.HasSuffix(out, "\r\n") {
			t.Errorf("%q: output %q", in, out)
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(out, "\r\n"), "\r\n") {
			if len(line) < 4 || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' || strings.ContainsAny(line, "\r\n\x00") {
				t.Errorf("%q: reply %q", in, line)
			}
		}
		open := 0
		for _, call := range u.backend.calls {
			switch name, arg, _ := strings.Cut(call, " "); name {
			case "mail":
				if open++; strings.HasPrefix(arg, "unknown@") || strings.HasPrefix(arg, "later@") || strings.HasPrefix(arg, "plain@") || strings.HasPrefix(arg, "close@") {
					open--
				}
			case "commit", "reset":
				open--
			}
			if open < 0 || open > 1 {
				t.Fatalf("%q: calls %q", in, u.backend.calls)
			}
		}
		if open != 0 {
			t.Errorf("%q: a transaction was not ended: %q", in, u.backend.calls)
		}
		for _, body := range u.backend.stored {
			if strings.ContainsAny(body, "\r\x00") || !strings.HasPrefix(body, "Received: ") {
				t.Errorf("%q: stored %q", in, body)
			}
		}
	})
}

// nullBackend accepts everything and keeps nothing.
type nullBackend struct{}

func (nullBackend) Authenticate(context.Context, string, string) error { return nil }
func (nullBackend) Mail(_ context.Context, t *Transaction) error       { t.ID = 1; return nil }
func (nullBackend) Rcpt(context.Context, *Transaction, []Recipient, []error) {
}
func (nullBackend) Data(context.Context, *Transaction) error { return nil }
func (nullBackend) Spill(context.Context, *Transaction) (File, error) {
	return nil, io.ErrShortWrite
}
func (nullBackend) Commit(context.Context, *Transaction, []byte, int64) error { return nil }
func (nullBackend) Reset(*Transaction)                                        {}
