package filterchain

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// script is a program that registers for phases and then writes, for each request,
// what reply makes of it; nothing for "".
func script(reply func(m *wire.ToFilter) string, phases ...wire.Phase) program {
	return func(conn net.Conn) {
		in := wire.NewReader(conn)
		for {
			line, err := in.Line()
			if err != nil {
				return
			}
			m, err := wire.ParseToFilter(line)
			out := ""
			switch {
			case err != nil:
				return
			case m.Kind == wire.KindReady:
				var b []byte
				for _, p := range phases {
					b = wire.AppendRegisterFilter(b, wire.In, p)
				}
				out = string(wire.AppendRegisterReady(b))
			case m.Kind == wire.KindRequest, m.Kind == wire.KindDNS:
				out = reply(&m)
			}
			if _, err := conn.Write([]byte(out)); err != nil {
				return
			}
		}
	}
}

// result is an answer to a request.
func result(m *wire.ToFilter, what string) string {
	return fmt.Sprintf("filter-result|%016x|%016x|%s\n", m.Session, m.Token, what)
}

// says is a program that answers all requests of some phases so.
func says(what string, phases ...wire.Phase) program {
	return script(func(m *wire.ToFilter) string { return result(m, what) }, phases...)
}

// outcome is a verdict in short.
func outcome(v Verdict) string {
	s := v.Kind.String()
	if v.Refusal != nil {
		s += " " + v.Refusal.Reply()
	}
	if v.Kind == wire.VerdictRewrite {
		s += " " + v.Argument
	}
	if v.Junk {
		s += " junk"
	}
	return s
}

func TestChainDecidesTogether(t *testing.T) {
	t.Parallel()
	const mail = wire.PhaseMailFrom
	echo := func() program { // refuses with what it was asked
		return script(func(m *wire.ToFilter) string { return result(m, "reject|550 "+string(m.Text)) }, mail)
	}
	for _, tt := range []struct {
		name     string
		programs []program
		change   func(*Filter) // of the first
		want     string
	}{
		{"all let pass", []program{says("proceed", mail), says("proceed", mail)}, nil, "proceed"},
		{"the next one is asked about what the first has made of it", []program{says("rewrite|<b@example.org>", mail), echo()}, nil, "reject 550 b@example.org"},
		{"the last rewrite holds", []program{says("rewrite|b@example.org", mail), says("rewrite|<c@example.org> SIZE=1", mail)}, nil, "rewrite <c@example.org> SIZE=1"},
		{"rewrite ends the chain", []program{says("rewrite|b@example.org", mail), echo()}, func(f *Filter) { f.RewriteEnds = true }, "rewrite <b@example.org>"},
		{"bypass ends the chain", []program{says("bypass", mail), echo()}, nil, "proceed"},
		{"a remark does not", []program{says("report|seen", mail), echo()}, nil, "reject 550 a@example.org"},
		{"junk is kept", []program{says("junk", mail), says("proceed", mail)}, nil, "proceed junk"},
		{"junk is kept beside a rewrite", []program{says("junk", mail), says("rewrite|b@example.org", mail)}, nil, "rewrite <b@example.org> junk"},
		{"refused by the second", []program{says("proceed", mail), says("disconnect|421 4.7.0 go", mail)}, nil, "disconnect 421 4.7.0 go"},
		{"no reply of SMTP", []program{says("reject|no", mail)}, nil, "reject 421 4.3.0 Internal server error"},
		{"one that has no say", []program{says("reject|550 no", wire.PhaseRcptTo), says("junk", mail)}, nil, "proceed junk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var filters []*Filter
			for i, p := range tt.programs {
				filters = append(filters, &Filter{Name: fmt.Sprint("f", i), Process: run(t, p)})
			}
			if tt.change != nil {
				tt.change(filters[0])
			}
			if got := outcome(chainOf(t, filters...).open(t).Decide(t.Context(), mail, "a@example.org")); got != tt.want {
				t.Errorf("the verdict is %q, want %q", got, tt.want)
			}
		})
	}
}

