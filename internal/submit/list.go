package submit

import (
	"errors"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// errAddress is the only error of ParseList.
var errAddress = errors.New("malformed address")

// ParseList returns the addresses of an address-list (RFC 5322 section 3.4): names,
// comments, the names of groups and source routes are left out, blanks around "."
// and "@" too (section 4.4). An address may lack a domain. An empty group has none.
// Line breaks count as blanks.
func ParseList(s string) ([]smtp.Path, error) {
	l := list{s: s}
	for l.i < len(s) {
		if !l.step() {
			return nil, errAddress
		}
	}
	if !l.end() || l.group {
		return nil, errAddress
	}
	return l.out, nil
}

// list is the state of a parse.
type list struct {
	s   string
	i   int
	out []smtp.Path

	word  strings.Builder // the current address, blanks and comments left out
	words int             // parted by more than blanks around a dot or at sign
	gap   bool            // a blank or comment came behind the last byte of word
	angle bool            // the current address had its <>
	group bool            // inside a group
}

// step takes one token.
func (l *list) step() bool {
	switch c := l.s[l.i]; c {
	case ' ', '\t', '\r', '\n':
		l.gap = true
		l.i++
	case '(':
		l.gap = true
		return l.comment()
	case '"':
		return l.quoted()
	case '[':
		n := strings.IndexByte(l.s[l.i:], ']') + 1
		if n == 0 {
			return false
		}
		l.put(l.s[l.i : l.i+n])
		l.i += n
	case '<':
		return l.route()
	case ',':
		l.i++
		return l.end()
	case ':':
		if l.group || l.angle || l.words == 0 {
			return false
		}
		l.group = true
		l.clear()
		l.i++
	case ';':
		if !l.group || !l.end() {
			return false
		}
		l.group = false
		l.i++
	case ')', '>', ']', '\\', 0:
		return false
	default:
		l.put(l.s[l.i : l.i+1])
		l.i++
	}
	return true
}

// put adds part of an address or of a name.
func (l *list) put(part string) {
	if l.words == 0 {
		l.words = 1
	} else if l.gap {
		text := l.word.String()
		joins := func(c byte) bool { return c == '.' || c == '@' }
		if !joins(part[0]) && !joins(text[len(text)-1]) {
			l.words++
		}
	}
	l.gap = false
	l.word.WriteString(part)
}

// comment skips a comment, which may hold others.
func (l *list) comment() bool {
	depth := 0
	for ; l.i < len(l.s); l.i++ {
		switch l.s[l.i] {
		case '\\':
			l.i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				l.i++
				return true
			}
		}
	}
	return false
}

// quoted takes a quoted-string.
func (l *list) quoted() bool {
	for i := l.i + 1; i < len(l.s); i++ {
		switch l.s[i] {
		case '\\':
			i++
		case '"':
			l.put(l.s[l.i : i+1])
			l.i = i + 1
			return true
		}
	}
	return false
}

// route takes an address in angle brackets; what stood before it was a name.
func (l *list) route() bool {
	if l.angle {
		return false
	}
	l.clear()
	var inside list
	rest := l.s[l.i+1:]
	for n := 0; n < len(rest); n = inside.i {
		if rest[n] == '>' {
			return l.addRoute(inside.word.String(), n)
		}
		inside.s = rest
		switch rest[n] {
		case ',', ':': // of a source route
			inside.put(rest[n : n+1])
			inside.i++
		case ';', '<':
			return false
		default:
			if !inside.step() {
				return false
			}
		}
		if inside.words > 1 && !strings.HasPrefix(inside.word.String(), "@") {
			return false
		}
	}
	return false
}

// addRoute adds what stood inside of angle brackets that close n bytes behind.
func (l *list) addRoute(text string, n int) bool {
	p, rest, err := smtp.ParsePath("<" + text + ">")
	if err != nil || rest != "" || p.IsNull() {
		return false
	}
	l.out = append(l.out, p)
	l.angle = true
	l.i += n + 2
	return len(l.out) <= maxRecipients
}

// end ends an address.
func (l *list) end() bool {
	defer l.clear()
	if l.angle {
		l.angle = false
		return l.words == 0
	}
	if l.words == 0 {
		return true
	}
	if l.words > 1 {
		return false
	}
	p, err := smtp.ParseMailbox(l.word.String())
	if err != nil {
		return false
	}
	l.out = append(l.out, p)
	return len(l.out) <= maxRecipients
}

// clear forgets the current words.
func (l *list) clear() {
	l.word.Reset()
	l.words, l.gap = 0, false
}
