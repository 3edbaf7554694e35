package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// The text form is one "key: value" a line, the value running to the end of its
// line behind exactly one blank. Empty and zero values are left out. Example:
//
//	version: 4
//	type: mta
//	dispatcher: outbound
//	smtpname: mx.example.org
//	helo: client.example.net
//	hostname: client.example.net
//	sockaddr: 192.0.2.7
//	sender: ann@example.net
//	rcpt: bob@example.com
//	dest: bob@example.com
//	ttl: 345600
//	last-try: 1790000100
//	next-try: 1790000500
//	retry: 1
//	status: 4.4.2
//	errorline: 421 4.4.2 try later
//	relay: 198.51.100.9 (mx.example.com)
//	ctime: 1790000000
//
// A null path is "@". ctime is always there and always last, so that a text cut
// short is noticed. Version 3, as OpenSMTPD 7 writes it, is read too: it has
// esc-class and esc-code in place of status, knows no next-try, relay and held, and
// its mda-exec is a command without the leading bar.

// MaxText is the size of the largest text form, in bytes.
const MaxText = 64 << 10

// maxErrorLine bounds what Clean returns, in bytes.
const maxErrorLine = 1 << 10

// Bounds of stored numbers, in seconds: the year 9999, and what a time.Duration holds.
const (
	maxTime     = 253402300799
	maxDuration = 9_000_000_000
)

// flagWords are the words of the key "flags", in the order of writing.
var flagWords = [...]struct {
	flag Flags
	word string
}{
	{Authenticated, "authenticated"},
	{IsBounce, "bounce"},
	{Internal, "internal"},
	{EightBit, "8bit"},
	{UTF8, "utf8"},
	{RequireTLS, "require-tls"},
	{TLSOptional, "tls-optional"},
}

// bounceWords are the values of the key "bounce-type".
var bounceWords = [...]string{BounceFailed: "failed", BounceDelayed: "delayed", BounceDelivered: "delivered"}

// Append appends the text form, version 4, to dst. The ID is not part of it. It
// fails, with dst unchanged, when a string holds CR, LF or NUL, when a number is
// out of range, and when the text would exceed MaxText.
func (e *Envelope) Append(dst []byte) ([]byte, error) {
	w := writer{b: dst}
	switch e.Type {
	case MDA, MTA, Bounce:
	default:
		w.fail("type", "no such type")
	}
	w.b = append(w.b, "version: 4\n"...)
	w.text("type", e.Type.String())
	w.text("dispatcher", e.Action)
	w.text("tag", e.Tag)
	w.text("smtpname", e.SMTPName)
	w.text("helo", e.HELO)
	w.text("hostname", e.Hostname)
	w.text("sockaddr", e.Source)
	w.text("username", e.Username)
	w.flags(e.Flags)
	w.path("sender", e.Sender)
	w.path("rcpt", e.Rcpt)
	w.path("dest", e.Dest)
	w.text("mda-user", e.User)
	w.text("mda-exec", e.Exec)
	w.text("mda-subaddress", e.Subaddress)
	w.number("dsn-notify", int64(e.Notify), 15)
	w.text("dsn-ret", e.Ret)
	w.text("dsn-envid", e.EnvID)
	w.text("dsn-orcpt", e.OrigRcpt)
	if int(e.BounceType) >= len(bounceWords) {
		w.fail("bounce-type", "no such type")
	} else {
		w.text("bounce-type", bounceWords[e.BounceType])
	}
	w.duration("bounce-delay", e.BounceDelay)
	w.duration("bounce-ttl", e.BounceTTL)
	w.duration("ttl", e.TTL)
	w.time("last-try", e.LastTry)
	w.time("next-try", e.NextTry)
	w.time("last-bounce", e.LastBounce)
	w.number("retry", int64(e.Retry), 1<<32-1)
	w.status(e.Status)
	w.text("errorline", e.ErrorLine)
	w.text("relay", e.Relay)
	w.text("held", e.Held)
	if e.Created.IsZero() {
		w.b = append(w.b, "ctime: 0\n"...)
	} else {
		w.time("ctime", e.Created)
	}
	if n := len(w.b) - len(dst); n > MaxText {
		w.fail("", "longer than "+strconv.Itoa(MaxText)+" bytes")
	}
	if w.err != nil {
		return dst, fmt.Errorf("envelope %v: %w", e.ID, w.err)
	}
	return w.b, nil
}

