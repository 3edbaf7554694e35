package finder

import (
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/nexthop"
)

// target is how the hosts that a URL stands for are to be spoken to.
type target struct {
	url  nexthop.URL
	tls  nexthop.TLS // before DANE and MTA-STS
	dane bool        // TLSA records decide
	sts  bool        // a policy decides where they do not
	q    *Query
}

// newTarget joins what the URL and the action say. The action wins over the URL,
// but no TLS can be had where the URL excludes it.
func newTarget(u nexthop.URL, q Query) (target, error) {
	t := target{url: u, tls: u.TLS, sts: u.MX, q: &q}
	// An operator who writes a URL that asks for a certificate of a known authority
	// is taken by the word. "tls" on an action is met by DANE as well.
	t.dane = !u.Addr.IsValid() && !u.Implicit && u.TLS == nexthop.Opportunistic
	switch {
	case q.TLS == AsOffered:
	case q.TLS == Indifferent:
		t.dane, t.sts = false, false
	case u.TLS == nexthop.Never:
		return target{}, temporary(7, 5, "TLS required for relaying", nil)
	case q.TLS == NoVerify:
		t.tls = nexthop.Encrypted
	default:
		t.tls = nexthop.Verified
		t.dane = t.dane || q.TLS == ByDANE && !u.Addr.IsValid()
	}
	return t, nil
}

// host returns a host with those of its addresses that the family allows. ok is
// false when there are none.
func (t target) host(name string, addrs []netip.Addr, fam nexthop.Family) (h nexthop.Host, ok bool) {
	addrs = order(addrs, fam)
	if len(addrs) == 0 {
		return nexthop.Host{}, false
	}
	h = nexthop.Host{
		Name:  name,
		Addrs: addrs,
		Port:  t.url.Port,
		LMTP:  t.url.LMTP,
		Label: t.url.Label,
		Security: nexthop.Security{
			TLS:      t.tls,
			Implicit: t.url.Implicit,
			Policy:   -1,
		},
	}
	if t.tls != nexthop.Never && !t.url.Addr.IsValid() {
		h.Security.ServerName = name
	}
	if t.tls == nexthop.Verified {
		h.Security.Names = []string{name}
	}
	return h, true
}

// order returns the addresses to use, in the order to use them, at most maxAddrs.
// Where both families may be used, the bound leaves some of each.
func order(addrs []netip.Addr, fam nexthop.Family) []netip.Addr {
	var four, six []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	switch fam {
	case nexthop.Only4:
		return four[:min(len(four), maxAddrs)]
	case nexthop.Only6:
		return six[:min(len(six), maxAddrs)]
	case nexthop.Prefer4:
		return join(four, six)
	case nexthop.Prefer6:
		return join(six, four)
	}
	out := make([]netip.Addr, 0, maxAddrs)
	for i := 0; i < max(len(four), len(six)) && len(out) < maxAddrs; i++ {
		if i < len(six) {
			out = append(out, six[i])
		}
		if i < len(four) && len(out) < maxAddrs {
			out = append(out, four[i])
		}
	}
	return out
}

// join returns the addresses of a before those of b, at most maxAddrs. Neither
// takes more than half of them while the other has some left.
func join(a, b []netip.Addr) []netip.Addr {
	n := min(len(a), max(maxAddrs/2, maxAddrs-len(b)))
	m := min(len(b), maxAddrs-n)
	return append(append(make([]netip.Addr, 0, n+m), a[:n]...), b[:m]...)
}

// key returns what distinguishes connections for u under q from others.
func key(u nexthop.URL, q Query) string {
	var b strings.Builder
	if u.MX {
		b.WriteString("mx:" + strings.ToLower(u.Host) + " ")
	}
	if !u.MX || u.Label != "" || u.TLS != nexthop.Opportunistic {
		b.WriteString(u.String() + " ")
	}
	b.WriteByte('0' + byte(q.TLS))
	b.WriteByte('0' + byte(q.Family))
	if q.Backup {
		b.WriteString(" backup " + q.BackupName)
	}
	return b.String()
}
