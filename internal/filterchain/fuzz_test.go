package filterchain

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Whatever a filter program writes: nothing panics, each question of a session gets one
// verdict, a message ends, and when the program has ended, its next life serves new
// sessions. In the input, S and T stand for the session and the token of the last
// request, and a line of it is written for each line that the program reads.
func FuzzProgram(f *testing.F) {
	f.Add([]byte("filter-result|S|T|proceed\nfilter-result|S|T|rewrite|<x@y>\nfilter-dataline|S|T|text\nfilter-dataline|S|T|.\nfilter-result|S|T|junk\n"))
	f.Add([]byte("\nfilter-dataline|S|T|.\nfilter-dataline|S|T|.\nfilter-result|S|T|disconnect|421 x\n"))
	f.Add([]byte("dns|S|1|txt|hangs.example\ndns|S|1|cancel\nreport|1.1|smtp-in|S|hello\nregister|ready\n"))
	f.Add([]byte("filter-result|S|T|reject|550 5.1.1\nfilter-result|S|T|report|x|y\nfilter-result|T|S|bypass\n"))
	f.Fuzz(oneProgram)
}

func oneProgram(t *testing.T, input []byte) {
	lines := bytes.SplitAfter(input, []byte("\n"))
	first := func(conn net.Conn) {
		in := wire.NewReader(conn)
		_, _ = conn.Write([]byte("register|report|smtp-in|*\n")) // it may be gone, here and below
		for p := wire.Phase(1); p < wire.Phases; p++ {
			_, _ = conn.Write(wire.AppendRegisterFilter(nil, wire.In, p))
		}
		_, _ = conn.Write([]byte("register|ready\n"))
		for len(lines) > 0 {
			line, err := in.Line()
			if err != nil {
				return
			}
			m, err := wire.ParseToFilter(line)
			if err != nil {
				t.Errorf("the program was told %q: %v", line, err)
				return
			}
			if m.Event == wire.EventLinkDisconnect {
				return
			}
			if m.Kind != wire.KindRequest {
				continue
			}
			out := bytes.ReplaceAll(lines[0], []byte("S"), fmt.Appendf(nil, "%016x", m.Session))
			out = bytes.ReplaceAll(out, []byte("T"), fmt.Appendf(nil, "%016x", m.Token))
			lines = lines[1:]
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}
	p := run(t, first, noop(everything()...))
	impatient := &Filter{Name: "f", Process: p}
	for i := range impatient.Timeouts {
		impatient.Timeouts[i] = 5 * time.Millisecond
	}
	dialogue(t, chainOf(t, impatient))
	for {
		_, _, changed, _ := p.look()
		if p.Status().Restarts > 0 {
			break
		}
		<-changed
	}
	if v := chainOf(t, &Filter{Name: "f", Process: p}).open(t).Decide(context.Background(), wire.PhaseMailFrom, "a@example.org"); v.Kind != wire.VerdictProceed {
		t.Errorf("the next life is said to have decided %v", v)
	}
}

// dialogue is a session with a message.
func dialogue(t *testing.T, c *Chain) {
	s := c.Open(context.Background(), lastID.Add(1), facts, connect)
	defer s.Close()
	for _, phase := range []wire.Phase{wire.PhaseConnect, wire.PhaseEhlo, wire.PhaseMailFrom, wire.PhaseRcptTo, wire.PhaseData} {
		sound(t, s.Decide(context.Background(), phase, "a@example.org"))
	}
	if text := s.Text(func([]byte) error { return nil }); text != nil {
		if _, err := text.Write([]byte("Subject: x\n\n.\ntext\n")); err == nil {
			_ = text.Close(context.Background())
		} else {
			text.Abort()
		}
	}
	sound(t, s.Decide(context.Background(), wire.PhaseCommit, ""))
}

// sound checks that a verdict can be obeyed.
func sound(t *testing.T, v Verdict) {
	switch v.Kind {
	case wire.VerdictProceed, wire.VerdictRewrite:
		if v.Refusal != nil {
			t.Errorf("verdict %v with a refusal", v)
		}
	case wire.VerdictReject, wire.VerdictDisconnect:
		if v.Refusal == nil || v.Refusal.Code < 400 || v.Refusal.Code > 599 {
			t.Errorf("verdict %v without one", v)
		}
	default:
		t.Errorf("verdict %v", v)
	}
}
