// Package spf tells whether a host may send mail for a domain, by the domain's SPF
// record (RFC 7208).
//
// A record is read as a whole before anything of it is evaluated: with a mistake
// anywhere it is broken (section 4.6). The limits of section 4.6.4 hold for a question
// with all records that it leads to: 10 terms that ask the DNS, 2 of them whose question
// has no answer, 10 mail hosts of a domain, 10 names of an address. That bounds the
// depth, too. Macros are expanded only as far as a name or an explanation can be long.
package spf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Result is what an SPF record says of a client (RFC 7208 section 2.6).
type Result string

// The results.
const (
	None      Result = "none"      // there is no record, or no domain that could have one
	Neutral   Result = "neutral"   // the record says nothing of the client
	Pass      Result = "pass"      // the client may send for the domain
	Fail      Result = "fail"      // it may not
	SoftFail  Result = "softfail"  // it probably may not
	TempError Result = "temperror" // not known now
	PermError Result = "permerror" // the record is broken
)

// Resolver asks the DNS. *net.Resolver is one, and so is a filter's session. A
// *net.DNSError with IsNotFound says that it is proven that there is nothing; any other
// error is taken for one that may be gone the next time. Names have a final dot.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, domain string) ([]*net.MX, error)
	LookupHost(ctx context.Context, name string) ([]string, error)
	LookupAddr(ctx context.Context, address string) ([]string, error)
}

// Query is a question. What comes from a client may be anything.
type Query struct {
	IP       netip.Addr // of the client
	Helo     string     // what it called itself
	Sender   string     // without <>; "" for the null sender, then the domain is Helo (section 2.4)
	Receiver string     // this host, for explanations
	Explain  bool       // whether to ask for the explanation of Fail, one more question
}

// Answer is what is known.
type Answer struct {
	Result      Result
	Domain      string // that was asked for, in lower case, as the DNS knows it; may be malformed
	Err         error  // what is wrong, with TempError and PermError
	Explanation string // the domain's words about Fail: visible ASCII, up to 400 bytes; "" for none
}

// Bounds.
const (
	maxTerms       = 10    // that ask the DNS (section 4.6.4)
	maxVoid        = 2     // of these whose question has no answer (section 4.6.4)
	maxHosts       = 10    // of an mx (section 4.6.4); more are a mistake
	maxNames       = 10    // of an address (section 4.6.4); more are ignored
	maxName        = 253   // bytes of a domain name, without the final dot
	maxLabel       = 63    // bytes of a label
	maxExplanation = 400   // bytes; a line of a reply has 512
	maxRecord      = 65535 // bytes; no record of the DNS is longer
	maxIdentity    = 1024  // bytes of a sender or of what a client calls itself; RFC 5321 has less
)

// Check answers a question (RFC 7208 section 4). The context bounds how long it takes.
func Check(ctx context.Context, r Resolver, q Query) Answer {
	c := &check{dns: r, ip: q.IP.WithZone("").Unmap(), helo: q.Helo, receiver: q.Receiver, now: time.Now()}
	if len(c.helo) > maxIdentity {
		c.helo = ""
	}
	local, domain := "", q.Helo
	if i := strings.LastIndexByte(q.Sender, '@'); i >= 0 {
		local, domain = q.Sender[:i], q.Sender[i+1:]
	}
	if local == "" {
		local = "postmaster" // section 4.3
	}
	c.local, c.origin = local, ToASCII(domain)
	a := Answer{Result: None, Domain: strings.ToLower(c.origin)}
	if !c.ip.IsValid() || len(q.Sender) > maxIdentity || !hostName(c.origin) {
		return a
	}
	f := c.host(ctx, c.origin)
	a.Result, a.Err = f.result, f.err
	if f.result == Fail && q.Explain {
		a.Explanation = c.explain(ctx, f)
	}
	return a
}

// ToASCII returns a domain without its final dot and with A-labels for labels in UTF-8
// (RFC 8616 section 4). What has no such form stays what it is.
func ToASCII(domain string) string {
	domain = strings.TrimSuffix(domain, ".")
	if isASCII(domain) || len(domain) > maxIdentity {
		return domain
	}
	if a, err := idna.Lookup.ToASCII(domain); err == nil {
		return a
	}
	return domain
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > '~' }) < 0
}

// askable tells whether a name can be asked for: several labels of 1 to 63 characters,
// 253 in all. Macros may make names of more characters than those of hosts.
func askable(name string) bool {
	if len(name) > maxName || strings.IndexByte(name, '.') < 0 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return false
		}
	}
	return strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// hostName tells whether a name is one of letters, digits, hyphens and underscores that
// can be asked for.
func hostName(name string) bool {
	return askable(name) && strings.IndexFunc(name, func(r rune) bool { return !isNameRune(r) }) < 0
}

func isNameRune(r rune) bool {
	return 'a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

// problem ends an evaluation.
type problem struct {
	result Result // TempError or PermError
	text   string
}

// Error implements error.
func (p *problem) Error() string { return p.text }

func permanent(format string, args ...any) *problem {
	return &problem{PermError, fmt.Sprintf(format, args...)}
}
