package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func TestFailedHostFallsOverToTheNextWithoutDeferral(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fail func(p *peer)
	}{
		{"connect", func(p *peer) { p.dialErr = &DialError{Stage: Connect, Text: "Connection timeout"} }},
		{"banner", func(p *peer) {
			p.dialErr = &DialError{Stage: Banner, Text: "BANNER rejected: 554 no", Reply: &smtp.Error{Code: 554, Text: "no"}}
		}},
		{"lost at once", func(p *peer) { p.lose = func(*Transaction) (Stage, bool) { return Mail, true } }},
		{"421 to MAIL", func(p *peer) {
			p.answer = func(*Transaction, int) Answer { return Answer{Code: 421, Text: "later", Stage: Mail} }
		}},
		{"authentication", func(p *peer) { p.dialErr = &DialError{Stage: Auth, Text: "AUTH rejected: 535 no"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Options{}, func(e *Relayer, w *world) {
				w.route = byMX("192.0.2.1", "192.0.2.2")
				tt.fail(w.peer("192.0.2.1"))
				for range 3 {
					e.Add(w.message("s@here.example", "u@d.example")...)
				}
				w.pass(5 * time.Second)
				if w.count(OK) != 3 || w.peer("192.0.2.2").rcpts != 3 {
					t.Errorf("%d delivered, %d by the second host, want 3: %+v", w.count(OK), w.peer("192.0.2.2").rcpts, w.results)
				}
				if d := w.peer("192.0.2.1").dials; d > 2 {
					t.Errorf("first host was tried %d times", d)
				}
			})
		})
	}
}

func TestPutOffRecipientDoesNotFallOver(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = byMX("192.0.2.1", "192.0.2.2")
		w.peer("192.0.2.1").answer = func(_ *Transaction, i int) Answer {
			switch i {
			case 0:
				return Answer{Code: 450, Enhanced: smtp.EnhancedCode{4, 2, 0}, Text: "greylisted", Stage: Rcpt}
			case 1:
				return Answer{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Text: "unknown", Stage: Rcpt}
			}
			return Answer{Code: 250, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "queued as 7", Stage: Dot}
		}
		w.peer("192.0.2.1").caps.DSN = true
		a := w.message("s@here.example", "u@d.example", "v@d.example", "w@d.example")
		e.Add(a...)
		w.pass(time.Second)
		addr := netip.MustParseAddr("192.0.2.1")
		for i, want := range []Result{
			{Outcome: TempFail, Code: 450, Enhanced: smtp.EnhancedCode{4, 2, 0}, Text: "450 4.2.0 greylisted", Stage: Rcpt},
			{Outcome: PermFail, Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Text: "550 5.1.1 unknown", Stage: Rcpt},
			{Outcome: OK, Code: 250, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "250 2.0.0 queued as 7", Stage: Dot},
		} {
			got := w.result(a[i])
			want.Host, want.Addr, want.DSN, want.Session = "h1.example", addr, true, got.Session
			if got != want || got.Session == 0 {
				t.Errorf("recipient %d: %+v\nwant %+v", i, got, want)
			}
		}
		if w.peer("192.0.2.2").dials != 0 {
			t.Error("the next MX was tried for a recipient that was put off")
		}
	})
}

