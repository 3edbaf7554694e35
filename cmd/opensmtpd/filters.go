package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/proc/parent"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// filterSlice tells the dispatcher of the filters that are used, and the parent which
// programs those are.
func filterSlice(c *config.Config, out *parent.Config) {
	in, outgoing := usedFilters(c)
	d := &out.Dispatcher
	if d.ADMD = c.AdminDomain; d.ADMD == "" {
		d.ADMD = c.ServerName
	}
	procs := map[string]*proto.FilterProc{}
	for _, f := range c.Filters {
		if !in[f.Name] && !outgoing[f.Name] {
			continue
		}
		d.Filters = append(d.Filters, filterOf(f))
		if f.Proc == "" {
			continue
		}
		p := procs[f.Proc]
		if p == nil {
			p = &proto.FilterProc{Name: f.Proc}
			procs[f.Proc] = p
		}
		p.Incoming, p.Outgoing = p.Incoming || in[f.Name], p.Outgoing || outgoing[f.Name]
	}
	out.Filters = map[string]parent.FilterProgram{}
	for _, pr := range c.Procs {
		p := procs[pr.Name]
		if p == nil {
			continue
		}
		program := parent.FilterProgram{Name: pr.Name, Command: pr.Command, User: pr.User, Group: pr.Group, Chroot: pr.Chroot}
		p.ID = fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q %t %t %q", program, p.Incoming, p.Outgoing, d.ADMD)))
		out.Filters[p.ID] = program
		d.FilterProcs = append(d.FilterProcs, *p)
	}
}

// usedFilters returns the names of the filters that listeners and relay actions use,
// members of their chains among them.
func usedFilters(c *config.Config) (in, out map[string]bool) {
	in, out = map[string]bool{}, map[string]bool{}
	in[c.Socket.Filter] = true
	for _, l := range c.Listeners {
		in[l.Filter] = true
	}
	for _, a := range c.Actions {
		if a.Relay != nil {
			out[a.Relay.Filter] = true
		}
	}
	for _, f := range c.Filters {
		for _, used := range []map[string]bool{in, out} {
			for _, member := range f.Chain {
				used[member] = used[member] || used[f.Name]
			}
		}
	}
	return in, out
}

// filterOf translates a filter.
func filterOf(f *config.Filter) proto.Filter {
	o := &f.Options
	out := proto.Filter{
		Name: f.Name, Proc: f.Proc, Chain: f.Chain,
		Bypass: o.Bypass, Secrets: o.Secrets, RewriteEnds: o.RewriteEnds, Timeout: o.Timeout,
	}
	for _, phase := range slices.Sorted(maps.Keys(o.Timeouts)) {
		out.Phases, out.Timeouts = append(out.Phases, phase), append(out.Timeouts, o.Timeouts[phase])
	}
	if b := f.Builtin; b != nil {
		out.Builtin = &proto.BuiltinFilter{
			Phase: b.Phase, Condition: b.Condition, Not: b.Not, Regex: b.Regex, Table: b.Table, Action: b.Action, Argument: b.Argument,
		}
	}
	return out
}

// names answers the lookup process's questions to the DNS.
type names struct{ *dns.Resolver }

// ReverseName implements lookup.Resolver: that there is no name is no error.
func (n names) ReverseName(ctx context.Context, a netip.Addr) (name string, confirmed bool, err error) {
	name, confirmed, err = n.Resolver.ReverseName(ctx, a)
	if errors.Is(err, dns.ErrNoName) || errors.Is(err, dns.ErrNoRecord) {
		return "", false, nil
	}
	return name, confirmed, err
}

// Values implements lookup.Resolver.
func (n names) Values(ctx context.Context, what, name string) ([]string, bool, error) {
	values, err := n.values(ctx, what, name)
	switch {
	case errors.Is(err, dns.ErrNoName), errors.Is(err, dns.ErrNoRecord), errors.Is(err, dns.ErrBadName):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return values, len(values) > 0, nil
}

func (n names) values(ctx context.Context, what, name string) (values []string, err error) {
	asker := dns.AnyName{Resolver: n.Resolver}
	var a *dns.Answer
	switch what {
	case "addr":
		addr, err := netip.ParseAddr(name)
		if err != nil {
			return nil, dns.ErrBadName
		}
		return n.ReverseNames(ctx, addr)
	case "host":
		if a, err = asker.Addrs(ctx, name); err == nil {
			for _, addr := range a.Addrs {
				values = append(values, addr.String())
			}
		}
	case "txt":
		if a, err = asker.TXT(ctx, name); err == nil {
			values = a.Text
		}
	case "mx":
		if a, err = asker.MX(ctx, name); err == nil {
			for _, mx := range a.MX {
				values = append(values, fmt.Sprintf("%d %s", mx.Preference, mx.Host))
			}
		}
	default:
		return nil, fmt.Errorf("no such question: %q", what)
	}
	return values, err
}
