package relay

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// listing returns a listing as one text.
func listing(t *testing.T, e *Relayer, what string, asJSON bool) string {
	t.Helper()
	lines, err := e.List(what, asJSON)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestListings(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(byMX("192.0.2.1"), func(r *Route) { r.Limits.SessionKeepalive = time.Hour })
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(time.Second)
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(5 * time.Second)
		relays := listing(t, e, "relays", false)
		if want := "[relay:d.example,smtp+notls,heloname=us.example] refcount=1 ntask=0 nconn=1 lastconn=6s timeout=- envelopes=0 idle=1 window=5 hold=no\n  connector - nconn=1 lastconn=6s"; relays != want {
			t.Errorf("relays\n%s\nwant\n%s", relays, want)
		}
		if got, want := listing(t, e, "routes", false), "1. - <-> 192.0.2.1 (h1.example) ---K nconn=1 nerror=0 penalty=0 timeout=-"; got != want {
			t.Errorf("routes %q, want %q", got, want)
		}
		if got, want := listing(t, e, "hosts", false), "192.0.2.1 h1.example refcount=1 nconn=1 lastconn=6s"; got != want {
			t.Errorf("hosts %q, want %q", got, want)
		}
		stats := listing(t, e, "hoststats", false)
		if !strings.HasPrefix(stats, "d.example|9466848") || !strings.HasSuffix(stats, "|250 2.0.0 ok") {
			t.Errorf("hoststats %q", stats)
		}
		if _, err := e.List("everything", false); err == nil {
			t.Error("a listing that there is not")
		}
	})
}

func TestListingsOfTrouble(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").dialErr = &DialError{Stage: Connect, Text: "Connection failed: connection refused"}
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		w.pass(2 * time.Second)
		if got, want := listing(t, e, "routes", false), `1. - <-> 192.0.2.1 (h1.example) ND-- nconn=0 nerror=1 penalty=1 timeout=14s error="Connection failed: connection refused"`; got != want {
			t.Errorf("routes\n%s\nwant\n%s", got, want)
		}
		if got := listing(t, e, "relays", false); !strings.Contains(got, ` error="Connection failed: connection refused"`) {
			t.Errorf("relays %s", got)
		}
		e.Pause(netip.MustParseAddr("192.0.2.100"), "")
		e.Pause(netip.Addr{}, "D.example")
		if got, want := listing(t, e, "paused", false), "* -> d.example\n192.0.2.100 -> *"; got != want {
			t.Errorf("paused %q, want %q", got, want)
		}
		for _, what := range []string{"relays", "routes", "hosts", "hoststats", "paused"} {
			for line := range strings.SplitSeq(listing(t, e, what, true), "\n") {
				var fields map[string]any
				if err := json.Unmarshal([]byte(line), &fields); err != nil || len(fields) < 2 {
					t.Errorf("%s: %s: %v", what, line, err)
				}
			}
		}
		if got := listing(t, e, "routes", true); !strings.Contains(got, `"disabled":true`) || !strings.Contains(got, `"disabled_until":"`) {
			t.Errorf("routes %s", got)
		}
	})
}
