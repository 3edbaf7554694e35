package relay

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	one, two := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(byMX("192.0.2.1"), func(r *Route) { r.Sources = []Source{{Addr: one}, {Addr: two}}; r.Limits.SessionMailMax = 1 })
		if !e.Pause(one, "D.example") || e.Pause(one, "d.example") {
			t.Error("Pause does not tell what was so already")
		}
		for range 4 {
			e.Add(w.message("s@here.example", "u@d.example")...)
			w.pass(time.Second)
		}
		for _, tg := range w.peer("192.0.2.1").targets {
			if tg.Source != two {
				t.Errorf("left from %v, which is paused", tg.Source)
			}
		}
		e.Pause(netip.Addr{}, "d.example")
		a, b := w.message("s@here.example", "u@d.example"), w.message("s@here.example", "u@other.example")
		e.Add(a...)
		e.Add(b...)
		w.pass(time.Second)
		if r := w.result(a[0]); r.Outcome != TempFail || r.Text != "All routes to destination blocked" || r.Held == "" {
			t.Errorf("result %+v", r)
		}
		if w.result(b[0]).Outcome != OK {
			t.Error("another domain is paused too")
		}
		if !e.Resume(netip.Addr{}, "d.example") || e.Resume(netip.Addr{}, "d.example") || !e.Resume(one, "d.example") || len(e.Paused()) != 0 {
			t.Errorf("paused %v after Resume", e.Paused())
		}
		c := w.message("s@here.example", "u@d.example")
		e.Add(c...)
		w.pass(time.Second)
		if w.result(c[0]).Outcome != OK {
			t.Errorf("result %+v", w.result(c[0]))
		}
	})
}

func TestPauseGivesBackWhatWaits(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		gate := make(chan struct{})
		w.peer("192.0.2.1").block = gate
		for range 20 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(time.Second)
		e.Pause(netip.Addr{}, "")
		w.pass(time.Second)
		running := e.Counts().Running
		if running == 0 || w.count(TempFail) != 20-running {
			t.Errorf("%d given back, %d running, want 20 together", w.count(TempFail), running)
		}
		close(gate)
		w.pass(time.Second)
		if w.count(OK) != running {
			t.Errorf("%d of %d running ones delivered", w.count(OK), running)
		}
	})
}

func TestRoutesCanBeDisabledAndEnabled(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(time.Second)
		w.peer("192.0.2.1").dialErr = nil
		id := e.Routes()[0].ID
		if !e.EnableRoute(id) || e.EnableRoute(id) || e.EnableRoute(id+1) || e.DisableRoute(id+1, time.Hour) {
			t.Error("the answers do not tell whether there was something to do")
		}
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(20 * time.Second)
		if w.count(OK) != 1 {
			t.Errorf("results %+v", w.results)
		}
		if !e.DisableRoute(id, time.Hour) || !e.Routes()[0].Disabled {
			t.Error("route is not disabled")
		}
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		w.pass(time.Second)
		if r := w.result(a[0]); r.Text != "No valid route to destination" || r.RetryAfter < 59*time.Minute {
			t.Errorf("result %+v", r)
		}
	})
}

func TestReloadAsksAnewForWhatWaits(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		gate := make(chan struct{})
		w.peer("192.0.2.1").block = gate
		for range 20 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(time.Second)
		running := e.Counts().Running
		w.mu.Lock()
		w.route = smarthost("192.0.2.2")
		w.mu.Unlock()
		e.Reload(Options{})
		w.pass(time.Second)
		if n := w.peer("192.0.2.2").rcpts; n != 20-running {
			t.Errorf("%d went the new way, want %d", n, 20-running)
		}
		close(gate)
		w.pass(time.Second)
		if w.count(OK) != 20 || w.peer("192.0.2.1").conns != 0 {
			t.Errorf("%d of 20 delivered, %d old connections stand", w.count(OK), w.peer("192.0.2.1").conns)
		}
	})
}

func TestEndLetsTransactionsFinishAndReportsNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.route = smarthost("192.0.2.1", "192.0.2.2")
		w.peer("192.0.2.1").sendTime = 3 * time.Second
		w.peer("192.0.2.2").sendTime = time.Hour
		e := New(Options{}, w, w, w, w, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		for range 20 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(time.Second)
		began := time.Now()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("the end took %v, want the grace of 5 s", d)
		}
		if len(w.results) != 1 || w.count(OK) != 1 || w.open != 0 {
			t.Errorf("results %+v, %d connections, want the one that was finished", w.results, w.open)
		}
	})
}

func TestListsTellWhatIsGoingOn(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(byMX("192.0.2.1"), func(r *Route) {
			r.Hosts[0].TLS.Mode, r.Hosts[0].Auth, r.Hosts[0].Port = Verified, &Credentials{"u", "secret", "", "creds:label"}, 587
		})
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(time.Second)
		r := e.Relays()
		if len(r) != 1 || r[0].Name != "[relay:d.example,port=587,smtp+tls,auth=creds:label,heloname=us.example]" || r[0].Idle != 1 || len(r[0].Connectors) != 1 {
			t.Errorf("relays %+v", r)
		}
		if h := e.Hosts(); len(h) != 1 || h[0].Name != "h1.example" || h[0].Refs != 1 || h[0].Sessions != 1 {
			t.Errorf("hosts %+v", h)
		}
		if s := e.HostStats(); len(s) != 1 || s[0].Domain != "d.example" || s[0].Status != "250 2.0.0 ok" {
			t.Errorf("stats %+v", s)
		}
		if c, ok := w.events[0].(report.RelayConnecting); !ok || c.Address != "smtp+tls://192.0.2.1:587" || c.Host != "h1.example" {
			t.Errorf("first event %+v", w.events[0])
		}
		w.pass(5 * time.Hour)
		if len(e.HostStats()) != 0 || len(e.Hosts()) != 0 || len(e.Relays()) != 0 {
			t.Errorf("remembered after five hours: %+v", e.Counts())
		}
	})
}
