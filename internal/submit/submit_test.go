package submit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// server plays the daemon's side of sessions: it refuses what Refuse says.
type server struct {
	greeting   string
	extensions string
	refuse     map[string]string // reply by command prefix

	commands []string
	messages []string
}

// dial opens a session; its end is waited for when the test ends, or by wait.
func (s *server) dial(t testing.TB) (conn net.Conn, wait func()) {
	t.Helper()
	a, b, err := imsg.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	near, err := net.FileConn(a)
	if err != nil {
		t.Fatal(err)
	}
	far, err := net.FileConn(b)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		s.serve(far)
	}()
	return near, func() { near.Close(); <-done }
}

func (s *server) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	if s.greeting == "" {
		s.greeting = "220 mail.test ESMTP"
	}
	if say(s.greeting); s.greeting[0] != '2' {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		s.commands = append(s.commands, line)
		if answer := s.answer(line); answer != "" {
			say(answer)
			continue
		}
		switch word, _, _ := strings.Cut(line, " "); word {
		case "EHLO":
			extensions := s.extensions
			if extensions == "" {
				extensions = "8BITMIME PIPELINING SMTPUTF8 DSN"
			}
			say("250-mail.test\r\n250-" + strings.Join(strings.Fields(extensions), "\r\n250-") + "\r\n250 HELP")
		case "DATA":
			say("354 go ahead")
			var text strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			s.messages = append(s.messages, text.String())
			if answer := s.answer("."); answer != "" {
				say(answer)
			} else {
				say("250 2.0.0 01234567 Message accepted for delivery")
			}
		case "QUIT":
			say("221 2.0.0 Bye")
			return
		default:
			say("250 2.0.0 Ok")
		}
	}
}

func (s *server) answer(command string) string {
	for prefix, answer := range s.refuse {
		if strings.HasPrefix(command, prefix) {
			return answer
		}
	}
	return ""
}

var date = time.Date(2026, 11, 3, 22, 21, 12, 0, time.UTC)

const dated = "Date: Tue, 3 Nov 2026 22:21:12 +0000 (UTC)\n"

// send submits input to s.
func send(t *testing.T, s *server, r Request, input string) error {
	t.Helper()
	m, err := Read(strings.NewReader(input))
	if err != nil {
		return err
	}
	defer m.Close()
	r.Date = date
	sub, err := r.Resolve(m)
	if err != nil {
		return err
	}
	conn, wait := s.dial(t)
	defer wait()
	return sub.Send(t.Context(), conn, nil)
}