// A line that makes no sense, or answers nothing, does not keep the answer behind it
// from its session, and is counted.
func TestLinesWithoutSenseAreCounted(t *testing.T) {
	t.Parallel()
	const mail = wire.PhaseMailFrom
	for _, tt := range []struct{ name, line string }{
		{"empty", "\n"},
		{"unknown word", "hello|there\n"},
		{"binary", "\x00\xff\x80|\x01\r\n"},
		{"no session", "filter-result|\n"},
		{"session without digits", "filter-result|xyz|0000000000000001|proceed\n"},
		{"unknown result", "filter-result|%[1]s|%[2]s|perhaps\n"},
		{"reject without a reply", "filter-result|%[1]s|%[2]s|reject\n"},
		{"proceed with a parameter", "filter-result|%[1]s|%[2]s|proceed|x\n"},
		{"registration after the end of registrations", "register|report|smtp-in|*\n"},
		{"second end of registrations", "register|ready\n"},
		{"verdict for no session", "filter-result|0123456789abcdef|%[2]s|reject|550 no\n"},
		{"verdict for another question", "filter-result|%[1]s|0123456789abcdef|reject|550 no\n"},
		{"line of a message that there is not", "filter-dataline|%[1]s|%[2]s|text\n"},
		{"line of a message for no session", "filter-dataline|0123456789abcdef|%[2]s|text\n"},
		{"remark without a direction", "report|1.5|smtp|%[1]s|x\n"},
		{"question without a name", "dns|%[1]s|1|txt\n"},
		{"second question under the id of one that is open", "dns|%[1]s|1|txt|hangs.example\ndns|%[1]s|1|txt|hangs.example\n"},
		{"longest line", strings.Repeat("x", wire.MaxLine) + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := run(t, script(func(m *wire.ToFilter) string {
				sid, token := fmt.Sprintf("%016x", m.Session), fmt.Sprintf("%016x", m.Token)
				line := strings.NewReplacer("%[1]s", sid, "%[2]s", token).Replace(tt.line)
				return line + result(m, "junk")
			}, mail))
			s := chainOf(t, &Filter{Name: "f", Process: p}).open(t)
			if got := outcome(s.Decide(t.Context(), mail, "a@example.org")); got != "proceed junk" {
				t.Errorf("the verdict is %q", got)
			}
			if st := p.Status(); st.Nonsense != 1 || st.Restarts != 0 || st.Asked != 1 {
				t.Errorf("counted %d lines without sense, %d restarts, %d verdicts; want 1, 0, 1", st.Nonsense, st.Restarts, st.Asked)
			}
		})
	}
}

// What a filter says twice, or too late, changes nothing.
func TestAnswerThatComesTwiceIsIgnored(t *testing.T) {
	t.Parallel()
	earlier := ""
	p := run(t, script(func(m *wire.ToFilter) string {
		again := strings.ReplaceAll(earlier, "proceed", "reject|550 no")
		earlier = result(m, "proceed")
		return again + earlier + strings.ReplaceAll(earlier, "proceed", "reject|550 no")
	}, wire.PhaseMailFrom, wire.PhaseRcptTo))
	s := chainOf(t, &Filter{Name: "f", Process: p}).open(t)
	for range 3 {
		for _, phase := range []wire.Phase{wire.PhaseMailFrom, wire.PhaseRcptTo} {
			if got := outcome(s.Decide(t.Context(), phase, "a@example.org")); got != "proceed" {
				t.Errorf("the verdict is %q", got)
			}
		}
	}
}

