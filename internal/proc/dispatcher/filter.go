package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/filterchain"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp/server"
)

// filters are the filter processes of all configurations that have sessions. A process
// that two configurations have in common goes on over a reload. This process holds
// the pipes to them, for speed; the parent decides what runs at the other end.
type filters struct {
	d *Dispatcher

	mu      sync.Mutex // guards what follows
	running map[string]*filterProcess
	ended   bool // no process is wanted any more
}

// filterProcess is a process and how many configurations use it.
type filterProcess struct {
	*filterchain.Process
	uses int
	stop context.CancelFunc
}

// softwareVersion is what filters are told that they talk to. Some look at its form.
const softwareVersion = "7.8.0"

// sessionTimeout is how long a client may be silent, as filters are told.
const sessionTimeout = 300 * time.Second

// use starts a process, unless it runs.
func (f *filters) use(c *proto.FilterProc, admd string) *filterchain.Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.running[c.ID]; p != nil {
		p.uses++
		return p.Process
	}
	id := c.ID
	p := &filterProcess{uses: 1, Process: &filterchain.Process{
		Name:    c.Name,
		Hello:   filterchain.Hello{Version: softwareVersion, SessionTimeout: sessionTimeout, ADMD: admd, Incoming: c.Incoming, Outgoing: c.Outgoing},
		Start:   func(ctx context.Context) (net.Conn, int, error) { return f.start(ctx, id) },
		Resolve: f.resolve,
		Warnf:   f.d.p.Log.Warnf,
	}}
	f.running[id] = p
	f.d.p.Go(func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f.mu.Lock()
		p.stop = cancel
		if p.uses == 0 || f.ended {
			cancel()
		}
		f.mu.Unlock()
		p.Run(ctx)
	})
	return p.Process
}

// end ends all processes: nothing will be asked any more.
func (f *filters) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for _, p := range f.running {
		if p.stop != nil {
			p.stop()
		}
	}
}

// drop ends a process that no configuration uses any more.
func (f *filters) drop(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.running[id]
	if p.uses--; p.uses > 0 {
		return
	}
	delete(f.running, id)
	if p.stop != nil {
		p.stop()
	}
	f.d.p.Go(func(ctx context.Context) {
		_, err := proc.Ask(ctx, f.d.p.Links, proto.Parent, proto.StopFilter, proto.FilterRequest{ID: id})
		if err != nil && ctx.Err() == nil && !errors.Is(err, imsg.ErrPeerGone) {
			f.d.p.Log.Warnf("filter process %s: stop: %v", p.Name, err)
		}
	})
}

// start has the parent start the program.
func (f *filters) start(ctx context.Context, id string) (net.Conn, int, error) {
	r, files, err := proc.Call(ctx, f.d.p.Links, proto.Parent, proto.StartFilter, proto.FilterRequest{ID: id})
	if err != nil {
		return nil, 0, err
	}
	file, err := only(files)
	if err != nil {
		return nil, 0, fmt.Errorf("start filter: %w", err)
	}
	defer file.Close() // FileConn has its own
	conn, err := net.FileConn(file)
	return conn, r.PID, err
}

// resolve has lookup ask the DNS for a filter.
func (f *filters) resolve(ctx context.Context, q wire.Query, name string) ([]string, bool, error) {
	r, err := proc.Ask(ctx, f.d.p.Links, proto.Lookup, proto.ResolveFilter, proto.ResolveFilterRequest{Type: q.String(), Name: name})
	return r.Values, r.Found, err
}

