package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestRateHoldsForADestinationWhateverTheRelay(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = func(q RouteQuery) (*Route, error) {
			r, err := byMX("192.0.2.1")(q)
			r.HELO = q.Action // another relay for each action
			if q.Domain == "slow.example" {
				r.Limits.Domain, r.Limits.RatePerMinute = q.Domain, 6
			}
			return r, err
		}
		for i := range 6 {
			a := w.message("s@here.example", "u@slow.example")
			a[0].Envelope.Action = []string{"one", "two"}[i%2]
			e.Add(a...)
			e.Add(w.message("s@here.example", "u@fast.example")...)
		}
		w.pass(29 * time.Second)
		slow := 0
		for _, tr := range w.sends {
			if tr.Rcpts[0].Dest.Domain == "slow.example" {
				slow++
			}
		}
		if fast := len(w.sends) - slow; slow != 3 || fast != 6 {
			t.Errorf("%d messages in 29 s at one in 10 s, and %d of 6 without a rate", slow, fast)
		}
		if got := listing(t, e, "relays", false); !strings.Contains(got, `wait="limit of 6 messages a minute"`) {
			t.Errorf("relays do not tell what they wait for:\n%s", got)
		}
		w.pass(31 * time.Second)
		if w.count(OK) != 12 {
			t.Errorf("%d of 12 delivered after a minute", w.count(OK))
		}
	})
}

func TestMailBeyondARateIsHeldNotDeferred(t *testing.T) {
	t.Parallel()
	run(t, Options{}, func(e *Relayer, w *world) {
		w.route = with(smarthost("192.0.2.1"), func(r *Route) { r.Limits.RatePerMinute = 2 })
		for range 40 {
			e.Add(w.message("s@here.example", "u@d.example")...)
		}
		w.pass(19 * time.Minute)
		if w.count(TempFail) != 0 || w.count(OK) < 36 || w.count(OK) > 39 {
			t.Errorf("%d delivered, %d deferred in 19 minutes at two a minute", w.count(OK), w.count(TempFail))
		}
		if w.maxHeld == 0 {
			t.Error("nothing was held")
		}
	})
}
