// Package lookup is the process that answers questions: it holds the tables and
// the rules, expands recipients, checks senders and passwords, and asks the DNS. It
// writes no file. Whatever comes of a recipient it submits to the queue itself, so
// that the process that faces the network never writes an envelope.
package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/auth"
	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/expand"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
	"github.com/opensmtpd/opensmtpd/platform"
	"github.com/opensmtpd/opensmtpd/table"
)

// Resolver asks the DNS.
type Resolver interface {
	// TXT returns the text records of a name.
	TXT(ctx context.Context, name string) (*dns.Answer, error)
	// ReverseName returns the name of an address and whether it leads back to it.
	ReverseName(ctx context.Context, a netip.Addr) (name string, confirmed bool, err error)
	// Values answers a filter's question: all names of an address ("addr"), the addresses
	// ("host"), texts ("txt") or mail hosts ("mx") of a name. found is false when it is
	// proven that there is none.
	Values(ctx context.Context, what, name string) (values []string, found bool, err error)
}

// Parts are what the wiring chooses for the role.
type Parts struct {
	// Open makes a table.
	Open func(ctx context.Context, t proto.Table, a Access) (table.Table, error)
	// Users is the system's users.
	Users    table.Table
	Resolver Resolver
	Finder   func(serverName string) Finder // makes what finds next hops
	Checker  *auth.Checker
	Counter  *tlsrpt.Counter // of sessions with other hosts
}

// Lookup is the role.
type Lookup struct {
	p *proc.Process
	Parts
	limiter *auth.Limiter

	mu          sync.Mutex // guards what follows
	current     *generation
	generations map[uint32]*generation
}

// New makes the role.
func New(p *proc.Process, parts Parts) *Lookup {
	l := &Lookup{p: p, Parts: parts, limiter: auth.NewLimiter(auth.Limits{}), generations: map[uint32]*generation{}}
	if d, ok := p.Host.(platform.Delegator); ok && p.Env.Confine {
		d.Delegate(l.systemUser)
	}
	p.Go(l.closeTables)
	return l
}

// systemUser has the parent ask about a user who is not in the system's files.
func (l *Lookup) systemUser(ctx context.Context, name string) (platform.User, error) {
	r, err := proc.Ask(ctx, l.p.Links, proto.Parent, proto.SystemUser, proto.SystemUserRequest{Name: name})
	if err != nil {
		return platform.User{}, err
	}
	if !r.Found {
		return platform.User{}, platform.ErrNoUser
	}
	return platform.User{Name: r.Name, UID: r.UID, GID: r.GID, Groups: r.Groups, Home: r.Home, Shell: r.Shell, Gecos: r.Gecos}, nil
}

// closeTables closes all tables at the end of the process; programs end with them.
func (l *Lookup) closeTables(ctx context.Context) {
	<-ctx.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.generations {
		g.close()
	}
}

// Mux implements proc.Role.
func (l *Lookup) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	switch peer {
	case proto.Parent:
		proto.SetupLookup.Handle(mux, proc.Handler(l.setup))
		proto.UserInfo.Handle(mux, proc.Handler(l.userInfo))
	case proto.Dispatcher:
		proto.Expand.Handle(mux, proc.Handler(l.expand))
		proto.Authenticate.Handle(mux, proc.Handler(l.authenticate))
		proto.CheckSender.Handle(mux, proc.Handler(l.checkSender))
		proto.ReverseName.Handle(mux, proc.Handler(l.reverseName))
		proto.HostName.Handle(mux, proc.Handler(l.hostName))
		proto.HasAddress.Handle(mux, proc.Handler(l.hasAddress))
		proto.Route.Handle(mux, proc.Handler(l.route))
		proto.CountTLS.Handle(mux, proc.Handler(l.countTLS))
		proto.MatchFilter.Handle(mux, proc.Handler(l.matchFilter))
		proto.ResolveFilter.Handle(mux, proc.Handler(l.resolveFilter))
		proto.ReleaseGeneration.Handle(mux, proc.Handler(l.release))
	case proto.Queue:
		proto.Expand.Handle(mux, proc.Handler(l.expand))
		proto.UserInfo.Handle(mux, proc.Handler(l.userInfo))
	case proto.Control:
		proto.UpdateTable.Handle(mux, proc.Handler(l.updateTable))
		proto.ListTLS.Handle(mux, proc.Handler(l.listTLS))
		proto.Stats.Handle(mux, proc.Handler(func(context.Context, proto.Empty) (proto.StatsReply, error) {
			return proto.StatsReply{}, nil
		}))
	}
	return mux
}

// setup opens the tables of a configuration and puts it in force for new sessions.
// Earlier ones stay for the sessions that run under them.
func (l *Lookup) setup(ctx context.Context, c proto.LookupConfig) (proto.SetupReply, error) {
	reply, err := l.p.Confine(c.Confine)
	if err != nil {
		return reply, err
	}
	g, err := l.newGeneration(ctx, &c)
	if err != nil {
		return reply, err
	}
	l.p.Log.SetVerbose(c.Verbose)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = g
	l.generations[g.number] = g
	return reply, nil
}

