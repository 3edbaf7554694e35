package client

import "bytes"

// encoder turns message text with LF line ends into what goes over the wire. The
// zero value begins a message.
//
// Only CRLF leaves as a line end. A CR that stands elsewhere becomes a blank, as
// servers differ in what they make of one, down to where the message ends.
type encoder struct {
	inLine bool // the last byte was not a line end
	cr     bool // a CR is held back
}

// add appends text to dst. Dots at the beginning of lines are doubled if stuff is
// set (RFC 5321 section 4.5.2).
func (e *encoder) add(dst, text []byte, stuff bool) []byte {
	for len(text) > 0 {
		if e.cr {
			if e.cr = false; text[0] != '\n' {
				dst = e.part(dst, []byte{' '}, stuff)
			}
		}
		line, more := text, false
		if n := bytes.IndexByte(text, '\n'); n >= 0 {
			line, text, more = text[:n], text[n+1:], true
		} else {
			text = nil
		}
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line, e.cr = line[:n-1], !more
		}
		dst = e.part(dst, line, stuff)
		if more {
			dst = append(dst, '\r', '\n')
			e.inLine = false
		}
	}
	return dst
}

// part appends a part of a line.
func (e *encoder) part(dst, p []byte, stuff bool) []byte {
	if len(p) == 0 {
		return dst
	}
	if stuff && !e.inLine && p[0] == '.' {
		dst = append(dst, '.')
	}
	e.inLine = true
	start := len(dst)
	dst = append(dst, p...)
	for from := start; ; {
		n := bytes.IndexByte(dst[from:], '\r')
		if n < 0 {
			return dst
		}
		dst[from+n] = ' '
		from += n + 1
	}
}

// end appends what makes the last line complete.
func (e *encoder) end(dst []byte) []byte {
	if e.inLine || e.cr {
		dst = append(dst, '\r', '\n')
	}
	*e = encoder{}
	return dst
}
