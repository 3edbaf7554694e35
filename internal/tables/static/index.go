package static

import (
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/table"
)

// index finds the first entry, in order, that fits a key of one service.
type index interface {
	find(key string) int32
}

// index returns the index of a service that matches by pattern.
func (t *Table) index(s table.Service) (index, error) {
	l, build := &t.domain, t.domainIndex
	switch s {
	case table.MailAddr:
		l, build = &t.mail, t.mailIndex
	case table.NetAddr:
		l, build = &t.net, t.netIndex
	case table.Regex:
		l, build = &t.regex, t.regexIndex
	}
	l.once.Do(func() { l.idx, l.err = build() })
	return l.idx, l.err
}

// first returns the smaller of two positions, where -1 is none.
func first(a, b int32) int32 {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// hit is the position of key in m, or -1.
func hit(m map[string]int32, key string) int32 {
	if i, ok := m[key]; ok {
		return i
	}
	return -1
}

// positions lists, by key in lower case, the first entry of each. key may change the
// key before that; nil leaves it.
func (t *Table) positions(key func(string) string) map[string]int32 {
	if key == nil {
		if t.lower {
			return t.exact
		}
		key = func(k string) string { return k }
	}
	m := make(map[string]int32, len(t.entries))
	for i, e := range t.entries {
		if k := key(strings.ToLower(e.Key)); !has(m, k) {
			m[k] = int32(i)
		}
	}
	return m
}

// domains matches names. "*" followed by a suffix that begins with a dot fits one
// label and the suffix, so it is found by hash as well.
type domains struct {
	exact map[string]int32
	globs []glob
}

type glob struct {
	pattern string
	pos     int32
}

// SuffixGlob tells whether a domain pattern is "*", or "*" and a suffix that begins
// with a dot: what a hash finds by the suffix of the name.
func SuffixGlob(p string) bool {
	return p == "*" || len(p) > 1 && p[0] == '*' && p[1] == '.' && strings.IndexByte(p[1:], '*') < 0
}

func (t *Table) domainIndex() (index, error) {
	d := &domains{exact: t.positions(nil)}
	for i, e := range t.entries {
		if strings.Contains(e.Key, "*") && !SuffixGlob(e.Key) {
			d.globs = append(d.globs, glob{e.Key, int32(i)})
		}
	}
	return d, nil
}

func (d *domains) find(key string) int32 {
	if key == "" {
		return -1
	}
	key = strings.ToLower(key)
	pos := first(hit(d.exact, key), hit(d.exact, "*"))
	if dot := strings.IndexByte(key, '.'); dot >= 0 {
		pos = first(pos, hit(d.exact, "*"+key[dot:]))
	}
	return firstGlob(d.globs, pos, func(p string) bool { return table.MatchDomain(p, key) })
}

// firstGlob tries the patterns that stand before pos.
func firstGlob(globs []glob, pos int32, match func(string) bool) int32 {
	for _, g := range globs {
		if pos >= 0 && g.pos > pos {
			break
		}
		if match(g.pattern) {
			return g.pos
		}
	}
	return pos
}

// addresses matches mail addresses.
type addresses struct {
	exact map[string]int32 // user@domain, user, @domain or "", in lower case
	globs []glob           // with a "*" in the domain, or an "@" in the user name
	delim string
}

func (t *Table) mailIndex() (index, error) {
	a := &addresses{delim: t.delim, exact: t.positions(func(k string) string {
		return strings.TrimSuffix(k, "@") // user@ is any address of the user
	})}
	for i, e := range t.entries {
		user, domain := table.SplitAddr(e.Key)
		if strings.Contains(domain, "*") || strings.Contains(user, "@") {
			a.globs = append(a.globs, glob{e.Key, int32(i)})
		}
	}
	return a, nil
}

func (a *addresses) find(key string) int32 {
	key = strings.ToLower(key)
	user, domain := table.SplitAddr(key)
	pos := hit(a.exact, "") // "@"
	if domain != "" {
		pos = first(pos, hit(a.exact, "@"+domain))
	}
	for i, u := range [2]string{user, table.CutTag(user, a.delim)} {
		if u == "" || i == 1 && u == user {
			continue
		}
		if !strings.Contains(u, "@") { // "a@b"@c is not a@b
			pos = first(pos, hit(a.exact, u))
		}
		if domain != "" {
			pos = first(pos, hit(a.exact, u+"@"+domain))
		}
	}
	return firstGlob(a.globs, pos, func(p string) bool { return table.MatchMailAddr(p, key, a.delim) })
}

// networks matches addresses. Networks of one length are found by hash, so a key
// costs one try for each length in use.
type networks struct {
	exact map[string]int32
	nets  map[netip.Prefix]int32
	bits4 []int
	bits6 []int
}

func (t *Table) netIndex() (index, error) {
	n := &networks{exact: t.positions(nil), nets: map[netip.Prefix]int32{}}
	var seen4, seen6 [129]bool
	for i, e := range t.entries {
		p, ok := table.ParsePrefix(e.Key)
		if !ok {
			continue
		}
		if _, dup := n.nets[p]; dup {
			continue
		}
		n.nets[p] = int32(i)
		if b := p.Bits(); p.Addr().Is4() && !seen4[b] {
			seen4[b] = true
			n.bits4 = append(n.bits4, b)
		} else if p.Addr().Is6() && !seen6[b] {
			seen6[b] = true
			n.bits6 = append(n.bits6, b)
		}
	}
	return n, nil
}

func (n *networks) find(key string) int32 {
	pos := hit(n.exact, strings.ToLower(key))
	a, ok := table.ParseAddr(key)
	if !ok {
		return pos
	}
	bits := n.bits6
	if a.Is4() {
		bits = n.bits4
	}
	for _, b := range bits {
		p, _ := a.Prefix(b)
		if i, ok := n.nets[p]; ok {
			pos = first(pos, i)
		}
	}
	return pos
}

// patterns matches regular expressions, one after the other.
type patterns []*table.Pattern

func (t *Table) regexIndex() (index, error) {
	list := make(patterns, len(t.entries))
	for i, e := range t.entries {
		p, err := table.CompileRegex(e.Key)
		if err != nil {
			return nil, &PatternError{Line: e.Line, Err: err}
		}
		list[i] = p
	}
	return list, nil
}

func (l patterns) find(key string) int32 {
	for i, p := range l {
		if p.Match(key) {
			return int32(i)
		}
	}
	return -1
}
