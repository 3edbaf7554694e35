package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Session implements Witness.
func (w *world) Session(t *Target, _ Caps, domains []string, failure *DialError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := "good"
	if failure != nil {
		what = failure.Text
	}
	for _, d := range domains {
		w.witnessed = append(w.witnessed, fmt.Sprintf("%s %s %s", t.Host, d, what))
	}
}

// seen returns what the Witness was told, in order of hosts and domains.
func (w *world) seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.witnessed)
	return strings.Join(w.witnessed, "\n")
}

func verifiedMX(addrs ...string) func(RouteQuery) (*Route, error) {
	return with(byMX(addrs...), func(r *Route) {
		for i := range r.Hosts {
			r.Hosts[i].TLS.Mode = Verified
		}
	})
}

func TestWitnessIsToldOfEachConnectionOnceForEachDomain(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = verifiedMX("192.0.2.1")
		e.Add(w.message("s@here.example", "a@One.example", "b@one.example", "c@two.example")...)
		w.pass(time.Second)
		e.Add(w.message("s@here.example", "d@one.example")...)
		w.pass(time.Second)
		if got, want := w.seen(), "h1.example one.example good\nh1.example two.example good"; got != want || w.peer("192.0.2.1").dials != 1 {
			t.Errorf("told\n%s\nwant\n%s", got, want)
		}
	})
}

func TestWitnessIsToldOfWhomAFailureOfTLSConcerns(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = verifiedMX("192.0.2.1", "192.0.2.2")
		w.peer("192.0.2.1").dialErr = &DialError{Stage: StartTLS, Text: "bad certificate"}
		e.Add(w.message("s@here.example", "a@one.example", "b@two.example")...)
		w.pass(time.Second)
		want := "h1.example one.example bad certificate\nh1.example two.example bad certificate\nh2.example one.example good\nh2.example two.example good"
		if got := w.seen(); got != want {
			t.Errorf("told\n%s\nwant\n%s", got, want)
		}
	})
	// A host that cannot be reached, and one that is not asked for TLS, tell nothing.
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(byMX("192.0.2.1", "192.0.2.2"), func(r *Route) { r.Hosts[0].TLS.Mode = Verified })
		w.peer("192.0.2.1").dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
		e.Add(w.message("s@here.example", "a@one.example")...)
		w.pass(time.Second)
		if got := w.seen(); got != "" {
			t.Errorf("told\n%s", got)
		}
	})
}
