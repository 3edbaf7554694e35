// Package format expands the specifiers of command lines and mailbox paths, such
// as %{rcpt.user:lowercase} or %{sender.domain[0:2]}.
//
// A specifier is %{NAME}, %{NAME[I]}, %{NAME[A:B]}, each with optional modifiers
// %{NAME[A:B]:MOD|MOD}. The slice is taken first, then the modifiers are applied
// from left to right, and last the value is made harmless for the shell, unless
// the modifier raw asks otherwise.
//
// In a slice both bounds are inclusive and may be left out. A negative A counts
// from the end, -1 being the last character. A negative B counts from one before
// the end: [0:-1] leaves out the last character. B past the end is clipped, A
// past the end is an error. [I] is one character, [-1] the last.
//
// %% is a single percent sign, a % before anything else but { stands for itself,
// and ~/ at the very start is the home directory.
package format

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Bounds of what is expanded, in bytes.
const (
	MaxToken  = 512  // one value
	MaxResult = 4096 // the whole line
)

// ErrExpand is wrapped by every error of this package.
var ErrExpand = errors.New("format could not be expanded")

// Values are what the specifiers stand for.
type Values struct {
	Sender, Rcpt, Dest smtp.Path
	User, Home         string
	Delimiter          string // before a subaddress, for strip; empty: "+"
}

// Command expands a line meant for the shell. Of a sanitized value only letters,
// digits, and + - / = ^ _ . @ [ ] : and bytes above 127 are left as they are;
// every other byte becomes a colon, and so does a leading hyphen, which could be
// taken for an option.
func (v *Values) Command(template string) (string, error) {
	return v.expand(template, "", false)
}

// Wrapper expands a line that may also hold %{mda}, the command it wraps.
func (v *Values) Wrapper(template, mda string) (string, error) {
	return v.expand(template, mda, false)
}

// Path expands the path of a mailbox. A slash in a sanitized value becomes a
// colon too, and values cannot make up a ".." that was not written by whoever
// wrote the template, so that no address leads out of the place meant.
func (v *Values) Path(template string) (string, error) {
	s, err := v.expand(template, "", true)
	if err == nil && hasDotDot(s) && !hasDotDot(template) {
		return "", fmt.Errorf("%w: path leads upwards", ErrExpand)
	}
	return s, err
}

// hasDotDot tells whether a component of path is "..".
func hasDotDot(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func (v *Values) expand(template, mda string, path bool) (string, error) {
	var b strings.Builder
	rest := template
	if strings.HasPrefix(rest, "~/") {
		b.WriteString(v.Home)
		rest = rest[1:]
	}
	for {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			break
		}
		b.WriteString(rest[:i])
		rest = rest[i:]
		switch {
		case strings.HasPrefix(rest, "%%"):
			b.WriteByte('%')
			rest = rest[2:]
		case strings.HasPrefix(rest, "%{"):
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				return template, nil
			}
			s, err := v.token(rest[2:end], mda, path)
			if err != nil {
				return "", fmt.Errorf("%w: %s: %w", ErrExpand, rest[:end+1], err)
			}
			b.WriteString(s)
			rest = rest[end+1:]
		default:
			b.WriteByte('%')
			rest = rest[1:]
		}
		if b.Len() > MaxResult {
			break
		}
	}
	if b.Len()+len(rest) > MaxResult {
		return "", fmt.Errorf("%w: longer than %d bytes", ErrExpand, MaxResult)
	}
	b.WriteString(rest)
	return b.String(), nil
}

