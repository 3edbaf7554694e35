package filterchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// program is a filter program of a test: it reads lines and writes answers until the
// pipe ends.
type program func(conn net.Conn)

// noop registers phases and lets everything pass.
func noop(phases ...wire.Phase) program {
	return func(conn net.Conn) {
		in, out := wire.NewReader(conn), wire.NewWriter(conn, 1<<20)
		var b []byte
		for {
			line, err := in.Line()
			if err != nil {
				return
			}
			m, err := wire.ParseToFilter(line)
			switch {
			case err != nil:
				return
			case m.Kind == wire.KindReady:
				for _, p := range phases {
					b = wire.AppendRegisterFilter(b, wire.In, p)
				}
				b = wire.AppendRegisterReady(b)
			case m.Kind == wire.KindRequest && m.Phase == wire.PhaseDataLine:
				b = wire.AppendDataLine(b, wire.Current, m.Session, m.Token, false, m.Text)
			case m.Kind == wire.KindRequest:
				b = wire.AppendResult(b, wire.Current, m.Session, m.Token, wire.VerdictProceed, "")
			}
			if !in.More() && len(b) > 0 {
				if out.Send(b) != nil {
					return
				}
				b = b[:0]
			}
		}
	}
}

// nowhere takes events.
type nowhere struct{}

func (nowhere) Report(report.Event) {}

// run keeps a process running for a test. Each life is the next of programs, the last
// one again and again.
func run(t testing.TB, programs ...program) *Process {
	t.Helper()
	var lives atomic.Int64
	var wg sync.WaitGroup
	p := &Process{
		Name: "test", Hello: Hello{Version: "7.8.0", SessionTimeout: 5 * time.Minute, ADMD: "example.org", Incoming: true},
		Warnf: t.Logf,
		Start: func(context.Context) (net.Conn, int, error) {
			n := lives.Add(1)
			ours, theirs, err := socketPair(t)
			if err != nil {
				return nil, 0, err
			}
			wg.Go(func() {
				defer theirs.Close()
				programs[min(int(n), len(programs))-1](theirs)
			})
			return ours, int(n), nil
		},
		Resolve: func(ctx context.Context, q wire.Query, name string) ([]string, bool, error) {
			switch name {
			case "fails.example":
				return nil, false, errors.New("no answer")
			case "nothing.example":
				return nil, false, nil
			case "hangs.example":
				<-ctx.Done()
				return nil, false, ctx.Err()
			}
			return []string{q.String() + " of " + name}, true, nil
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { p.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return p
}

// socketPair returns a connection over TCP, which every system has.
func socketPair(t testing.TB) (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	b, err = l.Accept()
	return a, b, err
}

func chainOf(t testing.TB, filters ...*Filter) *Chain {
	return &Chain{Filters: filters, Direction: wire.In, Events: nowhere{}, Warn: func(err error) { t.Log(err) }}
}

var lastID atomic.Uint64

// What is known of the sessions of the tests.
var (
	facts   = policy.Facts{Source: "192.0.2.1", RDNS: "<unknown>"}
	connect = wire.LinkConnect{RDNS: "<unknown>", FCrDNS: wire.Fail}
)

// open begins a session.
func (c *Chain) open(t testing.TB) *Session {
	s := c.Open(t.Context(), lastID.Add(1), facts, connect)
	t.Cleanup(s.Close)
	return s
}

// everything lists all phases.
func everything() (all []wire.Phase) {
	for p := wire.Phase(1); p < wire.Phases; p++ {
		all = append(all, p)
	}
	return all
}

func TestTextComesOutAsItWentIn(t *testing.T) {
	t.Parallel()
	c := chainOf(t, &Filter{Name: "a", Process: run(t, noop(everything()...))}, &Filter{Name: "b", Process: run(t, noop(everything()...))},
		&Filter{Name: "c", Process: run(t, noop(everything()...))})
	for _, tt := range []struct{ name, text string }{
		{"empty", ""},
		{"dots", ".\n..\n...a\n\n.\n"},
		{"fields and high bytes", "a|b|c\n\xff\xfe|\x01\x7f\n"},
		{"longest line with a dot", "." + strings.Repeat("x", wire.MaxText-1) + "\n"},
		{"longest line", strings.Repeat("x", wire.MaxText-1) + "\n" + strings.Repeat("|", wire.MaxText) + "\n"},
		{"large", strings.Repeat(strings.Repeat("0123456789", 7)+"\n.\n", 1<<17)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := c.open(t)
			var out bytes.Buffer
			text := s.Text(func(p []byte) error { _, err := out.Write(p); return err })
			rest := []byte(tt.text)
			for n := 1; len(rest) > 0; n = n*3%8191 + 1 { // parted anywhere
				n = min(n, len(rest))
				if _, err := text.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := text.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.text {
				t.Errorf("%d bytes came out, want the %d that went in: %.80q", out.Len(), len(tt.text), out.String())
			}
		})
	}
}

// BenchmarkMessage passes a message of 4 KiB, with its verdicts, through a filter that
// registered for all phases, for 100 sessions at a time. The time is that of both ends.
func BenchmarkMessage(b *testing.B) {
	c := chainOf(b, &Filter{Name: "noop", Process: run(b, noop(everything()...))})
	message := []byte("Subject: benchmark\n\n" + strings.Repeat(strings.Repeat("x", 76)+"\n", 52))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range 100 {
		s := c.open(b)
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				for _, p := range []wire.Phase{wire.PhaseMailFrom, wire.PhaseRcptTo, wire.PhaseData} {
					s.Decide(context.Background(), p, "a@b.example")
				}
				text := s.Text(func([]byte) error { return nil })
				if _, err := text.Write(message); err != nil {
					b.Error(err)
					return
				}
				if err := text.Close(context.Background()); err != nil {
					b.Error(err)
					return
				}
				s.Decide(context.Background(), wire.PhaseCommit, "")
			}
		})
	}
	wg.Wait()
}

