package relay

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxTries is how many broken connections a recipient survives before it is given
// back.
const maxTries = 3

// maxRejects is how many transactions in a row may be put off by a host before it is
// taken to refuse all mail for now. Those that are put off recipient by recipient
// count one, others three.
const maxRejects = 30

// spareConns connections of a relay are kept for all of the keepalive time, the
// others for spareTime.
const (
	spareConns = 2
	spareTime  = 2 * time.Second
)

// state is what a connection does.
type state uint8

const (
	gone    state = iota
	opening       // not ready yet
	between       // looks for its next task
	busy          // in a transaction, or waits for the time of the next one
	idle          // nothing to do
	leaving       // to end; final but for gone
)

// conn is a connection of a relay. Its goroutine is the only one that changes what
// is not guarded by the Relayer's mutex.
type conn struct {
	e      *Relayer
	id     report.Session
	relay  *relay
	link   *link
	source Source
	hop    *hop
	wake   chan struct{} // one slot
	opened time.Time

	session Session // set with the mutex held
	caps    Caps
	local   netip.Addr
	target  *Target
	told    map[string]bool // domains that the Witness was told of

	// Guarded by the mutex.
	state   state
	sending time.Time     // start of the running transaction
	last    time.Time     // end of the last one
	place   *list.Element // in Relayer.parked
	evict   bool          // it has to go, for another one
	retired bool          // it has to go after this transaction
	sent    int           // transactions
	mails   int           // messages taken by the host
	refused int           // recipients refused in a row
	rejects int           // transactions put off in a row
}

// enter changes the state.
func (c *conn) enter(s state) {
	if c.state == leaving && s != gone {
		return
	}
	c.relay.count(c.state, -1)
	c.relay.count(s, 1)
	c.state = s
}

// count keeps the numbers of connections by state.
func (r *relay) count(s state, n int) {
	switch s {
	case opening:
		r.opening += n
	case between:
		r.between += n
	case leaving:
		r.leaving += n
	}
}

// nudge makes a connection look for work, or for the end.
func (c *conn) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// ready returns when the connection may begin a transaction.
func (c *conn) ready() time.Time {
	at := c.e.nextSend(c.relay)
	if d := c.relay.limits.SessionTransactionDelay; d > 0 && c.sent > 0 && c.last.Add(d).After(at) {
		at = c.last.Add(d)
	}
	if c.link.spacing > 0 && c.link.next.After(at) {
		at = c.link.next
	}
	return at
}

// nextSend returns when the next message may leave for the domain of a relay.
func (e *Relayer) nextSend(r *relay) time.Time {
	if d := e.domains[r.domain]; d != nil && r.limits.RatePerMinute > 0 {
		return d.next
	}
	return time.Time{}
}

// run is the life of a connection. It ends when there is no work for the time of
// the keepalive, after trouble, or with ctx.
func (c *conn) run(ctx, sending context.Context) {
	defer func() {
		c.e.mu.Lock()
		c.e.close(c)
		c.e.mu.Unlock()
	}()
	if !c.connect(ctx) {
		return
	}
	for {
		t, as := c.next(ctx)
		if t == nil {
			c.leave()
			break
		}
		if !c.transact(sending, t, as) {
			break
		}
	}
	// The host has answered for all that it was given; how it takes our leave does
	// not matter.
	_ = c.session.Quit(sending)
}

