package finder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// candidate is an MX host that is being looked at.
type candidate struct {
	dns.MX
	addrs  *dns.Answer // nil with err
	err    error
	own    bool // it is this host
	host   nexthop.Host
	usable bool // host is to be used
}

// byMX returns the mail hosts of the domain u.Host.
func (f *Finder) byMX(ctx context.Context, q Query, u nexthop.URL) (*nexthop.Hops, error) {
	domain, err := toASCII(strings.TrimSuffix(u.Host, "."))
	if err != nil {
		return nil, permanent(5, 1, 2, "Invalid domain name", err)
	}
	u.Host = domain
	t, err := newTarget(u, q)
	if err != nil {
		return nil, err
	}
	hops := &nexthop.Hops{Key: key(u, q), Name: domain}
	cands, err := f.exchangers(ctx, domain, hops)
	if err != nil {
		return nil, err
	}
	found := len(cands)
	cands = f.choose(cands, q, hops)
	f.addresses(ctx, cands)
	cands = f.cutOwn(cands, q, hops)
	if len(cands) == 0 && found > 0 {
		return nil, errLoop()
	}
	if err := f.attach(cands, t, q, hops); err != nil {
		return nil, err
	}
	if err := f.secure(ctx, cands, t, hops, hops.Secure); err != nil {
		return &nexthop.Hops{Failures: hops.Failures, Notes: hops.Notes}, err
	}
	hops.Groups = group(cands)
	return hops, nil
}

// exchangers returns the MX records of a domain, or the domain itself when it has
// none. Only what is proven is a permanent error.
func (f *Finder) exchangers(ctx context.Context, domain string, hops *nexthop.Hops) ([]*candidate, error) {
	a, err := f.cfg.DNS.MX(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrBadName):
		return nil, permanent(5, 1, 2, "Invalid domain name", err)
	case errors.Is(err, dns.ErrNoRecord), errors.Is(err, dns.ErrNoName):
		return f.implicit(ctx, domain, err, hops)
	case err != nil:
		return nil, temporary(4, 3, "Temporary failure in MX lookup", err)
	}
	var cands []*candidate
	null := true
	for _, mx := range a.MX {
		if mx.Host == "." {
			continue
		}
		null = false
		if mx.Host == "localhost" || strings.HasSuffix(mx.Host, ".localhost") {
			hops.Notes = append(hops.Notes, "MX "+mx.Host+" passed over")
			continue
		}
		cands = append(cands, &candidate{MX: mx})
	}
	if null {
		// RFC 7505 section 4.1
		return nil, &smtp.Error{Code: 556, Enhanced: smtp.EnhancedCode{5, 1, 10}, Text: "Domain does not accept mail"}
	}
	if len(cands) == 0 {
		return nil, temporary(4, 4, "No usable MX found for domain", errors.New(strings.Join(hops.Notes, "; ")))
	}
	hops.Secure = a.Authentic
	return cands, nil
}

// implicit returns the domain as its own mail host (RFC 5321 section 5.1). mxErr is
// why it has no MX records. Some name servers say of a name that it does not exist
// when it has no MX records, so that is believed if there is no address either.
func (f *Finder) implicit(ctx context.Context, domain string, mxErr error, hops *nexthop.Hops) ([]*candidate, error) {
	a, err := f.cfg.DNS.Addrs(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrNoRecord), errors.Is(err, dns.ErrNoName):
		if errors.Is(mxErr, dns.ErrNoName) {
			return nil, permanent(5, 1, 2, "Domain does not exist", mxErr)
		}
		return nil, permanent(5, 1, 2, "Domain has no mail host", err)
	case err != nil:
		return nil, temporary(4, 3, "Temporary failure in address lookup", err)
	}
	hops.Secure = a.Authentic
	return []*candidate{{MX: dns.MX{Host: domain}, addrs: a}}, nil
}

