package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// The time for which an answer of the router is used again.
const (
	defaultTTL = time.Minute
	maxTTL     = 10 * time.Minute
)

// maxAsking bounds the attempts that wait for one route; what goes beyond is held.
const maxAsking = 1000

// routeKey names an answer of the router: of an action for all domains and senders,
// for a domain, and for a sender with the domain or without.
type routeKey struct {
	action, domain string
	require, any   bool // what the message asks of TLS
	sender         smtp.Path
	forwarder      string
}

// known is an answer, or where a more special one is to be found.
type known struct {
	route     *Route
	number    int // of the answer; later ones are larger
	key       key
	perSender bool // route is nil: look with the sender
	expires   time.Time
}

// query is a route that is being asked for.
type query struct {
	key     routeKey
	ask     RouteQuery
	waiting []*Attempt
	held    bool
	started bool
}

// holdName returns the name of the query's hold queue.
func (q *query) holdName() string { return "mta|" + q.key.action + "|" + q.key.domain }

// questionOf returns what to ask for an attempt.
func questionOf(a *Attempt) RouteQuery {
	v := a.Envelope
	q := RouteQuery{
		Action: v.Action, Domain: strings.ToLower(v.Dest.Domain), Sender: v.Sender,
		RequireTLS: v.Flags&envelope.RequireTLS != 0, TLSOptional: v.Flags&envelope.TLSOptional != 0,
	}
	if v.Rcpt != v.Dest {
		q.Forwarder = strings.ToLower(v.Rcpt.Domain)
	}
	return q
}

// find returns the answer to a question that is still good, and else the key to ask
// it under.
func (e *Relayer) find(q RouteQuery, now time.Time) (*known, routeKey) {
	k := routeKey{action: q.Action, require: q.RequireTLS, any: q.TLSOptional}
	c := e.routes[k]
	if c == nil || !now.Before(c.expires) {
		k.domain = q.Domain
		c = e.routes[k]
	}
	if c != nil && now.Before(c.expires) && c.perSender {
		k.sender, k.forwarder = q.Sender, q.Forwarder
		c = e.routes[k]
	}
	if c == nil || !now.Before(c.expires) {
		return nil, k
	}
	return c, k
}

// sort finds the relay of an attempt and puts it there, or lets it wait for a route.
// It returns the relay that got it.
func (e *Relayer) sort(a *Attempt, now time.Time) *relay {
	ask := questionOf(a)
	c, k := e.find(ask, now)
	if c != nil {
		return e.assign(a, c, now)
	}
	q := e.queries[k]
	if q == nil {
		q = &query{key: k, ask: ask}
		e.queries[k] = q
		e.asking.PushBack(q)
	}
	if len(q.waiting) >= maxAsking {
		q.held = true
		a.since = time.Time{}
		e.desk.Hold(a, q.holdName())
		return nil
	}
	q.waiting = append(q.waiting, a)
	e.pending++
	return nil
}

// assign puts an attempt in the relay of its route, unless the operator has paused
// all sources for its domain.
func (e *Relayer) assign(a *Attempt, c *known, now time.Time) *relay {
	if len(e.paused) == 0 {
		return e.enqueue(a, c.route, c.number, c.key, now)
	}
	domain := strings.ToLower(a.Envelope.Dest.Domain)
	sources := c.route.Sources
	if len(sources) == 0 {
		sources = []Source{{}}
	}
	left := slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return e.blocked(s.Addr, domain) })
	switch len(left) {
	case len(sources):
		return e.enqueue(a, c.route, c.number, c.key, now)
	case 0:
		e.report(a, Result{
			Outcome: TempFail, Enhanced: smtp.EnhancedCode{4, 4, 4}, Text: "All routes to destination blocked", Host: c.route.Name,
			Held: "paused by the operator for " + domain,
		})
		return nil
	}
	rt := *c.route
	rt.Sources = left
	return e.enqueue(a, &rt, c.number, rt.key(), now)
}

// blocked tells whether mail for a domain must not leave from a source.
func (e *Relayer) blocked(src netip.Addr, domain string) bool {
	var all netip.Addr
	return e.paused[Block{src, domain}] || e.paused[Block{src, ""}] || e.paused[Block{all, domain}] || e.paused[Block{all, ""}]
}