func TestMessagesArriveComplete(t *testing.T) {
	t.Parallel()
	alice := Request{User: "alice", FullName: "Alice Adams", Recipients: []string{"bob@x.test"}}
	const from = "From: Alice Adams <alice@mail.test>\n"
	long := strings.Repeat("word ", 300)
	for _, tt := range []struct {
		name, in string
		r        Request
		want     string
	}{
		{"bare body", "hello\n", alice, from + dated + "\nhello\n"},
		{"empty input", "", alice, from + dated + "\n"},
		{"header is kept in order", "Subject: s\nFrom: x@y.test\nDate: d\nTo: z\n\nhi\n", alice, "Subject: s\nFrom: x@y.test\nDate: d\nTo: z\n\nhi\n"},
		{"CRLF input", "Subject: s\r\n\r\nline\r\nend\r\n", alice, from + dated + "Subject: s\n\nline\nend\n"},
		{"no empty line before the body", "Subject: s\nhello there\n", alice, from + dated + "Subject: s\n\nhello there\n"},
		{"no final line end", "Subject: s\n\nhi", alice, from + dated + "Subject: s\n\nhi\n"},
		{"header without end", "Subject: s", alice, from + dated + "Subject: s\n\n"},
		{"lone dot is text", "\nbefore\n.\n..\n.after\n", alice, from + dated + "\nbefore\n.\n..\n.after\n"},
		{"mbox line and Return-Path go", "From me Tue Nov 3\nReturn-Path: <x>\nSubject: s\n\nx\n", alice, from + dated + "Subject: s\n\nx\n"},
		{"Bcc goes with its folding", "Bcc: a@b.test,\n\tc@d.test\nResent-Bcc: e\nSubject: s\n\nBcc: x\n", alice, from + dated + "Subject: s\n\nBcc: x\n"},
		{"field names with blanks behind, any case", "FROM : x@y.test\ndate\t: d\n\nx\n", alice, "FROM : x@y.test\ndate\t: d\n\nx\n"},
		{"name that needs quotes", "\nx\n", Request{User: "a", FullName: `A "B" C.`, Recipients: []string{"b"}}, `From: "A \"B\" C." <a@mail.test>` + "\n" + dated + "\nx\n"},
		{"name that needs encoding", "\nx\n", Request{User: "a", FullName: "Jörg", Recipients: []string{"b"}}, "From: =?utf-8?q?J=C3=B6rg?= <a@mail.test>\n" + dated + "\nx\n"},
		{"name with a line break", "\nx\n", Request{User: "a", FullName: "A\nBcc: x", Recipients: []string{"b"}}, "From: \"A Bcc: x\" <a@mail.test>\n" + dated + "\nx\n"},
		{"null sender still has a From", "\nx\n", Request{User: "a", Sender: "<>", Recipients: []string{"b"}}, "From: a@mail.test\n" + dated + "\nx\n"},
		{"long line is encoded", "\né" + strings.Repeat("x", 1000) + " \n", alice, from + dated +
			"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n" +
			"=C3=A9" + strings.Repeat("x", 69) + "=\n" + strings.Repeat(strings.Repeat("x", 75)+"=\n", 12) + strings.Repeat("x", 31) + "=20\n"},
		{"NUL and what is no UTF-8 are encoded", "MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n\na\x00\xffb\n.\n", alice, from + dated +
			"MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\na=00=FFb\n.\n"},
		{"declared type is kept", "Content-Type: text/html; charset=koi8-r\n\na\rb\n", alice, from + dated +
			"Content-Type: text/html; charset=koi8-r\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\na\nb\n"},
		{"long lines of a multipart are broken", "Content-Type: multipart/mixed; boundary=b\n\n" + long + "\nx\ry\n", alice, from + dated +
			"Content-Type: multipart/mixed; boundary=b\n\n" + long[:995] + "\n" + long[995:] + "\nx y\n"},
		{"long header lines are folded", "X: " + long + "\n\nx\n", alice, from + dated +
			"X: " + long[:994] + "\n " + long[995:] + "\n\nx\n"},
		{"carriage return and NUL in the header are blanks", "Subject: a\rb\x00c\n\nx\n", alice, from + dated + "Subject: a b c\n\nx\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s server
			if err := send(t, &s, tt.r, tt.in); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(tt.want, "\n", "\r\n")
			if len(s.messages) != 1 || s.messages[0] != want {
				t.Errorf("server got %q, want %q", s.messages, want)
			}
		})
	}
}

func TestLargeMessagesGoThroughAFile(t *testing.T) {
	t.Parallel()
	body := strings.Repeat(strings.Repeat("0123456789", 7)+"\n", 20000)
	var s server
	if err := send(t, &s, Request{User: "a", Recipients: []string{"b"}}, "\n"+body); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(s.messages[0], "\r\n\r\n")
	if got = strings.ReplaceAll(got, "\r\n", "\n"); got != body {
		t.Errorf("body of %d bytes arrived as %d bytes", len(body), len(got))
	}
}

