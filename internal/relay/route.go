package relay

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Route is the way to a domain: everything that the rules, the tables and the name
// servers say about it. The Relayer does not change it.
type Route struct {
	// Sender is the reverse-path to send, after mail-from and SRS. PerSender says that
	// the answer depends on Sender or Forwarder of the query; without it the answer
	// holds for all senders, and each envelope's own is sent.
	Sender    smtp.Path
	PerSender bool

	// AnyDomain says that the answer holds for all domains of the action, as with a
	// smarthost.
	AnyDomain bool

	Name  string // the domain, or the smarthost as configured; for limits, lists and logs
	Fixed bool   // Hosts are smarthosts, not MX
	Hosts []Host // in any order; none: there is no way

	Sources []Source // used in turn; none: the system's choice with HELO
	HELO    string   // greeting name where a source has none

	PKI       string // client certificate; may be empty
	CA        string // authorities to verify with; empty: the system's
	Ciphers   string
	Protocols string
	Filter    string // filter that is told of the sessions

	Limits Limits
	TTL    time.Duration // how long the answer may be used again; default 1 min, at most 10 min
}

// Host is one next hop.
type Host struct {
	Name       string // as looked up, without a final dot; an address literal has its brackets
	Port       uint16 // default 25
	Preference uint16 // lower ones are tried first (RFC 5321 section 5.1)
	Weight     uint16 // share of the connections among hosts of one preference; default 1
	Addrs      []netip.Addr
	LMTP       bool
	TLS        TLS
	Auth       *Credentials // nil: none
}

// TLSMode is how much protection a host must give.
type TLSMode uint8

// The demands, weakest first.
const (
	NoTLS         TLSMode = iota // never
	Opportunistic                // when offered, unverified; else in clear (RFC 7435)
	Required                     // unverified
	Verified                     // certificate verified for the name of the host
	DANE                         // by TLSA records (RFC 7672)
)

// TLS is the demand on a host.
type TLS struct {
	Mode     TLSMode
	Implicit bool     // from the first byte (RFC 8314)
	TLSA     []TLSA   // of DANE
	SNI      string   // name for the handshake; empty: none
	Names    []string // of which the certificate must have one; empty: Host.Name
	Testing  bool     // check and report, but deliver regardless (RFC 8461 section 5)
}

// TLSA is one record (RFC 6698 section 2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// Source is a local address and the name to greet with from there.
type Source struct {
	Addr netip.Addr // invalid: the system's choice
	HELO string     // empty: that of the route
}

// Credentials authenticate us. They are never logged.
type Credentials struct {
	User, Password string
	Mechanism      string // XOAUTH2, for which Password is an access token; empty: the best of what the host offers
	Label          string // which entry of which table, for lists: "table:label"
}

// XOAUTH2 is the mechanism that takes an OAuth 2.0 access token for a password.
const XOAUTH2 = "XOAUTH2"

// key names a relay: a digest of everything in a route that changes what is sent and
// where. The addresses behind names are left out, they come and go.
type key [sha256.Size]byte

// key returns the name of r's relay.
func (r *Route) key() key {
	var k keyWriter
	k.flag(r.Fixed)
	hosts := slices.Clone(r.Hosts)
	slices.SortFunc(hosts, func(a, b Host) int {
		if a.Preference != b.Preference {
			return int(a.Preference) - int(b.Preference)
		}
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	k.number(len(hosts))
	for i := range hosts {
		k.host(&hosts[i])
	}
	k.number(len(r.Sources))
	for _, s := range r.Sources {
		k.text(s.Addr.String(), s.HELO)
	}
	k.text(r.HELO, r.PKI, r.CA, r.Ciphers, r.Protocols, r.Filter)
	k.limits(&r.Limits)
	return sha256.Sum256(k.b)
}

// keyWriter builds an unambiguous form: lengths come before contents.
type keyWriter struct{ b []byte }

func (k *keyWriter) number(n int) { k.b = binary.AppendVarint(k.b, int64(n)) }

func (k *keyWriter) flag(f bool) {
	if f {
		k.number(1)
	} else {
		k.number(0)
	}
}

func (k *keyWriter) text(s ...string) {
	for _, s := range s {
		k.number(len(s))
		k.b = append(k.b, s...)
	}
}

func (k *keyWriter) host(h *Host) {
	k.text(strings.ToLower(h.Name))
	k.number(int(h.Port))
	k.number(int(h.Preference))
	k.number(int(h.Weight))
	k.flag(h.LMTP)
	k.number(int(h.TLS.Mode))
	k.flag(h.TLS.Implicit)
	k.number(len(h.TLS.TLSA))
	for _, t := range h.TLS.TLSA {
		k.number(int(t.Usage))
		k.number(int(t.Selector))
		k.number(int(t.Matching))
		k.text(string(t.Data))
	}
	k.text(h.TLS.SNI)
	k.flag(h.TLS.Testing)
	k.number(len(h.TLS.Names))
	k.text(h.TLS.Names...)
	k.flag(h.Auth != nil)
	if a := h.Auth; a != nil {
		k.text(a.User, a.Password, a.Mechanism)
	}
}

func (k *keyWriter) limits(l *Limits) {
	k.text(l.Domain)
	k.number(int(l.Family))
	for _, n := range []int{
		l.MaxConnPerHost, l.MaxConnPerRoute, l.MaxConnPerSource, l.MaxConnPerConnector, l.MaxConnPerRelay, l.MaxConnPerDomain,
		l.SessionMailMax, l.MaxFailuresPerSession, l.MaxRcpt, l.RatePerMinute, l.HiWat, l.LoWat, l.Release,
	} {
		k.number(n)
	}
	for _, d := range []time.Duration{
		l.ConnDelayHost, l.ConnDelayRoute, l.ConnDelaySource, l.ConnDelayConnector, l.ConnDelayRelay, l.ConnDelayDomain,
		l.ReconnDelayRoute, l.SessionTransactionDelay, l.SessionKeepalive, l.SessionMaxAge,
	} {
		k.number(int(d))
	}
}