// connect makes the connection ready.
func (c *conn) connect(ctx context.Context) bool {
	t := c.newTarget()
	c.target = t
	for {
		c.e.events.Report(report.RelayConnecting{Session: c.id, Address: t.Scheme() + "://" + t.Addr.String(), Host: t.Host})
		began := time.Now()
		s, err := c.e.dialer.Dial(ctx, t)
		if err == nil {
			c.connected(s, time.Since(began))
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		d, ok := errors.AsType[*DialError](err)
		if !ok {
			d = &DialError{Stage: Connect, Text: "Connection failed", Err: err}
		}
		c.e.events.Report(report.RelayError{Session: c.id, Reason: d.Error()})
		if d.Stage == StartTLS {
			c.witness(c.waitingDomains(), d)
		}
		if !d.TLSBroke || t.TLS.Mode != Opportunistic || t.TLS.Implicit {
			c.failed(d)
			return false
		}
		c.e.events.Report(report.RelayClosing{Session: c.id, Reason: "tls-failure"})
		c.e.mu.Lock()
		c.link.plain = time.Now().Add(plainTime)
		c.e.mu.Unlock()
		again := *t
		again.TLS = TLS{Mode: NoTLS}
		c.target, t = &again, &again
	}
}

// newTarget describes the connection.
func (c *conn) newTarget() *Target {
	r := c.relay
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	rt := r.route
	t := &Target{
		Session: c.id, Relay: r.name, Host: c.hop.Name, Addr: c.link.key.dst, Source: c.source.Addr, HELO: c.source.HELO, LMTP: c.hop.LMTP,
		TLS: c.hop.TLS, Auth: c.hop.Auth, PKI: rt.PKI, CA: rt.CA, Ciphers: rt.Ciphers, Protocols: rt.Protocols, Filter: rt.Filter,
		MaxFailures: r.limits.MaxFailuresPerSession,
	}
	if t.HELO == "" {
		t.HELO = rt.HELO
	}
	if t.TLS.Mode == Opportunistic && !t.TLS.Implicit && time.Now().Before(c.link.plain) {
		t.TLS = TLS{Mode: NoTLS}
	}
	return t
}

// connected notes that the connection is ready.
func (c *conn) connected(s Session, took time.Duration) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	r := c.relay
	c.session, c.caps = s, s.Caps()
	c.local = c.caps.LocalAddr
	if !c.local.IsValid() {
		c.local = c.source.Addr
	}
	c.enter(between)
	average(&r.dialTime, took)
	c.link.proven = true
}

// failed notes that the connection did not get ready. Trouble before TLS is the
// host's; what comes later concerns this relay alone, as its credentials do.
func (c *conn) failed(d *DialError) {
	e := c.e
	e.mu.Lock()
	defer e.mu.Unlock()
	r, now := c.relay, time.Now()
	f := &failure{text: d.Text, host: c.hop.Name, addr: c.link.key.dst.Addr(), source: c.source.Addr, stage: d.Stage, session: c.id, cause: d.Err, at: now}
	if d.Reply != nil {
		f.enhanced = d.Reply.Enhanced
	}
	if f.enhanced[0] != 4 {
		// A host that turns the session away may be followed by one that does not.
		f.enhanced = smtp.EnhancedCode{4, 4, 1}
		switch {
		case d.Stage == StartTLS:
			f.enhanced = smtp.EnhancedCode{4, 7, 5}
		case d.Stage == Auth:
			f.enhanced = smtp.EnhancedCode{4, 7, 8}
		case d.Stage > Connect && d.Reply == nil:
			f.enhanced = smtp.EnhancedCode{4, 4, 2}
		}
	}
	r.failed = f
	r.shrink(now)
	c.link.errors++
	switch {
	case d.Stage >= StartTLS:
		c.disable(c.bad(), f)
	case c.link.conns > 1:
		c.link.pause = now.Add(busyPause)
	default:
		c.disable(&c.link.penalty, f)
	}
}

// bad returns the account of the route within this relay alone.
func (c *conn) bad() *penalty {
	p := c.relay.bad[c.link.key]
	if p == nil {
		p = &penalty{}
		c.relay.bad[c.link.key] = p
	}
	return p
}

// disable takes a route out of use for a while.
func (c *conn) disable(p *penalty, f *failure) {
	d := p.fail(f.at, f)
	if p == &c.link.penalty {
		c.link.proven = false
	}
	c.e.events.Report(c.link.event(d, f.text))
}

// leave gives up the connection's part in the work of its relay.
func (c *conn) leave() {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.enter(leaving)
	c.e.dispatch(c.relay)
}