func TestEnvelopes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in   string
		r          Request
		extensions string
		want       string // MAIL and RCPT commands
	}{
		{"user is the sender", "\n", Request{User: "a", Recipients: []string{"b", "c@d.test"}}, "", "MAIL FROM:<a@mail.test>|RCPT TO:<b@mail.test>|RCPT TO:<c@d.test>"},
		{"From is the sender", "From: X <x@y.test>\n\n", Request{User: "a", Recipients: []string{"b"}}, "", "MAIL FROM:<x@y.test>|RCPT TO:<b@mail.test>"},
		{"-f beats From", "From: X <x@y.test>\n\n", Request{User: "a", Sender: "s@t.test", Recipients: []string{"b"}}, "", "MAIL FROM:<s@t.test>|RCPT TO:<b@mail.test>"},
		{"broken From is passed over", "From: X Y\n\n", Request{User: "a", Recipients: []string{"b"}}, "", "MAIL FROM:<a@mail.test>|RCPT TO:<b@mail.test>"},
		{"null sender", "\n", Request{User: "a", Sender: "<>", Recipients: []string{"b"}}, "", "MAIL FROM:<>|RCPT TO:<b@mail.test>"},
		{"-t", "To: b@c.test\nCc: d@e.test\nBcc: f@g.test,\n b@c.test\n\n", Request{User: "a", FromHeader: true, Recipients: []string{"h"}}, "",
			"MAIL FROM:<a@mail.test>|RCPT TO:<h@mail.test>|RCPT TO:<b@c.test>|RCPT TO:<d@e.test>|RCPT TO:<f@g.test>"},
		{"-t of a resent message", "Resent-From: x\nResent-To: r@s.test\nReceived: x\nResent-To: old@s.test\nTo: b@c.test\n\n", Request{User: "a", FromHeader: true}, "",
			"MAIL FROM:<a@mail.test>|RCPT TO:<r@s.test>"},
		{"8-bit text is declared", "\n\xe9\n", Request{User: "a", Recipients: []string{"b"}}, "", "MAIL FROM:<a@mail.test> BODY=8BITMIME|RCPT TO:<b@mail.test>"},
		{"8-bit text to a server that does not say so", "\n\xe9\n", Request{User: "a", Recipients: []string{"b"}}, "HELP", "MAIL FROM:<a@mail.test>|RCPT TO:<b@mail.test>"},
		{"encoded text is 7-bit", "\n\x00\xe9\n", Request{User: "a", Recipients: []string{"b"}}, "", "MAIL FROM:<a@mail.test>|RCPT TO:<b@mail.test>"},
		{"UTF-8 address", "\n", Request{User: "a", Recipients: []string{"ü@b.test"}}, "", "MAIL FROM:<a@mail.test> SMTPUTF8|RCPT TO:<ü@b.test>"},
		{"size", "\nx\n", Request{User: "a", Recipients: []string{"b"}}, "SIZE", "MAIL FROM:<a@mail.test> SIZE=4|RCPT TO:<b@mail.test>"},
		{"DSN parameters", "\n", Request{User: "a", Recipients: []string{"b"}, Notify: "success,delay", Ret: "hdrs", EnvelopeID: "a b"}, "",
			"MAIL FROM:<a@mail.test> RET=HDRS ENVID=a+20b|RCPT TO:<b@mail.test> NOTIFY=SUCCESS,DELAY"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := server{extensions: tt.extensions}
			if err := send(t, &s, tt.r, tt.in); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.commands[1:len(s.commands)-2], "|"); got != tt.want {
				t.Errorf("server got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBadRequestsNeverReachTheServer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		r        Request
		want     string
	}{
		{"no recipient", "\n", Request{User: "a"}, "no recipients"},
		{"no recipient in the header", "To: undisclosed:;\n\n", Request{User: "a", FromHeader: true}, "no recipients"},
		{"line break in a recipient", "\n", Request{User: "a", Recipients: []string{"a@b\nRCPT TO:<c@d>"}}, `recipient "a@b\nRCPT TO:<c@d>": line break in address`},
		{"line break in the sender", "\n", Request{Sender: "a\r\nDATA", Recipients: []string{"b"}}, `sender "a\r\nDATA": line break in address`},
		{"two senders", "\n", Request{Sender: "a, b", Recipients: []string{"b"}}, `sender "a, b": malformed address`},
		{"malformed field", "To: (\n\n", Request{User: "a", FromHeader: true}, `recipient " (\n": malformed address`},
		{"notification", "\n", Request{User: "a", Recipients: []string{"b"}, Notify: "never,delay"}, "-N never,delay: 553 5.5.4 NOTIFY option NEVER cannot be combined with other options"},
		{"too many", "\n", Request{User: "a", Recipients: many()}, "more than 10000 recipients"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s server
			err := send(t, &s, tt.r, tt.in)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if len(s.commands) > 0 {
				t.Errorf("server got %q", s.commands)
			}
		})
	}
}

