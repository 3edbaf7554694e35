package smtp

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxPart bounds a local part and a domain, in bytes. RFC 5321 section 4.5.3.1
// asks for 64 and 255 and lets implementations take more; addresses made by
// rewriting schemes exceed 64.
const maxPart = 255

// errPath is the only error of the path parsers: the peer's line is in the log
// beside it.
var errPath = errors.New("malformed address")

// ParsePath parses a reverse-path or forward-path at the start of s, angle
// brackets included (RFC 5321 section 4.1.2), and returns what follows it. A
// source route is checked and dropped (section 3.3 and appendix C). A mailbox
// without a domain is taken; the caller supplies one. UTF-8 is taken in both
// parts; see Path.ASCII.
func ParsePath(s string) (p Path, rest string, err error) {
	s, ok := strings.CutPrefix(s, "<")
	if !ok {
		return Path{}, "", errPath
	}
	if rest, ok := strings.CutPrefix(s, ">"); ok {
		return Path{}, rest, nil
	}
	if strings.HasPrefix(s, "@") {
		if s, ok = cutRoute(s); !ok {
			return Path{}, "", errPath
		}
	}
	p, rest, err = parseMailbox(s)
	if err != nil {
		return Path{}, "", err
	}
	if rest, ok = strings.CutPrefix(rest, ">"); !ok {
		return Path{}, "", errPath
	}
	return p, rest, nil
}

// ParseMailbox parses an address without angle brackets that fills all of s.
func ParseMailbox(s string) (Path, error) {
	p, rest, err := parseMailbox(s)
	if err != nil || rest != "" {
		return Path{}, errPath
	}
	return p, nil
}

// ASCII tells whether p needs no SMTPUTF8 (RFC 6531).
func (p Path) ASCII() bool { return isASCII(p.Local) && isASCII(p.Domain) }

// cutRoute removes "@a,@b:" from the start of s.
func cutRoute(s string) (rest string, ok bool) {
	route, rest, ok := strings.Cut(s, ":")
	if !ok || len(route) > 2*maxPart {
		return "", false
	}
	for hop := range strings.SplitSeq(route, ",") {
		name, ok := strings.CutPrefix(hop, "@")
		if !ok || !IsHostName(name) {
			return "", false
		}
	}
	return rest, true
}

// parseMailbox parses local-part [ "@" domain ] at the start of s.
func parseMailbox(s string) (p Path, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		p.Local, rest = parseQuoted(s)
	} else {
		n := 0
		for n < len(s) && (s[n] == '.' || isAtext(s[n])) {
			n++
		}
		p.Local, rest = s[:n], s[n:]
		if !isDotString(p.Local) {
			return Path{}, "", errPath
		}
	}
	if p.Local == "" || len(p.Local) > maxPart || !utf8.ValidString(p.Local) {
		return Path{}, "", errPath
	}
	s, ok := strings.CutPrefix(rest, "@")
	if !ok {
		return p, rest, nil
	}
	n := strings.IndexAny(s, "> \t")
	if strings.HasPrefix(s, "[") {
		n = strings.IndexByte(s, ']') + 1
	} else if n < 0 {
		n = len(s)
	}
	p.Domain, rest = s[:n], s[n:]
	if !IsHostName(p.Domain) && !IsAddressLiteral(p.Domain) {
		return Path{}, "", errPath
	}
	return p, rest, nil
}

// parseQuoted parses a Quoted-string and returns its content; an empty one is an
// error to its caller, and is what comes back for a malformed one.
func parseQuoted(s string) (local, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\':
			i++
			if i == len(s) || s[i] >= 0x7f {
				return "", s
			}
			c = s[i]
		}
		if c < ' ' || c == 0x7f || b.Len() > maxPart {
			return "", s
		}
		b.WriteByte(c)
	}
	return "", s
}

// IsHostName tells whether s may be the name of a host or a mail domain: labels
// of letters, digits, hyphens inside, underscores (met in practice) and UTF-8
// (RFC 6531), up to 63 bytes each and 255 in all, no trailing dot.
func IsHostName(s string) bool {
	if s == "" || len(s) > maxPart || !utf8.ValidString(s) {
		return false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			c := s[i]
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c >= 0x80 {
				continue
			}
			return false
		}
		if i == start || i-start > 63 || s[start] == '-' || s[i-1] == '-' {
			return false
		}
		start = i + 1
	}
	return true
}

// IsAddressLiteral tells whether s is an address in brackets: [192.0.2.1],
// [IPv6:2001:db8::1], or [2001:db8::1] as some write it.
func IsAddressLiteral(s string) bool {
	_, ok := AddressLiteral(s)
	return ok
}

// AddressLiteral returns the address of a literal (RFC 5321 section 4.1.3).
func AddressLiteral(s string) (netip.Addr, bool) {
	if len(s) < 2 || len(s) > maxPart || s[0] != '[' || s[len(s)-1] != ']' {
		return netip.Addr{}, false
	}
	s = s[1 : len(s)-1]
	const tag = "IPv6:"
	tagged := len(s) > len(tag) && strings.EqualFold(s[:len(tag)], tag)
	if tagged {
		s = s[len(tag):]
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || tagged && !a.Is6() {
		return netip.Addr{}, false
	}
	return a, true
}

// isASCII tells whether s has no byte above 127.
func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