// listener registers the end of transactions and data-line, and tells what it is told.
func listener(events []wire.Event, told chan<- string) program {
	return func(conn net.Conn) {
		defer close(told)
		in := wire.NewReader(conn)
		for {
			line, err := in.Line()
			if err != nil {
				return
			}
			m, err := wire.ParseToFilter(line)
			switch {
			case err != nil:
				return
			case m.Kind == wire.KindReady:
				b := wire.AppendRegisterFilter(nil, wire.In, wire.PhaseDataLine)
				for _, e := range events {
					b = wire.AppendRegisterReport(b, wire.In, e)
				}
				if _, err := conn.Write(wire.AppendRegisterReady(b)); err != nil {
					return
				}
			case m.Kind == wire.KindRequest:
				told <- string(m.Text)
			case m.Kind == wire.KindReport:
				told <- m.Event.String()
			}
		}
	}
}

// Nobody takes the part of a message that came for the whole.
func TestMessageThatIsGivenUpHasNoEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		events []wire.Event
		want   string
	}{
		"told of rollback": {[]wire.Event{wire.EventTxRollback, wire.EventLinkDisconnect}, "half, tx-rollback, link-disconnect"},
		"told of reset":    {[]wire.Event{wire.EventTxReset, wire.EventLinkDisconnect}, "half, tx-reset, link-disconnect"},
		"told of neither":  {[]wire.Event{wire.EventLinkDisconnect}, "half, ., link-disconnect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := make(chan string, 10)
			s := chainOf(t, &Filter{Name: "f", Process: run(t, listener(tt.events, told))}).Open(t.Context(), lastID.Add(1), facts, connect)
			s.Report(wire.TxBegin{Message: 1})
			text := s.Text(func([]byte) error { return nil })
			if _, err := text.Write([]byte("half\n")); err != nil {
				t.Fatal(err)
			}
			text.Abort()
			s.Report(wire.TxRollback{Message: 1})
			s.Report(wire.TxReset{Message: 1})
			s.Close()
			var got []string
			for what := range told {
				if got = append(got, what); what == "link-disconnect" {
					break
				}
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("told %q, want %s", got, tt.want)
			}
		})
	}
}