// next waits for a task. It returns nil when the connection is to end.
func (c *conn) next(ctx context.Context) (*task, []*Attempt) {
	e, r := c.e, c.relay
	var idleSince time.Time
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		now := time.Now()
		l := &r.limits
		if e.ended || c.evict || c.retired || c.sent >= l.SessionMailMax || c.caps.MailMax > 0 && c.sent >= c.caps.MailMax ||
			now.Sub(c.opened) >= l.SessionMaxAge || c.refused >= l.MaxFailuresPerSession {
			return nil, nil
		}
		wait, spare := l.SessionKeepalive, true
		if r.tasks.ready > 0 {
			if c.sent > 0 && e.overShare(r, len(r.conns)-r.leaving) {
				return nil, nil
			}
			at := c.ready()
			if !now.Before(at) {
				t, as := c.take(now)
				if c.sent == 0 {
					e.feedAll() // the route is proven now: it takes more connections
					e.dispatch(r)
				}
				return t, as
			}
			c.enter(busy)
			wait, spare = at.Sub(now), false
			r.why = "messages to " + c.link.String() + " are spaced"
			if now.Before(e.nextSend(r)) {
				r.why = fmt.Sprintf("limit of %d messages a minute", l.RatePerMinute)
			}
			idleSince = time.Time{}
		}
		if spare {
			if idleSince.IsZero() {
				idleSince = now
			}
			if len(r.parked) >= spareConns {
				wait = min(wait, spareTime)
			}
			if wait -= now.Sub(idleSince); wait <= 0 || e.wanted(c) {
				return nil, nil
			}
			e.park(c)
		}
		if !c.sleep(ctx, wait) {
			return nil, nil
		}
	}
}

// sleep waits for a nudge or for the time to pass; false means that the host or ctx
// has ended the connection. The mutex is given up meanwhile.
func (c *conn) sleep(ctx context.Context, d time.Duration) bool {
	c.e.mu.Unlock()
	timer := time.NewTimer(d)
	ok := true
	select {
	case <-c.wake:
	case <-timer.C:
	case <-c.session.Done():
		ok = false
	case <-ctx.Done():
		ok = false
	}
	timer.Stop()
	c.e.mu.Lock()
	c.e.unpark(c)
	return ok
}

// park puts a connection among the idle ones.
func (e *Relayer) park(c *conn) {
	c.enter(idle)
	c.place = e.idle.PushBack(c)
	c.relay.parked = append(c.relay.parked, c)
}

// unpark takes it out.
func (e *Relayer) unpark(c *conn) {
	if c.place == nil {
		return
	}
	e.idle.Remove(c.place)
	c.place = nil
	c.enter(between)
	r := c.relay
	if i := slices.Index(r.parked, c); i >= 0 {
		r.parked = slices.Delete(r.parked, i, i+1)
	}
}

// take takes the next task.
func (c *conn) take(now time.Time) (*task, []*Attempt) {
	r := c.relay
	n := r.limits.MaxRcpt
	for _, m := range []int{c.caps.RcptMax, c.link.rcptMax} {
		if m > 0 {
			n = min(n, m)
		}
	}
	t, as := r.tasks.next(n, c.caps.RcptDomainMax)
	c.e.pending -= len(as)
	c.e.running += len(as)
	c.enter(busy)
	c.sending = now
	if rate := r.limits.RatePerMinute; rate > 0 {
		c.e.domains[r.domain].next = now.Add(time.Minute / time.Duration(rate))
	}
	if c.link.spacing > 0 {
		c.link.next = now.Add(c.link.spacing)
	}
	return t, as
}

