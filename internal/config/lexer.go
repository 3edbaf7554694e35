package config

import (
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// maxToken bounds one token, in bytes.
const maxToken = 8096

// tokenKind says what a token is.
type tokenKind uint8

const (
	tokEOF     tokenKind = iota
	tokNewline           // the end of a statement
	tokWord              // a keyword
	tokString
	tokNumber
	tokPunct // one of ( ) { } < > ! , = and =>
	tokOther // text that can begin no token; what follows it is kept for the message
	tokError // a mistake inside a token; text is the message
)

// token is one token and where it begins.
type token struct {
	kind   tokenKind
	quoted bool // a string that was in quotes
	text   string
	num    int64
	macro  string // name of the macro it came from
	pos    policy.Position
	start  int // offset in the file of its first byte; after the macro's name if it came from one
}

// is tells whether t is the given punctuation.
func (t token) is(punct string) bool { return t.kind == tokPunct && t.text == punct }

// word tells whether t is the given keyword.
func (t token) word(w string) bool { return t.kind == tokWord && t.text == w }

// bare tells whether t is the given word without quotes: how the words that are
// no keywords are known.
func (t token) bare(w string) bool { return t.kind == tokString && !t.quoted && t.text == w }

// describe shows the token in an error message, cut to a readable length.
func (t token) describe() string {
	switch t.kind {
	case tokEOF:
		return "end of file"
	case tokNewline:
		return "end of line"
	}
	const most = 60
	text := t.text
	if len(text) > most {
		text = text[:most] + "..."
	}
	text = strconv.Quote(text)
	if t.macro != "" {
		text += " (from macro $" + t.macro + ")"
	}
	return text
}

// eof is what the character functions return at the end of the input.
const eof = -1

// cursor is where a lexer stands. It is copied to look ahead.
type cursor struct {
	off   int    // next byte of the file
	line  int    // its line, from 1
	exp   string // rest of the macro value that is read before the file goes on
	macro string // name of that macro
}

// lexer cuts one file into tokens. Macro values are read as if their text stood
// in the file, so a value may hold several tokens or a part of one.
type lexer struct {
	file string
	src  string
	cursor

	// expand returns the value of a macro, or an error text.
	expand func(name string) (value, problem string)

	// origin returns what to say where a line stands; nil: the line of file.
	origin func(line int) policy.Position
}

func newLexer(file, src string, expand func(string) (string, string)) *lexer {
	return &lexer{file: file, src: src, cursor: cursor{line: 1}, expand: expand}
}

// raw returns the next byte without regard to backslashes.
func (l *lexer) raw() int {
	if l.exp != "" {
		c := l.exp[0]
		l.exp = l.exp[1:]
		return int(c)
	}
	if l.off >= len(l.src) {
		return eof
	}
	c := l.src[l.off]
	l.off++
	if c == '\n' {
		l.line++
	}
	return int(c)
}

// get returns the next byte outside quotes: a backslash before a newline joins
// the lines, before anything else it is dropped.
func (l *lexer) get() int {
	c := l.raw()
	for c == '\\' {
		if c = l.raw(); c != '\n' {
			return c
		}
		c = l.raw()
	}
	return c
}

// peek returns what get would return next.
func (l *lexer) peek() int {
	at := l.cursor
	c := l.get()
	l.cursor = at
	return c
}

func isDigit(c int) bool { return '0' <= c && c <= '9' }

func isAlnum(c int) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// beginsString tells whether an unquoted string may begin with c.
func beginsString(c int) bool { return isAlnum(c) || c == ':' || c == '_' }

// inString tells whether an unquoted string may go on with c: letters, digits
// and the ASCII punctuation that has no meaning of its own.
func inString(c int) bool {
	return '!' < c && c < 0x7f && !strings.ContainsRune("(){}<>=#,", rune(c))
}

// endsNumber tells whether digits followed by c are a number rather than the
// beginning of a string.
func endsNumber(c int) bool {
	return c == eof || c > 0 && c < 0x80 && strings.ContainsRune(" \t\n\v\f\r),/}=", rune(c))
}

// next returns the next token.
func (l *lexer) next() token {
	for {
		at := l.cursor
		c := l.get()
		for c == ' ' || c == '\t' {
			at = l.cursor
			c = l.get()
		}
		if c == '#' {
			for c != '\n' && c != eof {
				at = l.cursor
				c = l.get()
			}
		}
		t := token{pos: l.position(l.lineOf(c)), start: at.off}
		if at.exp != "" {
			t.macro = at.macro
		}
		if c == '$' && at.exp == "" {
			if problem := l.substitute(); problem != "" {
				t.kind, t.text = tokError, problem
				return t
			}
			continue
		}
		l.scan(&t, c)
		return t
	}
}

// position returns what to say where a line stands.
func (l *lexer) position(line int) policy.Position {
	if l.origin != nil {
		return l.origin(line)
	}
	return policy.Position{File: l.file, Line: line}
}

// lineOf returns the line of c, which was just read.
func (l *lexer) lineOf(c int) int {
	if c == '\n' && l.exp == "" && l.off > 0 && l.src[l.off-1] == '\n' && l.line > 1 {
		return l.line - 1
	}
	return l.line
}

// substitute reads a macro's name and puts its value before what follows.
func (l *lexer) substitute() (problem string) {
	var name []byte
	for c := l.peek(); isAlnum(c) || c == '_'; c = l.peek() {
		if len(name) >= maxToken {
			return "string too long"
		}
		name = append(name, byte(c))
		l.get()
	}
	if len(name) == 0 {
		return `syntax error near "$": a macro name made of letters, digits and "_" must follow, or quote the text`
	}
	value, problem := l.expand(string(name))
	if problem != "" {
		return problem
	}
	l.exp, l.macro = value, string(name)
	return ""
}

// scan completes t, whose first byte c has been read.
func (l *lexer) scan(t *token, c int) {
	switch {
	case c == eof:
		t.kind = tokEOF
	case c == '\n':
		t.kind, t.text = tokNewline, "\n"
	case c == '"' || c == '\'':
		l.quotedString(t, c)
	case isDigit(c) || c == '-' && isDigit(l.peek()):
		l.number(t, c)
	case beginsString(c):
		l.str(t, []byte{byte(c)})
	case c == '=':
		t.kind, t.text = tokPunct, "="
		if l.peek() == '>' {
			l.get()
			t.text = "=>"
		}
	case strings.IndexByte("(){}<>!,", byte(c)) >= 0 && c != 0:
		t.kind, t.text = tokPunct, string(rune(c))
	default:
		l.other(t, []byte{byte(c)})
	}
}

// quotedString reads up to the quote character that closes the string. Newlines
// inside are removed; a backslash protects the quote, a space or a tab.
func (l *lexer) quotedString(t *token, quote int) {
	var buf []byte
	problem := ""
	for {
		c := l.raw()
		if c == '\\' {
			at := l.cursor
			switch next := l.raw(); next {
			case quote, ' ', '\t':
				c = next
			case '\n':
				continue
			default:
				l.cursor = at
			}
		} else if c == quote {
			break
		}
		switch {
		case c == eof:
			t.kind, t.text = tokError, "reached end of file while parsing quoted string: close the quote opened here"
			return
		case c == '\n':
		case c == 0:
			problem = "syntax error: a quoted string may not hold a NUL byte"
		case len(buf) >= maxToken:
			problem = "string too long"
		default:
			buf = append(buf, byte(c))
		}
	}
	// A bad string is read to its end too, so that what follows is not taken for
	// the inside of another one.
	if t.kind, t.quoted, t.text = tokString, true, string(buf); problem != "" {
		t.kind, t.text = tokError, problem
	}
}

// number reads digits, with a sign if c is one, and goes on as a string when the
// text turns out to be no number.
func (l *lexer) number(t *token, c int) {
	buf := []byte{byte(c)}
	for c := l.peek(); isDigit(c); c = l.peek() {
		if len(buf) >= maxToken {
			t.kind, t.text = tokError, "string too long"
			return
		}
		buf = append(buf, byte(c))
		l.get()
	}
	if !endsNumber(l.peek()) {
		if buf[0] == '-' {
			l.other(t, buf)
		} else {
			l.str(t, buf)
		}
		return
	}
	n, err := strconv.ParseInt(string(buf), 10, 64)
	if err != nil {
		size := "large"
		if buf[0] == '-' {
			size = "small"
		}
		t.kind, t.text = tokError, strconv.Quote(cut(string(buf)))+" invalid number: too "+size
		return
	}
	t.kind, t.num, t.text = tokNumber, n, string(buf)
}

// str reads the rest of an unquoted string. It reports whether that was short
// enough.
func (l *lexer) str(t *token, buf []byte) {
	if buf = l.run(buf); len(buf) > maxToken {
		t.kind, t.text = tokError, "string too long"
		return
	}
	t.text = string(buf)
	t.kind = tokString
	if keywords[t.text] {
		t.kind = tokWord
	}
}

// other reads text that is no token, so that the error can show it.
func (l *lexer) other(t *token, buf []byte) {
	t.kind, t.text = tokOther, string(l.run(buf))
}

// run appends the characters of an unquoted string to buf, up to one more than
// a token may have.
func (l *lexer) run(buf []byte) []byte {
	for c := l.peek(); inString(c) && len(buf) <= maxToken; c = l.peek() {
		buf = append(buf, byte(c))
		l.get()
	}
	return buf
}

// cut shortens text for a message.
func cut(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// keywords are the reserved words. They are known only in lower case and only
// without quotes.
var keywords = wordSet(`action admd alias any auth auth-optional backup bounce bypass ca cert chain
	chroot ciphers commit compression connect data data-line dhe disconnect domain ehlo encryption
	expand-only fcrdns filter for forward-only from group helo helo-src host hostname hostnames
	include inet4 inet6 junk key limit listen lmtp local mail-from maildir mask-src masquerade match
	max-deferred max-message-size mbox mda mta mx no-dsn no-verify noop on phase pki port proc
	proc-exec protocols proxy-v2 queue quit rcpt-to rdns received-auth recipient regex reject relay
	report rewrite rset scheduler senders smtp smtp-in smtp-out smtps socket src srs sub-addr-delim
	table tag tagged tls tls-require ttl user userbase verify virtual warn-interval wrapper`)

// statementWords begin a statement. A line that begins with one ends the search
// for the closing brace of a broken statement.
var statementWords = wordSet(`action admd bounce ca filter include listen match mda mta pki proc
	queue report scheduler smtp srs table`)

func wordSet(words string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}
