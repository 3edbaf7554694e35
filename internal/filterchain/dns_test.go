package filterchain

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// inquirer runs a program that asks the DNS. It returns how to write a line as the
// program, and how to wait for lines of answers: so many, in any order.
func inquirer(t *testing.T) (p *Process, ask func(line string), answers func(n int) []string) {
	t.Helper()
	conns := make(chan net.Conn, 1)
	done := make(chan struct{})
	p = run(t, func(conn net.Conn) {
		conns <- conn
		<-done
	})
	t.Cleanup(func() { close(done) })
	conn := <-conns
	r := wire.NewReader(conn)
	ask = func(line string) {
		t.Helper()
		if _, err := conn.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	answers = func(n int) (lines []string) {
		t.Helper()
		for len(lines) < n {
			line, err := r.Line()
			if err != nil {
				t.Fatalf("after %q: %v", lines, err)
			}
			if m, err := wire.ParseToFilter(line); err == nil && m.Kind == wire.KindDNS {
				lines = append(lines, string(line))
			}
		}
		slices.Sort(lines)
		return lines
	}
	ask("register|ready")
	return p, ask, answers
}

func TestQuestionsToDNSAreAnswered(t *testing.T) {
	t.Parallel()
	const head = "dns|00000000000000ab|0000000000000001|"
	_, ask, answers := inquirer(t)
	for _, tt := range []struct {
		question string
		want     []string
	}{
		{"txt|a.example", []string{head + "ok", head + "value|txt of a.example"}},
		{"mx|a.example", []string{head + "ok", head + "value|mx of a.example"}},
		{"host|nothing.example", []string{head + "notfound"}},
		{"addr|fails.example", []string{head + "tempfail"}},
		{"spf|a.example", []string{head + "refused"}},
		{"txt|", []string{head + "refused"}},
		{"txt|" + fmt.Sprintf("%0256d", 1), []string{head + "refused"}},
	} {
		ask("dns|ab|1|" + tt.question)
		if got := answers(len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%.40s is answered by %q, want %q", tt.question, got, tt.want)
		}
	}
}

// A question that is given up ends, makes room for others, and frees its id.
func TestQuestionCanBeGivenUp(t *testing.T) {
	t.Parallel()
	_, ask, answers := inquirer(t)
	for i := range maxAsking { // as many as are asked at a time
		ask(fmt.Sprintf("dns|0|%x|txt|hangs.example", i+1))
	}
	ask("dns|0|1000|txt|a.example") // waits for one of them
	ask("dns|0|999|cancel")         // there is none
	for i := range maxAsking {
		ask(fmt.Sprintf("dns|0|%x|cancel", i+1))
	}
	got := answers(maxAsking + 2)
	for _, want := range []string{
		"dns|0000000000000000|0000000000000001|tempfail", fmt.Sprintf("dns|0000000000000000|%016x|tempfail", maxAsking),
		"dns|0000000000000000|0000000000001000|value|txt of a.example", "dns|0000000000000000|0000000000001000|ok",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no answer %q in %q", want, got)
		}
	}
	ask("dns|0|1|host|nothing.example")
	if got := answers(1); got[0] != "dns|0000000000000000|0000000000000001|notfound" {
		t.Errorf("the id used again is answered by %q", got)
	}
}

// More questions than may be open are answered at once, and those that are stay.
func TestTooManyQuestionsFailForNow(t *testing.T) {
	t.Parallel()
	p, ask, answers := inquirer(t)
	for i := range maxQuestions + 2 {
		ask(fmt.Sprintf("dns|0|%x|txt|hangs.example", i+1))
	}
	want := []string{
		fmt.Sprintf("dns|0000000000000000|%016x|tempfail", maxQuestions+1), fmt.Sprintf("dns|0000000000000000|%016x|tempfail", maxQuestions+2),
	}
	if got := answers(2); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if st := p.Status(); st.Nonsense != 0 || st.Restarts != 0 {
		t.Errorf("%d lines are counted as nonsense, %d restarts", st.Nonsense, st.Restarts)
	}
}
