package finder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/dane"
	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// secure decides the protection of each usable candidate: by TLSA records where
// they can be trusted, else by the MTA-STS policy of the domain, else as the action
// says. authentic tells whether DNSSEC has validated who the candidates are.
// Candidates that neither permits are not usable any more; it is an error
// when none is left.
func (f *Finder) secure(ctx context.Context, cands []*candidate, t target, hops *nexthop.Hops, authentic bool) error {
	none := -1
	if t.url.MX {
		none = 0
		hops.Policies = []tlsrpt.Policy{{Type: tlsrpt.TypeNone, Domain: hops.Name}}
	}
	if t.tls == nexthop.Never {
		return nil
	}
	var policy *mtasts.Policy
	var wg sync.WaitGroup
	var stsErr error
	if f.cfg.STS != nil && t.sts {
		wg.Go(func() { policy, stsErr = f.cfg.STS.Policy(ctx, hops.Name) })
	}
	answers := f.tlsa(ctx, cands, t, authentic)
	wg.Wait()
	if errors.Is(stsErr, mtasts.ErrUnknown) {
		return temporary(7, 5, "It is not known how the domain wants its mail secured", stsErr)
	}
	if stsErr != nil {
		hops.Notes = append(hops.Notes, stsErr.Error())
		hops.Failures = append(hops.Failures, tlsrpt.Event{
			Domain: hops.Name, Policy: stsPolicy(hops.Name, policy),
			Failure: mtasts.Result(stsErr), Reason: tlsrpt.Reason(stsErr),
		})
	}
	sts := -1
	if policy != nil && policy.Mode != mtasts.None {
		sts = len(hops.Policies)
		hops.Policies = append(hops.Policies, stsPolicy(hops.Name, policy))
	}
	var cause error
	left, unproven := 0, stsErr != nil
	for i, c := range cands {
		if !c.usable {
			continue
		}
		switch decided, err := byDANE(c, answers[i], hops); {
		case err != nil:
			cause, unproven = err, true
		case t.q.TLS == ByDANE && c.host.Security.TLS != nexthop.DANE:
			cause, c.usable = fmt.Errorf("%s has no TLSA records that can be checked and that DNSSEC has validated", c.Host), false
		case !decided && sts >= 0:
			if err := bySTS(c, policy, sts, t.q.TLS == Vouched, hops); err != nil {
				cause = err
			}
		case t.q.TLS == Vouched && t.url.MX && !authentic:
			cause, c.usable = fmt.Errorf("nobody vouches for MX %s: no policy of MTA-STS, and no DNSSEC", c.Host), false
		case !decided:
			c.host.Security.Policy = none
		}
		if c.usable {
			left++
		}
	}
	switch {
	case left > 0:
		return nil
	case t.q.RequireTLS && !unproven:
		return permanent(5, 7, 10, "No mail host of the domain can be reached as securely as the sender requires", cause)
	}
	return temporary(7, 5, "No mail host of the domain can be reached securely", cause)
}

// tlsaAnswer is the outcome of one TLSA lookup. Without a base none was made.
type tlsaAnswer struct {
	base    string // name of the host that the records are about
	records []dane.Record
	err     error
}

// tlsa looks the TLSA records of the candidates up, side by side. They are asked
// for where the path to them is validated only: the MX records and the addresses
// (RFC 7672 sections 2.2.1 and 2.2.2).
func (f *Finder) tlsa(ctx context.Context, cands []*candidate, t target, secure bool) []tlsaAnswer {
	out := make([]tlsaAnswer, len(cands))
	if !f.cfg.DANE || !t.dane || !secure {
		return out
	}
	var wg sync.WaitGroup
	for i, c := range cands {
		if c.usable && c.addrs != nil && c.addrs.Authentic {
			wg.Go(func() { out[i] = f.hostTLSA(ctx, c.Host, c.addrs.Name, t.url.Port) })
		}
	}
	wg.Wait()
	return out
}

