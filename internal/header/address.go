package header

// span is one address in the value of an address field: value[start:end] is what
// stands between its angle brackets or, without them, the whole of it.
type span struct {
	start, end int
	qualified  bool // it has an @
	words      int  // more than one without angle brackets: no address
}

// spans finds the addresses of an address-list (RFC 5322 section 3.4). It returns
// ok false for what it leaves alone: groups, and quotes, comments or brackets that
// do not close.
func spans(value []byte) (list []span, ok bool) {
	var (
		cur    = span{start: -1}
		angle  bool // inside <>
		angled bool // the current address has had its <>
		quoted bool
		depth  int // of comments
		inWord bool
	)
	end := func() {
		if cur.start >= 0 && cur.end > cur.start {
			list = append(list, cur)
		}
		cur, angled, inWord = span{start: -1}, false, false
	}
	take := func(i int) { // value[i] belongs to an address
		if angled {
			return
		}
		if cur.start < 0 {
			cur.start = i
		}
		if !inWord {
			cur.words++
			inWord = true
		}
		cur.end = i + 1
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\' && (quoted || depth > 0):
			if i++; quoted {
				take(i)
			}
		case quoted:
			quoted = c != '"'
			take(i)
		case c == '(':
			depth++
			inWord = false
		case c == ')':
			if depth--; depth < 0 {
				return nil, false
			}
		case depth > 0:
		case c == '"':
			quoted = true
			take(i)
		case c == ' ' || c == '\t' || c == '\n':
			inWord = false
		case c == '<':
			if angle || angled {
				return nil, false
			}
			angle, inWord = true, false
			cur = span{start: -1}
		case c == '>':
			if !angle {
				return nil, false
			}
			angle, angled = false, true
			cur.words = min(cur.words, 1)
		case angle:
			cur.qualified = cur.qualified || c == '@'
			take(i)
		case c == ':' || c == ';':
			return nil, false
		case c == ',':
			end()
		default:
			cur.qualified = cur.qualified || c == '@' && !angled
			take(i)
		}
	}
	if angle || quoted || depth > 0 {
		return nil, false
	}
	end()
	return list, true
}

// complete appends value with "@host" behind each address that has no domain.
func complete(dst, value []byte, host string) []byte {
	list, _ := spans(value)
	done := 0
	for _, s := range list {
		if s.qualified || s.words != 1 || host == "" {
			continue
		}
		dst = append(dst, value[done:s.end]...)
		dst = append(append(dst, '@'), host...)
		done = s.end
	}
	return append(dst, value[done:]...)
}

// masquerade appends value with each address replaced. A value that is not
// understood, or holds none, is replaced as a whole: the point is that no other
// address is claimed.
func masquerade(dst, value []byte, addr string) []byte {
	list, ok := spans(value)
	if !ok || len(list) == 0 {
		return append(append(append(dst, " <"...), addr...), ">\n"...)
	}
	done := 0
	for _, s := range list {
		dst = append(dst, value[done:s.start]...)
		dst = append(dst, addr...)
		done = s.end
	}
	return append(dst, value[done:]...)
}