// A program that is beyond help is started again, and its next life serves.
func TestProgramThatBreaksTheProtocolIsStartedAgain(t *testing.T) {
	t.Parallel()
	const mail = wire.PhaseMailFrom
	often := func(line string) program {
		return script(func(m *wire.ToFilter) string {
			return strings.ReplaceAll(strings.Repeat(line, maxNonsense+2), "SID", fmt.Sprintf("%016x", m.Session))
		}, mail)
	}
	for _, tt := range []struct {
		name  string
		first program
	}{
		{"nonsense", often("nonsense\n")},
		{"verdicts for nobody", often("filter-result|0123456789abcdef|1|proceed\n")},
		{"verdicts for another question", often("filter-result|SID|1|proceed\n")},
		{"a line without an end", script(func(*wire.ToFilter) string { return strings.Repeat("x", wire.MaxLine+2) }, mail)},
		{"it ends", func(net.Conn) {}},
		{"it speaks before it has registered", func(c net.Conn) { _, _ = c.Write([]byte("filter-result|1|1|proceed\n")) }},
		{"it registers for what there is not", func(c net.Conn) { _, _ = c.Write([]byte("register|filter|smtp-in|lunch\n")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := run(t, tt.first, noop(everything()...))
			s := chainOf(t, &Filter{Name: "f", Process: p}).open(t)
			// The first verdict may be that of the first life, which does not come.
			if got := outcome(s.Decide(t.Context(), mail, "a@example.org")); got != "proceed" && got != "reject 451 4.3.0 Temporary failure, please try again" {
				t.Errorf("the verdict is %q", got)
			}
			if got := outcome(s.Decide(t.Context(), mail, "a@example.org")); got != "proceed" {
				t.Errorf("the verdict after the restart is %q", got)
			}
			if st := p.Status(); st.Restarts != 1 || st.State != Ready {
				t.Errorf("%d restarts, want 1; it is %v", st.Restarts, st.State)
			}
		})
	}
}

// Each phase has its own time; what happens when it is over depends on the phase and on
// how the filter is to be treated.
func TestAnswerThatDoesNotCome(t *testing.T) {
	t.Parallel()
	const later = " 4.3.0 Temporary failure, please try again"
	for phase, want := range map[wire.Phase]string{
		wire.PhaseConnect: "proceed", wire.PhaseHelo: "proceed", wire.PhaseEhlo: "proceed", wire.PhaseRset: "proceed",
		wire.PhaseNoop: "proceed", wire.PhaseQuit: "proceed",
		wire.PhaseStartTLS: "reject 454" + later, wire.PhaseAuth: "reject 454" + later,
		wire.PhaseMailFrom: "reject 451" + later, wire.PhaseRcptTo: "reject 451" + later,
		wire.PhaseData: "reject 451" + later, wire.PhaseCommit: "reject 451" + later,
	} {
		for _, bypass := range []bool{false, true} {
			t.Run(fmt.Sprint(phase, " bypass=", bypass), func(t *testing.T) {
				t.Parallel()
				p := run(t, script(func(m *wire.ToFilter) string {
					if m.Phase == phase {
						return ""
					}
					return result(m, "proceed")
				}, everything()...), noop(everything()...))
				f := &Filter{Name: "f", Process: p, Bypass: bypass}
				f.Timeouts[phase] = time.Millisecond
				s := chainOf(t, f).open(t)
				if want := map[bool]string{false: want, true: "proceed"}[bypass]; outcome(s.Decide(t.Context(), phase, "x")) != want {
					t.Errorf("the verdict is not %q", want)
				}
				if st := p.Status(); st.Failed != 1 {
					t.Errorf("%d verdicts are counted as failed, want 1", st.Failed)
				}
				if phase == wire.PhaseMailFrom {
					return
				}
				// It has said nothing at all meanwhile, so it is held for dead.
				if got := outcome(s.Decide(t.Context(), wire.PhaseMailFrom, "a@example.org")); got != "proceed" {
					t.Errorf("the verdict of the next life is %q", got)
				}
			})
		}
	}
}

func TestMessageThatDoesNotComeBack(t *testing.T) {
	t.Parallel()
	p := run(t, script(func(*wire.ToFilter) string { return "" }, wire.PhaseDataLine), noop(wire.PhaseDataLine))
	f := &Filter{Name: "f", Process: p}
	f.Timeouts[wire.PhaseDataLine] = time.Millisecond
	s := chainOf(t, f).open(t)
	text := s.Text(func([]byte) error { return nil })
	if _, err := text.Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	if err := text.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("the message ended with %v", err)
	}
	// The program has been silent altogether: the next message has another life of it.
	f.Timeouts[wire.PhaseDataLine] = 0
	if got := outcome(s.Decide(t.Context(), wire.PhaseMailFrom, "a@example.org")); got != "proceed" {
		t.Errorf("the verdict is %q", got)
	}
	text = s.Text(func([]byte) error { return nil })
	if err := text.Close(t.Context()); err != nil {
		t.Errorf("the next message ended with %v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	p := run(t, script(func(*wire.ToFilter) string { asked <- struct{}{}; return "" }, wire.PhaseMailFrom))
	s := chainOf(t, &Filter{Name: "f", Process: p}).open(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if got := outcome(s.Decide(ctx, wire.PhaseMailFrom, "a@example.org")); !strings.HasPrefix(got, "reject 451 ") {
		t.Errorf("the verdict is %q", got)
	}
}

// A program that never stops talking, about sessions that there are and others, keeps
// nobody from verdicts, and no more is kept of it than the bounds say.
func TestFloodKeepsNobodyFromVerdicts(t *testing.T) {
	t.Parallel()
	p := run(t, func(conn net.Conn) {
		script(func(m *wire.ToFilter) string {
			sid := fmt.Sprintf("%016x", m.Session)
			return strings.Repeat("report|1.5|smtp-in|"+sid+"|x\nfilter-dataline|"+sid+"|1|x\nreport|1.5|smtp-in|1|x\n", 10_000) + result(m, "junk")
		}, wire.PhaseMailFrom)(conn)
	})
	c := chainOf(t, &Filter{Name: "f", Process: p})
	for range 3 {
		s := c.open(t)
		for range 3 {
			if got := outcome(s.Decide(t.Context(), wire.PhaseMailFrom, "a@example.org")); got != "proceed junk" {
				t.Fatalf("the verdict is %q", got)
			}
			if n := len(s.members[0].remarks); n > maxRemarks {
				t.Errorf("%d remarks are kept", n)
			}
		}
	}
	if st := p.Status(); st.Restarts != 0 {
		t.Errorf("%d restarts", st.Restarts)
	}
}
