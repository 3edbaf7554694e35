package expand

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// TargetKind says what an alias expands to.
type TargetKind uint8

// The kinds of target.
const (
	ToUser    TargetKind = iota + 1 // a user name, with or without tag
	ToAddress                       // user@domain
	ToDomain                        // @domain: the same user in another domain
	ToFile                          // an absolute path
	ToCommand                       // a command line, without its "|"
	ToError                         // a refusal
	ToInclude                       // a file with more targets
)

// Target is one item of an alias, a virtual user or a .forward file.
type Target struct {
	Kind  TargetKind
	Text  string      // user name, path, command line
	Addr  smtp.Path   // ToAddress; Domain only for ToDomain
	Error *smtp.Error // ToError
}

// String returns the target as it may be written in a table.
func (t Target) String() string {
	switch t.Kind {
	case ToAddress:
		return t.Addr.String()
	case ToDomain:
		return "@" + t.Addr.Domain
	case ToCommand:
		return "|" + t.Text
	case ToError:
		return "error:" + t.Error.Reply()
	case ToInclude:
		return ":include:" + t.Text
	}
	return t.Text
}

// ParseTargets reads a comma separated list of targets. delim is the character
// that parts a user name from its tag.
//
// Commas inside double quotes do not separate, and a backslash takes the next
// character as it is. Empty items are skipped. An item that is nothing valid is
// an error: it is never taken for part of something else.
func ParseTargets(line, delim string) ([]Target, error) {
	items, err := table.SplitList(line)
	if err != nil {
		return nil, err
	}
	targets := make([]Target, 0, len(items))
	for _, item := range items {
		t, err := parseItem(item, delim)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// ParseForward reads a .forward file: a list of targets on each line, "#" lines
// are comments, a backslash at the end joins a line with the next. Includes are
// not available to users and are left out.
func ParseForward(data []byte, delim string) ([]Target, error) {
	return parseFile(string(data), delim)
}

// parseFile reads the lines of a .forward or :include: file, without includes.
func parseFile(data, delim string) ([]Target, error) {
	var all []Target
	for n := 1; data != ""; {
		line, rest, lines := logicalLine(data)
		targets, err := ParseTargets(line, delim)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		for _, t := range targets {
			if t.Kind != ToInclude {
				all = append(all, t)
			}
		}
		data, n = rest, n+lines
	}
	return all, nil
}

// logicalLine cuts the first line with its continuations and without comments; it
// also returns how many lines of text that was.
func logicalLine(data string) (line, rest string, lines int) {
	for more := true; more && data != ""; lines++ {
		var part string
		part, data, _ = strings.Cut(data, "\n")
		part = strings.TrimSuffix(part, "\r")
		if i := commentStart(part); i >= 0 {
			part = part[:i]
		}
		if more = oddBackslashes(part); more {
			part = part[:len(part)-1]
		}
		line += part
	}
	return line, data, lines
}

// commentStart finds a "#" that opens the line or follows white space outside
// quotes, or returns -1.
func commentStart(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '#':
			if !quoted && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') {
				return i
			}
		}
	}
	return -1
}

// oddBackslashes tells whether the last backslash of s escapes the line end.
func oddBackslashes(s string) bool {
	return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1
}

// parseItem reads one target. The tests are made in the order in which the forms
// take precedence.
func parseItem(s, delim string) (Target, error) {
	bare := unquote(s)
	low := strings.ToLower(bare[:min(len(bare), 10)])
	if rest, ok := cutWord(bare, low, "error:"); ok {
		return parseError(rest)
	}
	if path, ok := cutWord(bare, low, "include:"); ok {
		if path = unquote(strings.Trim(path, " \t")); !validPath(path) {
			return Target{}, fmt.Errorf("include %q: want an absolute path", path)
		}
		return Target{Kind: ToInclude, Text: path}, nil
	}
	switch {
	case s[0] == '|' || strings.HasPrefix(s, `"|`):
		return parseCommand(s)
	case bare[0] == '/':
		if !validPath(bare) {
			return Target{}, fmt.Errorf("bad path %q", bare)
		}
		return Target{Kind: ToFile, Text: bare}, nil
	case strings.Contains(s, "@"):
		return parseAddress(bare)
	}
	if !validUser(bare, delim) {
		return Target{}, fmt.Errorf("%q is neither a user name, an address, a file nor a command", s)
	}
	return Target{Kind: ToUser, Text: bare}, nil
}

