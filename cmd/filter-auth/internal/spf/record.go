package spf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// record is an SPF record (RFC 7208 sections 4.6.1 and 12).
type record struct {
	directives []directive
	redirect   template // nil without one
	exp        template // nil without one
}

// kind is the name of a mechanism.
type kind string

// The mechanisms (section 5).
const (
	kindAll     kind = "all"
	kindInclude kind = "include"
	kindA       kind = "a"
	kindMX      kind = "mx"
	kindPTR     kind = "ptr"
	kindIP4     kind = "ip4"
	kindIP6     kind = "ip6"
	kindExists  kind = "exists"
)

// directive is a mechanism, and what follows when it matches.
type directive struct {
	result    Result
	kind      kind
	domain    template     // nil for the domain that the record is of
	network   netip.Prefix // of ip4 and ip6
	four, six int          // bits of addresses that count, of a and mx
}

// isRecord tells whether a text is an SPF record, broken or not (section 4.5).
func isRecord(text string) bool {
	version, _, _ := strings.Cut(text, " ")
	return strings.EqualFold(version, "v=spf1")
}

// parse reads a record, all of it.
func parse(text string) (*record, error) {
	version, terms, _ := strings.Cut(text, " ")
	switch {
	case !strings.EqualFold(version, "v=spf1"):
		return nil, errors.New("not an SPF record")
	case len(text) > maxRecord:
		return nil, errors.New("the record is too long")
	}
	r := &record{}
	for term := range strings.SplitSeq(terms, " ") {
		if term == "" {
			continue
		}
		if err := r.add(term); err != nil {
			return nil, fmt.Errorf("%.60q: %w", term, err)
		}
	}
	return r, nil
}

// add reads a term.
func (r *record) add(term string) error {
	if name, value, found := strings.Cut(term, "="); found && isModifierName(name) {
		return r.modifier(name, value)
	}
	d, err := parseDirective(term)
	if err == nil {
		r.directives = append(r.directives, d)
	}
	return err
}

// modifier reads a modifier. Those that nobody knows are ignored, if they are well
// formed (section 6).
func (r *record) modifier(name, value string) (err error) {
	var to *template
	switch strings.ToLower(name) {
	case "redirect":
		to = &r.redirect
	case "exp":
		to = &r.exp
	default:
		_, err := parseTemplate(value, textLetters, false)
		return err
	}
	if *to != nil {
		return errors.New("there twice")
	}
	*to, err = parseDomain(value)
	return err
}

// isModifierName tells whether a text is the name of a modifier: a letter, and then
// letters, digits, hyphens, underscores and dots.
func isModifierName(s string) bool {
	return s != "" && 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z' && strings.IndexFunc(s, func(r rune) bool { return !isNameRune(r) }) < 0
}

// parseDirective reads a mechanism, with a qualifier or not.
func parseDirective(term string) (directive, error) {
	d := directive{result: Pass, four: 32, six: 128}
	switch term[0] { // section 4.6.2
	case '+':
		term = term[1:]
	case '-':
		d.result, term = Fail, term[1:]
	case '~':
		d.result, term = SoftFail, term[1:]
	case '?':
		d.result, term = Neutral, term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	d.kind = kind(strings.ToLower(term[:end]))
	return d, d.argument(term[end:])
}

// argument reads what is behind the name of a mechanism.
func (d *directive) argument(arg string) (err error) {
	optional := false
	switch d.kind {
	case kindAll:
		if arg != "" {
			err = errors.New("all has no argument")
		}
		return err
	case kindIP4, kindIP6:
		return d.addresses(arg)
	case kindA, kindMX:
		if arg, err = d.lengths(arg); err != nil {
			return err
		}
		optional = true
	case kindPTR:
		optional = true
	case kindInclude, kindExists:
	default:
		return errors.New("no such mechanism")
	}
	if arg == "" && optional {
		return nil
	}
	domain, found := strings.CutPrefix(arg, ":")
	if !found {
		return errors.New("a domain is missing")
	}
	d.domain, err = parseDomain(domain)
	return err
}

// addresses reads the argument of ip4 and ip6.
func (d *directive) addresses(arg string) error {
	text, found := strings.CutPrefix(arg, ":")
	network, length, hasLength := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(network)
	if !found || err != nil || addr.Zone() != "" || addr.Is4() != (d.kind == kindIP4) {
		return errors.New("not an address")
	}
	bits := addr.BitLen()
	if hasLength {
		n, ok := parseLength(length, bits)
		if !ok {
			return errors.New("not a length of a network")
		}
		bits = n
	}
	d.network = netip.PrefixFrom(addr, bits).Masked()
	return nil
}

// lengths takes the lengths of a and mx off: /24, //64 or /24//64. A domain may have
// slashes, too; it does not end in a number.
func (d *directive) lengths(arg string) (rest string, err error) {
	errLength := errors.New("not a length of a network")
	rest, digits := cutDigits(arg)
	if before, found := strings.CutSuffix(rest, "//"); found && digits != "" {
		n, ok := parseLength(digits, 128)
		if !ok {
			return "", errLength
		}
		d.six, arg = n, before
		rest, digits = cutDigits(arg)
	}
	if before, found := strings.CutSuffix(rest, "/"); found {
		n, ok := parseLength(digits, 32)
		if !ok {
			return "", errLength
		}
		d.four, arg = n, before
	}
	return arg, nil
}

// cutDigits takes the digits at the end of a text off.
func cutDigits(s string) (rest, digits string) {
	rest = strings.TrimRight(s, "0123456789")
	return rest, s[len(rest):]
}

// parseLength reads a number up to most, without leading zeros.
func parseLength(s string, most int) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= most && strconv.Itoa(n) == s
}
