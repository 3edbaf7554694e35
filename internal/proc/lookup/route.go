package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/nexthop/finder"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// Finder finds next hops.
type Finder interface {
	// Resolve returns where mail for a domain goes. Its errors are *smtp.Errors;
	// beside one the Hops may be nil, and have Failures and Notes only.
	Resolve(ctx context.Context, r finder.Request, tables func(name string) table.Table) (*nexthop.Hops, error)
}

// maxSources bounds the source addresses of one action.
const maxSources = 64

// route says how mail of an action goes to a domain. An action that is empty
// stands for plain delivery by MX, as our own reports without a rule use.
func (l *Lookup) route(ctx context.Context, req proto.RouteRequest) (proto.RouteReply, error) {
	g, done := l.use(0)
	defer done()
	options := &policy.RelayOptions{}
	if req.Action != "" {
		a := g.expander.Actions[req.Action]
		if a == nil || a.Relay == nil {
			return proto.RouteReply{}, fmt.Errorf("action %q is no relay", req.Action)
		}
		options = a.Relay
	}
	fixed := options.Host != "" || options.Domain != ""
	limits := g.defaultLimits
	if l := g.limitsFor(req.Domain); l != nil && options.Host == "" {
		limits = *l
	}
	family := finder.FamilyOf(options, familyOf(limits.Family))
	limits.Family = familyWord(family)
	hops, err := g.finder.Resolve(ctx, finder.Request{
		Options: options, Family: family, Domain: req.Domain, RequireTLS: req.RequireTLS, TLSOptional: req.TLSOptional,
	}, g.expander.Tables)
	if hops != nil {
		for _, note := range hops.Notes {
			l.p.Log.Tracef("lookup", "route to %s: %s", req.Domain, note)
		}
		for _, e := range hops.Failures {
			l.Counter.Add(e)
		}
	}
	if err != nil {
		return proto.RouteReply{}, proto.Refuse(err)
	}
	r := proto.RouteReply{
		Name: hops.Name, Fixed: fixed, AnyDomain: options.Host != "",
		HELO: options.HELO, Bearer: options.Bearer, PKI: options.PKI, CA: options.CA, Ciphers: options.Ciphers, Protocols: options.Protocols,
		Filter: options.Filter, Limits: limits, Policies: hops.Policies,
	}
	if l := g.limitsFor(hops.Name); l != nil && fixed {
		r.Limits = *l
		r.Limits.Family = familyWord(finder.FamilyOf(options, familyOf(l.Family)))
	}
	if r.HELO == "" {
		r.HELO = g.serverName
	}
	for rank, group := range hops.Groups {
		for _, h := range group {
			r.Hosts = append(r.Hosts, routeHost(&h, uint16(rank)))
		}
	}
	if r.Sources, err = g.sources(ctx, options); err != nil {
		return proto.RouteReply{}, err
	}
	return r, g.rewrite(&r, options, req)
}

// rewrite sets the sender that the next hop is given.
func (g *generation) rewrite(r *proto.RouteReply, o *policy.RelayOptions, req proto.RouteRequest) error {
	from, err := nexthop.ParseMailFrom(o.MailFrom)
	if err != nil {
		return fmt.Errorf("mail-from: %w", err)
	}
	s := nexthop.Sender{MailFrom: from}
	if o.SRS {
		s.SRS = g.expander.SRS
	}
	r.PerSender = o.MailFrom != "" || o.SRS
	dest := smtp.Path{Local: "x", Domain: req.Domain}
	rcpt := dest
	if req.Forwarder != "" {
		rcpt.Domain = req.Forwarder
	}
	r.Sender = s.Rewrite(req.Sender, rcpt, dest)
	return nil
}

func routeHost(h *nexthop.Host, rank uint16) proto.RouteHost {
	out := proto.RouteHost{Name: h.Name, Port: h.Port, Preference: rank, Weight: 1, Addrs: h.Addrs, LMTP: h.LMTP, Label: h.Label}
	if h.Auth != nil {
		out.User, out.Password = h.Auth.User, h.Auth.Password
	}
	s := &h.Security
	out.TLS = proto.RouteTLS{Mode: tlsMode(s.TLS), Implicit: s.Implicit, SNI: s.ServerName, Names: s.Names, Testing: s.Testing, Policy: s.Policy}
	for _, rec := range s.Records {
		out.TLS.TLSA = append(out.TLS.TLSA, proto.RouteTLSA{Usage: rec.Usage, Selector: rec.Selector, Matching: rec.Matching, Data: rec.Data})
	}
	return out
}

// tlsMode translates a demand into the number that relay.TLSMode has for it.
func tlsMode(t nexthop.TLS) uint8 {
	switch t {
	case nexthop.Never:
		return proto.RouteNoTLS
	case nexthop.Encrypted:
		return proto.RouteRequireTLS
	case nexthop.Verified:
		return proto.RouteVerifyTLS
	case nexthop.DANE:
		return proto.RouteDANE
	}
	return proto.RouteOpportunistic
}

// sources returns the local addresses of an action, each with its greeting name.
func (g *generation) sources(ctx context.Context, o *policy.RelayOptions) ([]proto.RouteSource, error) {
	if o.Source == "" {
		return nil, nil
	}
	t := g.tables[o.Source]
	if t == nil {
		return nil, noSuchTable(o.Source)
	}
	var out []proto.RouteSource
	seen := map[netip.Addr]bool{}
	for range maxSources {
		text, err := t.Fetch(ctx, table.Source)
		if errors.Is(err, table.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("could not retrieve source address: %w", err)
		}
		text = strings.TrimPrefix(strings.Trim(text, "[]"), "IPv6:")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("source address %q: %w", text, err)
		}
		if seen[a] {
			break
		}
		seen[a] = true
		s := proto.RouteSource{Addr: a.Unmap()}
		if o.HELOSource != "" {
			if s.HELO, err = g.lookup(ctx, o.HELOSource, table.AddrName, a.Unmap().String()); err != nil {
				return nil, fmt.Errorf("failed to retrieve helo string of %s: %w", a, err)
			}
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("table %s has no source address", o.Source)
	}
	return out, nil
}

// limitsFor returns the limits that are set for a domain: that of a recipient, or
// the host of a relay, which goes first. All domains behind a smarthost share its
// connections, and so its limits. It returns nil when there are none.
func (g *generation) limitsFor(domain string) *proto.RouteLimits {
	for i := range g.domainLimits {
		if strings.EqualFold(g.domainLimits[i].Domain, domain) {
			return &g.domainLimits[i].Limits
		}
	}
	return nil
}

// familyWords are families as RouteLimits has them.
var familyWords = [...]string{
	nexthop.AnyFamily: "", nexthop.Only4: "inet4", nexthop.Only6: "inet6", nexthop.Prefer4: "prefer-inet4", nexthop.Prefer6: "prefer-inet6",
}

func familyOf(word string) nexthop.Family {
	return nexthop.Family(max(0, slices.Index(familyWords[:], word)))
}

func familyWord(f nexthop.Family) string { return familyWords[f] }
