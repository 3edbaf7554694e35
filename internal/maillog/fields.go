package maillog

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxText bounds one value of foreign text, in bytes.
const maxText = 1024

// fields builds a line, in either format.
type fields struct {
	b    []byte
	json bool
}

// session begins a line with the words that are fixed.
func (f *fields) session(s report.Session, side, what string) {
	if f.json {
		f.b = append(f.b, `,"session":"`...)
		f.b = appendHex(f.b, uint64(s), 16)
		f.b = append(f.b, `","event":"`...)
		f.b = append(f.b, side...)
		if what != "" {
			f.b = append(f.b, ' ')
			f.b = append(f.b, what...)
		} else {
			f.b = append(f.b, " proxy"...)
		}
		f.b = append(f.b, '"')
		return
	}
	f.b = appendHex(f.b, uint64(s), 16)
	f.b = append(f.b, ' ')
	f.b = append(f.b, side...)
	if what != "" {
		f.b = append(f.b, ' ')
		f.b = append(f.b, what...)
	}
}

// key begins a field.
func (f *fields) key(k string) {
	if f.json {
		f.b = append(f.b, ',', '"')
		f.b = append(f.b, k...)
		f.b = append(f.b, '"', ':')
		return
	}
	f.b = append(f.b, ' ')
	f.b = append(f.b, k...)
	f.b = append(f.b, '=')
}

// word writes a value without quotes and therefore without blanks.
func (f *fields) word(k, v string) {
	if f.json {
		if k == "event" {
			return // written by session
		}
		f.quoted(k, v)
		return
	}
	f.key(k)
	if v == "<unknown>" { // our own word for a client without a name
		f.b = append(f.b, v...)
		return
	}
	f.b = appendSafe(f.b, v, true)
}

// rest writes a value without quotes that may hold blanks: the last one of its form.
func (f *fields) rest(k, v string) {
	if f.json {
		f.quoted(k, v)
		return
	}
	f.key(k)
	f.b = appendSafe(f.b, v, false)
}

// quoted writes a value in quotes.
func (f *fields) quoted(k, v string) {
	f.key(k)
	if f.json {
		f.b = appendJSON(f.b, v)
		return
	}
	f.b = append(f.b, '"')
	f.b = appendQuoted(f.b, v)
	f.b = append(f.b, '"')
}

// optional writes a value if there is one.
func (f *fields) optional(k, v string, quotes bool) {
	switch {
	case v == "":
	case quotes:
		f.quoted(k, v)
	default:
		f.word(k, v)
	}
}

// reason writes the end of a session: a plain word, or quoted when it says more.
func (f *fields) reason(v string) {
	for i := range len(v) {
		if v[i] == ' ' || v[i] == ':' || v[i] == '"' {
			f.quoted("reason", v)
			return
		}
	}
	f.word("reason", v)
}

func (f *fields) path(k string, p smtp.Path) {
	f.key(k)
	if f.json {
		f.b = appendJSON(f.b, p.String())
		return
	}
	f.b = append(f.b, '<')
	f.b = appendPath(f.b, p)
	f.b = append(f.b, '>')
}

func (f *fields) id(k string, v uint64, digits int) {
	f.key(k)
	if f.json {
		f.b = append(f.b, '"')
	}
	f.b = appendHex(f.b, v, digits)
	if f.json {
		f.b = append(f.b, '"')
	}
}

func (f *fields) number(k string, n int64) {
	f.key(k)
	f.b = strconv.AppendInt(f.b, n, 10)
}

// duration writes 1d2h3m4s, in JSON seconds.
func (f *fields) duration(k string, d time.Duration) {
	f.key(k)
	if f.json {
		f.b = strconv.AppendInt(f.b, int64(d/time.Second), 10)
		return
	}
	f.b = AppendDuration(f.b, d)
}

func (f *fields) time(k string, t time.Time) {
	f.key(k)
	if f.json {
		f.b = append(f.b, '"')
	}
	f.b = t.UTC().AppendFormat(f.b, time.RFC3339)
	if f.json {
		f.b = append(f.b, '"')
	}
}

func appendHex(b []byte, v uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, hexDigits[v>>shift&0xf])
	}
	return b
}

const hexDigits = "0123456789abcdef"

// AppendDuration appends d as days, hours, minutes and seconds, leaving out what is
// zero: "1d2h3m4s", "5m", "0s". Less than a second is "0s"; a negative one has a
// sign.
func AppendDuration(b []byte, d time.Duration) []byte {
	s := int64(d / time.Second)
	if s == 0 {
		return append(b, "0s"...)
	}
	if s < 0 {
		b = append(b, '-')
		s = -s
	}
	for _, u := range [...]struct {
		name    byte
		seconds int64
	}{{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}} {
		if n := s / u.seconds; n > 0 {
			b = strconv.AppendInt(b, n, 10)
			b = append(b, u.name)
			s %= u.seconds
		}
	}
	return b
}

// appendPath appends an address as a word that also holds no angle bracket.
func appendPath(b []byte, p smtp.Path) []byte { return appendSafe(b, p.String(), true) }

// cut shortens foreign text to maxText bytes, between characters.
func cut(s string) (string, bool) {
	if len(s) <= maxText {
		return s, false
	}
	n := maxText
	for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n], true
}

// appendSafe appends foreign text outside quotes; as a word it holds no blank or
// angle bracket that could look like the end of the field.
func appendSafe(b []byte, s string, word bool) []byte {
	s, more := cut(s)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\\':
			b = append(b, '\\', '\\')
		case unprintable(r, n) || word && (r == ' ' || r == '<' || r == '>'):
			b = appendEscaped(b, s[i:i+n])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	if more {
		b = append(b, "..."...)
	}
	return b
}

// appendQuoted appends foreign text that stands in double quotes.
func appendQuoted(b []byte, s string) []byte {
	s, more := cut(s)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unprintable(r, n):
			b = appendEscaped(b, s[i:i+n])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	if more {
		b = append(b, "..."...)
	}
	return b
}

// unprintable tells whether a character of n bytes could break a line or act on a
// terminal: controls, line separators, marks that turn the direction of writing,
// and bytes that are no UTF-8.
func unprintable(r rune, n int) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1 ||
		r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

func appendEscaped(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&0xf])
	}
	return b
}

// appendJSON appends foreign text as a JSON string. Bytes that are no UTF-8 become
// U+FFFD.
func appendJSON(b []byte, s string) []byte {
	s, more := cut(s)
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unprintable(r, n): // all of them fit in 16 bits
			b = append(b, '\\', 'u', hexDigits[r>>12&0xf], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	if more {
		b = append(b, "..."...)
	}
	return append(b, '"')
}