// writer appends lines and keeps the first error.
type writer struct {
	b   []byte
	err error
}

func (w *writer) fail(key, why string) {
	if w.err == nil {
		w.err = &fieldError{key, why}
	}
}

func (w *writer) key(key string) {
	w.b = append(w.b, key...)
	w.b = append(w.b, ": "...)
}

func (w *writer) text(key, s string) {
	if s == "" {
		return
	}
	if hasBreak(s) {
		w.fail(key, "holds a line break or NUL")
		return
	}
	w.key(key)
	w.b = append(w.b, s...)
	w.b = append(w.b, '\n')
}

func (w *writer) path(key string, p smtp.Path) {
	if hasBreak(p.Local) || hasBreak(p.Domain) || strings.ContainsAny(p.Domain, "@ \t") {
		w.fail(key, "is no address")
		return
	}
	w.key(key)
	if p.IsNull() {
		w.b = append(w.b, '@')
	} else if plainLocal(p.Local) {
		w.b = append(w.b, p.Local...)
		if p.Domain != "" {
			w.b = append(w.b, '@')
			w.b = append(w.b, p.Domain...)
		}
	} else {
		w.b = append(w.b, p.String()...)
	}
	w.b = append(w.b, '\n')
}

func (w *writer) number(key string, n, limit int64) {
	if n == 0 {
		return
	}
	if n < 0 || n > limit {
		w.fail(key, "is out of range")
		return
	}
	w.key(key)
	w.b = strconv.AppendInt(w.b, n, 10)
	w.b = append(w.b, '\n')
}

func (w *writer) time(key string, t time.Time) {
	if !t.IsZero() {
		w.number(key, t.Unix(), maxTime)
	}
}

func (w *writer) duration(key string, d time.Duration) {
	w.number(key, int64(d/time.Second), maxDuration)
}

func (w *writer) flags(f Flags) {
	if f == 0 {
		return
	}
	w.key("flags")
	for _, fw := range flagWords {
		if f&fw.flag != 0 {
			w.b = append(w.b, fw.word...)
			w.b = append(w.b, ' ')
			f &^= fw.flag
		}
	}
	if f != 0 {
		w.fail("flags", "has unknown flags")
		return
	}
	w.b[len(w.b)-1] = '\n'
}

func (w *writer) status(c smtp.EnhancedCode) {
	if c == (smtp.EnhancedCode{}) {
		return
	}
	w.key("status")
	for i, n := range c {
		if i > 0 {
			w.b = append(w.b, '.')
		}
		w.b = strconv.AppendUint(w.b, uint64(n), 10)
	}
	w.b = append(w.b, '\n')
}

// plainLocal tells whether local is a Dot-string of ASCII letters, digits and the
// commonest signs, for which Path.String need not be asked.
func plainLocal(local string) bool {
	dot := true
	for i := 0; i < len(local); i++ {
		switch c := local[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '+', c == '=':
			dot = false
		case c == '.' && !dot:
			dot = true
		default:
			return false
		}
	}
	return !dot
}

func hasBreak(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '\n' || c == '\r' || c == 0 {
			return true
		}
	}
	return false
}

// fieldError says what is wrong with one key.
type fieldError struct{ key, why string }

func (e *fieldError) Error() string {
	if e.key == "" {
		return e.why
	}
	return e.key + " " + e.why
}

// Parse reads a text form of version 3 or 4. It refuses unknown and repeated
// keys, a missing last line end, and values out of range. ID is left zero, and so
// is the TTL of version 3, which does not store it. The result shares no memory
// with data.
func Parse(data []byte) (*Envelope, error) {
	if len(data) > MaxText {
		return nil, fmt.Errorf("envelope longer than %d bytes", MaxText)
	}
	if bytes.IndexByte(data, 0) >= 0 || bytes.IndexByte(data, '\r') >= 0 {
		return nil, errors.New("envelope holds CR or NUL")
	}
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return nil, errors.New("envelope does not end with a line end")
	}
	// One string for all values, instead of one each.
	rest := string(data)
	var p parser
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if err := p.line(line); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return &p.e, nil
}

// parser gathers the fields of one envelope.
type parser struct {
	e                 Envelope
	version           int64
	escClass, escCode int64
	seen              uint64 // bit i: keys[i] was there
	next              int    // in keys: where the next line's key is likely
}