func TestDestinationThatCannotBeReachedGivesMailBackAtOnce(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = byMX("192.0.2.1", "192.0.2.2")
		w.peer("192.0.2.1").dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
		w.peer("192.0.2.2").dialErr = &DialError{
			Stage: Banner, Text: "BANNER rejected: 421 4.3.2 closed", Reply: &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 3, 2}, Text: "closed"},
		}
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		w.pass(time.Second)
		r := w.result(a[0])
		if r.Outcome != TempFail || r.Text != "Network error on destination MXs: BANNER rejected: 421 4.3.2 closed" ||
			r.Enhanced != (smtp.EnhancedCode{4, 3, 2}) || r.Host != "h2.example" || r.Stage != Banner {
			t.Errorf("result %+v", r)
		}
		if r.RetryAfter <= 13*time.Second || r.RetryAfter > 15*time.Second || !strings.Contains(r.Held, "disabled until") {
			t.Errorf("retry after %v, held %q, want nearly 15 s and the route", r.RetryAfter, r.Held)
		}
		b := w.message("s@here.example", "u@d.example")
		e.Add(b...)
		w.pass(time.Second)
		if r := w.result(b[0]); r.Outcome != TempFail || w.peer("192.0.2.1").dials+w.peer("192.0.2.2").dials != 2 {
			t.Errorf("while the routes are disabled: %+v", r)
		}
		w.pass(20 * time.Second)
		w.peer("192.0.2.1").dialErr = nil
		c := w.message("s@here.example", "u@d.example")
		e.Add(c...)
		w.pass(time.Second)
		if w.result(c[0]).Outcome != OK {
			t.Errorf("after the penalty: %+v", w.result(c[0]))
		}
		if len(w.revived) != 2 {
			t.Errorf("rescheduled %v, want the two that were given back", w.revived)
		}
	})
}

func TestPenaltyGrowsWithTheSquareOfFailures(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
		for _, want := range []time.Duration{15, 60, 135, 240} {
			e.Add(w.message("s@here.example", "u@d.example")...)
			w.pass(100 * time.Millisecond)
			r := e.Routes()[0]
			if got := time.Until(r.Until).Round(time.Second); !r.Disabled || got != want*time.Second {
				t.Errorf("penalty %d: disabled for %v, want %v", r.Penalty, got, want*time.Second)
			}
			w.pass(want * time.Second)
		}
		w.peer("192.0.2.1").dialErr = nil
		e.Add(w.message("s@here.example", "u@d.example")...)
		w.pass(time.Second)
		if r := e.Routes()[0]; r.Penalty != 0 || r.New {
			t.Errorf("after a success: %+v", r)
		}
		var p penalty
		for range 1000 {
			p.fail(time.Now(), nil)
		}
		if d := p.fail(time.Now(), nil); d != time.Hour {
			t.Errorf("most is %v, want an hour", d)
		}
	})
}

func TestReasonsForHavingNoRoute(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		route func(RouteQuery) (*Route, error)
		want  string
	}{
		{"no hosts", smarthost(), "TempFail 4.4.4 No MX found for destination"},
		{"no addresses", with(smarthost("192.0.2.1"), func(r *Route) { r.Hosts[0].Addrs = nil }), "TempFail 4.4.4 No MX found for destination"},
		{"family", with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.Family = Inet6Only }), "TempFail 4.4.4 Address family mismatch on destination MXs"},
		{"source", with(smarthost("192.0.2.1"), func(r *Route) { r.Sources = []Source{{Addr: netip.MustParseAddr("::1")}} }), "TempFail 4.4.4 Address family mismatch on destination MXs"},
		{"no domain", func(RouteQuery) (*Route, error) {
			return nil, &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 2}, Text: "Domain does not exist"}
		}, "PermFail 5.1.2 Domain does not exist"},
		{"name servers", func(RouteQuery) (*Route, error) {
			return nil, &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 4, 3}, Text: "Temporary failure in MX lookup"}
		}, "TempFail 4.4.3 Temporary failure in MX lookup"},
		{"lookup", func(RouteQuery) (*Route, error) { return nil, errors.New("EOF") }, "TempFail 4.4.3 Temporary failure in routing lookup"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Options{}, func(e *Relayer, w *world) {
				w.route = tt.route
				a := w.message("s@here.example", "u@d.example")
				e.Add(a...)
				w.pass(time.Second)
				r := w.result(a[0])
				if got := fmt.Sprint(r.Outcome, " ", r.Enhanced, " ", r.Text); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if e.Counts().Pending != 0 {
					t.Errorf("counts %+v", e.Counts())
				}
			})
		})
	}
}

