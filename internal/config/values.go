package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// delay takes a delay: digits and one of the units s, m, h and d. bad is the
// message for a malformed one, with a verb for the text.
func (p *parser) delay(bad string) time.Duration {
	if t := p.peek(); t.kind == tokNumber {
		p.take()
		p.errorf(t.pos, "syntax error near %s: a delay needs a unit: %ss, %sm, %sh or %sd", t.describe(), t.text, t.text, t.text, t.text)
		p.failed = true
		return 0
	}
	t := p.peek()
	s := p.str("a delay like 10s, 5m, 4h or 4d")
	if p.failed {
		return 0
	}
	d, ok := parseDelay(s)
	if !ok {
		p.errorf(t.pos, bad+": write one number from 1 on and one unit: s, m, h or d", cut(s))
	}
	return d
}

// parseDelay reads a delay of whole seconds that fit in 31 bits.
func parseDelay(s string) (time.Duration, bool) {
	if len(s) < 2 {
		return 0, false
	}
	unit := time.Duration(0)
	switch s[len(s)-1] {
	case 's':
		unit = time.Second
	case 'm':
		unit = time.Minute
	case 'h':
		unit = time.Hour
	case 'd':
		unit = 24 * time.Hour
	default:
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	if err != nil || n == 0 || n > uint64(math.MaxInt32*time.Second/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// formatDelay prints a delay in its largest unit without remainder.
func formatDelay(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}

// byteSize takes a size: a number of bytes, or a number with a unit.
func (p *parser) byteSize() int64 {
	t := p.peek()
	if t.kind == tokNumber {
		p.take()
		if t.num < 0 {
			p.errorf(t.pos, "invalid size: %d", t.num)
		}
		return t.num
	}
	s := p.str("a size like 35M or a number of bytes")
	if p.failed {
		return 0
	}
	n, ok := parseSize(s)
	if !ok {
		p.errorf(t.pos, "invalid size: %s: write a number and a unit: B, K, M, G, T, P or E", cut(s))
	}
	return n
}

// parseSize reads N[.N][UNIT] with units of powers of 1024 in either case.
func parseSize(s string) (int64, bool) {
	shift := 0
	if n := len(s); n > 0 {
		if at := strings.IndexByte("bkmgtpe", s[n-1]|0x20); at >= 0 && !isDigit(int(s[n-1])) {
			shift, s = 10*at, s[:n-1]
		}
	}
	whole, frac, dotted := strings.Cut(s, ".")
	if len(s) > 40 || whole == "" && frac == "" || dotted && frac == "" || !allDigits(whole) || !allDigits(frac) {
		return 0, false
	}
	var n uint64
	if whole != "" {
		var err error
		if n, err = strconv.ParseUint(whole, 10, 63); err != nil || n > math.MaxInt64>>shift {
			return 0, false
		}
	}
	n <<= shift
	if frac != "" {
		f, err := strconv.ParseFloat("0."+frac, 64)
		if err != nil {
			return 0, false
		}
		n += uint64(f * float64(uint64(1)<<shift))
	}
	return int64(n), n <= math.MaxInt64
}

func allDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isDigit(int(s[i])) {
			return false
		}
	}
	return true
}

// validHostName tells whether s may name a pki or ca: letters, digits, "-", "_"
// and dots between non-empty labels of at most 63 bytes.
func validHostName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := 0; i < len(label); i++ {
			if c := int(label[i]); !isAlnum(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// domainName takes the name of a pki or ca, in lower case.
func (p *parser) domainName() string {
	t := p.peek()
	name := p.name("a name")
	if !p.failed && name != "*" && !validHostName(name) {
		p.errorf(t.pos, "not a valid domain name: %s", cut(name))
	}
	return strings.ToLower(name)
}

// announced takes a name that is sent to peers as it is.
func (p *parser) announced() string {
	t := p.peek()
	name := p.str("a host name")
	if !p.failed && (name == "" || strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0) {
		p.errorf(t.pos, "%s cannot be a host name: it is empty or holds white space", t.describe())
	}
	return name
}

// kinds is a set of table kinds.
type kinds uint8

const (
	keysOnly   kinds = 1<<List | 1<<Dynamic
	keyValues  kinds = 1<<Map | 1<<Dynamic
	anyContent kinds = keysOnly | keyValues
)

// has tells whether a table of kind k may be used.
func (s kinds) has(k TableKind) bool { return k == Empty || s&(1<<k) != 0 }

// needed says in words what s asks for.
func (s kinds) needed() string {
	if s&(1<<List) != 0 {
		return "a list (keys only)"
	}
	return "a map (keys with values)"
}

// tableFor takes a table for an action or a rule, whose use is named by what it
// is looked up for.
func (p *parser) tableFor(lookup string, allowed kinds) string {
	pos := p.peek().pos
	t := p.tableValue()
	if t != nil && !allowed.has(t.Kind) {
		p.errorf(pos, "table %q may not be used for %s lookups: it is a %s, and %s is needed", t.Name, lookup, t.Kind, allowed.needed())
	}
	return nameOf(t)
}

// tableParameter takes a table for an option of a listener.
func (p *parser) tableParameter(option string, allowed kinds) string {
	pos := p.peek().pos
	t := p.tableValue()
	if t != nil && !allowed.has(t.Kind) {
		p.errorf(pos, "invalid use of table %q as %s parameter: it is a %s, and %s is needed", t.Name, option, t.Kind, allowed.needed())
	}
	return nameOf(t)
}

func nameOf(t *Table) string {
	if t == nil {
		return ""
	}
	return t.Name
}

// tableAhead tells whether a table value comes next.
func (p *parser) tableAhead() bool {
	t := p.peek()
	return t.kind == tokString || t.is("<") || t.is("{")
}

// tableValue takes a table: a reference, a string, or a list or map in braces.
// It returns nil after a mistake that has been reported.
func (p *parser) tableValue() *Table {
	t := p.peek()
	switch {
	case t.is("<"):
		p.take()
		name := p.str("a name of a table")
		if !p.failed && !p.acceptPunct(">") {
			p.syntaxError(`expected ">"`)
		}
		if p.failed {
			return nil
		}
		return p.lookupTable(t.pos, name)
	case t.is("{"):
		kind, entries := p.entries()
		if p.failed {
			return nil
		}
		return p.addAnonymous(t.pos, kind, entries)
	case t.kind == tokString:
		p.take()
		if n := len(t.text); n > 2 && t.text[0] == '<' && t.text[n-1] == '>' && p.tables[t.text[1:n-1]] != nil {
			p.warnf(t.pos, "%s in quotes is a text, not the table: remove the quotes", t.describe())
		}
		return p.addAnonymous(t.pos, List, []Entry{{Key: t.text}})
	}
	p.syntaxError("expected a table: <name>, a string, or { ... }" + whyNoString(t))
	return nil
}

// lookupTable returns a declared table. The names of built-in tables may be
// written with their brackets in quotes or, unless a declared table has the
// name, without.
func (p *parser) lookupTable(pos policy.Position, name string) *Table {
	if t := p.tables[name]; t != nil {
		return t
	}
	if t := p.tables["<"+name+">"]; t != nil {
		return t
	}
	if !p.broken["table "+name] {
		p.errorf(pos, "unknown table <%s>: declare it above with \"table %s ...\"", cut(name), quote(cut(name)))
		p.broken["table "+name] = true
	}
	return nil
}

// addAnonymous makes a table of a value written where it is used.
func (p *parser) addAnonymous(pos policy.Position, kind TableKind, entries []Entry) *Table {
	t := &Table{
		Pos:     pos,
		Name:    fmt.Sprintf("<dynamic:%d>", p.anonymous),
		Backend: "static",
		Kind:    kind,
		Entries: entries,
	}
	p.anonymous++
	p.cfg.Tables = append(p.cfg.Tables, t)
	p.tables[t.Name] = t
	return t
}

// newlines skips newlines inside braces.
func (p *parser) newlines() {
	for !p.failed && p.peek().kind == tokNewline && !p.failed {
		p.take()
	}
}

// entries takes a list or map in braces. Elements are parted by a comma, by
// newlines, or by nothing; the first element decides which of the two it is.
func (p *parser) entries() (TableKind, []Entry) {
	kind := List
	var entries []Entry
	p.braced(func() {
		e := Entry{Key: p.str("a value or \"}\"")}
		if p.peek().is("=") || p.peek().is("=>") {
			if len(entries) > 0 && kind == List {
				p.syntaxError("the table began as a list of keys, so no key may have a value")
				return
			}
			kind = Map
			p.take()
			e.Value = p.str("the value of " + strconv.Quote(cut(e.Key)))
		} else if kind == Map {
			p.syntaxError(`the table began with "key = value", so each key needs a value`)
			return
		}
		entries = append(entries, e)
	})
	return kind, entries
}

// braced takes "{", elements read by one, and "}".
func (p *parser) braced(one func()) {
	if !p.acceptPunct("{") {
		p.syntaxError(`expected "{"`)
		return
	}
	p.newlines()
	if p.peek().is("}") {
		p.syntaxError("empty braces: at least one element is needed")
		return
	}
	for !p.failed {
		one()
		p.newlines()
		comma := p.acceptPunct(",")
		p.newlines()
		if p.peek().is("}") {
			if comma {
				p.syntaxError("remove the comma before it")
				return
			}
			p.take()
			return
		}
		if p.peek().kind == tokEOF {
			p.syntaxError(`expected "}"`)
			return
		}
	}
}
