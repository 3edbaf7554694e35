package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func TestThousandMessagesToOneSmarthostTakeFewConnections(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		for n := range 1000 {
			e.Add(w.message(fmt.Sprintf("s%d@here.example", n%7), fmt.Sprintf("u%d@d%d.example", n, n%20))...)
		}
		w.pass(10 * time.Second)
		p := w.peer("192.0.2.1")
		if n := w.count(OK); n != 1000 {
			t.Fatalf("%d of 1000 delivered", n)
		}
		if p.dials > 10 || p.peak > 5 {
			t.Errorf("%d connections, %d at a time, want at most 10 and 5", p.dials, p.peak)
		}
		if w.maxHeld == 0 || w.maxHeld > 800 {
			t.Errorf("%d held, want what goes beyond 200 messages", w.maxHeld)
		}
		w.pass(2 * time.Minute)
		if got := e.Counts(); got.Sessions != 0 || got.Relays != 0 || got.Pending != 0 || got.Running != 0 {
			t.Errorf("counts at rest: %+v", got)
		}
	})
}

func TestRecipientsOfManyDomainsBehindOneHostShareTransactions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		route func(RouteQuery) (*Route, error)
	}{
		{"smarthost", smarthost("192.0.2.1")},
		{"equal MX", byMX("192.0.2.1", "192.0.2.2")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Options{}, func(e *Relayer, w *world) {
				w.route, w.routeLag = tt.route, 5*time.Millisecond
				var to []string
				for n := range 1000 {
					to = append(to, fmt.Sprintf("u%d@d%d.example", n, n%500))
				}
				e.Add(w.message("s@here.example", to...)...)
				w.pass(10 * time.Second)
				if n := w.count(OK); n != 1000 {
					t.Fatalf("%d of 1000 delivered", n)
				}
				if len(w.sends) > 20 {
					t.Errorf("%d transactions, want at most 20", len(w.sends))
				}
				if w.opened != len(w.sends) {
					t.Errorf("body opened %d times for %d transactions", w.opened, len(w.sends))
				}
			})
		})
	}
}

func TestAnswerForAnyDomainIsAskedForOnce(t *testing.T) {
	t.Parallel()
	run(t, Options{MaxLookups: 1}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.AnyDomain = true })
		for n := range 50 {
			e.Add(w.message("s@here.example", fmt.Sprintf("u@d%d.example", n))...)
		}
		w.pass(5 * time.Second)
		if w.lookups != 1 || w.count(OK) != 50 {
			t.Errorf("%d lookups, %d delivered, want 1 and 50", w.lookups, w.count(OK))
		}
	})
}

func TestSenderOfTheRouteIsSent(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = func(q RouteQuery) (*Route, error) {
			r, _ := smarthost("192.0.2.1")(q)
			r.PerSender = true
			r.Sender = smtp.Path{Local: "srs-" + q.Sender.Local + "-" + q.Forwarder, Domain: "here.example"}
			return r, nil
		}
		a := w.message("ann@a.example", "u@d.example", "v@d.example")
		a[1].Envelope.Rcpt = smtp.Path{Local: "list", Domain: "Here.example"}
		e.Add(a...)
		e.Add(w.message("bob@a.example", "u@d.example")...)
		w.pass(time.Second)
		var got []string
		for _, s := range w.sends {
			got = append(got, s.Sender.Local)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != "srs-ann- srs-ann-here.example srs-bob-" {
			t.Errorf("senders %q", s)
		}
		if w.lookups != 3 || len(e.Relays()) != 1 {
			t.Errorf("%d lookups and %d relays, want 3 and 1", w.lookups, len(e.Relays()))
		}
	})
}

