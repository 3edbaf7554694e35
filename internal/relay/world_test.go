package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// peer is how a fake remote address behaves.
type peer struct {
	dialTime time.Duration
	sendTime time.Duration
	dialErr  *DialError
	tlsBreak bool // the handshake fails
	caps     Caps
	block    chan struct{} // transactions wait for it
	max      int           // connections at a time; more get 421; 0: any number
	perConn  int           // messages after which it says 421 to MAIL
	answer   func(t *Transaction, i int) Answer
	lose     func(t *Transaction) (Stage, bool) // break the connection

	conns, peak, dials, sends, rcpts int
	targets                          []*Target
}

// world is the fake of all that is injected.
type world struct {
	t  *testing.T
	mu sync.Mutex

	route     func(q RouteQuery) (*Route, error)
	routeLag  time.Duration
	lookups   int
	peers     map[string]*peer // by address
	sends     []*Transaction
	via       []string // address of each of them
	opened    int
	openErr   error
	closed    int
	open      int // connections
	peak      int
	quits     int
	events    []report.Event
	results   map[envelope.ID]Result
	order     []envelope.ID
	held      map[string][]*Attempt
	maxHeld   int
	revived   []envelope.ID
	witnessed []string
	e         *Relayer
	release   chan func()
	number    uint32
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, peers: map[string]*peer{}, results: map[envelope.ID]Result{}, held: map[string][]*Attempt{}, release: make(chan func(), 1<<16),
	}
}

func (w *world) peer(addr string) *peer {
	p := w.peers[addr]
	if p == nil {
		p = &peer{dialTime: 30 * time.Millisecond, sendTime: 5 * time.Millisecond}
		w.peers[addr] = p
	}
	return p
}

func (w *world) Route(ctx context.Context, q RouteQuery) (*Route, error) {
	w.mu.Lock()
	w.lookups++
	lag := w.routeLag
	w.mu.Unlock()
	select {
	case <-time.After(lag):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return w.route(q)
}

func (w *world) Report(ev report.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, ev)
}

type body struct {
	*bytes.Reader
	w *world
}

func (b body) Close() error {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.closed++
	return nil
}

func (w *world) Open(context.Context, envelope.MsgID) (Body, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	if w.openErr != nil {
		return nil, w.openErr
	}
	return body{bytes.NewReader([]byte("text\n")), w}, nil
}

type session struct {
	w    *world
	p    *peer
	addr string
	sent int
}

func (w *world) Dial(ctx context.Context, t *Target) (Session, error) {
	w.mu.Lock()
	p := w.peer(t.Addr.Addr().String())
	p.dials++
	p.targets = append(p.targets, t)
	p.conns++
	p.peak = max(p.peak, p.conns)
	w.open++
	w.peak = max(w.peak, w.open)
	lag, err, full := p.dialTime, p.dialErr, p.max > 0 && p.conns > p.max
	w.mu.Unlock()
	fail := func(err error) (Session, error) {
		w.mu.Lock()
		p.conns--
		w.open--
		w.mu.Unlock()
		return nil, err
	}
	select {
	case <-time.After(lag):
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	switch {
	case err != nil:
		return fail(err)
	case full:
		r := &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 7, 0}, Text: "Too many connections"}
		return fail(&DialError{Stage: Banner, Reply: r, Text: "BANNER rejected: " + r.Reply()})
	case p.tlsBreak && t.TLS.Mode != NoTLS:
		return fail(&DialError{Stage: StartTLS, TLSBroke: true, Text: "TLS handshake failed"})
	}
	return &session{w: w, p: p, addr: t.Addr.Addr().String()}, nil
}

func (s *session) Caps() Caps { return s.p.caps }

func (s *session) Usable() bool { return true }

func (s *session) Done() <-chan struct{} { return nil }

func (s *session) Quit(context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.p.conns--
	s.w.open--
	s.w.quits++
	return nil
}

