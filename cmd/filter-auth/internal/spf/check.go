package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check is a question under way.
type check struct {
	dns      Resolver
	ip       netip.Addr
	helo     string
	local    string // part of the sender
	origin   string // its domain
	receiver string
	now      time.Time

	terms, void int      // counted so far
	names       []string // that the address has and that have it, once they are known
	namesKnown  bool
	nameless    bool // there are no names, which has not been counted
}

// finding is what one record says.
type finding struct {
	result Result
	err    error
	exp    template // of the record that has the last word; nil without one
	domain string   // it is of
}

// host evaluates the record of a domain (RFC 7208 sections 4.4 to 4.7).
func (c *check) host(ctx context.Context, domain string) finding {
	f := finding{domain: domain}
	texts, p := found(c.dns.LookupTXT(ctx, domain+"."))
	if p != nil {
		return f.broken(p)
	}
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !isRecord(s) })
	switch {
	case len(texts) == 0:
		f.result = None
		return f
	case len(texts) > 1:
		return f.broken(permanent("several records"))
	}
	r, err := parse(texts[0])
	if err != nil {
		return f.broken(permanent("%v", err))
	}
	f.exp = r.exp
	for _, d := range r.directives {
		matches, p := c.matches(ctx, d, domain)
		if p != nil {
			return f.broken(p)
		}
		if matches {
			f.result = d.result
			return f
		}
	}
	if r.redirect != nil {
		return c.redirect(ctx, r.redirect, f)
	}
	f.result = Neutral
	return f
}

// broken says that a problem ended the evaluation of a record.
func (f finding) broken(p *problem) finding {
	f.result, f.err = p.result, &problem{p.result, f.domain + ": " + p.text}
	return f
}

// redirect goes on with the record of another domain (section 6.1).
func (c *check) redirect(ctx context.Context, to template, f finding) finding {
	if p := c.asked(); p != nil {
		return f.broken(p)
	}
	name, ok := to.domain(c.values(ctx, f.domain))
	if !ok {
		return f.broken(permanent("redirect to what is not a domain"))
	}
	g := c.host(ctx, name)
	if g.result == None {
		return f.broken(permanent("redirect to %s, which has no record", name))
	}
	return g
}

// asked counts a term that asks the DNS.
func (c *check) asked() *problem {
	if c.terms++; c.terms > maxTerms {
		return permanent("more than %d terms that ask the DNS", maxTerms)
	}
	return nil
}

// nothing counts a term whose question has no answer.
func (c *check) nothing() *problem {
	if c.void++; c.void > maxVoid {
		return permanent("more than %d terms that ask for what does not exist", maxVoid)
	}
	return nil
}

// found sorts the outcome of a lookup. Proven absence is no answer and no problem.
func found[T any](answer []T, err error) ([]T, *problem) {
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, &problem{TempError, err.Error()}
	}
	return answer, nil
}

// matches tells whether a mechanism matches (section 5).
func (c *check) matches(ctx context.Context, d directive, domain string) (bool, *problem) {
	switch d.kind {
	case kindAll:
		return true, nil
	case kindIP4, kindIP6:
		return d.network.Contains(c.ip), nil
	}
	if p := c.asked(); p != nil {
		return false, p
	}
	name, ok := domain, true
	if d.domain != nil {
		name, ok = d.domain.domain(c.values(ctx, domain))
	}
	switch {
	case d.kind == kindInclude:
		return c.include(ctx, name, ok)
	case !ok:
		return false, nil // section 4.8 leaves it open; nothing is there
	case d.kind == kindMX:
		return c.mailHosts(ctx, name, d)
	case d.kind == kindPTR:
		return c.reverse(ctx, name)
	}
	addrs, p := c.addresses(ctx, name)
	if p == nil && len(addrs) == 0 {
		p = c.nothing()
	}
	if p != nil {
		return false, p
	}
	if d.kind == kindExists { // whatever the address is (section 5.7)
		return slices.ContainsFunc(addrs, netip.Addr.Is4), nil
	}
	return d.covers(addrs, c.ip), nil
}

// include tells what follows from another domain's record (section 5.2).
func (c *check) include(ctx context.Context, name string, ok bool) (bool, *problem) {
	if !ok {
		return false, permanent("include of what is not a domain")
	}
	f := c.host(ctx, name)
	switch f.result {
	case Pass:
		return true, nil
	case TempError, PermError:
		return false, &problem{f.result, f.err.Error()}
	case None:
		return false, permanent("include of %s, which has no record", name)
	}
	return false, nil
}

// addresses returns those of a name, of both families. A name that has none of the
// client's family is no void lookup here: whether a record is broken does not depend on
// who asks.
func (c *check) addresses(ctx context.Context, name string) ([]netip.Addr, *problem) {
	texts, p := found(c.dns.LookupHost(ctx, name+"."))
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.WithZone("").Unmap())
		}
	}
	return addrs, p
}