func TestHostsShareConnectionsByWeight(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1", "192.0.2.2"), func(r *Route) { r.Hosts[0].Weight = 3; r.Limits.SessionMailMax = 1 })
		for range 40 {
			e.Add(w.message("s@here.example", "u@d.example")...)
			w.pass(time.Second)
		}
		w.pass(5 * time.Second)
		a, b := w.peer("192.0.2.1").rcpts, w.peer("192.0.2.2").rcpts
		if a+b != 40 || a < 20 || b == 0 {
			t.Errorf("shares %d and %d, want about 30 and 10", a, b)
		}
		h := hops(&Route{Hosts: []Host{{Name: "a", Weight: 60000}, {Name: "b", Weight: 20000}}})
		n := map[string]int{}
		for range 400 {
			n[heaviestTurn(h).Name]++
		}
		if n["a"] < 300 || n["a"] > 306 {
			t.Errorf("turns %v, want 3 of 4 for a", n)
		}
	})
}

func TestFamilyPreference(t *testing.T) {
	t.Parallel()
	both := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}
	for _, tt := range []struct {
		family Family
		down   string
		want   string
	}{
		{PreferInet4, "", "192.0.2.1"},
		{PreferInet6, "", "2001:db8::1"},
		{PreferInet6, "2001:db8::1", "192.0.2.1"},
		{Inet4Only, "", "192.0.2.1"},
		{Inet6Only, "", "2001:db8::1"},
		{AnyFamily, "", "2001:db8::1"},
	} {
		run(t, Options{}, func(e *Relayer, w *world) {
			w.route = with(smarthost(), func(r *Route) { r.Hosts, r.Limits.Family = []Host{{Name: "h.example", Addrs: both}}, tt.family })
			if tt.down != "" {
				w.peer(tt.down).dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
			}
			e.Add(w.message("s@here.example", "u@d.example")...)
			w.pass(time.Second)
			if len(w.via) != 1 || w.via[0] != tt.want {
				t.Errorf("family %d, down %q: by %v, want %s", tt.family, tt.down, w.via, tt.want)
			}
		})
	}
}

func TestSourcesAreUsedInTurn(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) {
			r.Sources = []Source{{netip.MustParseAddr("192.0.2.100"), "one.example"}, {Addr: netip.MustParseAddr("192.0.2.101")}}
			r.Limits.SessionMailMax = 1
		})
		for range 4 {
			e.Add(w.message("s@here.example", "u@d.example")...)
			w.pass(time.Second)
		}
		var got []string
		for _, t := range w.peer("192.0.2.1").targets {
			got = append(got, t.Source.String()+"/"+t.HELO)
		}
		want := "192.0.2.100/one.example 192.0.2.101/us.example 192.0.2.100/one.example 192.0.2.101/us.example"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("sources %s\nwant %s", s, want)
		}
	})
}

func TestTLSThatDoesNotWorkIsLeftOutWhereAllowed(t *testing.T) {
	t.Parallel()
	for mode, want := range map[TLSMode]Outcome{Opportunistic: OK, Required: TempFail, Verified: TempFail, DANE: TempFail} {
		run(t, Options{}, func(e *Relayer, w *world) {
			w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Hosts[0].TLS.Mode = mode; r.Limits.SessionMailMax = 1 })
			p := w.peer("192.0.2.1")
			p.tlsBreak = true
			for range 2 {
				e.Add(w.message("s@here.example", "u@d.example")...)
				w.pass(time.Second)
			}
			if w.count(want) != 2 {
				t.Errorf("mode %d: %+v", mode, w.results)
			}
			if want == OK && (p.dials != 3 || !e.Hosts()[0].Plain) {
				t.Errorf("%d connections, hosts %+v: want 3, the failure remembered", p.dials, e.Hosts())
			}
			for _, r := range w.results {
				if want == TempFail && (r.Enhanced != smtp.EnhancedCode{4, 7, 5} || !strings.Contains(r.Text, "TLS handshake failed")) {
					t.Errorf("mode %d: %+v", mode, r)
				}
			}
			if r := e.Routes()[0]; r.Disabled {
				t.Error("the route is disabled for relays without TLS too")
			}
		})
	}
}

func TestSlowDestinationDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	run(t, Options{MaxSessions: 20}, func(e *Relayer, w *world) {
		w.route = func(q RouteQuery) (*Route, error) {
			if q.Domain == "slow.example" {
				return byMX("192.0.2.66", "192.0.2.67")(q)
			}
			return byMX("192.0.2." + strings.TrimPrefix(strings.TrimSuffix(q.Domain, ".example"), "d"))(q)
		}
		gate := make(chan struct{})
		w.peer("192.0.2.66").block = gate
		w.peer("192.0.2.67").block = gate
		for range 100 {
			e.Add(w.message("s@here.example", "u@slow.example")...)
		}
		for n := range 40 {
			e.Add(w.message("s@here.example", fmt.Sprintf("u@d%d.example", n+1))...)
		}
		w.pass(10 * time.Second)
		if n := w.count(OK); n != 40 {
			t.Errorf("%d of 40 delivered beside the slow one", n)
		}
		if n := w.peer("192.0.2.66").peak; n > 5 {
			t.Errorf("%d connections to the slow host", n)
		}
		if w.peak > 20 {
			t.Errorf("%d connections at a time, want at most 20", w.peak)
		}
		close(gate)
		w.pass(10 * time.Second)
		if n := w.count(OK); n != 140 {
			t.Errorf("%d of 140 delivered", n)
		}
	})
}

func TestBusyRelayGivesUpSessionsForOthers(t *testing.T) {
	t.Parallel()
	run(t, Options{MaxSessions: 4}, func(e *Relayer, w *world) {
		w.route = func(q RouteQuery) (*Route, error) {
			if q.Domain == "big.example" {
				return smarthost("192.0.2.1")(q)
			}
			return smarthost("192.0.2.2")(q)
		}
		w.peer("192.0.2.1").sendTime = time.Second
		for range 150 {
			e.Add(w.message("s@here.example", "u@big.example")...)
		}
		w.pass(10 * time.Second)
		if w.open != 4 {
			t.Fatalf("%d connections, want all 4", w.open)
		}
		e.Add(w.message("s@here.example", "u@small.example")...)
		w.pass(3 * time.Second)
		if w.peer("192.0.2.2").rcpts != 1 {
			t.Error("the other relay got no session")
		}
	})
}

func TestIdleConnectionMakesRoomForAnotherRelay(t *testing.T) {
	t.Parallel()
	run(t, Options{MaxSessions: 2}, func(e *Relayer, w *world) {
		w.route = func(q RouteQuery) (*Route, error) { return smarthost("192.0.2." + q.Domain[1:2])(q) }
		for n := range 6 {
			e.Add(w.message("s@here.example", fmt.Sprintf("u@d%d.example", n+1))...)
			w.pass(time.Second)
			if w.count(OK) != n+1 {
				t.Fatalf("%d of %d delivered", w.count(OK), n+1)
			}
		}
		if w.peak > 2 {
			t.Errorf("%d connections at a time, want 2", w.peak)
		}
	})
}

func TestComplaintsAboutTheRateSlowTheRoute(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		var times []time.Time
		w.peer("192.0.2.1").answer = func(*Transaction, int) Answer {
			times = append(times, time.Now())
			if len(times) <= 3 {
				return Answer{Code: 450, Enhanced: smtp.EnhancedCode{4, 7, 1}, Text: "Rate limit exceeded", Stage: Rcpt}
			}
			return Answer{Code: 250, Text: "ok", Stage: Dot}
		}
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.MaxConnPerRelay = 1 })
		for range 6 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(2 * time.Minute)
		if len(times) != 6 {
			t.Fatalf("%d transactions, want 6", len(times))
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 3600 * time.Millisecond} {
			if got := times[i+1].Sub(times[i]); got < want {
				t.Errorf("%v after transaction %d, want at least %v", got, i+1, want)
			}
		}
		if r := e.Routes()[0]; r.Disabled {
			t.Error("route is disabled")
		}
	})
}

