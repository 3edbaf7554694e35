// Package smtp holds the words of SMTP that every other package speaks: paths,
// replies, enhanced status codes, errors, and the syntax of commands and their
// parameters. It does no I/O and knows no policy.
//
// Sources: RFC 5321 (SMTP), RFC 3463 (enhanced status codes), RFC 3461 (DSN
// parameters), RFC 6531 (SMTPUTF8), RFC 1870 (SIZE), RFC 6152 (8BITMIME),
// RFC 3030 (CHUNKING).
package smtp

import (
	"fmt"
	"strings"
)

// Path is a reverse-path or forward-path without its angle brackets and source
// route (RFC 5321 section 4.1.2). The zero Path is the null reverse-path <>.
//
// Local holds the local part with quoting removed: <"a b"@x.org> has Local "a b".
// Case is kept. Domain is a host name, or an address literal with its brackets.
type Path struct {
	Local  string
	Domain string
}

// IsNull tells whether p is the null reverse-path.
func (p Path) IsNull() bool { return p.Local == "" && p.Domain == "" }

// String returns the address as it stands between angle brackets, quoting the
// local part where RFC 5321 section 4.1.2 asks for it. The null path gives "".
func (p Path) String() string {
	if p.IsNull() {
		return ""
	}
	if p.Domain == "" {
		return quoteLocal(p.Local)
	}
	return quoteLocal(p.Local) + "@" + p.Domain
}

// quoteLocal returns local as a Dot-string when it is one, else as a Quoted-string.
func quoteLocal(local string) string {
	if isDotString(local) {
		return local
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(local); i++ {
		if c := local[i]; c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(local[i])
	}
	b.WriteByte('"')
	return b.String()
}

// isDotString tells whether s needs no quotes: atoms of atext or UTF-8 (RFC 6531
// section 3.3) joined by single dots.
func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '.' && !isAtext(s[i]) {
			return false
		}
	}
	return true
}

// isAtext tells whether c may stand in an atom (RFC 5322 section 3.2.3, and any
// byte of a UTF-8 sequence by RFC 6531).
func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80 ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// EnhancedCode is an enhanced status code, class.subject.detail (RFC 3463). The
// zero value means none.
type EnhancedCode [3]uint8

// String returns "c.s.d", or "" for the zero value. Subject and detail may exceed
// 9; they fit in a byte by registration practice.
func (c EnhancedCode) String() string {
	if c == (EnhancedCode{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2])
}

// Error is a refusal or failure that may reach a mail client. Text is public: it
// never holds paths, other people's addresses or configuration. Err is the
// private cause, for the log.
type Error struct {
	Code     int          // reply code, 4yz or 5yz
	Enhanced EnhancedCode // zero when the reply carries none
	Text     string       // one line or several parted by "\n"
	Err      error        // private cause, may be nil
}

// Error returns the reply line, followed by the private cause.
func (e *Error) Error() string {
	s := e.Reply()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Reply returns "code enhanced text", as sent to the peer when Text is one line.
func (e *Error) Reply() string {
	if ec := e.Enhanced.String(); ec != "" {
		return fmt.Sprintf("%d %s %s", e.Code, ec, e.Text)
	}
	return fmt.Sprintf("%d %s", e.Code, e.Text)
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent tells whether the error is a 5yz one. Everything else, including
// errors that are no *Error at all, is temporary.
func (e *Error) Permanent() bool { return e.Code >= 500 && e.Code <= 599 }

// IMsgError lets the error cross a process boundary: kind "smtp" and Code,
// Enhanced and Text; the private cause stays behind as text.
func (e *Error) IMsgError() (kind string, data []byte) {
	return "smtp", fmt.Appendf(nil, "%d %d %d %d %s", e.Code, e.Enhanced[0], e.Enhanced[1], e.Enhanced[2], e.Text)
}

// ErrorFromIMsg is the inverse of IMsgError.
func ErrorFromIMsg(data []byte) (*Error, error) {
	var e Error
	f := strings.SplitN(string(data), " ", 5)
	if len(f) != 5 {
		return nil, fmt.Errorf("smtp error: %d fields, want 5", len(f))
	}
	for i, p := range []func(int) bool{
		func(n int) bool { e.Code = n; return n >= 200 && n <= 599 },
		func(n int) bool { e.Enhanced[0] = uint8(n); return n <= 5 },
		func(n int) bool { e.Enhanced[1] = uint8(n); return n <= 255 },
		func(n int) bool { e.Enhanced[2] = uint8(n); return n <= 255 },
	} {
		var n int
		if _, err := fmt.Sscanf(f[i], "%d", &n); err != nil || n < 0 || !p(n) {
			return nil, fmt.Errorf("smtp error: bad number %q", f[i])
		}
	}
	e.Text = f[4]
	return &e, nil
}