// covers tells whether an address is in the network of one of others.
func (d directive) covers(addrs []netip.Addr, ip netip.Addr) bool {
	bits := d.six
	if ip.Is4() {
		bits = d.four
	}
	for _, a := range addrs {
		if a.Is4() == ip.Is4() && netip.PrefixFrom(a, bits).Masked().Contains(ip) {
			return true
		}
	}
	return false
}

// mailHosts tells whether the client is a mail host of a domain (section 5.4).
func (c *check) mailHosts(ctx context.Context, name string, d directive) (bool, *problem) {
	hosts, p := found(c.dns.LookupMX(ctx, name+"."))
	switch {
	case p != nil:
		return false, p
	case len(hosts) == 0:
		return false, c.nothing()
	case len(hosts) > maxHosts:
		return false, permanent("%s has more than %d mail hosts", name, maxHosts)
	}
	for _, h := range hosts {
		host := strings.TrimSuffix(h.Host, ".")
		if !askable(host) {
			continue // such as the one of a domain that takes no mail (RFC 7505)
		}
		addrs, p := c.addresses(ctx, host)
		if p != nil {
			return false, p
		}
		if d.covers(addrs, c.ip) {
			return true, nil
		}
	}
	return false, nil
}

// reverse tells whether the client has a name within a domain (section 5.5). That it
// has no name at all counts once as a void lookup, as it is one.
func (c *check) reverse(ctx context.Context, domain string) (bool, *problem) {
	names := c.validated(ctx)
	if c.nameless {
		c.nameless = false
		return false, c.nothing()
	}
	return slices.ContainsFunc(names, func(n string) bool { return within(n, domain) }), nil
}

// within tells whether a name is a domain or below it.
func within(name, domain string) bool {
	n := len(name) - len(domain)
	return n == 0 && strings.EqualFold(name, domain) || n > 0 && name[n-1] == '.' && strings.EqualFold(name[n:], domain)
}

// validated returns the names that the address has and that have it, without their
// final dots. They are asked for once. What cannot be found out is left out
// (section 5.5).
func (c *check) validated(ctx context.Context) []string {
	if !c.namesKnown {
		c.namesKnown = true
		all, p := found(c.dns.LookupAddr(ctx, c.ip.String()))
		c.nameless = p == nil && len(all) == 0
		for _, name := range all[:min(len(all), maxNames)] {
			name = strings.TrimSuffix(name, ".")
			if !askable(name) {
				continue
			}
			if addrs, _ := c.addresses(ctx, name); slices.Contains(addrs, c.ip) {
				c.names = append(c.names, name)
			}
		}
	}
	return c.names
}

// values returns what the letters of macros stand for in the record of a domain
// (section 7.2). ok is false for a local part that is not ASCII: terms with it match
// nothing (RFC 8616 section 4).
func (c *check) values(ctx context.Context, domain string) func(letter byte) (value string, ok bool) {
	return func(letter byte) (string, bool) {
		switch letter {
		case 's':
			return c.local + "@" + c.origin, isASCII(c.local)
		case 'l':
			return c.local, isASCII(c.local)
		case 'o':
			return c.origin, true
		case 'd':
			return domain, true
		case 'i':
			return dotted(c.ip), true
		case 'p':
			return c.name(ctx, domain), true
		case 'v':
			if c.ip.Is4() {
				return "in-addr", true
			}
			return "ip6", true
		case 'h':
			return c.helo, true
		case 'c':
			return c.ip.String(), true
		case 'r':
			return c.receiver, true
		case 't':
			return strconv.FormatInt(c.now.Unix(), 10), true
		}
		return "", false
	}
}

// name returns a name of the client: the domain itself or else one below it, if it has
// such names, or else any (section 7.3).
func (c *check) name(ctx context.Context, domain string) string {
	best := "unknown"
	for i, n := range c.validated(ctx) {
		switch {
		case strings.EqualFold(n, domain):
			return n
		case i == 0, within(n, domain) && !within(best, domain):
			best = n
		}
	}
	return best
}

// dotted returns an address as its numbers or, for IPv6, its hexadecimal digits, with
// dots between them.
func dotted(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	const hexDigits = "0123456789abcdef"
	var out []byte
	for _, b := range ip.As16() {
		out = append(out, hexDigits[b>>4], '.', hexDigits[b&15], '.')
	}
	return string(out[:len(out)-1])
}

// explain returns what a domain has to say about a failure (section 6.2). A question
// for it does not count, and whatever is wrong with it, there is none.
func (c *check) explain(ctx context.Context, f finding) string {
	if f.exp == nil {
		return ""
	}
	name, ok := f.exp.domain(c.values(ctx, f.domain))
	if !ok {
		return ""
	}
	texts, p := found(c.dns.LookupTXT(ctx, name+"."))
	if p != nil || len(texts) != 1 {
		return ""
	}
	t, err := parseTemplate(texts[0], textLetters, true)
	if err != nil {
		return ""
	}
	return t.line(c.values(ctx, f.domain))
}
