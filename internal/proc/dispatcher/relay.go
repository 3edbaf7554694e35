package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/relay"
)

// relaying is the outgoing half: the queue's requests in, the engine, and what it
// asks of other processes.
type relaying struct {
	d      *Dispatcher
	engine *relay.Relayer

	wake  chan struct{}      // one slot
	end   context.CancelFunc // tells the engine to end; nil before it was started
	ended chan struct{}      // closed when it has

	mu      sync.Mutex // guards what follows
	over    bool       // nothing is taken any more
	replies map[*relay.Attempt]chan proto.RelayReply
	waiting []*relay.Attempt // not yet given to the engine

	sessions sessions // for the reports of RFC 8460
}

func newRelaying(d *Dispatcher) *relaying {
	r := &relaying{
		d: d, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		replies: map[*relay.Attempt]chan proto.RelayReply{}, sessions: newSessions(),
	}
	r.engine = relay.New(relay.Options{}, router{d}, &relay.NetDialer{TLS: d.clientTLS, Doubt: d.doubt, Filter: d.relayFilter, Events: d.events}, bodies{d}, r, d.events)
	return r
}

// errEnding is the answer to attempts that were not made.
var errEnding = errors.New("relaying ends")

// start starts the engine, until stop, or the end of the process.
func (r *relaying) start() {
	ctx, cancel := context.WithCancel(r.d.p.Context())
	r.end = cancel
	r.d.p.Go(func(context.Context) {
		defer close(r.ended)
		_ = r.engine.Run(ctx) // it tells that ctx has ended
	})
	r.d.p.Go(r.run)
}

// stop lets running transactions end, and answers all attempts: the queue knows then
// which mail has left, and need not send it twice.
func (r *relaying) stop(ctx context.Context) {
	if r.end == nil {
		return
	}
	r.end()
	select {
	case <-r.ended:
	case <-ctx.Done():
	}
	r.mu.Lock()
	r.over = true
	left := r.replies
	r.replies = map[*relay.Attempt]chan proto.RelayReply{}
	r.mu.Unlock()
	for _, c := range left {
		close(c)
	}
}

// run feeds the engine with what comes together, until ctx ends.
func (r *relaying) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		r.mu.Unlock()
		r.engine.Add(batch...)
	}
}

// relay takes one envelope and answers when its attempt has ended.
func (r *relaying) relay(ctx context.Context, req proto.RelayRequest) (proto.RelayReply, error) {
	a := &relay.Attempt{Envelope: &req.Envelope}
	answer := make(chan proto.RelayReply, 1)
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return proto.RelayReply{}, errEnding
	}
	r.replies[a] = answer
	r.waiting = append(r.waiting, a)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	select {
	case reply, ok := <-answer:
		if !ok {
			return proto.RelayReply{}, errEnding
		}
		return reply, nil
	case <-ctx.Done():
		// The queue is gone. The attempt goes on; nobody hears of its end, and the new
		// queue makes another: mail is rather sent twice than lost.
		r.take(a)
		return proto.RelayReply{}, ctx.Err()
	}
}

func (r *relaying) take(a *relay.Attempt) chan proto.RelayReply {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.replies[a]
	delete(r.replies, a)
	return c
}

// Done implements relay.Desk.
func (r *relaying) Done(a *relay.Attempt, res relay.Result) {
	c := r.take(a)
	if c == nil {
		return
	}
	reply := proto.RelayReply{
		Outcome: uint8(res.Outcome), Status: res.Enhanced, Text: res.Text, Relay: res.Relay(), Session: uint64(res.Session),
		DSN: res.DSN, Held: res.Held, RetryAfter: res.RetryAfter,
	}
	if res.Source.IsValid() {
		reply.Source = res.Source.String()
	}
	if res.Cause != nil {
		reply.Cause = res.Cause.Error()
	}
	c <- reply
}

// Hold implements relay.Desk.
func (r *relaying) Hold(a *relay.Attempt, queue string) {
	if c := r.take(a); c != nil {
		c <- proto.RelayReply{Hold: queue}
	}
}

// Release implements relay.Desk. It must not wait, so it is sent from elsewhere;
// should it overtake an envelope on its way into the hold queue, the queue's own
// tick releases that.
func (r *relaying) Release(queue string, n int) {
	r.d.p.Go(func(ctx context.Context) {
		conn, err := r.d.p.Links.Conn(ctx, proto.Queue)
		if err == nil {
			err = proto.ReleaseRelay.Send(conn, proto.ReleaseRequest{Queue: queue, N: n})
		}
		if err != nil && ctx.Err() == nil {
			r.d.p.Log.Debugf("release %s: %v", queue, err)
		}
	})
}

// rescheduleBatch is how many envelopes are named in one request.
const rescheduleBatch = 1000

// Reschedule implements relay.Rescheduler.
func (r *relaying) Reschedule(ids []envelope.ID) {
	r.d.p.Go(func(ctx context.Context) {
		conn, err := r.d.p.Links.Conn(ctx, proto.Queue)
		for batch := range slices.Chunk(ids, rescheduleBatch) {
			if err == nil {
				err = proto.RescheduleRelay.Send(conn, proto.RescheduleRequest{IDs: batch})
			}
		}
		if err != nil && ctx.Err() == nil {
			r.d.p.Log.Debugf("reschedule: %v", err) // they are tried at their time
		}
	})
}

// bodies opens messages in the queue.
type bodies struct{ d *Dispatcher }