func TestHostThatEndsConnectionsAfterSomeMessagesIsNotPunished(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").perConn = 5
		for range 30 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(5 * time.Second)
		if w.count(OK) != 30 || e.Routes()[0].Disabled {
			t.Errorf("%d of 30 delivered, routes %+v", w.count(OK), e.Routes())
		}
	})
}

func TestConnectionLostAfterTheFinalDotIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = byMX("192.0.2.1", "192.0.2.2")
		w.peer("192.0.2.1").lose = func(*Transaction) (Stage, bool) { return Dot, true }
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		w.pass(time.Second)
		r := w.result(a[0])
		if r.Outcome != TempFail || r.Text != "Connection closed unexpectedly" || r.Stage != Dot {
			t.Errorf("result %+v", r)
		}
		if n := w.peer("192.0.2.1").sends + w.peer("192.0.2.2").sends; n != 1 {
			t.Errorf("sent %d times, want once: the host may have it", n)
		}
	})
}

func TestMessageThatBreaksConnectionsIsGivenBack(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").lose = func(t *Transaction) (Stage, bool) { return Data, t.MsgID == 1 }
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		for range 5 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(5 * time.Second)
		if r := w.result(a[0]); r.Outcome != TempFail || r.Stage != Data {
			t.Errorf("result %+v", r)
		}
		if w.count(OK) != 5 {
			t.Errorf("%d of 5 others delivered", w.count(OK))
		}
	})
}

func TestHostThatPutsOffAllMailIsLeftAlone(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").answer = func(*Transaction, int) Answer { return Answer{Code: 451, Text: "not now", Stage: Mail} }
		for range 30 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(5 * time.Second)
		if n := w.peer("192.0.2.1").sends; n < 10 || n > 25 {
			t.Errorf("%d transactions before it was left alone, want 10 to 25", n)
		}
		if w.count(TempFail) != 30 {
			t.Errorf("%d of 30 given back", w.count(TempFail))
		}
		rejects, text := 0, 0
		for _, ev := range w.events {
			if _, ok := ev.(report.RelayRejects); ok {
				rejects++
			}
		}
		for _, r := range w.results {
			if r.Text == "Destination seem to reject all mails: 451 not now" {
				text++
			}
		}
		if rejects == 0 || text == 0 {
			t.Errorf("%d events, %d results with the reason", rejects, text)
		}
	})
}

func TestRefusedRecipientsInARowEndAConnection(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		p := w.peer("192.0.2.1")
		p.answer = func(*Transaction, int) Answer { return Answer{Code: 550, Text: "no", Stage: Rcpt} }
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.MaxConnPerRelay = 1 })
		for range 60 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(5 * time.Second)
		if w.count(PermFail) != 60 || p.dials != 3 {
			t.Errorf("%d refused over %d connections, want 60 over 3", w.count(PermFail), p.dials)
		}
		if e.Routes()[0].Disabled {
			t.Error("unknown recipients disabled the route")
		}
	})
}

func TestMailThatFindsNoConnectionIsGivenBackInTime(t *testing.T) {
	t.Parallel()
	run(t, Options{MaxWait: time.Minute}, func(e *Relayer, w *world) {
		gate := make(chan struct{})
		w.peer("192.0.2.1").block = gate
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.MaxConnPerHost = 1 })
		for range 5 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(2 * time.Minute)
		if w.count(TempFail) != 4 {
			t.Fatalf("%d given back, want 4", w.count(TempFail))
		}
		for _, r := range w.results {
			if !strings.Contains(r.Held, "host 192.0.2.1 has all connections") {
				t.Errorf("held %q, want the limit", r.Held)
			}
		}
		close(gate)
		w.pass(time.Second)
		if w.count(OK) != 1 {
			t.Error("the running one was lost")
		}
	})
}

func TestBodyThatCannotBeReadIsTriedAgain(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.openErr = errors.New("EIO")
		a := w.message("s@here.example", "u@d.example")
		e.Add(a...)
		w.pass(time.Second)
		if r := w.result(a[0]); r.Outcome != TempFail || r.Cause == nil || strings.Contains(r.Text, "EIO") {
			t.Errorf("result %+v", r)
		}
	})
}