// parseCommand reads |command or "|command"; in the second form the quotes of the
// command itself were escaped.
func parseCommand(s string) (Target, error) {
	if s[0] == '"' {
		if s[len(s)-1] != '"' || len(s) < 3 {
			return Target{}, fmt.Errorf("command %s: the closing quote must be at the end", s)
		}
		s = s[1 : len(s)-1]
	}
	cmd := strings.Trim(s[1:], " \t")
	if cmd == "" {
		return Target{}, errors.New("empty command")
	}
	return Target{Kind: ToCommand, Text: cmd}, nil
}

// cutWord removes "word" or ":word" from the start of s; low is the start of s in
// small letters.
func cutWord(s, low, word string) (string, bool) {
	colon := strings.HasPrefix(low, ":")
	if colon {
		low, s = low[1:], s[1:]
	}
	if strings.HasPrefix(low, word) {
		return s[len(word):], true
	}
	return s, false
}

// unquote removes a pair of quotes around the whole of s.
func unquote(s string) string {
	if len(s) > 2 && s[0] == '"' && strings.IndexByte(s[1:], '"') == len(s)-2 {
		return s[1 : len(s)-1]
	}
	return s
}

// parseError reads "[45]dd [c.s.d] text".
func parseError(s string) (Target, error) {
	s = strings.Trim(unquote(strings.Trim(s, " \t")), " \t")
	code, text, ok := strings.Cut(s, " ")
	n, err := strconv.Atoi(code)
	if !ok || err != nil || len(code) != 3 || n < 400 || n > 599 {
		return Target{}, fmt.Errorf("error %q: want a code from 400 to 599 and a text", s)
	}
	e := &smtp.Error{Code: n, Text: strings.Trim(text, " \t")}
	if word, rest, ok := strings.Cut(e.Text, " "); ok {
		if ec, ok := parseEnhanced(word); ok && int(ec[0]) == n/100 {
			e.Enhanced, e.Text = ec, strings.Trim(rest, " \t")
		}
	}
	if e.Text == "" || !isAlnum(e.Text[0]) {
		return Target{}, fmt.Errorf("error %q: the text must begin with a letter or digit", s)
	}
	return Target{Kind: ToError, Error: e}, nil
}

// parseEnhanced reads c.s.d (RFC 3463 section 2).
func parseEnhanced(s string) (ec smtp.EnhancedCode, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return ec, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || strconv.Itoa(int(n)) != p {
			return ec, false
		}
		ec[i] = uint8(n)
	}
	return ec, true
}

// parseAddress reads user@domain or @domain. The local part may be quoted.
func parseAddress(s string) (Target, error) {
	i := strings.LastIndexByte(s, '@')
	local, domain := s[:i], strings.TrimSuffix(s[i+1:], ".")
	if !validDomain(domain) {
		return Target{}, fmt.Errorf("bad domain in address %q", s)
	}
	if local == "" {
		return Target{Kind: ToDomain, Addr: smtp.Path{Domain: domain}}, nil
	}
	if inner := unquote(local); inner != local {
		if len(inner) > 255 || !utf8.ValidString(inner) {
			return Target{}, fmt.Errorf("bad user in address %q", s)
		}
		return Target{Kind: ToAddress, Addr: smtp.Path{Local: inner, Domain: domain}}, nil
	}
	if !validLocal(local) {
		return Target{}, fmt.Errorf("bad user in address %q", s)
	}
	return Target{Kind: ToAddress, Addr: smtp.Path{Local: local, Domain: domain}}, nil
}

// validPath tells whether s can name a file.
func validPath(s string) bool {
	return len(s) > 1 && s[0] == '/' && len(s) <= 1023 && s[len(s)-1] != '/'
}

// validLocal tells whether s may stand unquoted before the "@" of an alias.
func validLocal(s string) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c < 0x80 && strings.IndexByte("!#$%*/?|^{}`~&'+-=_.", c) < 0 {
			return false
		}
	}
	return true
}

// validDomain tells whether s is a host name, underscores allowed, or an address
// literal in brackets.
func validDomain(s string) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return false
	}
	if s[0] == '[' {
		return validLiteral(s)
	}
	if s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c < 0x80 && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func validLiteral(s string) bool {
	if len(s) < 3 || s[len(s)-1] != ']' {
		return false
	}
	for i := 1; i < len(s)-1; i++ {
		if c := s[i]; !isAlnum(c) && c != '.' && c != ':' && c != '-' {
			return false
		}
	}
	return true
}

// validUser tells whether s can be a user name with or without tag.
func validUser(s, delim string) bool {
	if s == "" || len(s) > 255 || s[0] == '-' || !utf8.ValidString(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isAlnum(c) && c < 0x80 && strings.IndexByte("_.-+", c) < 0 && (i == 0 || strings.IndexByte(delim, c) < 0) {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