// choose brings candidates into the order of use, equally good ones at random, and
// takes those to look at: better than this host, as far as the names tell, and not
// too many.
func (f *Finder) choose(cands []*candidate, q Query, hops *nexthop.Hops) []*candidate {
	f.cfg.Shuffle(len(cands), func(i, j int) { cands[i], cands[j] = cands[j], cands[i] })
	slices.SortStableFunc(cands, func(a, b *candidate) int { return cmp.Compare(a.Preference, b.Preference) })
	for i, c := range cands {
		if named(c.Host, f.cfg.Own.Names) || q.Backup && named(c.Host, []string{q.BackupName}) {
			c.own = true
			cands = cands[:i+1] // none after it is better
			break
		}
	}
	if len(cands) > maxHosts {
		hops.Notes = append(hops.Notes, fmt.Sprintf("%d MX hosts, %d looked up", len(cands), maxHosts))
		cands = cands[:maxHosts]
	}
	return cands
}

// addresses looks up the addresses of candidates, side by side.
func (f *Finder) addresses(ctx context.Context, cands []*candidate) {
	var wg sync.WaitGroup
	for _, c := range cands {
		if c.own || c.addrs != nil {
			continue
		}
		wg.Go(func() { c.addrs, c.err = f.cfg.DNS.Addrs(ctx, c.Host) })
	}
	wg.Wait()
}

// cutOwn removes this host and all that are not better: mail handed to those could
// come back (RFC 5321 section 5.1).
func (f *Finder) cutOwn(cands []*candidate, q Query, hops *nexthop.Hops) []*candidate {
	for _, c := range cands {
		if !c.own && (c.addrs == nil || !slices.ContainsFunc(c.addrs.Addrs, f.mine)) {
			continue
		}
		return slices.DeleteFunc(cands, func(o *candidate) bool { return o.Preference >= c.Preference })
	}
	if q.Backup {
		hops.Notes = append(hops.Notes, "this host is not among the MX, all of them are eligible")
	}
	return cands
}

// attach gives candidates their host with its addresses. It is an error when none
// has any; what was wrong with some is noted.
func (f *Finder) attach(cands []*candidate, t target, q Query, hops *nexthop.Hops) error {
	var usable, unknown, mismatch int
	var cause error
	for _, c := range cands {
		if c.err != nil {
			if !errors.Is(c.err, dns.ErrNoName) && !errors.Is(c.err, dns.ErrNoRecord) && !errors.Is(c.err, dns.ErrBadName) {
				unknown++
			}
			cause = fmt.Errorf("%s: %w", c.Host, c.err)
			hops.Notes = append(hops.Notes, cause.Error())
			continue
		}
		addrs := f.sane(c.addrs.Addrs)
		if len(addrs) == 0 {
			cause = fmt.Errorf("MX %s has no address that can be meant", c.Host)
			hops.Notes = append(hops.Notes, cause.Error())
			continue
		}
		if c.host, c.usable = t.host(c.Host, f.usable(addrs), q.Family); !c.usable {
			mismatch++
			continue
		}
		c.host.Preference = c.Preference
		usable++
	}
	switch {
	case usable > 0:
		return nil
	case unknown > 0:
		return temporary(4, 3, "Temporary failure in address lookup of mail hosts", cause)
	case mismatch > 0:
		return temporary(4, 4, "Address family mismatch on destination MXs", nil)
	}
	return temporary(4, 4, "No usable MX found for domain", cause)
}

// sane returns addrs without those that lead nowhere or to this machine.
func (f *Finder) sane(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
			a.IsLoopback() && !f.cfg.Loopback {
			continue
		}
		out = append(out, a)
	}
	return out
}

// group returns the hosts of the usable candidates by preference.
func group(cands []*candidate) [][]nexthop.Host {
	var groups [][]nexthop.Host
	last := -1
	for _, c := range cands {
		if !c.usable {
			continue
		}
		if int(c.Preference) != last {
			groups = append(groups, nil)
			last = int(c.Preference)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], c.host)
	}
	return groups
}
