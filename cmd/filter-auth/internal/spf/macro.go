package spf

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// template is a text with macros (RFC 7208 section 7).
type template []part

// part is literal text, or a macro.
type part struct {
	literal string
	letter  byte   // of the macro, in lower case; %, _ or - for these; 0 for a literal
	escape  bool   // for URLs: the letter was written in upper case
	keep    int    // how many parts of the value from the right; 0 for all
	reverse bool   // the parts
	delims  string // what parts the value
}

// Letters of macros. Those of texts only are not for names (section 7.2).
const (
	nameLetters = "slodiphv"
	textLetters = nameLetters + "crt"
)

var errMacro = errors.New("malformed macro")

// parseTemplate reads a text with macros of the letters. Spaces are for explanations.
func parseTemplate(s, letters string, spaces bool) (template, error) {
	var t template
	for s != "" {
		n := strings.IndexByte(s, '%')
		if n < 0 {
			n = len(s)
		}
		if n > 0 {
			for i := range n {
				if s[i] > '~' || s[i] < ' ' || s[i] == ' ' && !spaces {
					return nil, errors.New("a character that is not visible ASCII")
				}
			}
			t, s = append(t, part{literal: s[:n]}), s[n:]
			continue
		}
		if len(s) > 1 && strings.IndexByte("%_-", s[1]) >= 0 {
			t, s = append(t, part{letter: s[1]}), s[2:]
			continue
		}
		macro, rest, found := strings.Cut(s, "}")
		macro, isMacro := strings.CutPrefix(macro, "%{")
		if !found || !isMacro {
			return nil, errMacro
		}
		p, err := parseMacro(macro, letters)
		if err != nil {
			return nil, err
		}
		t, s = append(t, p), rest
	}
	return t, nil
}

// parseMacro reads what is between the braces: a letter, and then how many parts are
// wanted, whether in reverse, and delimiters, or none of these.
func parseMacro(s, letters string) (part, error) {
	if s == "" || strings.IndexByte(letters, s[0]|0x20) < 0 {
		return part{}, errMacro
	}
	p := part{letter: s[0] | 0x20, escape: s[0]&0x20 == 0}
	s = s[1:]
	rest := strings.TrimLeft(s, "0123456789")
	if digits := s[:len(s)-len(rest)]; digits != "" {
		n, err := strconv.Atoi(digits)
		if err != nil {
			n = maxIdentity // more than there can be
		}
		if n == 0 {
			return part{}, errors.New("a macro that keeps no part")
		}
		p.keep = n
	}
	if rest != "" && rest[0]|0x20 == 'r' {
		p.reverse, rest = true, rest[1:]
	}
	if strings.Trim(rest, ".-+,/_=") != "" {
		return part{}, errMacro
	}
	if p.delims = rest; rest == "" {
		p.delims = "."
	}
	return p, nil
}

// parseDomain reads a domain with macros: at its end is a macro, or a label that a
// top-level domain may have, with a dot before it (section 7.1).
func parseDomain(s string) (template, error) {
	t, err := parseTemplate(s, nameLetters, false)
	if err != nil {
		return nil, err
	}
	if len(t) == 0 {
		return nil, errors.New("an empty domain")
	}
	if last := t[len(t)-1]; last.letter == 0 {
		end := strings.TrimSuffix(last.literal, ".")
		dot := strings.LastIndexByte(end, '.')
		if dot < 0 || !topLabel(end[dot+1:]) {
			return nil, errors.New("not a domain")
		}
	}
	return t, nil
}

// topLabel tells whether a label has letters, digits and inner hyphens, and is not a
// number.
func topLabel(s string) bool {
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

// expand returns what a part stands for, given the value of its letter (section 7.3).
func (p part) expand(value string) string {
	switch p.letter {
	case 0:
		return p.literal
	case '%':
		return "%"
	case '_':
		return " "
	case '-':
		return "%20"
	}
	if p.reverse || p.keep > 0 || p.delims != "." {
		parts := split(value, p.delims)
		if p.reverse {
			slices.Reverse(parts)
		}
		if p.keep > 0 && p.keep < len(parts) {
			parts = parts[len(parts)-p.keep:]
		}
		value = strings.Join(parts, ".")
	}
	if p.escape {
		value = escapeURL(value)
	}
	return value
}

// split parts a value at each of the delimiters.
func split(value, delims string) []string {
	var parts []string
	for {
		i := strings.IndexAny(value, delims)
		if i < 0 {
			return append(parts, value)
		}
		parts, value = append(parts, value[:i]), value[i+1:]
	}
}

// escapeURL escapes what is not in the unreserved set of RFC 3986 section 2.3.
func escapeURL(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isNameRune(rune(c)) || c == '~' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// domain expands a template to a name without its final dot. Of one that is too long,
// labels are left out on the left (section 7.3). ok is false when it cannot be asked
// for: then there is nothing under that name.
func (t template) domain(value func(letter byte) (string, bool)) (name string, ok bool) {
	for _, p := range slices.Backward(t) {
		v, ok := p.value(value)
		if !ok {
			return "", false
		}
		if len(name) <= maxName+1 { // what is further on the left is left out
			name = p.expand(v) + name
		}
	}
	name = strings.TrimSuffix(name, ".")
	for len(name) > maxName {
		_, rest, found := strings.Cut(name, ".")
		if !found {
			return "", false
		}
		name = rest
	}
	return name, askable(name)
}

// line expands a template to a line of text: what is not visible ASCII becomes a
// question mark, and what is too long is cut.
func (t template) line(value func(letter byte) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(t) && b.Len() < maxExplanation; i++ {
		v, _ := t[i].value(value)
		for _, r := range t[i].expand(v) {
			if r < ' ' || r > '~' {
				r = '?'
			}
			if b.Len() < maxExplanation {
				b.WriteByte(byte(r))
			}
		}
	}
	return b.String()
}

// value returns that of the letter of a macro.
func (p part) value(value func(letter byte) (string, bool)) (string, bool) {
	if p.letter == 0 || strings.IndexByte("%_-", p.letter) >= 0 {
		return "", true
	}
	return value(p.letter)
}
