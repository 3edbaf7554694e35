// Package finder finds the hosts that take mail for a domain: by MX records (RFC
// 5321 section 5.1), or the smarthosts that a relay action names. It decides what
// protection a connection to each host needs, from the action, DANE (RFC 7672) and
// MTA-STS (RFC 8461) in this order.
//
// A domain without MX records is its own mail host. Null MX (RFC 7505), a domain
// that does not exist, and MX records that lead nowhere but back to this host are
// permanent failures. Hosts called localhost, and addresses no stranger can mean in
// earnest (loopback, unspecified, multicast), are passed over; when nothing is left
// the failure is temporary, because such records are mistakes, not refusals.
// Whatever goes wrong with a smarthost is the operator's to repair and temporary.
package finder

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// DNS is what is asked; *dns.Resolver is one.
type DNS interface {
	MX(ctx context.Context, domain string) (*dns.Answer, error)
	Addrs(ctx context.Context, host string) (*dns.Answer, error)
	TLSA(ctx context.Context, host string, port uint16) (*dns.Answer, error)
}

// STS tells the MTA-STS policy of a domain, nil when it has none. An error beside a
// nil policy says that there may be one that could not be had; beside a policy,
// that a newer one could not. *mtasts.Policies is an STS.
type STS interface {
	Policy(ctx context.Context, domain string) (*mtasts.Policy, error)
}

// Own tells which names and addresses this host takes mail at.
type Own struct {
	Names []string                // compared without regard to case
	Has   func(a netip.Addr) bool // nil: none
}

// Config is what a Finder needs. A zero field means the usual.
type Config struct {
	DNS      DNS // required
	Own      Own
	DANE     bool   // use TLSA records; wants a resolver that validates
	STS      STS    // nil: MTA-STS is not used
	Port     uint16 // of MX hosts; 25
	Loopback bool   // MX hosts may be on this machine
	// Families tells whether this host has addresses of each family; addresses of one
	// that it has none of are not used. Nil: it has both.
	Families func() (four, six bool)
	// Shuffle changes the order of equally good hosts; rand.Shuffle.
	Shuffle func(n int, swap func(i, j int))
}

// Finder finds next hops. Its methods may be called concurrently.
type Finder struct{ cfg Config }

// New returns a Finder.
func New(cfg Config) *Finder {
	if cfg.Port == 0 {
		cfg.Port = 25
	}
	if cfg.Shuffle == nil {
		cfg.Shuffle = rand.Shuffle
	}
	return &Finder{cfg: cfg}
}

// Demand is what a relay action asks of TLS.
type Demand uint8

const (
	AsOffered   Demand = iota // what the URL, or DANE and MTA-STS say
	NoVerify                  // "tls no-verify": TLS, with any certificate
	Verify                    // "tls": TLS, with a good certificate
	Indifferent               // "tls opportunistic": what the URL says; domains are not asked
	Vouched                   // "tls sts": as Verify, for an MX host that DNSSEC or a policy vouches for
	ByDANE                    // "tls dane": by TLSA records
)

// Query asks where mail for a domain goes.
type Query struct {
	Domain string // of the recipient: a name in ASCII or UTF-8, or an address literal
	// Smarthosts are used instead of the domain's MX hosts unless empty. Those of the
	// first rank are equally good; the next rank is for when they cannot be reached.
	Smarthosts [][]nexthop.URL
	TLS        Demand
	// RequireTLS says that the message may not go without what TLS demands (RFC
	// 8689): when it is proven that no host has it, that is a permanent failure.
	RequireTLS bool
	Family     nexthop.Family
	// Backup says that this host is an MX of lesser preference by this name, or by
	// one of Own. Unless the records agree, all hosts are eligible.
	Backup     bool
	BackupName string
}

// Bounds of one search, beyond which hosts and addresses are ignored.
const (
	maxHosts = 20 // MX hosts looked up, the preferred ones
	maxAddrs = 8  // of a host
)

// Find returns where mail goes, or an error of type *smtp.Error, which is permanent
// only when the DNS has proven that it must be. Beside an error the Hops may be nil,
// and have Failures and Notes only.
func (f *Finder) Find(ctx context.Context, q Query) (*nexthop.Hops, error) {
	if len(q.Smarthosts) > 0 {
		return f.smarthosts(ctx, q)
	}
	if strings.HasPrefix(q.Domain, "[") {
		return f.literal(q)
	}
	return f.byMX(ctx, q, nexthop.URL{MX: true, Host: q.Domain, Port: f.cfg.Port})
}

// literal returns the host that an address literal stands for (RFC 5321 section
// 4.1.3).
func (f *Finder) literal(q Query) (*nexthop.Hops, error) {
	addr, ok := smtp.AddressLiteral(q.Domain)
	if !ok {
		return nil, permanent(5, 1, 3, "Malformed address literal", nil)
	}
	addr = addr.Unmap()
	if f.mine(addr) || !f.cfg.Loopback && addr.IsLoopback() {
		return nil, errLoop()
	}
	u := nexthop.URL{Addr: addr, Port: f.cfg.Port}
	t, err := newTarget(u, q)
	if err != nil {
		return nil, err
	}
	hops := &nexthop.Hops{Key: key(u, q), Name: q.Domain}
	host, ok := t.host(addr.String(), f.usable([]netip.Addr{addr}), q.Family)
	if !ok {
		return nil, temporary(4, 4, "Address family mismatch on destination", nil)
	}
	hops.Groups = [][]nexthop.Host{{host}}
	return hops, nil
}

// mine tells whether addr is an address of this host.
func (f *Finder) mine(addr netip.Addr) bool { return f.cfg.Own.Has != nil && f.cfg.Own.Has(addr) }

// usable returns addrs without those of a family that this host has no address of:
// nothing could be connected from.
func (f *Finder) usable(addrs []netip.Addr) []netip.Addr {
	if f.cfg.Families == nil {
		return addrs
	}
	four, six := f.cfg.Families()
	if four == six {
		return addrs
	}
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a.Unmap().Is4() == four || a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

// named tells whether host is one of names.
func named(host string, names []string) bool {
	for _, n := range names {
		if strings.EqualFold(host, strings.TrimSuffix(n, ".")) {
			return true
		}
	}
	return false
}

// permanent returns a failure that is proven. cause may be nil.
func permanent(a, b, c uint8, text string, cause error) error {
	return &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{a, b, c}, Text: text, Err: cause}
}

// temporary returns any other failure, 4.b.c.
func temporary(b, c uint8, text string, cause error) error {
	return &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, b, c}, Text: text, Err: cause}
}

// errLoop says that mail would come back to this host.
func errLoop() error {
	return &smtp.Error{Code: 554, Enhanced: smtp.EnhancedCode{5, 4, 6}, Text: "Mail for this domain loops back to this host"}
}