// Open implements relay.Bodies.
func (b bodies) Open(ctx context.Context, id envelope.MsgID) (relay.Body, error) {
	r, files, err := proc.Call(ctx, b.d.p.Links, proto.Queue, proto.OpenMessage, proto.MsgRequest{MsgID: id})
	if err != nil {
		return nil, err
	}
	switch {
	case len(files) == 1:
		return fileBody{files[0], r.Size}, nil
	case len(files) == 0 && int64(len(r.Text)) == r.Size:
		return textBody{bytes.NewReader(r.Text)}, nil
	}
	for _, f := range files {
		f.Close()
	}
	return nil, fmt.Errorf("open message %s: %d descriptors, %d bytes of %d", id, len(files), len(r.Text), r.Size)
}

type fileBody struct {
	*os.File
	size int64
}

// Size implements relay.Body.
func (b fileBody) Size() int64 { return b.size }

type textBody struct{ *bytes.Reader }

// Size implements relay.Body.
func (b textBody) Size() int64 { return b.Reader.Size() }

// Close implements relay.Body.
func (textBody) Close() error { return nil }

// router asks lookup for ways.
type router struct{ d *Dispatcher }

// Route implements relay.Router.
func (x router) Route(ctx context.Context, q relay.RouteQuery) (*relay.Route, error) {
	r, err := proc.Ask(ctx, x.d.p.Links, proto.Lookup, proto.Route, proto.RouteRequest{
		Action: q.Action, Domain: q.Domain, Sender: q.Sender, Forwarder: q.Forwarder,
		RequireTLS: q.RequireTLS, TLSOptional: q.TLSOptional,
	})
	if err != nil {
		return nil, refusal(err)
	}
	out := &relay.Route{
		Sender: r.Sender, PerSender: r.PerSender, AnyDomain: r.AnyDomain, Name: r.Name, Fixed: r.Fixed, HELO: r.HELO,
		PKI: r.PKI, CA: r.CA, Ciphers: r.Ciphers, Protocols: r.Protocols, Filter: r.Filter,
		Limits: limitsOf(&r.Limits), TTL: r.TTL,
	}
	for _, s := range r.Sources {
		out.Sources = append(out.Sources, relay.Source{Addr: s.Addr, HELO: s.HELO})
	}
	for i := range r.Hosts {
		out.Hosts = append(out.Hosts, hostOf(&r.Hosts[i]))
		if a := out.Hosts[i].Auth; a != nil && r.Bearer {
			a.Mechanism = relay.XOAUTH2
		}
	}
	if !r.Fixed {
		x.d.relay.sessions.note(q.Domain, &r)
	}
	return out, nil
}

func hostOf(h *proto.RouteHost) relay.Host {
	out := relay.Host{
		Name: h.Name, Port: h.Port, Preference: h.Preference, Weight: h.Weight, Addrs: h.Addrs, LMTP: h.LMTP,
		TLS: relay.TLS{
			Mode: relay.TLSMode(h.TLS.Mode), Implicit: h.TLS.Implicit, SNI: h.TLS.SNI, Names: h.TLS.Names, Testing: h.TLS.Testing,
		},
	}
	if _, err := netip.ParseAddr(h.Name); err == nil {
		out.Name = "[" + h.Name + "]"
	}
	for _, t := range h.TLS.TLSA {
		out.TLS.TLSA = append(out.TLS.TLSA, relay.TLSA(t))
	}
	if h.User != "" {
		out.Auth = &relay.Credentials{User: h.User, Password: h.Password, Label: h.Label}
	}
	return out
}

// limitsOf translates limits from the words of smtpd.conf.
func limitsOf(l *proto.RouteLimits) relay.Limits {
	out := relay.Limits{Domain: l.Domain}
	switch l.Family {
	case "inet4":
		out.Family = relay.Inet4Only
	case "inet6":
		out.Family = relay.Inet6Only
	case "prefer-inet4":
		out.Family = relay.PreferInet4
	case "prefer-inet6":
		out.Family = relay.PreferInet6
	}
	counts := map[string]*int{
		"max-conn-per-host": &out.MaxConnPerHost, "max-conn-per-route": &out.MaxConnPerRoute,
		"max-conn-per-source": &out.MaxConnPerSource, "max-conn-per-connector": &out.MaxConnPerConnector,
		"max-conn-per-relay": &out.MaxConnPerRelay, "max-conn-per-domain": &out.MaxConnPerDomain,
		"session-mail-max": &out.SessionMailMax, "max-failures-per-session": &out.MaxFailuresPerSession,
		"max-rcpt-per-transaction": &out.MaxRcpt, "max-messages-per-minute": &out.RatePerMinute,
		"task-hiwat": &out.HiWat, "task-lowat": &out.LoWat, "task-release": &out.Release,
	}
	delays := map[string]*time.Duration{
		"conn-delay-host": &out.ConnDelayHost, "conn-delay-route": &out.ConnDelayRoute,
		"conn-delay-source": &out.ConnDelaySource, "conn-delay-connector": &out.ConnDelayConnector,
		"conn-delay-relay": &out.ConnDelayRelay, "conn-delay-domain": &out.ConnDelayDomain,
		"reconn-delay-route": &out.ReconnDelayRoute, "session-transaction-delay": &out.SessionTransactionDelay,
		"session-keepalive": &out.SessionKeepalive,
	}
	for i, name := range l.Names {
		if p := counts[name]; p != nil {
			*p = int(l.Values[i])
		}
		if p := delays[name]; p != nil {
			*p = time.Duration(l.Values[i]) * time.Second
		}
	}
	return out
}

// handle adds what the queue asks for relaying.
func (r *relaying) handle(mux *imsg.Mux) {
	proto.Relay.Handle(mux, proc.Handler(r.relay))
	proto.RetryRoutes.Handle(mux, proc.Handler(func(context.Context, proto.Empty) (proto.Empty, error) {
		r.engine.RetryRoutes()
		return proto.Empty{}, nil
	}))
}