// list tells how the processes are doing.
func (f *filters) list(context.Context, proto.Empty) (proto.ListFiltersReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out proto.ListFiltersReply
	for _, p := range f.running {
		st := p.Status()
		s := proto.FilterStatus{
			Name: p.Name, State: st.State.String(), PID: st.PID, Since: time.Since(st.Since), Restarts: st.Restarts,
			Sessions: int(st.Sessions), Phases: st.Phases, Events: st.Events, Asked: st.Asked, Failed: st.Failed,
			Nonsense: st.Nonsense, Slowest: st.Slowest,
		}
		if st.Asked > 0 {
			s.Mean = st.Latency / time.Duration(st.Asked)
		}
		if st.LastError != nil {
			s.LastError = st.LastError.Error()
		}
		out.Filters = append(out.Filters, s)
	}
	slices.SortFunc(out.Filters, func(a, b proto.FilterStatus) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// count adds counters of the processes, by their names.
func (f *filters) count(r *proto.StatsReply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.running {
		s := p.Status()
		for name, v := range map[string]int64{
			"asked": s.Asked, "failed": s.Failed, "nonsense": s.Nonsense, "restarts": s.Restarts, "session": s.Sessions,
			"latency.total.us": s.Latency.Microseconds(), "latency.max.us": s.Slowest.Microseconds(),
		} {
			r.Counters = append(r.Counters, proto.Counter{Name: "filter." + p.Name + "." + name, Value: v})
		}
	}
}

// filtering is the filters of one configuration.
type filtering struct {
	g       *generation
	members map[string]*filterchain.Filter // by name; chains are not among them
	chains  map[string][]string
	ids     []string // of processes in use
}

// newFiltering starts the processes that a configuration needs.
func (g *generation) newFiltering(c *proto.DispatcherConfig) (*filtering, error) {
	f := &filtering{g: g, members: map[string]*filterchain.Filter{}, chains: map[string][]string{}}
	procs := map[string]*filterchain.Process{}
	for i := range c.FilterProcs {
		p := &c.FilterProcs[i]
		procs[p.Name] = g.d.filters.use(p, c.ADMD)
		f.ids = append(f.ids, p.ID)
	}
	for i := range c.Filters {
		spec := &c.Filters[i]
		if spec.Builtin == nil && spec.Proc == "" {
			f.chains[spec.Name] = spec.Chain
			continue
		}
		m := &filterchain.Filter{Name: spec.Name, Process: procs[spec.Proc], Bypass: spec.Bypass, Secrets: spec.Secrets, RewriteEnds: spec.RewriteEnds}
		err := translate(spec, m)
		if err == nil && m.Builtin == nil && m.Process == nil {
			err = fmt.Errorf("no process %q", spec.Proc)
		}
		if err != nil {
			f.close()
			return nil, fmt.Errorf("filter %s: %w", spec.Name, err)
		}
		f.members[spec.Name] = m
	}
	return f, nil
}

// close lets go of the processes.
func (f *filtering) close() {
	for _, id := range f.ids {
		f.g.d.filters.drop(id)
	}
	f.ids = nil
}

// translate reads the words of a filter.
func translate(spec *proto.Filter, m *filterchain.Filter) error {
	for i := range m.Timeouts {
		m.Timeouts[i] = spec.Timeout
	}
	for i, name := range spec.Phases {
		p, ok := wire.ParsePhase(name)
		if !ok || i >= len(spec.Timeouts) {
			return fmt.Errorf("no phase %q", name)
		}
		m.Timeouts[p] = spec.Timeouts[i]
	}
	b := spec.Builtin
	if b == nil {
		return nil
	}
	phase, ok := wire.ParsePhase(b.Phase)
	if !ok {
		return fmt.Errorf("no phase %q", b.Phase)
	}
	conditions := map[string]filterchain.Condition{
		"fcrdns": filterchain.FCrDNS, "rdns": filterchain.RDNS, "src": filterchain.Src, "helo": filterchain.HELO,
		"auth": filterchain.Auth, "mail-from": filterchain.MailFrom, "rcpt-to": filterchain.RcptTo,
	}
	condition, ok := conditions[b.Condition]
	if !ok {
		return fmt.Errorf("no condition %q", b.Condition)
	}
	actions := map[string]wire.Verdict{
		"reject": wire.VerdictReject, "disconnect": wire.VerdictDisconnect, "rewrite": wire.VerdictRewrite,
		"report": wire.VerdictReport, "junk": wire.VerdictJunk, "bypass": wire.VerdictBypass,
	}
	action, ok := actions[b.Action]
	if !ok {
		return fmt.Errorf("no action %q", b.Action)
	}
	m.Builtin = &filterchain.Builtin{
		Phase: phase, Condition: condition, Not: b.Not, Table: b.Table, Regex: b.Regex, Action: action, Argument: b.Argument,
	}
	return nil
}

// chain returns the chain of a name, nil for no name.
func (f *filtering) chain(name string, d wire.Direction) (*filterchain.Chain, error) {
	if name == "" {
		return nil, nil
	}
	names, ok := f.chains[name]
	if !ok {
		names = []string{name}
	}
	c := &filterchain.Chain{
		Direction: d, Match: f.match, Events: f.g.d.events,
		Warn: func(err error) { f.g.d.p.Log.Warnf("filter: %v", err) },
	}
	for _, n := range names {
		m := f.members[n]
		if m == nil {
			return nil, fmt.Errorf("no filter %q", n)
		}
		c.Filters = append(c.Filters, m)
	}
	return c, nil
}

// match has lookup decide a condition.
func (f *filtering) match(ctx context.Context, c *policy.Condition, facts *policy.Facts) (bool, error) {
	r, err := proc.Ask(ctx, f.g.d.p.Links, proto.Lookup, proto.MatchFilter, proto.MatchFilterRequest{
		Generation: f.g.number, Condition: *c, Facts: *facts,
	})
	return r.Yes, err
}

// sessionFilter returns what makes the filter part of a listener's sessions.
func (g *generation) sessionFilter(l *proto.Listener) (func(context.Context, *server.Session) server.Filter, error) {
	chain, err := g.filtering.chain(l.Filter, wire.In)
	if chain == nil || err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *server.Session) server.Filter {
		connect := wire.LinkConnect{RDNS: s.RDNS, FCrDNS: s.FCrDNS, Source: l.Address, Destination: l.Address}
		if !s.Local {
			connect.Source = netip.AddrPortFrom(s.Addr, s.Port).String()
			connect.Destination = netip.AddrPortFrom(s.LocalAddr, s.LocalPort).String()
		}
		facts := policy.Facts{Tag: s.Tag, Source: s.Source, RDNS: s.RDNS, Authenticated: s.Authenticated}
		return incoming{chain.Open(ctx, uint64(s.ID), facts, connect)}
	}, nil
}

// incoming is the filter part of a client's session.
type incoming struct{ *filterchain.Session }

// Decide implements server.Filter.
func (i incoming) Decide(ctx context.Context, phase wire.Phase, param string) server.Verdict {
	return server.Verdict(i.Session.Decide(ctx, phase, param))
}

// Text implements server.Filter.
func (i incoming) Text(out func([]byte) error) server.Text {
	if t := i.Session.Text(out); t != nil {
		return t
	}
	return nil
}
