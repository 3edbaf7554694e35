package table

import (
	"net/netip"
	"strconv"
	"strings"
)

// MatchesByPattern tells whether entries are patterns for the service: domain
// globs, address patterns, networks or regular expressions. For the others an
// entry is found by its text alone.
func (s Service) MatchesByPattern() bool {
	return s == Domain || s == MailAddr || s == NetAddr || s == Regex
}

// FoldsCase tells whether keys of the service are compared without regard to
// case. Passwords and what a regular expression sees are kept as they are.
func (s Service) FoldsCase() bool { return s != Credentials && s != Auth && s != Regex }

// Match tells whether entry stands for key when the service s is asked. delim is
// the character that parts a user name from its tag, usually "+". An entry for
// Regex that is not a valid pattern matches nothing; use CompileRegex to find out.
func Match(s Service, entry, key, delim string) bool {
	switch s {
	case Domain:
		return MatchDomain(entry, key)
	case MailAddr:
		return MatchMailAddr(entry, key, delim)
	case NetAddr:
		return MatchNetAddr(entry, key)
	case Regex:
		re, err := CompileRegex(entry)
		return err == nil && re.Match(key)
	case Credentials, Auth:
		return entry == key
	}
	return strings.EqualFold(entry, key)
}

// MatchDomain tells whether name fits pattern, without regard to case. A "*"
// skips to the first character that equals the one after it and never tries a
// later one, so "*.example.org" fits a.example.org but neither a.b.example.org
// nor example.org, and "*" alone fits any name but the empty one.
func MatchDomain(pattern, name string) bool {
	i, j := 0, 0
	for i < len(pattern) && j < len(name) {
		if pattern[i] != '*' {
			if lower(pattern[i]) != lower(name[j]) {
				return false
			}
			i, j = i+1, j+1
			continue
		}
		for i < len(pattern) && pattern[i] == '*' {
			i++
		}
		if i == len(pattern) {
			return true
		}
		for j < len(name) && lower(name[j]) != lower(pattern[i]) {
			j++
		}
	}
	return i == len(pattern) && j == len(name)
}

// lower folds one ASCII letter.
func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// SplitAddr parts an address or address pattern at its last "@". Without one the
// domain is empty.
func SplitAddr(addr string) (user, domain string) {
	if i := strings.LastIndexByte(addr, '@'); i >= 0 {
		return addr[:i], addr[i+1:]
	}
	return addr, ""
}

// CutTag removes the tag of a user name: all from the first delim on.
func CutTag(user, delim string) string {
	if delim == "" {
		return user
	}
	if i := strings.Index(user, delim); i > 0 {
		return user[:i]
	}
	return user
}

// MatchMailAddr tells whether an address fits a pattern: "user" (in any domain),
// "@domain" (any user), "user@domain", or "@" (anything, the null sender
// included). The domain is compared by MatchDomain, the user without regard to
// case; the address loses its tag first unless the pattern has one itself.
func MatchMailAddr(pattern, addr, delim string) bool {
	pu, pd := SplitAddr(pattern)
	if pu == "" && pd == "" {
		return true
	}
	u, d := SplitAddr(addr)
	if pd != "" && !MatchDomain(pd, d) {
		return false
	}
	if pu == "" {
		return true
	}
	if delim == "" || !strings.Contains(pu, delim) {
		u = CutTag(u, delim)
	}
	return strings.EqualFold(pu, u)
}

// MatchNetAddr tells whether key, the text of an address, equals entry or lies in
// the network that entry names. See ParsePrefix for the forms.
func MatchNetAddr(entry, key string) bool {
	if strings.EqualFold(entry, key) {
		return true
	}
	p, ok := ParsePrefix(entry)
	if !ok {
		return false
	}
	a, ok := ParseAddr(key)
	return ok && p.Contains(a)
}

// ParseAddr reads the text of an address: "192.0.2.1", "2001:db8::1", either in
// brackets, and "IPv6:" before the latter. The zone is dropped, and an IPv4
// address in its IPv6 form becomes IPv4.
func ParseAddr(s string) (netip.Addr, bool) {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		s = s[1 : len(s)-1]
	}
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		s = s[5:]
	}
	if len(s) > 128 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.WithZone("").Unmap(), true
}

// ParsePrefix reads an address or a network: ADDR, ADDR/BITS, where the address
// may be bracketed as in ParseAddr (the bits follow the bracket) and an IPv4
// network may leave out trailing zeros: "10/8", "192.168/16". A short IPv4
// address without bits gets those of its class, or those of the bytes written
// when these are more. Bits of the host part are ignored.
func ParsePrefix(s string) (netip.Prefix, bool) {
	text, suffix, hasBits := strings.Cut(s, "/")
	a, ok := ParseAddr(text)
	bits := 0
	if ok {
		bits = a.BitLen()
	} else if a, bits, ok = shortIPv4(text); !ok {
		return netip.Prefix{}, false
	}
	if hasBits {
		n, err := strconv.ParseUint(suffix, 10, 8)
		if err != nil || suffix[0] == '+' {
			return netip.Prefix{}, false
		}
		if bits = int(n); strings.Contains(text, ":") && a.Is4() { // ::ffff:192.0.2.0/120
			bits -= 96
		}
	}
	p := netip.PrefixFrom(a, bits)
	if !p.IsValid() {
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}

// shortIPv4 reads one to three decimal bytes and fills up with zeros.
func shortIPv4(s string) (netip.Addr, int, bool) {
	var b [4]byte
	parts := strings.Split(s, ".")
	if len(s) > 11 || len(parts) > 3 {
		return netip.Addr{}, 0, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || p[0] == '+' {
			return netip.Addr{}, 0, false
		}
		b[i] = byte(n)
	}
	bits := 8
	switch {
	case b[0] >= 224:
	case b[0] >= 192:
		bits = 24
	case b[0] >= 128:
		bits = 16
	}
	return netip.AddrFrom4(b), max(bits, 8*len(parts)), true
}
