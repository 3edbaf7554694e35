package main

import (
	"slices"
	"strings"
	"unicode"

	"github.com/opensmtpd/opensmtpd/cmd/filter-auth/internal/spf"
)

const (
	// maxAuthors bounds the domains of authors that are asked for a policy.
	maxAuthors = 5
	// maxFrom bounds what is said about authors, in bytes.
	maxFrom = 16 << 10
)

// authorDomains returns the domains that a mail program may show as those of the
// authors, given the values of the From fields: more than maxAuthors when there are too
// many, none when there is no address. Broken fields are read, too, since programs show
// them: an address is what is in <>, or in a part without <> any word with an @, and a
// comment or a string without an end is none.
func authorDomains(from []string) []string {
	var domains []string
	size := 0
	for _, value := range from {
		if size += len(value); size > maxFrom {
			return nil
		}
		for part := range strings.FieldsFuncSeq(plain(value), func(r rune) bool { return r == ',' || r == ';' }) {
			domains = append(domains, partDomains(part)...)
		}
	}
	slices.Sort(domains)
	domains = slices.Compact(domains)
	return domains[:min(len(domains), maxAuthors+1)]
}

// plain makes strings in quotes and comments a space.
func plain(s string) string {
	var b strings.Builder
	closed := true // comments, so far
	for i := 0; i < len(s); {
		n := 1
		switch s[i] {
		case '\\':
			n = min(2, len(s)-i)
		case '"':
			if _, rest, ok := unquote(s[i:]); ok {
				n = len(s) - i - len(rest)
			}
		case '(':
			if closed {
				n = commentLen(s[i:])
				closed = n > 0
				n = max(n, 1)
			}
		default:
			b.WriteByte(s[i])
			i++
			continue
		}
		b.WriteByte(' ')
		i += n
	}
	return b.String()
}

// partDomains returns the domains of what is in <> or, when there are none, of words.
func partDomains(s string) []string {
	var domains []string
	for i, text := range strings.Split(s, "<") {
		if text, _, _ = strings.Cut(text, ">"); i > 0 {
			domains = append(domains, textDomains(text)...)
		}
	}
	if len(domains) == 0 {
		domains = textDomains(s)
	}
	return domains
}

// textDomains returns what is behind each @.
func textDomains(s string) []string {
	var domains []string
	for i, text := range strings.Split(s, "@") {
		if d := frontDomain(text); i > 0 && d != "" {
			domains = append(domains, strings.ToLower(spf.ToASCII(d)))
		}
	}
	return domains
}

// frontDomain returns the domain that a text begins with; around its dots may be space.
func frontDomain(s string) string {
	d := ""
	for {
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
		end := strings.IndexFunc(s, func(r rune) bool {
			return unicode.IsSpace(r) || r < 0x80 && r != '.' && r != '-' && r != '_' && r != '[' && r != ']' && r != ':' && !isAlnum(byte(r))
		})
		if d != "" && !strings.HasPrefix(s, ".") && !strings.HasSuffix(d, ".") {
			end = 0
		}
		if end < 0 {
			end = len(s)
		}
		if end == 0 {
			return strings.TrimRight(d, ".")
		}
		d, s = d+s[:end], s[end:]
	}
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}