func TestWhatChangesTheConversationMakesAnotherRelay(t *testing.T) {
	t.Parallel()
	base := func() *Route {
		r, _ := byMX("192.0.2.1", "192.0.2.2")(RouteQuery{Domain: "a.example"})
		r.Sources = []Source{{Addr: netip.MustParseAddr("192.0.2.100"), HELO: "one.example"}}
		r.Hosts[0].TLS = TLS{Mode: DANE, TLSA: []TLSA{{3, 1, 1, []byte{1}}}}
		r.Hosts[0].Auth = &Credentials{User: "u", Password: "p"}
		return r
	}
	for name, change := range map[string]func(*Route){
		"host":      func(r *Route) { r.Hosts[0].Name = "other.example" },
		"port":      func(r *Route) { r.Hosts[0].Port = 587 },
		"order":     func(r *Route) { r.Hosts[0].Preference = 30 },
		"weight":    func(r *Route) { r.Hosts[0].Weight = 2 },
		"fewer":     func(r *Route) { r.Hosts = r.Hosts[:1] },
		"lmtp":      func(r *Route) { r.Hosts[0].LMTP = true },
		"tls":       func(r *Route) { r.Hosts[1].TLS.Mode = Verified },
		"implicit":  func(r *Route) { r.Hosts[1].TLS.Implicit = true },
		"tlsa":      func(r *Route) { r.Hosts[0].TLS.TLSA[0].Data = []byte{2} },
		"names":     func(r *Route) { r.Hosts[0].TLS.Names = []string{"x"} },
		"user":      func(r *Route) { r.Hosts[0].Auth.User = "v" },
		"password":  func(r *Route) { r.Hosts[0].Auth.Password = "q" },
		"mechanism": func(r *Route) { r.Hosts[0].Auth.Mechanism = "LOGIN" },
		"no auth":   func(r *Route) { r.Hosts[0].Auth = nil },
		"source":    func(r *Route) { r.Sources[0].Addr = netip.MustParseAddr("192.0.2.101") },
		"helo":      func(r *Route) { r.HELO = "x" },
		"src helo":  func(r *Route) { r.Sources[0].HELO = "x" },
		"pki":       func(r *Route) { r.PKI = "x" },
		"ca":        func(r *Route) { r.CA = "x" },
		"ciphers":   func(r *Route) { r.Ciphers = "x" },
		"protocols": func(r *Route) { r.Protocols = "x" },
		"filter":    func(r *Route) { r.Filter = "x" },
		"family":    func(r *Route) { r.Limits.Family = Inet4Only },
		"limit":     func(r *Route) { r.Limits.MaxConnPerHost = 1 },
	} {
		r := base()
		change(r)
		if r.key() == base().key() {
			t.Errorf("%s: the relay is the same", name)
		}
	}
	r := base()
	slices.Reverse(r.Hosts)
	r.Hosts[0].Addrs = nil
	r.Name, r.Sender, r.TTL = "b.example", smtp.Path{Local: "x"}, time.Hour
	if r.key() != base().key() {
		t.Error("order of hosts, their addresses, name or sender make another relay")
	}
}

func TestConnectionIsKeptForTheNextMessage(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = byMX("192.0.2.1")
		for n := range 5 {
			e.Add(w.message("s@here.example", fmt.Sprintf("u@d%d.example", n))...)
			w.pass(9 * time.Second)
		}
		if p := w.peer("192.0.2.1"); p.dials != 1 || p.sends != 5 {
			t.Errorf("%d connections for %d messages, want one", p.dials, p.sends)
		}
		w.pass(2 * time.Second)
		if w.quits != 1 {
			t.Error("connection stands 11 s after its last message, the keepalive is 10 s")
		}
	})
}

func TestConnectionEndsAfterItsMails(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.SessionMailMax = 10; r.Limits.MaxConnPerRoute = 1 })
		for range 35 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(5 * time.Second)
		if p := w.peer("192.0.2.1"); p.dials != 4 || w.count(OK) != 35 {
			t.Errorf("%d connections, %d delivered, want 4 and 35", p.dials, w.count(OK))
		}
	})
}

func TestPeersLimitsAreKept(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").caps = Caps{RcptMax: 5, RcptDomainMax: 2, MailMax: 3}
		var to []string
		for n := range 40 {
			to = append(to, fmt.Sprintf("u%d@d%d.example", n, n%4))
		}
		e.Add(w.message("s@here.example", to...)...)
		w.pass(5 * time.Second)
		if w.count(OK) != 40 {
			t.Fatalf("%d of 40 delivered", w.count(OK))
		}
		for _, s := range w.sends {
			domains := map[string]bool{}
			for _, r := range s.Rcpts {
				domains[r.Dest.Domain] = true
			}
			if len(s.Rcpts) > 5 || len(domains) > 2 {
				t.Errorf("transaction with %d recipients in %d domains, want at most 5 and 2", len(s.Rcpts), len(domains))
			}
		}
		if p := w.peer("192.0.2.1"); p.sends > 3*p.dials {
			t.Errorf("%d transactions over %d connections, want at most 3 each", p.sends, p.dials)
		}
	})
}

