package dns

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of how long an answer is kept. The lower one departs from a TTL of 0, so
// that a burst of sessions from one host asks once.
const (
	minTTL      = 5 * time.Second
	maxTTL      = 6 * time.Hour
	maxNegative = 15 * time.Minute
	noSOA       = 30 * time.Second // of absence that does not say how long
	failureTTL  = 5 * time.Second  // of a failure of all servers
)

// outcome is an answer or a failure, with the time to keep it.
type outcome struct {
	answer *Answer // never changed once made
	err    error
	ttl    time.Duration
	next   string // a CNAME whose target the answer does not speak of; lower case
}

// interpret turns a response to the question (name, qtype) into an outcome. name
// is in lower case and without its final dot. A server's refusal to answer is the
// business of the caller.
func interpret(m *dns.Msg, name string, qtype uint16, trusted bool) outcome {
	a := &Answer{Name: name, Authentic: trusted && m.AuthenticatedData}
	ttl, hops := maxTTL, 0
	for {
		target, t, found := cname(m, a.Name)
		if !found || qtype == dns.TypeCNAME {
			break
		}
		if hops++; hops > maxCNAME {
			return outcome{err: fmt.Errorf("%s: more than %d CNAMEs", name, maxCNAME), ttl: failureTTL}
		}
		if !ValidName(target) {
			return outcome{err: fmt.Errorf("%s: CNAME to a malformed name", name), ttl: failureTTL}
		}
		a.Name, ttl = target, min(ttl, t)
	}
	got, malformed := 0, 0
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != dns.ClassINET || got >= maxRecords || canonical(h.Name) != a.Name {
			continue
		}
		if !a.add(rr) {
			malformed++
			continue
		}
		got++
		ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
	}
	switch {
	case got > 0:
		slices.SortStableFunc(a.MX, func(x, y MX) int { return cmp.Compare(x.Preference, y.Preference) })
		return outcome{answer: a, ttl: max(ttl, minTTL)}
	case malformed > 0 && qtype != dns.TypePTR:
		return outcome{err: fmt.Errorf("%s: only malformed records", name), ttl: failureTTL}
	case m.Rcode == dns.RcodeNameError:
		return outcome{err: ErrNoName, ttl: negativeTTL(m)}
	case hops > 0 && len(m.Ns) == 0:
		return outcome{answer: a, next: a.Name, ttl: max(ttl, minTTL)}
	default:
		return outcome{err: ErrNoRecord, ttl: negativeTTL(m)}
	}
}

// cname returns where the answer section says name is an alias to.
func cname(m *dns.Msg, name string) (target string, ttl time.Duration, found bool) {
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok && canonical(c.Hdr.Name) == name {
			return canonical(c.Target), time.Duration(c.Hdr.Ttl) * time.Second, true
		}
	}
	return "", 0, false
}

// add adds the data of rr and tells whether it is well-formed.
func (a *Answer) add(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok := netip.AddrFromSlice(rr.A)
		if !ok {
			return false
		}
		a.Addrs = append(a.Addrs, addr.Unmap())
	case *dns.AAAA:
		addr, ok := netip.AddrFromSlice(rr.AAAA)
		if !ok {
			return false
		}
		a.Addrs = append(a.Addrs, addr)
	case *dns.MX:
		host := canonical(rr.Mx)
		if host == "" {
			host = "."
		} else if !ValidName(host) {
			return false
		}
		a.MX = append(a.MX, MX{Host: host, Preference: rr.Preference})
	case *dns.PTR:
		host := canonical(rr.Ptr)
		if !ValidName(host) || len(a.Names) >= maxNames {
			return false
		}
		a.Names = append(a.Names, host)
	case *dns.TXT:
		var b strings.Builder
		for _, s := range rr.Txt {
			unescape(&b, s)
		}
		a.Text = append(a.Text, b.String())
	case *dns.TLSA:
		data, err := hex.DecodeString(rr.Certificate)
		if err != nil {
			return false
		}
		a.TLSA = append(a.TLSA, TLSA{rr.Usage, rr.Selector, rr.MatchingType, data})
	default:
		return false
	}
	return true
}

// negativeTTL returns how long an absence may be believed: the lesser of the TTL
// and the last field of the SOA (RFC 2308 section 5).
func negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			ttl := time.Duration(min(soa.Minttl, soa.Hdr.Ttl)) * time.Second
			return max(min(ttl, maxNegative), minTTL)
		}
	}
	return noSOA
}

// canonical returns a name of the library in lower case and without its final dot.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// unescape writes the bytes that a string of the library stands for: it shows them
// as in master files, RFC 1035 section 5.1.
func unescape(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]) {
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// errMismatch marks a packet that does not answer the question.
var errMismatch = errors.New("response to another question")

// parse reads a packet as the response to the query q. Whoever can guess neither
// the id nor the question, nor the port, cannot make one up (RFC 5452 section 4).
func parse(packet []byte, q *dns.Msg) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		// A truncated answer may stop amid a record; the header tells.
		if !m.Truncated || m.Id != q.Id || !m.Response {
			return nil, fmt.Errorf("malformed response: %w", err)
		}
	}
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery {
		return nil, errMismatch
	}
	if len(m.Question) == 0 && m.Rcode == dns.RcodeFormatError {
		return m, nil // some servers return nothing but the header
	}
	if len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		m.Question[0].Qclass != q.Question[0].Qclass ||
		!strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return nil, errMismatch
	}
	return m, nil
}
