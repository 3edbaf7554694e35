package relay

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// serve plays a host on one end of a pipe: reply gives the answer to a command line
// or, for "", the greeting; an empty answer ends the connection.
func serve(t *testing.T, reply func(line string) string) func(context.Context, *Target) (net.Conn, error) {
	t.Helper()
	return func(context.Context, *Target) (net.Conn, error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		go func() { // ends with the connection
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			line := ""
			for {
				s := reply(line)
				if s == "" {
					return
				}
				if _, err := fmt.Fprintf(theirs, "%s\r\n", s); err != nil {
					return
				}
				var err error
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				line = strings.TrimRight(line, "\r\n")
				for strings.HasPrefix(s, "354") && line != "." {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
					line = strings.TrimRight(line, "\r\n")
				}
			}
		}()
		return ours, nil
	}
}

// answering answers like a plain server, but where special has an answer to the verb.
func answering(special map[string]string) func(string) string {
	return func(line string) string {
		verb, _, _ := strings.Cut(line, ":")
		verb, _, _ = strings.Cut(verb, " ")
		for _, k := range []string{line, verb} {
			if s, ok := special[k]; ok {
				return s
			}
		}
		switch verb {
		case "":
			return "220 mx.example"
		case "EHLO":
			return "250-mx.example\r\n250-SIZE 1000\r\n250-DSN\r\n250 LIMITS RCPTMAX=7 MAILMAX=9"
		case "DATA":
			return "354 go on"
		case "QUIT":
			return "221 bye"
		}
		return "250 2.0.0 ok"
	}
}

func TestSessionOverTheWire(t *testing.T) {
	t.Parallel()
	d := &NetDialer{Connect: serve(t, answering(map[string]string{"RCPT TO:<b@d.example>": "550 5.1.1 no such user"}))}
	s, err := d.Dial(t.Context(), &Target{HELO: "us.example", Host: "mx.example", Addr: netip.MustParseAddrPort("192.0.2.1:25")})
	if err != nil {
		t.Fatal(err)
	}
	if c := s.Caps(); c.Size != 1000 || !c.DSN || c.RcptMax != 7 || c.MailMax != 9 {
		t.Errorf("caps %+v", c)
	}
	w := newWorld(t)
	a := w.message("s@here.example", "a@d.example", "b@d.example")
	b, _ := w.Open(t.Context(), 1)
	got, err := s.Send(t.Context(), &Transaction{MsgID: 1, Sender: smtp.Path{Local: "s", Domain: "here.example"}, Body: b,
		Rcpts: []*envelope.Envelope{a[0].Envelope, a[1].Envelope}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Answer{
		{Code: 250, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "ok", Stage: Dot},
		{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Text: "no such user", Stage: Rcpt},
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("answer %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	if !s.Usable() {
		t.Error("session is of no use after a good transaction")
	}
	if err := s.Quit(t.Context()); err != nil {
		t.Errorf("Quit: %v", err)
	}
}

func TestFailuresToConnectTellTheStage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		special map[string]string
		target  Target
		want    string
	}{
		{"banner", map[string]string{"": "554 5.7.1 go away"}, Target{}, "banner false BANNER rejected: 554 5.7.1 go away"},
		{"silence", map[string]string{"": ""}, Target{}, "banner false Connection closed unexpectedly"},
		{"no TLS offered", nil, Target{TLS: TLS{Mode: Required}}, "tls false Cannot prepare TLS"},
		{"auth in clear", nil, Target{Auth: &Credentials{User: "u", Password: "p"}}, "auth false Refuse to AUTH over insecure channel"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := &NetDialer{Connect: serve(t, answering(tt.special))}
			tt.target.HELO = "us.example"
			_, err := d.Dial(t.Context(), &tt.target)
			e, ok := err.(*DialError)
			if !ok {
				t.Fatalf("error %v, want a DialError", err)
			}
			if got := fmt.Sprint(e.Stage, " ", e.TLSBroke, " ", e.Text); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLostConnectionLeavesRecipientsWithoutAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		at    string
		stage Stage
	}{{"MAIL", Mail}, {"RCPT", Rcpt}, {"DATA", Data}, {".", Dot}} {
		t.Run(tt.at, func(t *testing.T) {
			t.Parallel()
			d := &NetDialer{Connect: serve(t, answering(map[string]string{tt.at: ""}))}
			s, err := d.Dial(t.Context(), &Target{HELO: "us.example"})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			b, _ := w.Open(t.Context(), 1)
			got, err := s.Send(t.Context(), &Transaction{MsgID: 1, Body: b, Rcpts: []*envelope.Envelope{w.message("", "a@d.example")[0].Envelope}})
			if err == nil || got[0].Code != 0 || got[0].Stage != tt.stage || s.Usable() {
				t.Errorf("answer %+v, error %v, usable %v", got[0], err, s.Usable())
			}
			_ = s.Quit(t.Context()) // the connection is gone
		})
	}
}

// benchDialer makes sessions that answer at once.
type benchDialer struct{}

func (d benchDialer) Dial(context.Context, *Target) (Session, error) { return &benchSession{}, nil }

type benchSession struct{}

func (*benchSession) Caps() Caps { return Caps{} }
func (*benchSession) Send(_ context.Context, t *Transaction) ([]Answer, error) {
	out := make([]Answer, len(t.Rcpts))
	for i := range out {
		out[i] = Answer{Code: 250, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "ok", Stage: Dot}
	}
	return out, nil
}
func (*benchSession) Usable() bool               { return true }
func (*benchSession) Quit(context.Context) error { return nil }
func (*benchSession) Done() <-chan struct{}      { return nil }

// benchDesk counts results.
type benchDesk struct{ done chan struct{} }

func (d benchDesk) Done(*Attempt, Result) { d.done <- struct{}{} }
func (benchDesk) Hold(*Attempt, string)   {}
func (benchDesk) Release(q string, n int) {}

type benchRouter struct{ rt *Route }

func (r benchRouter) Route(context.Context, RouteQuery) (*Route, error) { return r.rt, nil }

type benchBody struct{ *strings.Reader }

func (benchBody) Close() error { return nil }

type benchBodies struct{}

func (benchBodies) Open(context.Context, envelope.MsgID) (Body, error) {
	return benchBody{strings.NewReader("text\n")}, nil
}

// BenchmarkMessage is the cost of one message besides the conversation itself.
func BenchmarkMessage(b *testing.B) {
	rt, _ := smarthost("192.0.2.1")(RouteQuery{})
	rt.AnyDomain, rt.TTL = true, time.Hour
	desk := benchDesk{make(chan struct{}, 100)}
	e := New(Options{}, benchRouter{rt}, benchDialer{}, benchBodies{}, desk, nil)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	w := newWorld(nil)
	a := w.message("s@here.example", "u@d.example")[0]
	b.ReportAllocs()
	n, flying := uint32(0), 0
	for b.Loop() {
		if flying == 100 {
			<-desk.done
			flying--
		}
		n++
		v := *a.Envelope
		v.ID = envelope.NewID(envelope.MsgID(n), 1)
		e.Add(&Attempt{Envelope: &v})
		flying++
	}
	for ; flying > 0; flying-- {
		<-desk.done
	}
	cancel()
	<-ended
}