// ask starts lookups. The mutex is held.
func (e *Relayer) ask() {
	for e.ctx != nil && !e.ended && e.lookups < e.o.MaxLookups && e.asking.Len() > 0 {
		q := e.asking.Remove(e.asking.Front()).(*query)
		if c, k := e.find(q.ask, time.Now()); c != nil || k != q.key {
			e.redo(q, nil) // another answer holds for this one too, or tells how to ask
			continue
		}
		q.started = true
		e.lookups++
		generation := e.generation
		ctx := e.ctx
		e.tasks.Go(func() { e.lookUp(ctx, q, generation) })
	}
}

// redo sorts what waits for a query anew. An answer, if there is one, is good for
// what asked just that, whatever is remembered.
func (e *Relayer) redo(q *query, answer *known) {
	if e.queries[q.key] == q {
		delete(e.queries, q.key)
	}
	e.pending -= len(q.waiting)
	waiting := q.waiting
	q.waiting = nil
	if q.held {
		e.desk.Release(q.holdName(), -1)
	}
	now := time.Now()
	var touched []*relay
	for _, a := range waiting {
		var r *relay
		if answer != nil && questionOf(a) == q.ask {
			r = e.assign(a, answer, now)
		} else {
			r = e.sort(a, now)
		}
		if r != nil && (len(touched) == 0 || touched[len(touched)-1] != r) {
			touched = append(touched, r)
		}
	}
	for _, r := range touched {
		e.dispatch(r)
	}
}

// lookUp asks the router and passes the answer on. The goroutine ends with that.
func (e *Relayer) lookUp(ctx context.Context, q *query, generation int) {
	rt, err := e.router.Route(ctx, q.ask)
	if err == nil && rt == nil {
		err = errors.New("router gave no route")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lookups--
	if e.ended {
		return // told to end: nothing is reported
	}
	switch {
	case generation != e.generation:
		e.redo(q, nil)
	case err != nil:
		e.noRoute(q, err)
	default:
		e.redo(q, e.learn(q, rt))
	}
	e.ask()
}

// learn remembers an answer for all the questions that it holds for.
func (e *Relayer) learn(q *query, rt *Route) *known {
	ttl := rt.TTL
	if ttl <= 0 {
		ttl = defaultTTL
	}
	now := time.Now()
	expires := now.Add(min(ttl, maxTTL))
	if len(e.routes) >= maxRoutes {
		clear(e.routes)
	}
	k := routeKey{action: q.ask.Action, require: q.ask.RequireTLS, any: q.ask.TLSOptional}
	if !rt.AnyDomain {
		delete(e.routes, k)
		k.domain = q.ask.Domain
	}
	if rt.PerSender {
		e.routes[k] = &known{perSender: true, expires: expires}
		k.sender, k.forwarder = q.ask.Sender, q.ask.Forwarder
	}
	e.answers++
	c := &known{route: rt, number: e.answers, key: rt.key(), expires: expires}
	e.routes[k] = c
	return c
}

// noRoute ends the attempts that wait for a route that cannot be had.
func (e *Relayer) noRoute(q *query, err error) {
	delete(e.queries, q.key)
	res := Result{
		Outcome: TempFail, Enhanced: smtp.EnhancedCode{4, 4, 3}, Text: "Temporary failure in routing lookup", Host: q.ask.Domain,
		Cause: fmt.Errorf("route of action %q to %q: %w", q.ask.Action, q.ask.Domain, err),
	}
	if s, ok := errors.AsType[*smtp.Error](err); ok {
		res.Text, res.Enhanced = s.Text, s.Enhanced
		if s.Permanent() {
			res.Outcome = PermFail
		}
		if res.Enhanced == (smtp.EnhancedCode{}) {
			res.Enhanced = smtp.EnhancedCode{uint8(s.Code / 100), 4, 4}
		}
		if s.Err == nil {
			res.Cause = nil
		} else if res.Outcome == TempFail {
			res.Held = s.Err.Error()
		}
	}
	e.pending -= len(q.waiting)
	for _, a := range q.waiting {
		e.report(a, res)
	}
	if q.held {
		e.desk.Release(q.holdName(), -1)
	}
}
