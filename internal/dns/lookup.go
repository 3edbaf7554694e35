package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// maxConfirm bounds the names of an address that are looked up to confirm it.
const maxConfirm = 4

// Addrs returns the addresses of a host, IPv6 first, by hosts(5) or else by the A
// and AAAA records. When one of the two cannot be had for a temporary reason, it
// returns the other, if that has addresses.
func (r *Resolver) Addrs(ctx context.Context, host string) (*Answer, error) {
	return r.addrs(ctx, host, r.lookup)
}

// addrs is Addrs with the given way to look up.
func (r *Resolver) addrs(ctx context.Context, host string, lookup func(context.Context, string, uint16) (*Answer, error)) (*Answer, error) {
	local, err := r.local(host)
	if err != nil || local != nil {
		return local, err
	}
	type result struct {
		a   *Answer
		err error
	}
	six := make(chan result, 1) // room for one, so that the sender never waits
	go func() {
		a, err := lookup(ctx, host, dns.TypeAAAA)
		six <- result{a, err}
	}()
	four, err4 := lookup(ctx, host, dns.TypeA)
	v6 := <-six
	switch {
	case err4 == nil && v6.err == nil:
		return &Answer{
			Name: four.Name, Addrs: slices.Concat(v6.a.Addrs, four.Addrs),
			Authentic: four.Authentic && v6.a.Authentic,
		}, nil
	case err4 == nil:
		return four, nil
	case v6.err == nil:
		return v6.a, nil
	case !absent(err4):
		return nil, err4
	case !absent(v6.err):
		return nil, v6.err
	case errors.Is(err4, ErrNoRecord):
		return nil, err4
	}
	return nil, v6.err
}

// MX returns the mail hosts of a domain. Absence is ErrNoRecord or ErrNoName; what
// follows from it is the caller's decision (RFC 5321 section 5.1).
func (r *Resolver) MX(ctx context.Context, domain string) (*Answer, error) {
	return r.lookup(ctx, domain, dns.TypeMX)
}

// TXT returns the TXT records of a name.
func (r *Resolver) TXT(ctx context.Context, name string) (*Answer, error) {
	return r.lookup(ctx, name, dns.TypeTXT)
}

// TLSA returns the certificate associations of a TCP port of a host. They mean
// nothing unless the answer is Authentic (RFC 7672 section 2.2).
func (r *Resolver) TLSA(ctx context.Context, host string, port uint16) (*Answer, error) {
	return r.lookup(ctx, "_"+strconv.Itoa(int(port))+"._tcp."+host, dns.TypeTLSA)
}

// ReverseNames returns all names of an address, by hosts(5) or PTR records, up to ten.
// None is confirmed.
func (r *Resolver) ReverseNames(ctx context.Context, addr netip.Addr) ([]string, error) {
	addr = addr.WithZone("").Unmap()
	if !addr.IsValid() {
		return nil, fmt.Errorf("%w: no address", ErrBadName)
	}
	known, err := r.hosts.get(r.now())
	if err != nil {
		return nil, err
	}
	if name, ok := known.names[addr]; ok {
		return []string{name}, nil
	}
	a, err := r.lookup(ctx, reverse(addr), dns.TypePTR)
	if err != nil {
		return nil, err
	}
	return a.Names, nil
}

// ReverseName returns the name of an address, by hosts(5) or PTR records, and
// whether it is confirmed: whether the name has that address in turn. Of several
// names a confirmed one is preferred.
//
// With an error other than absence, name may be set: then it is known, but not
// whether it would be confirmed.
func (r *Resolver) ReverseName(ctx context.Context, addr netip.Addr) (name string, confirmed bool, err error) {
	names, err := r.ReverseNames(ctx, addr)
	if err != nil {
		return "", false, err
	}
	addr = addr.WithZone("").Unmap()
	qtype := dns.TypeAAAA
	if addr.Is4() {
		qtype = dns.TypeA
	}
	var temporary error
	for _, name := range names[:min(len(names), maxConfirm)] {
		f, err := r.forward(ctx, name, qtype)
		if err == nil && slices.Contains(f.Addrs, addr) {
			return name, true, nil
		}
		if err != nil && !absent(err) && temporary == nil {
			temporary = err
		}
	}
	return names[0], false, temporary
}

// forward returns the addresses of one family that a host has.
func (r *Resolver) forward(ctx context.Context, host string, qtype uint16) (*Answer, error) {
	local, err := r.local(host)
	if err != nil || local != nil {
		return local, err
	}
	return r.lookup(ctx, host, qtype)
}

// local returns what hosts(5) says of a host, nil for nothing. localhost is this
// machine whatever the DNS says (RFC 6761 section 6.3).
func (r *Resolver) local(host string) (*Answer, error) {
	known, err := r.hosts.get(r.now())
	if err != nil {
		return nil, err
	}
	name := canonical(host)
	if addrs := known.addrs[name]; len(addrs) > 0 {
		return &Answer{Name: name, Addrs: slices.Clone(addrs)}, nil
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return &Answer{Name: name, Addrs: []netip.Addr{
			netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		}}, nil
	}
	return nil, nil
}

// absent tells whether err is a proven absence.
func absent(err error) bool {
	return errors.Is(err, ErrNoName) || errors.Is(err, ErrNoRecord) || errors.Is(err, ErrBadName)
}

// reverse returns the name under which the PTR records of addr are (RFC 1035
// section 3.5, RFC 3596 section 2.5).
func reverse(addr netip.Addr) string {
	if addr.Is4() {
		b := addr.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0])
	}
	const hexDigits = "0123456789abcdef"
	b := addr.As16()
	out := make([]byte, 0, 72)
	for i := len(b) - 1; i >= 0; i-- {
		out = append(out, hexDigits[b[i]&15], '.', hexDigits[b[i]>>4], '.')
	}
	return string(append(out, "ip6.arpa"...))
}
