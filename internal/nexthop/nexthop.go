// Package nexthop says where mail goes next and under which conditions: relay URLs,
// hosts in order of preference with their addresses, and the protection a
// connection to each of them needs. It is data and its syntax only; package finder
// makes Hops from the DNS, package relay uses them.
//
// Hops holds groups of hosts. All hosts of the first group are equally good and
// come in random order; the next group is for when none of them can be reached.
//
//	Groups[0]  mx1.example.org 2001:db8::1 192.0.2.1   mx2.example.org 192.0.2.2
//	Groups[1]  backup.example.org 198.51.100.1
package nexthop

import (
	"net/netip"

	"github.com/opensmtpd/opensmtpd/internal/dane"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// TLS is the protection of a connection.
type TLS uint8

const (
	Opportunistic TLS = iota // STARTTLS if it is offered and works, without a check; else in clear (RFC 7435)
	Never                    // in clear
	Encrypted                // TLS or no delivery; any certificate
	Verified                 // TLS with a certificate of a known authority for Security.Names
	DANE                     // TLS with a certificate that Security.Records vouch for (RFC 7672)
)

// String returns a word for logs.
func (t TLS) String() string {
	switch t {
	case Opportunistic:
		return "opportunistic"
	case Never:
		return "never"
	case Encrypted:
		return "encrypted"
	case Verified:
		return "verified"
	case DANE:
		return "dane"
	}
	return "unknown"
}

// Required tells whether a connection without TLS must not be used.
func (t TLS) Required() bool { return t >= Encrypted }

// Family is which addresses to use, and in which order.
type Family uint8

const (
	AnyFamily Family = iota // both by turns, IPv6 first
	Prefer4                 // all IPv4 addresses of a host before its IPv6 ones
	Prefer6
	Only4
	Only6
)

// Security is what a connection to a host needs.
type Security struct {
	TLS      TLS
	Implicit bool // TLS from the first byte (RFC 8314), not by STARTTLS
	// ServerName is sent in the handshake (SNI), empty for an address.
	ServerName string
	// Names are those of which the certificate must have one. For Verified always,
	// for DANE with records of usage 2. An address stands for itself.
	Names   []string
	Records []dane.Record // for DANE
	// Testing says that an MTA-STS policy under test covers the host: the
	// certificate is checked for Names and the result reported, the mail goes out
	// regardless (RFC 8461 section 5).
	Testing bool
	// Policy is the index in Hops.Policies of what asked for this, for the reports
	// of RFC 8460; -1 when nothing is to be reported.
	Policy int
}

// Host is one host to try.
type Host struct {
	Name       string       // as found in the MX record or URL; an address literal without brackets
	Addrs      []netip.Addr // to be tried in this order; at least one
	Port       uint16
	LMTP       bool         // LHLO and a reply per recipient (RFC 2033)
	Label      string       // of the credentials; empty: no authentication
	Auth       *Credentials // for Label, nil without one
	Preference uint16       // of the MX record, or the number of the group among smarthosts
	Security   Security
}

// Hops is where mail may be handed over.
type Hops struct {
	// Key is equal for mail that may share a connection: the domain, or the
	// smarthosts in canonical spelling, and how the connection is secured.
	Key string
	// Name is the domain whose MX were used or that of the first smarthost; limits
	// and logs go by it.
	Name   string
	Groups [][]Host // neither empty nor with an empty group
	Secure bool     // the MX records or the absence of them are validated by DNSSEC
	// Policies and Failures are for the reports of RFC 8460: what the domain asks
	// for, and what went wrong before any connection. Both may be empty.
	Policies []tlsrpt.Policy
	Failures []tlsrpt.Event
	// Notes tell of oddities that did not stop the search, for the log.
	Notes []string
}

// Credentials are what a smarthost wants to see. They are secret and never logged.
type Credentials struct{ User, Password string }