func (s *session) Send(ctx context.Context, t *Transaction) ([]Answer, error) {
	select {
	case <-time.After(s.p.sendTime):
	case <-ctx.Done():
		return s.all(t, Answer{Stage: Data}), ctx.Err()
	}
	if s.p.block != nil {
		select {
		case <-s.p.block:
		case <-ctx.Done():
			return s.all(t, Answer{Stage: Data}), ctx.Err()
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.sent++
	s.p.sends++
	if s.p.perConn > 0 && s.sent > s.p.perConn {
		return s.all(t, Answer{Code: 421, Stage: Mail, Text: "enough for now"}), nil
	}
	if s.p.lose != nil {
		if stage, lost := s.p.lose(t); lost {
			return s.all(t, Answer{Stage: stage}), errors.New("Connection closed unexpectedly")
		}
	}
	s.w.sends = append(s.w.sends, t)
	s.w.via = append(s.w.via, s.addr)
	s.p.rcpts += len(t.Rcpts)
	out := s.all(t, Answer{Code: 250, Enhanced: smtp.EnhancedCode{2, 0, 0}, Text: "ok", Stage: Dot})
	if s.p.answer != nil {
		for i := range out {
			out[i] = s.p.answer(t, i)
		}
	}
	return out, nil
}

func (s *session) all(t *Transaction, a Answer) []Answer {
	out := make([]Answer, len(t.Rcpts))
	for i := range out {
		out[i] = a
	}
	return out
}

func (w *world) Done(a *Attempt, r Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, twice := w.results[a.Envelope.ID]; twice {
		w.t.Errorf("envelope %v is reported twice", a.Envelope.ID)
	}
	w.results[a.Envelope.ID] = r
	w.order = append(w.order, a.Envelope.ID)
}

func (w *world) Hold(a *Attempt, queue string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[queue] = append(w.held[queue], a)
	w.maxHeld = max(w.maxHeld, len(w.held[queue]))
}

func (w *world) Release(queue string, n int) {
	w.release <- func() {
		w.mu.Lock()
		q := w.held[queue]
		if n < 0 || n > len(q) {
			n = len(q)
		}
		w.held[queue] = q[n:]
		w.mu.Unlock()
		if n > 0 {
			w.e.Add(q[:n]...)
		}
	}
}

func (w *world) Reschedule(ids []envelope.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revived = append(w.revived, ids...)
}

// message returns attempts of one message.
func (w *world) message(sender string, rcpts ...string) []*Attempt {
	w.number++
	return w.more(envelope.MsgID(w.number), sender, 1, rcpts...)
}

func (w *world) more(id envelope.MsgID, sender string, first uint32, rcpts ...string) []*Attempt {
	path := func(s string) smtp.Path {
		local, domain, _ := strings.Cut(s, "@")
		return smtp.Path{Local: local, Domain: domain}
	}
	var as []*Attempt
	for i, r := range rcpts {
		as = append(as, &Attempt{Envelope: &envelope.Envelope{
			ID: envelope.NewID(id, first+uint32(i)), Type: envelope.MTA, Action: "out", Sender: path(sender), Rcpt: path(r), Dest: path(r),
		}})
	}
	return as
}

// run tests in virtual time. It checks that Run leaves nothing behind.
func run(t *testing.T, o Options, f func(e *Relayer, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.route = smarthost("192.0.2.1")
		e := New(o, w, w, w, w, w)
		w.e = e
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case f := <-w.release:
					f()
				case <-stop:
					return
				}
			}
		}()
		f(e, w)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want canceled", err)
		}
		close(stop)
		if w.open != 0 {
			t.Errorf("%d connections are left after Run", w.open)
		}
		if w.closed != w.opened && w.openErr == nil {
			t.Errorf("%d bodies opened, %d closed", w.opened, w.closed)
		}
	})
}

// pass lets time pass, and all that is due happen. The test reads and writes what
// the mutex guards without it, but not while time passes.
func (w *world) pass(d time.Duration) {
	w.fence() // what the test did comes before what follows,
	time.Sleep(d)
	synctest.Wait()
	w.fence() // and that before what the test does next
}

// count returns how many results have an outcome.
func (w *world) count(o Outcome) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, r := range w.results {
		if r.Outcome == o {
			n++
		}
	}
	return n
}

// result returns the result of the n-th recipient of a message.
func (w *world) result(a *Attempt) Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.results[a.Envelope.ID]
}

// smarthost routes everything to equal hosts named after their addresses.
func smarthost(addrs ...string) func(RouteQuery) (*Route, error) {
	return func(RouteQuery) (*Route, error) {
		r := &Route{Name: "smarthost", Fixed: true, HELO: "us.example"}
		for _, a := range addrs {
			addr := netip.MustParseAddr(a)
			r.Hosts = append(r.Hosts, Host{Name: fmt.Sprintf("h%d.example", addr.As4()[3]), Addrs: []netip.Addr{addr}})
		}
		return r, nil
	}
}

// byMX routes each domain to hosts of rising preference.
func byMX(addrs ...string) func(RouteQuery) (*Route, error) {
	return func(q RouteQuery) (*Route, error) {
		r, _ := smarthost(addrs...)(q)
		r.Name, r.Fixed = q.Domain, false
		for i := range r.Hosts {
			r.Hosts[i].Preference = uint16(10 * (i + 1))
		}
		return r, nil
	}
}

// with changes each route.
func with(f func(RouteQuery) (*Route, error), change func(*Route)) func(RouteQuery) (*Route, error) {
	return func(q RouteQuery) (*Route, error) {
		r, err := f(q)
		if err == nil {
			change(r)
		}
		return r, err
	}
}

// fence orders accesses for the race detector.
func (w *world) fence() {
	w.mu.Lock()
	defer w.mu.Unlock()
}
