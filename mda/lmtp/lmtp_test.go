package lmtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// server is an LMTP server that answers as told and notes what it hears.
type server struct {
	t        *testing.T
	dest     string
	listener net.Listener
	replies  map[string]string // by verb, "greeting" or "message"; "" closes
	perConn  int               // messages after which it closes a connection; 0: none

	mu    sync.Mutex
	heard []string // commands of all connections, and messages; guarded by mu
	conns int      // guarded by mu
	wg    sync.WaitGroup
}

func serve(t *testing.T, replies map[string]string) *server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dest: path, listener: l, replies: map[string]string{
		"greeting": "220 test", "LHLO": "250-test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 PIPELINING",
		"MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", "message": "250 ok", "RSET": "250 ok", "QUIT": "221 bye",
	}}
	for k, v := range replies {
		s.replies[k] = v
	}
	s.wg.Go(s.run)
	t.Cleanup(func() {
		l.Close()
		s.wg.Wait()
	})
	return s
}

func (s *server) run() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		s.wg.Go(func() {
			defer c.Close()
			s.session(c)
		})
	}
}

func (s *server) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, line)
}

func (s *server) session(c net.Conn) {
	r := bufio.NewReader(c)
	reply := func(key string) bool {
		text := s.replies[key]
		if text == "" {
			return false
		}
		_, err := io.WriteString(c, text+"\r\n")
		return err == nil
	}
	if !reply("greeting") {
		return
	}
	for messages := 0; ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		s.note(line)
		verb, _, _ := strings.Cut(line, " ")
		if !reply(verb) || verb == "QUIT" {
			return
		}
		if verb != "DATA" || s.replies["DATA"][0] != '3' {
			continue
		}
		var body strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				s.note("cut short: " + body.String())
				return
			}
			if line == ".\r\n" {
				break
			}
			body.WriteString(line)
		}
		s.note(body.String())
		if messages++; !reply("message") || messages == s.perConn {
			return
		}
	}
}

// said returns what the server heard, and how many connections there were.
func (s *server) said() ([]string, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard), s.conns
}

func client(t *testing.T) *Client {
	t.Helper()
	c := New("mx.example.org")
	t.Cleanup(func() { c.Close() })
	return c
}

func message(body string) *mda.Delivery {
	d := &mda.Delivery{
		Sender: smtp.Path{Local: "bob", Domain: "example.com"},
		Rcpt:   smtp.Path{Local: "alice", Domain: "example.org"},
		Body:   strings.NewReader(body), Size: int64(len(body)),
	}
	d.Prefix = []byte("P: q\n")
	return d
}

func TestMessageIsTransferred(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 40<<10)
	for _, tt := range []struct{ name, body, want string }{
		{"plain", "A: b\n\ntext\n", "A: b\r\n\r\ntext\r\n"},
		{"dots", ".\n..\n.a\na.\n", "..\r\n...\r\n..a\r\na.\r\n"},
		{"no line end", "a", "a\r\n"},
		{"empty", "", ""},
		{"CR LF stays", "a\r\nb\r\r\n", "a\r\nb\r\r\n"},
		{"dot after a bare CR", "a\r.\nb\n", "a\r.\r\nb\r\n"},
		{"long lines", long + "\n." + long + "\r\n", long + "\r\n.." + long + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, c := serve(t, nil), client(t)
			d := message(tt.body)
			if r := c.Deliver(t.Context(), s.dest, "alice", d); r.Outcome != mda.Delivered {
				t.Fatalf("got %+v", r)
			}
			want := []string{
				"LHLO mx.example.org", fmt.Sprintf("MAIL FROM:<bob@example.com> SIZE=%d BODY=8BITMIME", d.Len()),
				"RCPT TO:<alice>", "DATA", "P: q\r\n" + tt.want,
			}
			if got, _ := s.said(); !slices.Equal(got, want) {
				t.Errorf("got %.300q, want %.300q", got, want)
			}
		})
	}
}

func TestExtensionsAreUsedWhenOffered(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ lhlo, sender, want string }{
		{"250 test", "bob", "MAIL FROM:<bob@example.com>"},
		{"250-test\r\n250 size", "bob", "MAIL FROM:<bob@example.com> SIZE=6"},
		{"250-test\r\n250-SMTPUTF8\r\n250 8BITMIME", "bob", "MAIL FROM:<bob@example.com> BODY=8BITMIME"},
		{"250-test\r\n250 SMTPUTF8", "böb", "MAIL FROM:<böb@example.com> SMTPUTF8"},
	} {
		s, c := serve(t, map[string]string{"LHLO": tt.lhlo}), client(t)
		d := message("x")
		d.Sender.Local = tt.sender
		if r := c.Deliver(t.Context(), s.dest, "alice@example.org", d); r.Outcome != mda.Delivered {
			t.Fatalf("%q: got %+v", tt.lhlo, r)
		}
		if got, _ := s.said(); got[1] != tt.want || got[2] != "RCPT TO:<alice@example.org>" {
			t.Errorf("%q: got %q, want %q", tt.lhlo, got[1:3], tt.want)
		}
	}
}