func TestTooManyRecipientsAreSentAtOnceInFurtherTransactions(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").answer = func(_ *Transaction, i int) Answer {
			if i >= 10 {
				return Answer{Code: 452, Enhanced: smtp.EnhancedCode{4, 5, 3}, Text: "Too many recipients", Stage: Rcpt}
			}
			return Answer{Code: 250, Text: "ok", Stage: Dot}
		}
		to := make([]string, 45)
		for n := range to {
			to[n] = fmt.Sprintf("u%d@d.example", n)
		}
		e.Add(w.message("s@here.example", to...)...)
		w.pass(5 * time.Second)
		if w.count(OK) != 45 || len(w.sends) > 6 {
			t.Errorf("%d of 45 delivered in %d transactions", w.count(OK), len(w.sends))
		}
	})
}

func TestSendersAndMessagesTakeTurns(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.MaxConnPerRelay = 1; r.Limits.MaxRcpt = 2 })
		gate := make(chan struct{})
		w.peer("192.0.2.1").block = gate
		e.Add(w.message("first@a.example", "u@d.example")...)
		w.pass(time.Second)
		e.Add(w.message("bulk@a.example", "1@d.example", "2@d.example", "3@d.example", "4@d.example")...)
		e.Add(w.message("bulk@a.example", "5@d.example")...)
		e.Add(w.message("ann@a.example", "u@d.example")...)
		close(gate)
		w.pass(time.Second)
		var got []string
		for _, s := range w.sends {
			got = append(got, fmt.Sprintf("%s/%d", s.Sender.Local, s.MsgID))
		}
		if s := strings.Join(got, " "); s != "first/1 bulk/2 ann/4 bulk/3 bulk/2" {
			t.Errorf("order %q", s)
		}
	})
}

func TestConnectionsGrowWithSlowSuccessUpToTheLimits(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = smarthost("192.0.2.1", "192.0.2.2", "192.0.2.3")
		for _, a := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
			w.peer(a).sendTime = time.Second
		}
		for range 600 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(20 * time.Millisecond)
		if w.open > 2 {
			t.Errorf("%d connections before anything is known, want at most 2", w.open)
		}
		w.pass(30 * time.Second)
		if w.open != 15 {
			t.Errorf("%d connections, want 5 a route to 3 hosts", w.open)
		}
		w.pass(time.Minute)
		if w.count(OK) != 600 {
			t.Errorf("%d of 600 delivered", w.count(OK))
		}
	})
}

func TestFewConnectionsAreMadeToAFastHost(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.peer("192.0.2.1").sendTime = time.Millisecond
		for range 60 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(time.Second)
		if p := w.peer("192.0.2.1"); p.dials > 2 || w.count(OK) != 60 {
			t.Errorf("%d connections for %d messages of 1 ms, want at most 2", p.dials, w.count(OK))
		}
	})
}

func TestHostThatWantsFewConnectionsGetsFew(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		p := w.peer("192.0.2.1")
		p.max, p.sendTime = 2, 500*time.Millisecond
		for range 100 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(60 * time.Second)
		if w.count(OK) != 100 {
			t.Errorf("%d of 100 delivered", w.count(OK))
		}
		if p.dials > 8 {
			t.Errorf("%d connections tried on a host that takes 2", p.dials)
		}
		if r := e.Routes(); len(r) != 1 || r[0].Disabled || r[0].Errors == 0 {
			t.Errorf("routes %+v, want one with errors and not disabled", r)
		}
	})
}