// Start implements proc.Role.
func (l *Lookup) Start(context.Context) error {
	l.p.Go(l.keepCounts)
	l.p.Go(l.watch)
	return nil
}

// Stop implements proc.Role. The queue is still there.
func (l *Lookup) Stop(ctx context.Context) { l.saveCounts(ctx) }

// Lost implements the notice of a peer's end: sessions of a dispatcher that is gone
// need no earlier configuration.
func (l *Lookup) Lost(peer proto.Role) {
	if peer != proto.Dispatcher {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.generations {
		l.retire(g)
	}
}

// use returns the configuration of a session, for one question: done is called when
// it is answered. One that is not known, after a restart of this process, is
// replaced by the current one.
func (l *Lookup) use(n uint32) (g *generation, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g = l.generations[n]; g == nil {
		g = l.current
	}
	g.uses++
	return g, func() {
		l.mu.Lock()
		g.uses--
		last := g.retired && g.uses == 0
		l.mu.Unlock()
		if last {
			g.close()
		}
	}
}

// retire forgets a configuration that is not in force any more. Its tables are
// closed after the last question about them. The mutex is held.
func (l *Lookup) retire(g *generation) {
	if g == l.current {
		return
	}
	delete(l.generations, g.number)
	g.retired = true
	if g.uses == 0 {
		g.close()
	}
}

func (l *Lookup) release(_ context.Context, req proto.GenerationRequest) (proto.Empty, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.generations[req.Generation]; g != nil {
		l.retire(g)
	}
	return proto.Empty{}, nil
}

// expand decides on one recipient and submits its envelopes.
func (l *Lookup) expand(ctx context.Context, req proto.ExpandRequest) (proto.ExpandReply, error) {
	g, done := l.use(req.Generation)
	defer done()
	list, err := g.expander.Expand(ctx, &req.Facts)
	if err != nil {
		if !req.Own || !errors.Is(err, expand.ErrNoRule) {
			return proto.ExpandReply{}, proto.Refuse(err)
		}
		// No rule speaks of our own message: it is relayed by MX, not lost.
		list = []*envelope.Envelope{{Type: envelope.MTA, Rcpt: req.Facts.Rcpt, Dest: req.Facts.Rcpt}}
	}
	for _, e := range list {
		l.p.Log.Tracef("expand", "<%s> from <%s>: %s action=%q dest=<%s> user=%q exec=%q", req.Facts.Rcpt, req.Facts.Sender, e.Type, e.Action, e.Dest, e.User, e.Exec)
		e.Tag, e.HELO, e.Source, e.Username = req.Facts.Tag, req.Facts.HELO, req.Facts.Source, req.Facts.Username
		e.Hostname, e.SMTPName = req.Hostname, req.SMTPName
		e.Sender = req.Facts.Sender
		e.Ret, e.EnvID, e.Notify, e.OrigRcpt = req.Ret, req.EnvID, req.Notify, req.OrigRcpt
		e.Created = req.Created
		set := func(on bool, f envelope.Flags) {
			if on {
				e.Flags |= f
			}
		}
		set(req.Facts.Authenticated, envelope.Authenticated)
		set(req.EightBit, envelope.EightBit)
		set(req.UTF8, envelope.UTF8)
		set(req.RequireTLS, envelope.RequireTLS)
		set(req.TLSOptional, envelope.TLSOptional)
		set(req.Bounce, envelope.IsBounce)
	}
	reply, err := proc.Ask(ctx, l.p.Links, proto.Queue, proto.Submit, proto.SubmitRequest{MsgID: req.MsgID, Envelopes: list})
	if err != nil {
		if e := proto.SMTPError(err); e != nil {
			return proto.ExpandReply{}, e
		}
		return proto.ExpandReply{}, err
	}
	return proto.ExpandReply(reply), nil
}

func (l *Lookup) reverseName(ctx context.Context, req proto.ReverseRequest) (proto.ReverseReply, error) {
	name, confirmed, err := l.Resolver.ReverseName(ctx, req.Address)
	return proto.ReverseReply{Name: name, Confirmed: confirmed}, err
}

func (l *Lookup) hostName(ctx context.Context, req proto.KeyRequest) (proto.ValueReply, error) {
	g, done := l.use(req.Generation)
	defer done()
	v, err := g.lookup(ctx, req.Table, table.AddrName, req.Key)
	if errors.Is(err, table.ErrNotFound) {
		return proto.ValueReply{}, nil
	}
	return proto.ValueReply{Value: v, Found: err == nil}, err
}

func (l *Lookup) hasAddress(ctx context.Context, req proto.KeyRequest) (proto.BoolReply, error) {
	g, done := l.use(req.Generation)
	defer done()
	_, err := g.lookup(ctx, req.Table, table.NetAddr, req.Key)
	if errors.Is(err, table.ErrNotFound) {
		return proto.BoolReply{}, nil
	}
	return proto.BoolReply{Yes: err == nil}, err
}

// noSuchTable cannot happen with a configuration that was checked.
func noSuchTable(name string) error {
	return &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 5}, Text: "Temporary failure", Err: fmt.Errorf("no table %q", name)}
}
