package finder

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// smarthosts returns the hosts that q names. Those that cannot be looked up are
// passed over while others are left; every error is temporary.
func (f *Finder) smarthosts(ctx context.Context, q Query) (*nexthop.Hops, error) {
	out := &nexthop.Hops{}
	var failed error
	var keys []string
	for _, rank := range q.Smarthosts {
		for _, u := range rank {
			keys = append(keys, key(u, q))
		}
		var groups [][]nexthop.Host
		rank = slices.Clone(rank)
		f.cfg.Shuffle(len(rank), func(i, j int) { rank[i], rank[j] = rank[j], rank[i] })
		for _, u := range rank {
			hops, err := f.smarthost(ctx, q, u)
			if err != nil {
				out.Notes = append(out.Notes, fmt.Sprintf("smarthost %s: %v", u, err))
				if hops != nil {
					out.Failures = append(out.Failures, hops.Failures...)
				}
				failed = err
				continue
			}
			groups = merge(out, groups, hops)
		}
		out.Groups = append(out.Groups, groups...)
	}
	if len(out.Groups) == 0 {
		if failed == nil {
			failed = temporary(3, 5, "Cannot retrieve smarthost", nil)
		}
		if q.RequireTLS {
			return out, failed // the sender has asked for it
		}
		return out, notPermanent(failed)
	}
	for i, g := range out.Groups {
		for j := range g {
			g[j].Preference = uint16(i)
		}
	}
	out.Name = q.Smarthosts[0][0].Name()
	out.Key = strings.Join(keys, ", ")
	return out, nil
}

// merge adds hops of an equally good smarthost to groups, and the rest of what they
// tell to out.
func merge(out *nexthop.Hops, groups [][]nexthop.Host, hops *nexthop.Hops) [][]nexthop.Host {
	shift := len(out.Policies)
	out.Policies = append(out.Policies, hops.Policies...)
	out.Failures = append(out.Failures, hops.Failures...)
	out.Notes = append(out.Notes, hops.Notes...)
	for i, g := range hops.Groups {
		if i == len(groups) {
			groups = append(groups, nil)
		}
		for _, h := range g {
			if h.Security.Policy >= 0 {
				h.Security.Policy += shift
			}
			groups[i] = append(groups[i], h)
		}
	}
	return groups
}

// smarthost returns the hosts of one URL.
func (f *Finder) smarthost(ctx context.Context, q Query, u nexthop.URL) (*nexthop.Hops, error) {
	if u.MX {
		return f.byMX(ctx, q, u)
	}
	t, err := newTarget(u, q)
	if err != nil {
		return nil, err
	}
	hops := &nexthop.Hops{Name: u.Name()}
	c := &candidate{MX: dns.MX{Host: u.Name()}}
	if u.Addr.IsValid() {
		c.addrs = &dns.Answer{Name: c.Host, Addrs: []netip.Addr{u.Addr}}
	} else if c.addrs, err = f.cfg.DNS.Addrs(ctx, u.Host); err != nil {
		if errors.Is(err, dns.ErrNoName) || errors.Is(err, dns.ErrNoRecord) || errors.Is(err, dns.ErrBadName) {
			return nil, temporary(4, 4, "Host not found", err)
		}
		return nil, temporary(4, 3, "Temporary failure in smarthost lookup", err)
	}
	if c.host, c.usable = t.host(c.Host, f.usable(c.addrs.Addrs), q.Family); !c.usable {
		return nil, temporary(4, 4, "Address family mismatch on smarthost", nil)
	}
	cands := []*candidate{c}
	if err := f.secure(ctx, cands, t, hops, c.addrs.Authentic); err != nil {
		return &nexthop.Hops{Failures: hops.Failures, Notes: hops.Notes}, err
	}
	hops.Groups = group(cands)
	return hops, nil
}

// notPermanent turns a permanent failure into a temporary one.
func notPermanent(err error) error {
	e, ok := errors.AsType[*smtp.Error](err)
	if !ok || !e.Permanent() {
		return err
	}
	out := *e
	out.Code, out.Enhanced[0] = 451, 4
	return &out
}