func TestRepliesDecide(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("250-x\r\n", maxReplyLines) + "250 x"
	for _, tt := range []struct {
		name, verb, reply string
		outcome           mda.Outcome
		code              string
		text              string
	}{
		{"busy", "greeting", "421 4.3.2 later", mda.TempFail, "4.3.2", "LMTP server error: 421 4.3.2 later"},
		{"refusal of the session", "greeting", "554 5.7.1 no", mda.TempFail, "4.3.0", "LMTP server error: 554 5.7.1 no"},
		{"refusal of LHLO", "LHLO", "500 what", mda.TempFail, "4.3.0", "LMTP server error: 500 what"},
		{"MAIL later", "MAIL", "451 no", mda.TempFail, "4.3.0", "LMTP server error: 451 no"},
		{"MAIL too big", "MAIL", "552 5.3.4 big", mda.PermFail, "5.3.4", "LMTP server error: 552 5.3.4 big"},
		{"no such user", "RCPT", "550 5.1.1 <alice> unknown", mda.PermFail, "5.1.1", "LMTP server error: 550 5.1.1 <alice> unknown"},
		{"over quota", "RCPT", "452 4.2.2 full", mda.TempFail, "4.2.2", "LMTP server error: 452 4.2.2 full"},
		{"DATA", "DATA", "503 no", mda.PermFail, "5.3.0", "LMTP server error: 503 no"},
		{"message later", "message", "450-4.1.1 a\r\n450 4.1.1 b", mda.TempFail, "4.1.1", "LMTP server error: 450 4.1.1 b"},
		{"message never", "message", "554 5.6.0 \x01bad", mda.PermFail, "5.6.0", "LMTP server error: 554 5.6.0 ?bad"},
		{"enhanced code of another class", "message", "554 4.6.0 bad", mda.PermFail, "5.3.0", "LMTP server error: 554 4.6.0 bad"},
		{"forwarded", "RCPT", "251 elsewhere", mda.Delivered, "2.0.0", "Delivered"},
		{"wrong class", "DATA", "250 ok", mda.TempFail, "4.3.0", "LMTP server cannot be used"},
		{"closed", "message", "", mda.TempFail, "4.3.0", "LMTP server cannot be used"},
		{"nonsense", "MAIL", "hello", mda.TempFail, "4.3.0", "LMTP server cannot be used"},
		{"codes differ", "MAIL", "250-a\r\n550 b", mda.TempFail, "4.3.0", "LMTP server cannot be used"},
		{"overlong line", "MAIL", "250 " + strings.Repeat("x", maxReplyLine), mda.TempFail, "4.3.0", "LMTP server cannot be used"},
		{"too many lines", "MAIL", many, mda.TempFail, "4.3.0", "LMTP server cannot be used"},
	} {
		for _, lhlo := range []string{"250-test\r\n250 PIPELINING", "250 test"} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				replies := map[string]string{"LHLO": lhlo}
				replies[tt.verb] = tt.reply
				s, c := serve(t, replies), client(t)
				r := c.Deliver(t.Context(), s.dest, "alice", message("x\n"))
				if r.Outcome != tt.outcome || r.Enhanced.String() != tt.code || r.Text != tt.text {
					t.Errorf("got %+v, want %v %s %q", r, tt.outcome, tt.code, tt.text)
				}
			})
		}
	}
}

func TestConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		replies   map[string]string
		perConn   int
		wantConns int
	}{
		{"after success", nil, 0, 1},
		{"after a refused recipient", map[string]string{"RCPT": "550 no"}, 0, 1},
		{"after a refused message", map[string]string{"message": "550 no"}, 0, 1},
		{"not when the server is ending", map[string]string{"RCPT": "421 bye"}, 0, 3},
		{"not when reset fails", map[string]string{"RCPT": "550 no", "RSET": "500 no"}, 0, 3},
		{"anew when the server has closed it", nil, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, c := serve(t, tt.replies), client(t)
			s.perConn = tt.perConn
			for range 3 {
				r := c.Deliver(t.Context(), s.dest, "alice", message("x\n"))
				if want := s.replies["RCPT"][0] == '2' && s.replies["message"][0] == '2'; (r.Outcome == mda.Delivered) != want {
					t.Errorf("got %+v, want delivered: %v", r, want)
				}
			}
			if _, conns := s.said(); conns != tt.wantConns {
				t.Errorf("got %d connections, want %d", conns, tt.wantConns)
			}
		})
	}
}