// transact makes one transaction and reports its results. It tells whether the
// connection is good for another one.
func (c *conn) transact(ctx context.Context, t *task, as []*Attempt) bool {
	began := time.Now()
	body, err := c.e.bodies.Open(ctx, t.msg)
	if err != nil {
		results := make([]Result, len(as))
		for i := range results {
			results[i] = Result{Outcome: TempFail, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Error reading message", Host: c.relay.route.Name, Cause: err}
		}
		return c.finish(ctx, t, as, results, nil, 0, true)
	}
	rcpts := make([]*envelope.Envelope, len(as))
	for i, a := range as {
		rcpts[i] = a.Envelope
	}
	c.witness(domainsOf(rcpts), nil)
	answers, err := c.session.Send(ctx, &Transaction{MsgID: t.msg, Sender: t.sender, Rcpts: rcpts, Body: body})
	_ = body.Close() // it was only read
	took := time.Since(began)
	for len(answers) < len(as) { // a Session that breaks its promise
		answers = append(answers, Answer{Stage: Dot})
	}
	if err != nil && ctx.Err() == nil {
		c.e.events.Report(report.RelayError{Session: c.id, Reason: err.Error()})
	}
	v := c.judge(as, answers, err)
	return c.finish(ctx, t, as, v.results, v, took, err == nil && !v.closing && c.session.Usable())
}

// finish accounts for a transaction and reports.
func (c *conn) finish(ctx context.Context, t *task, as []*Attempt, results []Result, v *verdict, took time.Duration, usable bool) bool {
	e, r := c.e, c.relay
	now := time.Now()
	e.mu.Lock()
	c.sending, c.last = time.Time{}, now
	c.sent++
	e.running -= len(as)
	if v != nil {
		c.learn(v, took, now)
		usable = usable && c.rejects < maxRejects
	}
	if c.enter(between); !usable {
		c.enter(leaving)
	}
	report := make([]done, 0, len(as))
	var revived []envelope.ID
	var anew []*Attempt
	for i, a := range as {
		if results[i].Outcome == 0 { // again
			switch {
			case e.ended:
			case c.retired || len(e.paused) > 0:
				anew = append(anew, a)
			default:
				r.tasks.add(t.taskKey, a, true)
				e.pending++
			}
			continue
		}
		if ctx.Err() != nil && results[i].Code == 0 {
			continue // told to end: not the host's fault
		}
		ids := e.stats.note(a, &results[i], now, e.o.MaxDeferred)
		revived = append(revived, ids...)
		report = append(report, done{a, results[i]})
	}
	if r.tasks.done(t) {
		e.settle(r)
	}
	e.dispatch(r)
	if len(anew) > 0 {
		e.add(anew)
	}
	e.mu.Unlock()
	for i := range report {
		e.desk.Done(report[i].a, report[i].r)
	}
	if d, ok := e.desk.(Rescheduler); ok && len(revived) > 0 {
		d.Reschedule(revived)
	}
	return usable
}

// learn draws the conclusions of a transaction for those to come. The mutex is held.
func (c *conn) learn(v *verdict, took time.Duration, now time.Time) {
	r, l := c.relay, c.link
	if v.rcptMax > 0 {
		l.rcptMax = v.rcptMax
	}
	if v.taken > 0 {
		average(&r.sendTime, took)
		c.mails++
		c.rejects = 0
		r.failed = nil
		delete(r.bad, l.key)
		if !v.throttled {
			l.well()
			r.grow()
		}
	} else {
		// Recipients are also put off to see who comes again; so this weighs less.
		switch {
		case !v.putOff:
			c.rejects = 0
		case v.stage == Rcpt:
			c.rejects++
		default:
			c.rejects += 3
			r.shrink(now)
		}
	}
	c.refused = v.refusedRun(c.refused)
	switch {
	case v.throttled:
		l.slow(now)
		r.shrink(now)
	case v.lost != "" && c.sent > 1: // some hosts end connections like this
	case v.lost != "" && !v.atOnce: // it may be the message
		l.errors++
		r.shrink(now)
	case v.lost != "":
		l.errors++
		r.failed = c.failure(v, now)
		r.shrink(now)
		if l.conns > 1 {
			l.pause = now.Add(busyPause)
		} else {
			c.disable(&l.penalty, r.failed)
		}
	}
	if c.rejects >= maxRejects {
		c.e.events.Report(report.RelayRejects{Session: c.id})
		r.failed = c.failure(v, now)
		r.failed.rejecting = true
		l.errors++
		r.shrink(now)
		c.disable(c.bad(), r.failed)
	}
}

// failure describes the trouble of a transaction.
func (c *conn) failure(v *verdict, now time.Time) *failure {
	text := v.lost
	if text == "" {
		text = v.words
	}
	return &failure{text: text, enhanced: v.enhanced, host: c.hop.Name, addr: c.link.key.dst.Addr(), source: c.local, stage: v.stage, session: c.id, at: now}
}
