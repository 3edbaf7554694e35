package relay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Whatever hosts, the operator and the configuration do, each attempt is reported
// once, no bound is passed, and nothing is left.
func TestEveryAttemptIsReportedOnceWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 7))
			run(t, Options{MaxSessions: 6 + int(seed), MaxLookups: 5}, func(e *Relayer, w *world) {
				w.routeLag = 20 * time.Millisecond
				w.route = func(q RouteQuery) (*Route, error) { return randomRoute(q.Domain) }
				for n := range 12 {
					randomPeer(w.peer(fmt.Sprintf("192.0.2.%d", n+1)), n, rand.New(rand.NewPCG(seed, uint64(n))))
				}
				total := 0
				for range 400 {
					var to []string
					for range 1 + rnd.IntN(4)*rnd.IntN(20) {
						to = append(to, fmt.Sprintf("u%d@d%d.example", len(to), rnd.IntN(20)))
					}
					total += len(to)
					e.Add(w.message(fmt.Sprintf("s%d@here.example", rnd.IntN(5)), to...)...)
					switch rnd.IntN(60) {
					case 0:
						e.Reload(Options{MaxSessions: 6 + int(seed)})
					case 1:
						e.Pause(netip.Addr{}, "d3.example")
					case 2:
						e.Resume(netip.Addr{}, "d3.example")
					case 3:
						for _, r := range e.Routes() {
							e.EnableRoute(r.ID)
						}
					}
					w.pass(time.Duration(rnd.IntN(300)) * time.Millisecond)
				}
				w.pass(3 * time.Hour)
				dials := 0
				for _, p := range w.peers {
					dials += p.dials
				}
				if dials > total/3 {
					t.Errorf("%d connections for %d recipients", dials, total)
				}
				held := 0
				for _, q := range w.held {
					held += len(q)
				}
				if len(w.results) != total || held != 0 {
					t.Errorf("%d of %d reported, %d held", len(w.results), total, held)
				}
				if c := e.Counts(); c.Pending != 0 || c.Running != 0 || c.Sessions != 0 || c.Idle != 0 || c.Lookups != 0 || c.Relays != 0 || c.Messages != 0 {
					t.Errorf("counts at rest %+v", c)
				}
				if w.peak > 6+int(seed) {
					t.Errorf("%d connections at a time, want %d", w.peak, 6+seed)
				}
				for a, p := range w.peers {
					if p.peak > 10 {
						t.Errorf("%d connections to %s", p.peak, a)
					}
				}
				for u := range e.domains {
					if e.domains[u].conns != 0 {
						t.Errorf("domain %s counts %d connections", u, e.domains[u].conns)
					}
				}
				if e.active != 0 || e.evicting != 0 || e.starved.Len() != 0 || len(e.alarms) != 0 {
					t.Errorf("active %d, evicting %d, starved %d, alarms %d at rest", e.active, e.evicting, e.starved.Len(), len(e.alarms))
				}
			})
		})
	}
}

// randomRoute gives each domain one to three of twelve hosts, in pairs the same.
func randomRoute(domain string) (*Route, error) {
	var n int
	if _, err := fmt.Sscanf(domain, "d%d.example", &n); err != nil {
		return nil, err
	}
	if n == 19 {
		return nil, &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 10}, Text: "Domain does not accept mail"}
	}
	n /= 2
	r := &Route{Name: domain, PerSender: n == 4, Sender: smtp.Path{Local: "x", Domain: "here.example"}, TTL: 10 * time.Second}
	for i := range 1 + n%3 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + (n+3*i)%12)})
		r.Hosts = append(r.Hosts, Host{Name: a.String(), Addrs: []netip.Addr{a}, Preference: uint16(i / 2), TLS: TLS{Mode: Opportunistic}})
	}
	if n == 5 {
		r.Limits.SessionMailMax, r.Limits.ConnDelayHost = 3, 100*time.Millisecond
	}
	if n == 6 {
		r.Limits.HiWat, r.Limits.LoWat, r.Limits.Release = 5, 3, 2
	}
	return r, nil
}

// randomPeer makes a host with faults.
func randomPeer(p *peer, n int, rnd *rand.Rand) {
	p.sendTime = time.Duration(1+rnd.IntN(400)) * time.Millisecond
	p.caps.RcptMax = rnd.IntN(3) * 7
	switch n {
	case 0:
		p.dialErr = &DialError{Stage: Connect, Text: "Connection refused"}
	case 1:
		p.tlsBreak = true
	case 2:
		p.max = 2
	case 3:
		p.perConn = 2
	case 4:
		p.lose = func(*Transaction) (Stage, bool) { return Stage(int(Mail) + rnd.IntN(4)), rnd.IntN(4) == 0 }
	case 5:
		p.dialErr = &DialError{Stage: Auth, Text: "AUTH rejected: 535 no"}
	}
	p.answer = func(_ *Transaction, i int) Answer {
		switch rnd.IntN(30) {
		case 0:
			return Answer{Code: 550, Text: "no", Stage: Rcpt}
		case 1:
			return Answer{Code: 450, Text: "rate limit", Stage: Rcpt}
		case 2:
			return Answer{Code: 421, Text: "bye", Stage: Rcpt}
		case 3:
			return Answer{Code: 452, Enhanced: smtp.EnhancedCode{4, 5, 3}, Text: "too many", Stage: Rcpt}
		case 4:
			return Answer{Code: 452, Text: "later", Stage: Rcpt, Again: i > 0}
		}
		return Answer{Code: 250, Text: "ok", Stage: Dot}
	}
}
