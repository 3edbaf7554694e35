package sevenbit

// maxColumn is how far a line is filled before it is broken, in bytes; one "=" may
// follow (RFC 2045 section 6.7, rule 5).
const maxColumn = 75

// quoter makes quoted-printable text. The zero value begins one.
type quoter struct {
	column int
	blank  byte // held back: at the end of a line it needs quoting
}

// add appends text to dst.
func (q *quoter) add(dst, text []byte) []byte {
	for _, c := range text {
		if q.blank != 0 {
			dst = q.put(dst, q.blank, c == '\n')
			q.blank = 0
		}
		switch {
		case c == '\n':
			dst = append(dst, '\n')
			q.column = 0
		case c == ' ' || c == '\t':
			q.blank = c
		default:
			dst = q.put(dst, c, c < '!' || c > '~' || c == '=')
		}
	}
	return dst
}

// end appends what is held back.
func (q *quoter) end(dst []byte) []byte {
	if q.blank != 0 {
		dst = q.put(dst, q.blank, true)
		q.blank = 0
	}
	return dst
}

// put appends one byte, quoted or not, breaking the line before it where needed.
func (q *quoter) put(dst []byte, c byte, quoted bool) []byte {
	const digits = "0123456789ABCDEF"
	width := 1
	if quoted {
		width = 3
	}
	if q.column+width > maxColumn {
		dst = append(dst, '=', '\n')
		q.column = 0
	}
	q.column += width
	if quoted {
		return append(dst, '=', digits[c>>4], digits[c&15])
	}
	return append(dst, c)
}