func TestLimitsHold(t *testing.T) {
	t.Parallel()
	source := func(r *Route) {
		r.Sources = []Source{{Addr: netip.MustParseAddr("192.0.2.100")}, {Addr: netip.MustParseAddr("192.0.2.101")}}
	}
	for _, tt := range []struct {
		name   string
		change func(*Route)
		want   int
	}{
		{"host", func(r *Route) { source(r); r.Limits.MaxConnPerHost = 3 }, 6},
		{"route", func(r *Route) { source(r); r.Limits.MaxConnPerRoute = 2 }, 8},
		{"source", func(r *Route) { source(r); r.Limits.MaxConnPerSource = 3 }, 6},
		{"connector", func(r *Route) { source(r); r.Limits.MaxConnPerConnector = 2 }, 4},
		{"relay", func(r *Route) { source(r); r.Limits.MaxConnPerRelay = 7 }, 7},
		{"domain", func(r *Route) { source(r); r.Limits.MaxConnPerDomain = 4 }, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Options{}, func(e *Relayer, w *world) {
				w.route = with(smarthost("192.0.2.1", "192.0.2.2"), tt.change)
				w.peer("192.0.2.1").sendTime, w.peer("192.0.2.2").sendTime = time.Second, time.Second
				for range 190 {
					e.Add(w.message("s@here.example", "u@d.example")...)
				}
				w.pass(15 * time.Second)
				if w.open != tt.want || w.peak > tt.want {
					t.Errorf("%d connections, at most %d, want %d", w.open, w.peak, tt.want)
				}
				for _, r := range e.Relays() {
					if r.Why == "" {
						t.Error("the list does not say which limit holds")
					}
				}
				w.pass(3 * time.Minute)
				if w.count(OK) != 190 {
					t.Errorf("%d of 190 delivered", w.count(OK))
				}
			})
		})
	}
}

func TestDelaysBetweenConnections(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Limits)
	}{
		{"host", func(l *Limits) { l.ConnDelayHost = 4 * time.Second }},
		{"route", func(l *Limits) { l.ConnDelayRoute = 4 * time.Second }},
		{"source", func(l *Limits) { l.ConnDelaySource = 4 * time.Second }},
		{"connector", func(l *Limits) { l.ConnDelayConnector = 4 * time.Second }},
		{"relay", func(l *Limits) { l.ConnDelayRelay = 4 * time.Second }},
		{"domain", func(l *Limits) { l.ConnDelayDomain = 4 * time.Second }},
		{"reconnect", func(l *Limits) { l.ReconnDelayRoute = 4 * time.Second }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, Options{}, func(e *Relayer, w *world) {
				w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.SessionMailMax = 1; tt.change(&r.Limits) })
				for range 3 {
					e.Add(w.message("s@here.example", "u@d.example")...)
				}
				w.pass(3 * time.Second)
				first := w.count(OK)
				w.pass(20 * time.Second)
				if first >= 3 || w.count(OK) != 3 {
					t.Errorf("%d delivered before the delay, %d after, want fewer than 3 and 3", first, w.count(OK))
				}
			})
		})
	}
}

func TestRatePerMinute(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.RatePerMinute = 6 })
		for range 12 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(55 * time.Second)
		if n := w.count(OK); n != 6 {
			t.Errorf("%d delivered in the first minute, want 6", n)
		}
		w.pass(time.Minute)
		if n := w.count(OK); n != 12 {
			t.Errorf("%d delivered, want 12", n)
		}
		if p := w.peer("192.0.2.1"); p.peak > 1 {
			t.Errorf("%d connections for six messages a minute", p.peak)
		}
	})
}

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
		{"sts", with(smarthost("192.0.2.1"), func(r *Route) { r.Hosts[0].TLS = TLS{Mode: STS, Patterns: []string{"*.mx.example"}} }),
			"TempFail 4.7.5 No MX of destination is allowed by its MTA-STS policy"},
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

func TestPolicyPatterns(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, host string
		ok            bool
	}{
		{"mx.example.org", "MX.example.org.", true},
		{"*.example.org", "mx.example.org", true},
		{"*.example.org", "a.mx.example.org", false},
		{"*.example.org", "example.org", false},
		{"*.org", "org", false},
	} {
		p := TLS{Mode: STS, Patterns: []string{tt.pattern}}
		if p.allowed(tt.host) != tt.ok {
			t.Errorf("%s for %s: want %v", tt.pattern, tt.host, tt.ok)
		}
	}
}
