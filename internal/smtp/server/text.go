package server

import (
	"bytes"
)

// maxTextLine bounds a line of message text, in bytes without its end. RFC 5321
// section 4.5.3.1.6 asks for 998 at least.
const maxTextLine = 64 << 10

// textState says where in a line textReader stands.
type textState uint8

const (
	lineStart  textState = iota // behind CRLF, or at the very start
	afterDot                    // a dot at lineStart, not taken as text
	afterDotCR                  // the same and a CR
	inLine
	afterCR // a CR that may belong to a CRLF
)

// textReader turns message text as sent into text as stored: CRLF becomes LF, and
// for DATA the dot in front of a line goes (RFC 5321 section 4.5.2). Only CRLF .
// CRLF ends DATA, whatever else the text holds, so the server never sees an end
// where a careful sender saw none.
//
// A bare CR, a bare LF and a NUL are never passed on. They are noted, and the
// first two are repaired: a bare LF becomes a line end behind which a dot is
// text, CRs before a CRLF are dropped, other runs of bare CR become one space.
type textReader struct {
	chunked bool // BDAT: dots mean nothing, the length says where the end is
	state   textState
	length  int  // of the current line
	bare    bool // there was a bare CR or LF
	nul     bool // there was a NUL
	long    bool // there was a line beyond maxTextLine
}

// read appends the text in p to dst. For DATA it stops behind the end and returns
// what follows it in rest.
func (t *textReader) read(dst, p []byte) (text, rest []byte, done bool) {
	for len(p) > 0 {
		if t.state == lineStart && (p[0] != '.' || t.chunked) {
			var n int
			if dst, n = t.wholeLine(dst, p); n > 0 {
				p = p[n:]
				continue
			}
		}
		n := 0
		for n < len(p) {
			dst, done = t.step(dst, p[n])
			if n++; done {
				return dst, p[n:], true
			}
			if t.state == lineStart {
				break
			}
		}
		p = p[n:]
	}
	return dst, nil, false
}

// wholeLine takes a line that is complete in p and has nothing unusual in it. It
// returns the bytes of p used, 0 when the line is not of that kind.
func (t *textReader) wholeLine(dst, p []byte) ([]byte, int) {
	n := bytes.IndexByte(p, '\n')
	if n < 1 || n > maxTextLine || bytes.IndexByte(p[:n], '\r') != n-1 || bytes.IndexByte(p[:n], 0) >= 0 {
		return dst, 0
	}
	dst = append(dst, p[:n-1]...)
	return append(dst, '\n'), n + 1
}

// step takes one byte.
func (t *textReader) step(dst []byte, c byte) (text []byte, done bool) {
	switch t.state {
	case lineStart:
		if c == '.' && !t.chunked {
			t.state = afterDot
			return dst, false
		}
	case afterDot:
		if c == '\r' {
			t.state = afterDotCR
			return dst, false
		}
	case afterDotCR:
		if c == '\n' {
			return dst, true
		}
		t.state = afterCR
		fallthrough
	case afterCR:
		switch c {
		case '\n':
			return t.end(dst, lineStart), false
		case '\r':
			t.bare = true
			return dst, false
		}
		t.bare = true
		dst = t.put(dst, ' ')
	}
	switch c {
	case '\r':
		t.state = afterCR
	case '\n':
		t.bare = true
		dst = t.end(dst, inLine)
	default:
		dst = t.put(dst, c)
		t.state = inLine
	}
	return dst, false
}

// put takes a byte of text.
func (t *textReader) put(dst []byte, c byte) []byte {
	t.length++
	switch {
	case c == 0:
		t.nul = true
	case t.length > maxTextLine:
		t.long = true
	default:
		dst = append(dst, c)
	}
	return dst
}

// end ends a line.
func (t *textReader) end(dst []byte, next textState) []byte {
	t.state, t.length = next, 0
	return append(dst, '\n')
}

// close ends chunked text: a last line without an end gets one.
func (t *textReader) close(dst []byte) []byte {
	if t.state == afterCR {
		t.bare = true
	}
	if t.state == afterCR || t.length > 0 {
		dst = t.end(dst, lineStart)
	}
	return dst
}