// token expands what is between the braces.
func (v *Values) token(spec, mda string, path bool) (string, error) {
	name, slice, mods, err := split(spec)
	if err != nil {
		return "", err
	}
	value, sanitized, ok := v.value(strings.ToLower(name))
	if !ok {
		if !strings.EqualFold(name, "mda") || mda == "" {
			return "", errors.New("unknown name")
		}
		if slice != "" || mods != "" {
			return "", errors.New("takes no slice and no modifier")
		}
		return mda, nil
	}
	if len(value) > MaxToken {
		return "", fmt.Errorf("value longer than %d bytes", MaxToken)
	}
	if value == "" {
		return "", nil
	}
	if slice != "" {
		if value, err = cut(value, slice); err != nil {
			return "", err
		}
	}
	if mods != "" {
		for mod := range strings.SplitSeq(mods, "|") {
			switch strings.ToLower(mod) {
			case "lowercase":
				value = strings.ToLower(value)
			case "uppercase":
				value = strings.ToUpper(value)
			case "strip":
				value = v.strip(value)
			case "raw":
				sanitized = false
			default:
				return "", errors.New("unknown modifier")
			}
		}
	}
	if sanitized {
		value = sanitize(value, path)
	}
	return value, nil
}

// split parts NAME, SLICE (without brackets) and MODIFIERS (without the colon).
func split(spec string) (name, slice, mods string, err error) {
	i := strings.IndexAny(spec, "[:")
	if i < 0 {
		return spec, "", "", nil
	}
	name, rest := spec[:i], spec[i:]
	if rest[0] == '[' {
		end := strings.IndexByte(rest, ']')
		if end < 2 {
			return "", "", "", errors.New("bad slice")
		}
		slice, rest = rest[1:end], rest[end+1:]
	}
	if rest == "" {
		return name, slice, "", nil
	}
	if rest[0] != ':' || len(rest) == 1 {
		return "", "", "", errors.New("bad modifier")
	}
	return name, slice, rest[1:], nil
}

// value returns what a name stands for, and whether it is to be sanitized.
func (v *Values) value(name string) (value string, sanitized, ok bool) {
	for _, p := range [...]struct {
		name string
		path smtp.Path
	}{{"sender", v.Sender}, {"rcpt", v.Rcpt}, {"dest", v.Dest}} {
		switch part, found := strings.CutPrefix(name, p.name); {
		case !found:
		case part == "":
			return p.path.String(), true, true
		case part == ".user":
			return p.path.Local, true, true
		case part == ".domain":
			return p.path.Domain, true, true
		}
	}
	switch name {
	case "user.username":
		return v.User, true, true
	case "user.directory":
		return v.Home, false, true
	case "mbox.from":
		if v.Sender.IsNull() {
			return "MAILER-DAEMON", true, true
		}
		return v.Sender.String(), true, true
	}
	return "", false, false
}

// cut takes a slice of value, which is not empty.
func cut(value, slice string) (string, error) {
	from, to, isRange := strings.Cut(slice, ":")
	begin, end, err := 0, len(value)-1, error(nil)
	if from != "" {
		if begin, err = strconv.Atoi(from); err != nil {
			return "", errors.New("bad slice")
		}
		if begin < 0 {
			begin = max(begin+len(value), 0)
		}
	}
	switch {
	case !isRange:
		end = begin
	case to != "":
		if end, err = strconv.Atoi(to); err != nil {
			return "", errors.New("bad slice")
		}
		if end < 0 {
			end += len(value) - 1
		}
		end = min(end, len(value)-1)
	}
	if begin >= len(value) || end < begin {
		return "", errors.New("slice out of range")
	}
	return value[begin : end+1], nil
}

// strip removes the subaddress from a local part or an address.
func (v *Values) strip(value string) string {
	delim := v.Delimiter
	if delim == "" {
		delim = "+"
	}
	local, domain := value, ""
	if i := strings.LastIndexByte(value, '@'); i >= 0 {
		local, domain = value[:i], value[i:]
	}
	local, _, _ = strings.Cut(local, delim)
	return local + domain
}

// sanitize makes a value harmless inside a shell command or a path.
func sanitize(value string, path bool) string {
	b := []byte(value)
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		case strings.IndexByte("+-=^_.@[]:", c) >= 0, c == '/' && !path:
		default:
			b[i] = ':'
		}
	}
	if len(b) > 0 && b[0] == '-' {
		b[0] = ':'
	}
	return string(b)
}