// A program cannot know the token of what it has not been asked.
func TestTokensCannotBeGuessed(t *testing.T) {
	t.Parallel()
	var tokens []uint64
	s := chainOf(t, &Filter{Name: "f", Process: run(t, script(func(m *wire.ToFilter) string {
		tokens = append(tokens, m.Token)
		return result(m, "proceed")
	}, wire.PhaseMailFrom))}).open(t)
	for range 10 {
		s.Decide(t.Context(), wire.PhaseMailFrom, "a@example.org")
	}
	for i := range tokens[1:] {
		if step := tokens[i+1] - tokens[i]; step < 1<<20 || -step < 1<<20 {
			t.Errorf("behind the token %016x comes %016x", tokens[i], tokens[i+1])
		}
	}
}

// send sends a message through a chain.
func (s *Session) send(ctx context.Context, message string, out func([]byte) error) error {
	text := s.Text(out)
	if _, err := text.Write([]byte(message)); err != nil {
		text.Abort()
		return err
	}
	return text.Close(ctx)
}

func TestWhyAMessageCouldNotBeStoredIsTold(t *testing.T) {
	t.Parallel()
	full := &smtp.Error{Code: 452, Enhanced: smtp.EnhancedCode{4, 3, 1}, Text: "Queue is full"}
	err := chainOf(t, &Filter{Name: "f", Process: run(t, noop(wire.PhaseDataLine))}).open(t).
		send(t.Context(), "x\n", func([]byte) error { return fmt.Errorf("store: %w", full) })
	if got, ok := errors.AsType[*smtp.Error](err); !ok || got != full {
		t.Errorf("the error is %v, want %v", err, full)
	}
}

// No line is cut on its way to the next filter.
func TestLineThatTheNextFilterDoesNotTake(t *testing.T) {
	t.Parallel()
	long := script(func(m *wire.ToFilter) string {
		if string(m.Text) == "." {
			return fmt.Sprintf("filter-dataline|%016x|%016x|.\n", m.Session, m.Token)
		}
		return fmt.Sprintf("filter-dataline|%016x|%016x|%s\n", m.Session, m.Token, strings.Repeat("x", wire.MaxText+100))
	}, wire.PhaseDataLine)
	err := chainOf(t, &Filter{Name: "long", Process: run(t, long)}, &Filter{Name: "next", Process: run(t, noop(wire.PhaseDataLine))}).open(t).
		send(t.Context(), "x\n", func([]byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "filter long: line of 65636 bytes") {
		t.Errorf("the message ended with %v", err)
	}
}

// What a client authenticates with is told to those only that are to see it.
func TestRewrittenSecretIsHiddenFromOthers(t *testing.T) {
	t.Parallel()
	told := make(chan string, 10)
	other := func(conn net.Conn) {
		in := wire.NewReader(conn)
		for {
			line, err := in.Line()
			if err != nil {
				return
			}
			switch m, err := wire.ParseToFilter(line); {
			case err != nil:
				return
			case m.Kind == wire.KindReady:
				b := wire.AppendRegisterReport(nil, wire.In, wire.EventFilterResponse)
				if _, err := conn.Write(wire.AppendRegisterReady(b)); err != nil {
					return
				}
			case m.Event == wire.EventFilterResponse:
				told <- string(m.Text)
			}
		}
	}
	s := chainOf(t, &Filter{Name: "knows", Secrets: true, Process: run(t, says("rewrite|PLAIN c2VjcmV0", wire.PhaseAuth))},
		&Filter{Name: "other", Process: run(t, other)}).open(t)
	if v := s.Decide(t.Context(), wire.PhaseAuth, "PLAIN eA=="); v.Argument != "PLAIN c2VjcmV0" {
		t.Errorf("the argument is %q", v.Argument)
	}
	if got := <-told; got != "auth|rewrite|PLAIN ********" {
		t.Errorf("the other filter is told %q", got)
	}
}