// finish checks what can only be checked with all keys read.
func (p *parser) finish() error {
	for i, k := range keys {
		if k.required && p.seen&(1<<i) == 0 {
			return &fieldError{k.name, "is missing"}
		}
	}
	if p.version == 3 && p.e.Exec != "" && p.e.Exec[0] != '|' {
		p.e.Exec = "|" + p.e.Exec
	}
	if p.escClass != 0 && p.e.Status == (smtp.EnhancedCode{}) {
		p.e.Status = smtp.EnhancedCode{uint8(p.escClass), uint8(p.escCode / 10), uint8(p.escCode % 10)}
	}
	return nil
}

// line takes one "key: value" line. Blanks around the colon are allowed, as in
// version 3; the value begins behind the first of them.
func (p *parser) line(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("envelope line %.40q has no colon", line)
	}
	name = strings.TrimRight(name, " \t")
	value = strings.TrimPrefix(value, " ")
	for n := range keys {
		i := (p.next + n) % len(keys)
		k := &keys[i]
		if len(name) != len(k.name) || !strings.EqualFold(name, k.name) {
			continue
		}
		if p.seen&(1<<i) != 0 {
			return &fieldError{k.name, "is repeated"}
		}
		p.seen |= 1 << i
		p.next = i + 1
		if !k.set(p, value) {
			return &fieldError{k.name, fmt.Sprintf("has the bad value %.80q", value)}
		}
		return nil
	}
	return fmt.Errorf("envelope key %.40q is unknown", name)
}

// keys are the keys of versions 3 and 4. set returns false for a bad value.
var keys = [...]struct {
	name     string
	required bool
	set      func(p *parser, v string) bool
}{
	{"version", true, func(p *parser, v string) bool { return number(v, 4, &p.version) && p.version >= 3 }},
	{"type", true, setType},
	{"dispatcher", false, func(p *parser, v string) bool { p.e.Action = v; return true }},
	{"tag", false, func(p *parser, v string) bool { p.e.Tag = v; return true }},
	{"smtpname", false, func(p *parser, v string) bool { p.e.SMTPName = v; return true }},
	{"helo", false, func(p *parser, v string) bool { p.e.HELO = v; return true }},
	{"hostname", false, func(p *parser, v string) bool { p.e.Hostname = v; return true }},
	{"sockaddr", false, func(p *parser, v string) bool { p.e.Source = v; return true }},
	{"username", false, func(p *parser, v string) bool { p.e.Username = v; return true }},
	{"flags", false, setFlags},
	{"sender", true, func(p *parser, v string) bool { return parsePath(v, &p.e.Sender) }},
	{"rcpt", true, func(p *parser, v string) bool { return parsePath(v, &p.e.Rcpt) }},
	{"dest", true, func(p *parser, v string) bool { return parsePath(v, &p.e.Dest) }},
	{"mda-user", false, func(p *parser, v string) bool { p.e.User = v; return true }},
	{"mda-exec", false, func(p *parser, v string) bool { p.e.Exec = v; return true }},
	{"mda-subaddress", false, func(p *parser, v string) bool { p.e.Subaddress = v; return true }},
	{"dsn-notify", false, setNotify},
	{"dsn-ret", false, func(p *parser, v string) bool { p.e.Ret = v; return v == "FULL" || v == "HDRS" || v == "" }},
	{"dsn-envid", false, func(p *parser, v string) bool { p.e.EnvID = v; return true }},
	{"dsn-orcpt", false, func(p *parser, v string) bool { p.e.OrigRcpt = v; return true }},
	{"bounce-type", false, setBounceType},
	{"bounce-delay", false, func(p *parser, v string) bool { return duration(v, &p.e.BounceDelay) }},
	{"bounce-ttl", false, func(p *parser, v string) bool { return duration(v, &p.e.BounceTTL) }},
	{"ttl", false, func(p *parser, v string) bool { return duration(v, &p.e.TTL) }},
	{"last-try", false, func(p *parser, v string) bool { return instant(v, &p.e.LastTry) }},
	{"next-try", false, func(p *parser, v string) bool { return instant(v, &p.e.NextTry) }},
	{"last-bounce", false, func(p *parser, v string) bool { return instant(v, &p.e.LastBounce) }},
	{"retry", false, setRetry},
	{"status", false, setStatus},
	{"esc-class", false, func(p *parser, v string) bool { return number(v, 5, &p.escClass) }},
	{"esc-code", false, func(p *parser, v string) bool { return number(v, 99, &p.escCode) }},
	{"errorline", false, func(p *parser, v string) bool { p.e.ErrorLine = v; return true }},
	{"relay", false, func(p *parser, v string) bool { p.e.Relay = v; return true }},
	{"held", false, func(p *parser, v string) bool { p.e.Held = v; return true }},
	{"ctime", true, func(p *parser, v string) bool { return instant(v, &p.e.Created) }},
}