// hostTLSA returns the records of a host: of the name that its CNAMEs lead to or,
// when that has none, of its own (RFC 7672 section 2.2.3).
func (f *Finder) hostTLSA(ctx context.Context, host, canonical string, port uint16) tlsaAnswer {
	bases := []string{host}
	if canonical != "" && !strings.EqualFold(canonical, host) {
		bases = []string{canonical, host}
	}
	for _, base := range bases {
		a, err := f.cfg.DNS.TLSA(ctx, base, port)
		if errors.Is(err, dns.ErrNoName) || errors.Is(err, dns.ErrNoRecord) || errors.Is(err, dns.ErrBadName) {
			continue
		}
		if err != nil {
			return tlsaAnswer{base: base, err: fmt.Errorf("TLSA records of %s: %w", base, err)}
		}
		if !a.Authentic {
			continue
		}
		records := make([]dane.Record, len(a.TLSA))
		for i, r := range a.TLSA {
			records[i] = dane.Record(r)
		}
		return tlsaAnswer{base: base, records: records}
	}
	return tlsaAnswer{}
}

// byDANE applies the TLSA records of a candidate, if there are any. A candidate of
// which it cannot be known whether it has some must not be used (RFC 7672 section
// 2.1.2): that is the error.
func byDANE(c *candidate, a tlsaAnswer, hops *nexthop.Hops) (decided bool, err error) {
	if a.err != nil {
		c.usable = false
		hops.Notes = append(hops.Notes, a.err.Error())
		hops.Failures = append(hops.Failures, tlsrpt.Event{
			Domain: hops.Name, Policy: tlsrpt.Policy{Type: tlsrpt.TypeDANE, Domain: a.base},
			Failure: tlsrpt.DNSSECInvalid, MX: c.Host, Reason: tlsrpt.Reason(a.err),
		})
		return true, a.err
	}
	if len(a.records) == 0 {
		return false, nil
	}
	p := tlsrpt.Policy{Type: tlsrpt.TypeDANE, Domain: a.base}
	for _, r := range a.records[:min(len(a.records), dane.MaxRecords)] {
		p.Strings = append(p.Strings, r.String())
	}
	s := &c.host.Security
	usable := dane.Usable(a.records)
	if len(usable) == 0 {
		// Records that cannot be checked promise TLS all the same (section 2.2).
		hops.Notes = append(hops.Notes, "TLSA records of "+a.base+" are unusable")
		if s.TLS == nexthop.Opportunistic {
			s.TLS = nexthop.Encrypted
		}
		s.Policy = len(hops.Policies)
		hops.Policies = append(hops.Policies, p)
		return true, nil
	}
	s.TLS = nexthop.DANE
	s.Records = usable
	s.ServerName = a.base
	s.Names = []string{a.base}
	for _, n := range []string{c.Host, hops.Name} {
		if !slices.Contains(s.Names, n) {
			s.Names = append(s.Names, n)
		}
	}
	s.Policy = len(hops.Policies)
	hops.Policies = append(hops.Policies, p)
	return true, nil
}

// bySTS applies the MTA-STS policy of the domain to a candidate; with strict a
// policy under test is enforced. The error says why it may not be used.
func bySTS(c *candidate, p *mtasts.Policy, index int, strict bool, hops *nexthop.Hops) error {
	s := &c.host.Security
	strict = strict || p.Mode == mtasts.Enforce
	s.Policy = index
	if !p.Match(c.Host) {
		err := fmt.Errorf("MX %s is not in the MTA-STS policy of %s", c.Host, hops.Name)
		hops.Notes = append(hops.Notes, err.Error())
		hops.Failures = append(hops.Failures, tlsrpt.Event{
			Domain: hops.Name, Policy: hops.Policies[index],
			Failure: tlsrpt.ValidationFailure, MX: c.Host, Reason: "MX host is not in the policy",
		})
		if strict {
			c.usable = false
			return err
		}
		return nil
	}
	s.Names = []string{c.Host}
	if strict {
		s.TLS = nexthop.Verified
	} else if s.TLS != nexthop.Verified {
		s.Testing = true
	}
	return nil
}

// stsPolicy returns a policy as reports show it; p may be nil.
func stsPolicy(domain string, p *mtasts.Policy) tlsrpt.Policy {
	out := tlsrpt.Policy{Type: tlsrpt.TypeSTS, Domain: domain}
	if p != nil {
		out.Strings, out.MX = p.Lines(), p.MX
	}
	return out
}
