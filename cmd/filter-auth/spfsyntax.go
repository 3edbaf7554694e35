package main

import (
	"net/netip"
	"strconv"
	"strings"
)

// brokenSPF is a record that nothing can be made of. The SPF library finds mistakes
// only when it comes to them, but a record with a mistake anywhere is one as a whole
// (RFC 7208 section 4.6): it gets this record instead.
const brokenSPF = "v=spf1 broken"

// withoutBroken returns the texts of a name with brokenSPF for broken records.
func withoutBroken(texts []string) []string {
	for i, t := range texts {
		if version, terms, _ := strings.Cut(t, " "); strings.EqualFold(version, "v=spf1") && !validTerms(terms) {
			texts[i] = brokenSPF
		}
	}
	return texts
}

// validTerms tells whether the terms of a record are as in RFC 7208 section 12.
func validTerms(terms string) bool {
	redirects, explanations := 0, 0
	for term := range strings.SplitSeq(terms, " ") {
		if term == "" {
			continue
		}
		name, value, isModifier := strings.Cut(term, "=")
		switch {
		case !isModifier || !isModifierName(name):
			if !validDirective(term) {
				return false
			}
			continue
		case strings.EqualFold(name, "redirect"):
			redirects++
		case strings.EqualFold(name, "exp"):
			explanations++
		default:
			if _, ok := macros(value); !ok {
				return false
			}
			continue
		}
		if !validDomain(value) {
			return false
		}
	}
	return redirects <= 1 && explanations <= 1
}

// validDirective tells whether a term is a mechanism, with a qualifier or not.
func validDirective(term string) bool {
	if term != "" && strings.IndexByte("+-?~", term[0]) >= 0 {
		term = term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	name, arg := strings.ToLower(term[:end]), term[end:]
	domain, hasDomain := strings.CutPrefix(arg, ":")
	switch name {
	case "all":
		return arg == ""
	case "include", "exists":
		return hasDomain && validDomain(domain)
	case "ptr":
		return arg == "" || hasDomain && validDomain(domain)
	case "a", "mx":
		arg, ok := cutLengths(arg)
		domain, hasDomain := strings.CutPrefix(arg, ":")
		return ok && (arg == "" || hasDomain && validDomain(domain))
	case "ip4", "ip6":
		network, length, hasLength := strings.Cut(domain, "/")
		addr, err := netip.ParseAddr(network)
		most := map[string]int{"ip4": 32, "ip6": 128}[name]
		return hasDomain && err == nil && addr.Zone() == "" && addr.Is4() == (name == "ip4") && (!hasLength || validLength(length, most))
	}
	return false
}

// cutLengths takes the lengths of prefixes off: /24, //64 or /24//64. ok is false when
// they are none.
func cutLengths(arg string) (rest string, ok bool) {
	digits := func(s string) string { return strings.TrimRight(s, "0123456789") }
	rest = digits(arg)
	if six, found := strings.CutSuffix(rest, "//"); found && len(rest) < len(arg) {
		if !validLength(arg[len(rest):], 128) {
			return "", false
		}
		arg = six
		rest = digits(arg)
	}
	if four, found := strings.CutSuffix(rest, "/"); found {
		return four, validLength(arg[len(rest):], 32)
	}
	return arg, true
}

// validLength tells whether a length is a number up to most, without leading zeros.
func validLength(s string, most int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= most && strconv.Itoa(n) == s
}

// validDomain tells whether a text is a domain with macros in it: at its end is a
// macro, or a label that a top-level domain may have, with a dot before it.
func validDomain(s string) bool {
	endsInMacro, ok := macros(s)
	if !ok || endsInMacro {
		return ok
	}
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	return dot >= 0 && validTopLabel(s[dot+1:])
}

// validTopLabel tells whether a label has letters, digits and inner hyphens, and is
// not a number.
func validTopLabel(s string) bool {
	number := true
	for i := range len(s) {
		switch c := s[i] | 0x20; {
		case 'a' <= c && c <= 'z':
			number = false
		case s[i] == '-' && i > 0 && i < len(s)-1:
			number = false
		case s[i] < '0' || s[i] > '9':
			return false
		}
	}
	return !number
}

// macros looks at a text with macros: whether all are well formed, and whether the
// text ends in one.
func macros(s string) (last, ok bool) {
	for s != "" {
		switch {
		case s[0] < '!' || s[0] > '~':
			return false, false
		case s[0] != '%':
			s, last = s[1:], false
			continue
		case len(s) > 1 && strings.IndexByte("%_-", s[1]) >= 0:
			s, last = s[2:], true
			continue
		}
		macro, rest, found := strings.Cut(s, "}")
		macro, isMacro := strings.CutPrefix(macro, "%{")
		if !found || !isMacro || !validMacro(macro) {
			return false, false
		}
		s, last = rest, true
	}
	return last, true
}

// validMacro tells whether what is between the braces of a macro is a letter, and then
// how many parts are wanted, whether in reverse, and delimiters, or none of these.
func validMacro(s string) bool {
	if s == "" || strings.IndexByte("slodiphv", s[0]|0x20) < 0 {
		return false
	}
	rest := strings.TrimLeft(s[1:], "0123456789")
	if digits := s[1 : len(s)-len(rest)]; digits != "" && strings.Trim(digits, "0") == "" {
		return false
	}
	if rest != "" && rest[0]|0x20 == 'r' {
		rest = rest[1:]
	}
	return strings.Trim(rest, ".-+,/_=") == ""
}

// isModifierName tells whether a text is the name of a modifier.
func isModifierName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && strings.IndexByte("-_.", c) < 0) {
			return false
		}
	}
	return s != ""
}
