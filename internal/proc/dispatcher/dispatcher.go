// Package dispatcher is the process that faces the network: it speaks SMTP with
// clients and with other hosts. It cannot read files, sees no private
// key, and can store a message only for recipients that lookup has submitted under
// the message id it was given.
package dispatcher

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/maillog"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/server"
	"github.com/opensmtpd/opensmtpd/internal/stats"
)

// Dispatcher is the role.
type Dispatcher struct {
	p      *proc.Process
	events report.Sink
	stats  stats.Set
	server *server.Server

	relay   *relaying
	filters *filters

	names   names
	current atomic.Pointer[generation]
	paused  atomic.Bool

	mu     sync.Mutex  // guards what follows
	passed []*os.File  // sockets waiting for their configuration
	active bool        // Start was called
	local  map[int]int // sessions of the local socket, by uid
}

// New makes the role.
func New(p *proc.Process) *Dispatcher {
	d := &Dispatcher{p: p, names: names{known: map[netip.Addr]knownName{}}, local: map[int]int{}}
	d.events = report.Sinks{maillog.New(p.Log, p.Log.Format()), &d.stats}
	d.filters = &filters{d: d, running: map[string]*filterProcess{}}
	d.relay = newRelaying(d)
	return d
}

// Mux implements proc.Role.
func (d *Dispatcher) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch peer {
	case proto.Parent:
		proto.PassListeners.Handle(mux, d.passListeners)
		proto.SetupDispatcher.Handle(mux, proc.Handler(d.setup))
	case proto.Queue:
		d.relay.handle(mux)
	case proto.Control:
		proto.LocalSession.Handle(mux, d.localSession)
		proto.HoldSMTP.Handle(mux, proc.Handler(d.hold))
		proto.Stats.Handle(mux, proc.Handler(d.snapshot))
		d.relay.administer(mux)
		proto.ListFilters.Handle(mux, proc.Handler(d.filters.list))
	}
	return mux
}

func (d *Dispatcher) passListeners(_ context.Context, req proto.PassListenersRequest, files []*os.File) (proto.Empty, []*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.First == 0 {
		for _, f := range d.passed {
			f.Close()
		}
		d.passed = nil
	}
	d.passed = append(d.passed, files...)
	return proto.Empty{}, nil, nil
}

// setup puts a configuration in force: new sessions see it, running ones finish
// under theirs. The sockets of the old one are closed after the new ones listen,
// so no connection is refused meanwhile.
func (d *Dispatcher) setup(_ context.Context, c proto.DispatcherConfig) (proto.SetupReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := d.passed
	d.passed = nil
	g, err := d.newGeneration(&c, files)
	if err != nil {
		return proto.SetupReply{}, err
	}
	// The authorities that the system trusts are read while the root directory has them.
	if _, err := x509.SystemCertPool(); err != nil {
		d.p.Log.Warnf("authorities of the system: %v; hosts cannot be verified without a ca", err)
	}
	reply, err := d.p.Confine(c.Confine)
	if err != nil {
		g.filtering.close()
		return reply, err
	}
	d.p.Log.SetVerbose(c.Verbose)
	old := d.current.Swap(g)
	limits := server.Limits{MaxSessions: c.MaxSessions, MaxPerSource: c.MaxPerSource}
	if old == nil {
		d.server = server.New(limits)
		d.paused.Store(c.Paused)
	} else {
		d.server.SetLimits(limits)
	}
	if d.active && !d.paused.Load() {
		g.listen()
	}
	d.relay.engine.Reload(relayOptions(&c))
	if old != nil {
		old.retire()
		// Configurations that were tried and taken back never had a session.
		for n := old.number + 1; n < g.number && g.number-n <= maxSkipped; n++ {
			g.releaseNumber(n)
		}
	}
	return reply, nil
}

// relayOptions returns the part of a configuration that is about all relays.
func relayOptions(c *proto.DispatcherConfig) relay.Options {
	o := relay.Options{MaxDeferred: c.MaxDeferred}
	if c.MaxDeferred == 0 {
		o.MaxDeferred = -1
	}
	return o
}

// Start implements proc.Role.
func (d *Dispatcher) Start(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = true
	if !d.paused.Load() {
		d.current.Load().listen()
	}
	d.relay.start()
	d.p.Go(d.relay.tellSessions)
	return nil
}

// Stop implements proc.Role: no new connections, and the sessions end, idle ones
// at once, others after their transaction, whether mail comes in by them or leaves.
func (d *Dispatcher) Stop(ctx context.Context) {
	d.mu.Lock()
	d.active = false
	if g := d.current.Load(); g != nil {
		g.stopListening()
	}
	d.mu.Unlock()
	if d.server == nil {
		return // it was never configured
	}
	var relaying sync.WaitGroup
	relaying.Go(func() { d.relay.stop(ctx) })
	if err := d.server.Drain(ctx); err != nil {
		d.p.Log.Debugf("sessions cut at the end: %v", err)
	}
	relaying.Wait()
	d.filters.end()
}

// hold stops or restarts accepting. Connections wait in the kernel's queue meanwhile.
func (d *Dispatcher) hold(_ context.Context, req proto.HoldRequest) (proto.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused.Swap(req.Pause) == req.Pause {
		return proto.Empty{}, fmt.Errorf("smtp is already %s", map[bool]string{true: "paused", false: "running"}[req.Pause])
	}
	g := d.current.Load()
	if req.Pause {
		g.stopListening()
		d.p.Log.Infof("smtp paused")
	} else {
		if d.active {
			g.listen()
		}
		d.p.Log.Infof("smtp resumed")
	}
	return proto.Empty{}, nil
}

// maxLocal bounds the local sessions of one uid other than root's, so that one user
// cannot take them all.
const maxLocal = 64

// errLocal is the answer beyond it.
var errLocal = &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 7, 0}, Text: "Too many sessions of this user"}

// enter counts a local session of a uid, unless it has too many.
func (d *Dispatcher) enter(uid int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if uid != 0 && d.local[uid] >= maxLocal {
		return false
	}
	d.local[uid]++
	return true
}

func (d *Dispatcher) leave(uid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.local[uid]--; d.local[uid] == 0 {
		delete(d.local, uid)
	}
}

// localSession starts a session for a program on this host and returns its end.
func (d *Dispatcher) localSession(_ context.Context, req proto.LocalSessionRequest, files []*os.File) (proto.Empty, []*os.File, error) {
	for _, f := range files {
		f.Close()
	}
	if !d.enter(req.UID) {
		return proto.Empty{}, nil, errLocal
	}
	ours, theirs, err := imsg.SocketPair()
	if err != nil {
		d.leave(req.UID)
		return proto.Empty{}, nil, err
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		d.leave(req.UID)
		theirs.Close()
		return proto.Empty{}, nil, err
	}
	g := d.begin()
	d.p.Go(func(ctx context.Context) {
		defer d.leave(req.UID)
		defer g.sessionEnded()
		d.server.ServeConn(ctx, conn, g.socket)
	})
	return proto.Empty{}, []*os.File{theirs}, nil
}

func (d *Dispatcher) snapshot(context.Context, proto.Empty) (proto.StatsReply, error) {
	var r proto.StatsReply
	paused := int64(0)
	if d.paused.Load() {
		paused = 1
	}
	r.Counters = append(r.Counters, proto.Counter{Name: "smtp.paused", Value: paused})
	d.relay.count(&d.stats)
	for name, v := range d.stats.Snapshot() {
		r.Counters = append(r.Counters, proto.Counter{Name: name, Value: v})
	}
	d.filters.count(&r)
	return r, nil
}