func many() (out []string) {
	for i := range maxRecipients + 1 {
		out = append(out, fmt.Sprintf("user%d", i))
	}
	return out
}

func TestARefusedRecipientStopsTheMessage(t *testing.T) {
	t.Parallel()
	for _, pipelining := range []string{"PIPELINING", "HELP"} {
		s := server{extensions: pipelining, refuse: map[string]string{"RCPT TO:<bad@": "550 5.1.1 no such user"}}
		err := send(t, &s, Request{User: "a", Recipients: []string{"bob", "bad@x.test", "carol"}}, "\nx\n")
		var refusal *RefusedError
		if !errors.As(err, &refusal) || err.Error() != "bad@x.test: 550 5.1.1 no such user" || refusal.Accepted {
			t.Errorf("%s: error %v", pipelining, err)
		}
		if e, ok := errors.AsType[*smtp.Error](err); !ok || !e.Permanent() || e.Enhanced != (smtp.EnhancedCode{5, 1, 1}) {
			t.Errorf("%s: %v is no permanent refusal with its code", pipelining, err)
		}
		if len(s.messages) > 0 {
			t.Errorf("%s: the message was sent", pipelining)
		}
	}
}

func TestRefusalsOfTheMessage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, greeting, command, reply string
		want                           string
	}{
		{"busy", "421 4.3.2 too busy", "", "", "421 4.3.2 too busy"},
		{"sender", "", "MAIL", "530 5.7.0 no", "530 5.7.0 no"},
		{"session ends at a recipient", "", "RCPT", "421 4.3.0 later", "421 4.3.0 later"},
		{"data", "", "DATA", "451 4.3.0 no\r\n", "451 4.3.0 no"},
		{"text", "", ".", "552-5.3.4 too\r\n552 5.3.4 large", "552 5.3.4 too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := server{greeting: tt.greeting}
			if tt.command != "" {
				s.refuse = map[string]string{tt.command: tt.reply}
			}
			err := send(t, &s, Request{User: "a", Recipients: []string{"b"}}, "\nx\n")
			if _, ok := errors.AsType[*RefusedError](err); !ok || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestLostAnswerIsToldApart(t *testing.T) {
	t.Parallel()
	s := server{refuse: map[string]string{".": "nonsense"}}
	err := send(t, &s, Request{User: "a", Recipients: []string{"b"}}, "\nx\n")
	if !errors.Is(err, ErrUnsure) {
		t.Errorf("error %v, want ErrUnsure", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	m, err := Read(strings.NewReader("\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Request{User: "a", Recipients: []string{"b"}}.Resolve(m)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Send(ctx, a, nil); err == nil {
		t.Error("Send succeeded without a server")
	}
}

func TestDialogueIsShown(t *testing.T) {
	t.Parallel()
	var s server
	conn, wait := s.dial(t)
	defer wait()
	m, _ := Read(strings.NewReader("\nx\n"))
	sub, err := Request{User: "a", Recipients: []string{"b"}, Date: date}.Resolve(m)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	if err := sub.Send(t.Context(), conn, &log); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">>> EHLO localhost\n", "<<< 354 go ahead\n", "<<< 250 2.0.0 01234567"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
}

// messageFile returns an open file with text.
func messageFile(t testing.TB, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	return f
}