func TestIdleConnectionIsEnded(t *testing.T) {
	t.Parallel()
	s, c := serve(t, nil), client(t)
	c.timeouts.idle = time.Millisecond
	if r := c.Deliver(t.Context(), s.dest, "alice", message("x\n")); r.Outcome != mda.Delivered {
		t.Fatalf("got %+v", r)
	}
	s.listener.Close()
	s.wg.Wait() // the server's side ends when the client's does
	if heard, _ := s.said(); heard[len(heard)-1] != "QUIT" {
		t.Errorf("got %q, want QUIT at the end", heard)
	}
}

func TestUnreadableMessageIsNotEnded(t *testing.T) {
	t.Parallel()
	s, c := serve(t, nil), client(t)
	d := message("A: b\n")
	d.Size++
	if r := c.Deliver(t.Context(), s.dest, "alice", d); r.Outcome != mda.TempFail || !errors.Is(r.Err, errBody) {
		t.Errorf("got %+v, want TempFail", r)
	}
	s.listener.Close()
	s.wg.Wait()
	if heard, _ := s.said(); !strings.HasPrefix(heard[len(heard)-1], "cut short") {
		t.Errorf("got %q, want a message cut short", heard)
	}
}

func TestAddressesCannotAddCommands(t *testing.T) {
	t.Parallel()
	s, c := serve(t, nil), client(t)
	for _, rcpt := range []string{"", "a>\r\nRSET", "a> X=<y", "a b", "a\n"} {
		if r := c.Deliver(t.Context(), s.dest, rcpt, message("x\n")); r.Outcome != mda.PermFail {
			t.Errorf("%q: got %+v, want PermFail", rcpt, r)
		}
	}
	d := message("x\n")
	d.Sender.Local = "a\r\nb"
	if r := c.Deliver(t.Context(), s.dest, "alice", d); r.Outcome != mda.PermFail {
		t.Errorf("sender: got %+v, want PermFail", r)
	}
	if heard, _ := s.said(); len(heard) != 0 {
		t.Errorf("server heard %q, want nothing", heard)
	}
}

func TestSilentServerIsLeft(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := client(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		cancel()
		io.Copy(io.Discard, conn)
	}()
	if r := c.Deliver(ctx, l.Addr().String(), "alice", message("x\n")); r.Outcome != mda.TempFail {
		t.Errorf("interrupted: got %+v, want TempFail", r)
	}
	c.timeouts.reply = time.Millisecond
	if r := c.Deliver(t.Context(), l.Addr().String(), "alice", message("x\n")); r.Outcome != mda.TempFail {
		t.Errorf("time out: got %+v, want TempFail", r)
	}
}

func TestDestinations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ dest, network, address string }{
		{"/run/lmtp", "unix", "/run/lmtp"},
		{"localhost", "tcp", "localhost:25"},
		{"localhost:24", "tcp", "localhost:24"},
		{"[::1]:24", "tcp", "[::1]:24"},
		{"[::1]", "tcp", "[::1]:25"},
		{"::1", "tcp", "[::1]:25"},
		{"", "", ""},
		{":24", "", ""},
		{"a/b", "", ""},
	} {
		network, address, err := parseDest(tt.dest)
		if network != tt.network || address != tt.address || (err != nil) != (tt.network == "") {
			t.Errorf("%q: got %q %q %v, want %q %q", tt.dest, network, address, err, tt.network, tt.address)
		}
	}
}

// FuzzReadReply: whatever a server says, a reply that is taken has one code from
// 200 to 599, and its last line is printable and bounded.
func FuzzReadReply(f *testing.F) {
	f.Add("250 ok\r\n")
	f.Add("250-a\r\n250 b\r\n")
	f.Add("550\n")
	f.Add("250-\r\n251 \r\n")
	f.Fuzz(func(t *testing.T, in string) {
		cn := &conn{r: bufio.NewReaderSize(strings.NewReader(in), maxReplyLine)}
		code, line, err := cn.readReply(func(string) {})
		if err != nil {
			return
		}
		if code < 200 || code > 599 || !strings.HasPrefix(line, fmt.Sprint(code)) || len(line) > maxText || strings.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("got %d %q", code, line)
		}
	})
}
