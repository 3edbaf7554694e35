package nexthop

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// URL is a smarthost, as written with the host and domain options of a relay:
//
//	[scheme://][label@]host[:port]
type URL struct {
	MX       bool       // mail goes to the MX hosts of Host, not to Host itself
	LMTP     bool       // LMTP instead of SMTP
	TLS      TLS        // Opportunistic, Never or Verified
	Implicit bool       // TLS from the first byte
	Label    string     // of the credentials; empty: no authentication
	Host     string     // name in lower case; empty when Addr is set
	Addr     netip.Addr // of an address literal
	Port     uint16
}

const (
	maxURL  = 1023 // bytes of a URL
	maxURLs = 16   // in one list
	maxText = maxURLs * (maxURL + 2)

	portSMTP  = 25
	portSMTPS = 465
)

// scheme is what stands before "://".
type scheme struct {
	name string
	url  URL  // with the default port
	auth bool // a label is needed
	old  bool // of OpenSMTPD before 6.4; understood, not written
}

// schemes holds the present spelling of a meaning before the older ones.
var schemes = [...]scheme{
	{name: "smtp", url: URL{Port: portSMTP}},
	{name: "smtp+tls", url: URL{TLS: Verified, Port: portSMTP}},
	{name: "smtp+notls", url: URL{TLS: Never, Port: portSMTP}},
	{name: "smtps", url: URL{TLS: Verified, Implicit: true, Port: portSMTPS}},
	{name: "lmtp", url: URL{TLS: Never, LMTP: true}},
	{name: "mx", url: URL{MX: true, Port: portSMTP}},
	{name: "mx+tls", url: URL{MX: true, TLS: Verified, Port: portSMTP}},
	{name: "mx+notls", url: URL{MX: true, TLS: Never, Port: portSMTP}},

	{name: "tls", url: URL{TLS: Verified, Port: portSMTP}, old: true},
	{name: "tls+auth", url: URL{TLS: Verified, Port: portSMTP}, auth: true, old: true},
	{name: "smtp+auth", url: URL{TLS: Verified, Port: portSMTP}, auth: true, old: true},
	{name: "smtp+tls+auth", url: URL{TLS: Verified, Port: portSMTP}, auth: true, old: true},
	{name: "ssl", url: URL{TLS: Verified, Implicit: true, Port: portSMTPS}, old: true},
	{name: "ssl+auth", url: URL{TLS: Verified, Implicit: true, Port: portSMTPS}, auth: true, old: true},
	{name: "smtps+auth", url: URL{TLS: Verified, Implicit: true, Port: portSMTPS}, auth: true, old: true},
}

// ParseURL parses one relay URL. Its errors are for the operator.
func ParseURL(s string) (URL, error) {
	if len(s) > maxURL {
		return URL{}, fmt.Errorf("longer than %d bytes", maxURL)
	}
	sch := &schemes[0]
	rest := s
	if name, after, ok := strings.Cut(s, "://"); ok {
		if sch = findScheme(name); sch == nil {
			return URL{}, errors.New("unknown scheme, known are smtp, smtp+tls, smtp+notls, smtps, lmtp, mx, mx+tls and mx+notls")
		}
		rest = after
	}
	u := sch.url
	if label, after, ok := strings.Cut(rest, "@"); ok {
		if !validLabel(label) {
			return URL{}, errors.New("malformed label of credentials")
		}
		if u.TLS != Verified {
			return URL{}, fmt.Errorf("a label needs a scheme that always uses TLS, %s does not", sch.name)
		}
		u.Label, rest = label, after
	}
	if sch.auth && u.Label == "" {
		return URL{}, fmt.Errorf("scheme %s without a label", sch.name)
	}
	rest, err := u.cutHost(rest)
	if err != nil {
		return URL{}, err
	}
	if rest != "" {
		port, ok := strings.CutPrefix(rest, ":")
		if !ok {
			return URL{}, errors.New("text after the host that is no port")
		}
		if u.Port, err = parsePort(port); err != nil {
			return URL{}, err
		}
	}
	if u.Port == 0 {
		return URL{}, fmt.Errorf("scheme %s without a port", sch.name)
	}
	return u, nil
}

// ParseURLs parses relay URLs parted by commas, each after the first to be used
// when those before it cannot be reached. Blanks around them are ignored.
func ParseURLs(s string) ([]URL, error) {
	if len(s) > maxText {
		return nil, fmt.Errorf("longer than %d bytes", maxText)
	}
	if n := strings.Count(s, ",") + 1; n > maxURLs {
		return nil, fmt.Errorf("%d relay hosts in one entry, at most %d are used", n, maxURLs)
	}
	var urls []URL
	for one := range strings.SplitSeq(s, ",") {
		one = strings.Trim(one, " \t")
		u, err := ParseURL(one)
		if err != nil {
			return nil, fmt.Errorf("relay host %.100q: %w", one, err)
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// findScheme returns the scheme of a name, nil for an unknown one.
func findScheme(name string) *scheme {
	for i := range schemes {
		if strings.EqualFold(name, schemes[i].name) {
			return &schemes[i]
		}
	}
	return nil
}

// validLabel tells whether s may be a label: printable ASCII without the
// characters that part a URL.
func validLabel(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte("@/,", s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// cutHost takes the host from the start of s and returns what follows.
func (u *URL) cutHost(s string) (rest string, err error) {
	if strings.HasPrefix(s, "[") {
		n := strings.IndexByte(s, ']') + 1
		addr, ok := smtp.AddressLiteral(s[:n])
		if !ok {
			return "", errors.New("malformed address")
		}
		if u.MX {
			return "", errors.New("an address has no MX hosts")
		}
		u.Addr = addr.Unmap()
		return s[n:], nil
	}
	n := 0
	for n < len(s) && isHostByte(s[n]) {
		n++
	}
	host, rest := s[:n], s[n:]
	if addr, err := netip.ParseAddr(host); err == nil && !u.MX {
		u.Addr = addr
		return rest, nil
	}
	if !smtp.IsHostName(host) || numeric(host[strings.LastIndexByte(host, '.')+1:]) {
		return "", errors.New("malformed host name")
	}
	u.Host = strings.ToLower(host)
	return rest, nil
}

func isHostByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// numeric tells whether s is digits only: no name ends so (RFC 3696 section 2).
func numeric(s string) bool { return strings.Trim(s, "0123456789") == "" }

// parsePort parses a port of 1 to 65535.
func parsePort(s string) (uint16, error) {
	if s == "" || !numeric(s) {
		return 0, errors.New("malformed port")
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("port out of range, 1 to 65535 are possible")
	}
	return uint16(n), nil
}

// Name returns the host name, or the address without brackets.
func (u URL) Name() string {
	if u.Host != "" {
		return u.Host
	}
	return u.Addr.String()
}

// String returns the canonical spelling, which always has a scheme and a port.
func (u URL) String() string {
	var b strings.Builder
	for i := range schemes {
		if x := &schemes[i].url; x.MX == u.MX && x.LMTP == u.LMTP && x.TLS == u.TLS && x.Implicit == u.Implicit {
			b.WriteString(schemes[i].name)
			break
		}
	}
	b.WriteString("://")
	if u.Label != "" {
		b.WriteString(u.Label)
		b.WriteByte('@')
	}
	switch {
	case u.Host != "":
		b.WriteString(u.Host)
	case u.Addr.Is4():
		b.WriteString("[" + u.Addr.String() + "]")
	default:
		b.WriteString("[IPv6:" + u.Addr.String() + "]")
	}
	b.WriteByte(':')
	b.WriteString(strconv.Itoa(int(u.Port)))
	return b.String()
}
