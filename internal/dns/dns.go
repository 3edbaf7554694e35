// Package dns answers the questions a mail server has about names: which hosts
// take mail for a domain, which addresses a host has, which name an address has,
// and what is said in TXT and TLSA records. It is the only user of the DNS
// library, and asks recursive resolvers; it does not resolve by itself.
//
// The servers are those of resolv.conf(5), read again when it changes. A query goes
// by UDP with EDNS (RFC 6891), and by TCP when the answer is truncated; servers
// that failed lately are asked last. Answers are kept for their TTL within bounds,
// absence too (RFC 2308), and equal questions asked at the same time become one
// query. The number of queries under way, of answers kept, of CNAMEs followed and
// of records taken from an answer are bounded. Host names and addresses are looked
// for in hosts(5) first. Names are absolute: no search list is applied.
//
// Absence is proven or the error is temporary: ErrNoName, ErrNoRecord and
// ErrBadName are permanent facts, every other error may be different next time.
package dns

import (
	"errors"
	"net/netip"
)

// Errors that are facts about a name. Every other error is temporary.
var (
	// ErrNoName says that the name does not exist (NXDOMAIN).
	ErrNoName = errors.New("no such domain name")
	// ErrNoRecord says that the name exists and has no record of the type asked for.
	ErrNoRecord = errors.New("domain name has no such record")
	// ErrBadName says that what was asked for cannot be a name.
	ErrBadName = errors.New("malformed domain name")
)

// MX is a host that takes mail for a domain (RFC 5321 section 5.1). The host "."
// at preference 0 says that the domain takes none (RFC 7505).
type MX struct {
	Host       string // lower case, without the final dot unless it is "."
	Preference uint16 // lower is better
}

// TLSA is a certificate association (RFC 6698 section 2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// Answer is what is known about a name. It is shared by all who asked and must not
// be changed.
type Answer struct {
	Name      string // at the end of the CNAMEs, lower case, without the final dot
	Addrs     []netip.Addr
	MX        []MX     // by rising preference
	Text      []string // TXT records, the strings of each joined, raw bytes
	Names     []string // of PTR records, well-formed host names only
	TLSA      []TLSA
	Authentic bool // a resolver we trust has validated it with DNSSEC
}

// Bounds of what is taken from one answer, beyond which records are ignored.
const (
	maxCNAME   = 8
	maxRecords = 128
	maxNames   = 10 // of PTR; RFC 7208 section 4.6.4 looks at as many
)

// ValidName tells whether name can be asked for: labels of 1 to 63 letters, digits,
// hyphens and underscores, 253 bytes in all, with or without a final dot. A name
// in UTF-8 is to be turned into A-labels before (RFC 5891).
func ValidName(name string) bool {
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if name == "" || len(name) > 253 {
		return false
	}
	label := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0
}
