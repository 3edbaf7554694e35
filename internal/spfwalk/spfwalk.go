// Package spfwalk lists the networks that a domain's SPF record (RFC 7208) lets send
// its mail: what "smtpctl spf walk" prints for firewalls and greylisters. It follows
// a, mx, include and redirect; it judges no mail.
//
// Mechanisms that fail or softfail are left out, as they allow nothing. So are those
// with macros, ptr and exists: they depend on the client and name no network.
package spfwalk

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// Bounds of one domain. RFC 7208 section 4.6.4 allows 10 lookups; records of the
// wild that have more are listed all the same.
const (
	maxLookups = 100
	maxDepth   = 10
	maxHosts   = 10 // of an mx
)

// DNS answers what a record refers to. *dns.Resolver does.
type DNS interface {
	TXT(ctx context.Context, name string) (*dns.Answer, error)
	MX(ctx context.Context, domain string) (*dns.Answer, error)
	Addrs(ctx context.Context, host string) (*dns.Answer, error)
}

// Walk calls found with each network of domain, once, in the order of the records.
// What cannot be followed is told by trouble, and the rest goes on.
func Walk(ctx context.Context, d DNS, domain string, found func(netip.Prefix), trouble func(error)) {
	w := &walk{dns: d, found: found, trouble: trouble, seen: map[string]bool{}, nets: map[netip.Prefix]bool{}}
	w.record(ctx, domain, 0)
}

// walk is the state of one domain.
type walk struct {
	dns     DNS
	found   func(netip.Prefix)
	trouble func(error)
	seen    map[string]bool // domains whose records were read
	nets    map[netip.Prefix]bool
	lookups int
}

// may counts a lookup, up to the bound.
func (w *walk) may(what string) bool {
	w.lookups++
	if w.lookups == maxLookups+1 {
		w.trouble(fmt.Errorf("%s: more than %d lookups, the rest is left out", what, maxLookups))
	}
	return w.lookups <= maxLookups
}

// record reads the record of one domain.
func (w *walk) record(ctx context.Context, domain string, depth int) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if w.seen[domain] || !w.may(domain) {
		return
	}
	w.seen[domain] = true
	if depth > maxDepth {
		w.trouble(fmt.Errorf("%s: records are nested more than %d deep", domain, maxDepth))
		return
	}
	answer, err := w.dns.TXT(ctx, domain)
	if err != nil {
		w.trouble(fmt.Errorf("%s: %w", domain, err))
		return
	}
	records := 0
	for _, text := range answer.Text {
		version, terms, _ := strings.Cut(text, " ")
		if !strings.EqualFold(version, "v=spf1") {
			continue
		}
		if records++; records > 1 {
			w.trouble(fmt.Errorf("%s: several SPF records, only the first counts", domain))
			return
		}
		for term := range strings.FieldsSeq(terms) {
			w.term(ctx, domain, term, depth)
		}
	}
	if records == 0 {
		w.trouble(fmt.Errorf("%s: no SPF record", domain))
	}
}

// term reads one mechanism or modifier.
func (w *walk) term(ctx context.Context, domain, term string, depth int) {
	if strings.ContainsRune("-~", rune(term[0])) || strings.ContainsRune(term, '%') {
		return
	}
	term = strings.TrimLeft(term, "+?")
	if to, ok := cutWord(term, "redirect="); ok {
		w.record(ctx, to, depth+1)
		return
	}
	name, argument, _ := strings.Cut(term, ":")
	if argument == "" { // the prefix lengths may follow the bare word
		var lengths string
		name, lengths, _ = strings.Cut(term, "/")
		if name = strings.TrimSuffix(name, ":"); lengths != "" {
			argument = "/" + lengths
		}
	}
	switch strings.ToLower(name) {
	case "ip4", "ip6":
		w.network(domain, argument)
	case "include":
		w.record(ctx, argument, depth+1)
	case "a":
		host, bits := target(domain, argument)
		w.host(ctx, host, bits)
	case "mx":
		host, bits := target(domain, argument)
		w.mx(ctx, host, bits)
	}
}

// cutWord removes a word from the start of s, without regard to case.
func cutWord(s, word string) (string, bool) {
	if len(s) < len(word) || !strings.EqualFold(s[:len(word)], word) {
		return s, false
	}
	return s[len(word):], true
}

// network reports a network as written in a record.
func (w *walk) network(domain, text string) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		var addr netip.Addr
		if addr, err = netip.ParseAddr(text); err == nil {
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	if err != nil || prefix.Addr().Zone() != "" {
		w.trouble(fmt.Errorf("%s: %.60q is no network", domain, text))
		return
	}
	w.report(prefix)
}

func (w *walk) report(p netip.Prefix) {
	if p = p.Masked(); p.IsValid() && !w.nets[p] {
		w.nets[p] = true
		w.found(p)
	}
}

// lengths are the prefix lengths of a and mx (RFC 7208 section 5.6).
type lengths struct{ four, six int }

// target reads "[domain][/len4][//len6]" of a and mx.
func target(domain, argument string) (host string, l lengths) {
	l = lengths{32, 128}
	rest, six, ok := strings.Cut(argument, "//")
	if n, err := strconv.Atoi(six); ok && err == nil && n >= 0 && n <= 128 {
		l.six = n
	}
	host, four, ok := strings.Cut(rest, "/")
	if n, err := strconv.Atoi(four); ok && err == nil && n >= 0 && n <= 32 {
		l.four = n
	}
	if host == "" {
		host = domain
	}
	return host, l
}

// host reports the addresses of a host.
func (w *walk) host(ctx context.Context, host string, l lengths) {
	if !w.may(host) {
		return
	}
	answer, err := w.dns.Addrs(ctx, host)
	if err != nil {
		w.trouble(fmt.Errorf("%s: %w", host, err))
		return
	}
	for _, a := range answer.Addrs {
		a = a.Unmap()
		bits := l.four
		if a.Is6() {
			bits = l.six
		}
		w.report(netip.PrefixFrom(a, bits))
	}
}

// mx reports the addresses of the mail hosts of a domain.
func (w *walk) mx(ctx context.Context, domain string, l lengths) {
	if !w.may(domain) {
		return
	}
	answer, err := w.dns.MX(ctx, domain)
	if err != nil {
		w.trouble(fmt.Errorf("%s: %w", domain, err))
		return
	}
	for i, mx := range answer.MX {
		if i < maxHosts && mx.Host != "." {
			w.host(ctx, mx.Host, l)
		}
	}
}