func setType(p *parser, v string) bool {
	switch strings.TrimSpace(v) {
	case "mda":
		p.e.Type = MDA
	case "mta":
		p.e.Type = MTA
	case "bounce":
		p.e.Type = Bounce
	default:
		return false
	}
	return true
}

func setFlags(p *parser, v string) bool {
next:
	for word := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '|' }) {
		for _, fw := range flagWords {
			if word == fw.word {
				p.e.Flags |= fw.flag
				continue next
			}
		}
		return false
	}
	return true
}

func setNotify(p *parser, v string) bool {
	var n int64
	ok := number(v, 15, &n)
	p.e.Notify = Notify(n)
	return ok
}

func setBounceType(p *parser, v string) bool {
	v = strings.TrimSpace(v)
	for i, word := range bounceWords {
		if v == word {
			p.e.BounceType = BounceType(i)
			return true
		}
	}
	return false
}

func setRetry(p *parser, v string) bool {
	var n int64
	ok := number(v, 1<<32-1, &n)
	p.e.Retry = uint32(n)
	return ok
}

func setStatus(p *parser, v string) bool {
	for i := range p.e.Status {
		part, rest, more := strings.Cut(v, ".")
		var n int64
		if !number(part, 255, &n) || more != (i < 2) {
			return false
		}
		p.e.Status[i] = uint8(n)
		v = rest
	}
	return true
}

// number reads a decimal number between 0 and limit.
func number(v string, limit int64, n *int64) bool {
	u, err := strconv.ParseUint(strings.TrimSpace(v), 10, 63)
	if err != nil || int64(u) > limit {
		return false
	}
	*n = int64(u)
	return true
}

func instant(v string, t *time.Time) bool {
	var n int64
	if !number(v, maxTime, &n) {
		return false
	}
	if n != 0 {
		*t = time.Unix(n, 0).UTC()
	}
	return true
}

func duration(v string, d *time.Duration) bool {
	var n int64
	ok := number(v, maxDuration, &n)
	*d = time.Duration(n) * time.Second
	return ok
}

// parsePath is the inverse of smtp.Path.String, with "@" for the null path. It
// takes unquoted local parts that would need quotes too, as version 3 has them;
// the domain begins behind the last "@" then.
func parsePath(v string, p *smtp.Path) bool {
	v = strings.Trim(v, " \t")
	if v == "@" {
		*p = smtp.Path{}
		return true
	}
	if !strings.HasPrefix(v, `"`) {
		at := strings.LastIndexByte(v, '@')
		if at < 0 {
			p.Local = v
			return v != ""
		}
		p.Local, p.Domain = v[:at], v[at+1:]
		return p.Local != "" && p.Domain != "" && !strings.ContainsAny(p.Domain, " \t")
	}
	var local []byte
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
			if i == len(v) {
				return false
			}
			local = append(local, v[i])
		case '"':
			p.Local = string(local)
			rest := v[i+1:]
			if rest == "" {
				return p.Local != ""
			}
			p.Domain = rest[1:]
			return rest[0] == '@' && p.Domain != "" && !strings.ContainsAny(p.Domain, "@ \t")
		default:
			local = append(local, v[i])
		}
	}
	return false
}

// Clean makes text from outside fit for ErrorLine: one line of valid UTF-8
// without control characters, at most 1 KiB, runs of blanks and line breaks
// turned into one space.
func Clean(s string) string {
	if len(s) > 4*maxErrorLine {
		s = s[:4*maxErrorLine]
	}
	b := make([]byte, 0, min(len(s), maxErrorLine))
	blank := false
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			r = '?'
		case r == ' ' || r < ' ':
			blank = true
			continue
		case r == 0x7f || r >= 0x80 && !strconv.IsPrint(r):
			r = '?'
		}
		if len(b)+1+utf8.RuneLen(r) > maxErrorLine {
			break
		}
		if blank && len(b) > 0 {
			b = append(b, ' ')
		}
		blank = false
		b = utf8.AppendRune(b, r)
	}
	return string(b)
}
