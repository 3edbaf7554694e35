// Package sevenbit makes a message fit for a server that takes 7-bit text only (RFC
// 6152 section 3): the parts that hold 8-bit bytes become quoted-printable (RFC
// 2045 section 6.7), whatever multiparts or forwarded messages they are in.
//
// A message is passed through twice. Scan finds out which parts need conversion,
// and whether it may be done at all; a Reader does it.
//
//	facts, err := sevenbit.Scan(r)
//	… // seek r to its start
//	io.Copy(w, sevenbit.NewReader(r, facts))
//
// Lines end with LF. Header fields are passed on as they are, but for
// Content-Transfer-Encoding: 8-bit bytes in them are the business of SMTPUTF8. Text
// in front of the first and behind the last part of a multipart, which nobody is
// meant to see, has its 8-bit bytes replaced by question marks.
package sevenbit

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"strings"
)

// Bounds of what is looked into. A message beyond them is not convertible.
const (
	maxHeader = 256 << 10 // bytes of the header of the message or of a part
	maxDepth  = 32        // of multiparts in multiparts
	maxParts  = 10000
)

// bufferSize holds the longest line that can be a boundary, in bytes.
const bufferSize = 4 << 10

// Facts are what Scan found out about a message.
type Facts struct {
	EightBitHeader bool // in the header of the message, not of its parts
	EightBitBody   bool
	// Convertible tells whether the body may become 7-bit text. A signature that
	// covers it (DKIM, multipart/signed) forbids it, as does an encoding that says it
	// is 7-bit text already.
	Convertible bool

	convert []bool // by part, in their order
}

// Scan reads a message to its end. An error is that of r.
func Scan(r io.Reader) (Facts, error) {
	m := newMachine(&Facts{Convertible: true}, true)
	b := bufio.NewReaderSize(r, bufferSize)
	for {
		if err := m.step(b); err == io.EOF {
			return *m.facts, nil
		} else if err != nil {
			return Facts{}, err
		}
	}
}

// Reader reads a message as 7-bit text.
type Reader struct {
	in   *bufio.Reader
	m    *machine
	used int // bytes of m.out that were read
	err  error
}

// NewReader returns a Reader of the message that r reads and Scan has read before.
func NewReader(r io.Reader, f Facts) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, bufferSize), m: newMachine(&f, false)}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for r.used == len(r.m.out) {
		if r.err != nil {
			return 0, r.err
		}
		r.used, r.m.out = 0, r.m.out[:0]
		r.err = r.m.step(r.in)
	}
	n := copy(p, r.m.out[r.used:])
	r.used += n
	return n, nil
}

// place says where in a message the machine is.
type place uint8

const (
	inHeader place = iota
	inPart         // in the body of a part without parts
	outside        // in front of the first or behind the last part of a multipart
)

// level is a multipart that the machine is in.
type level struct {
	boundary string // with its leading hyphens
	digest   bool   // parts are messages unless they say otherwise
	sealed   bool   // parts must not change
}

// machine takes a message apart, line by line.
type machine struct {
	facts   *Facts
	probing bool // only to find the facts
	out     []byte

	place  place
	inLine bool // the line has begun
	levels []level
	header []byte // of the entity whose header is being read
	first  bool   // it is that of the message itself
	whole  bool   // it is that of a message, if a forwarded one, not of a part
	nested int    // forwarded messages met so far
	part   int    // number of the current part
	plain  bool   // its encoding is one that quoted-printable can replace
	qp     quoter
}

func newMachine(f *Facts, probing bool) *machine {
	return &machine{facts: f, probing: probing, part: -1, first: true, whole: true}
}

// step takes one line, or a piece of a long one.
func (m *machine) step(b *bufio.Reader) error {
	p, err := b.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		err = nil
	}
	if len(p) > 0 {
		start := !m.inLine
		m.inLine = p[len(p)-1] != '\n'
		m.take(p, start)
	}
	if err == io.EOF {
		m.finish()
	}
	return err
}

// take takes a line or a piece of one; start is set where a line begins.
func (m *machine) take(p []byte, start bool) {
	if start && m.boundary(p) {
		return
	}
	switch m.place {
	case inHeader:
		if start && (p[0] == '\n' || len(m.header) > maxHeader) {
			m.endHeader(p)
			return
		}
		m.header = append(m.header, p...)
	case inPart:
		m.partText(p)
	case outside:
		if eightBit(p) {
			m.facts.EightBitBody = true
			if m.sealed() {
				m.facts.Convertible = false
			}
			if !m.probing {
				for _, c := range p {
					m.out = append(m.out, seven(c))
				}
			}
			return
		}
		m.emit(p)
	}
}

// partText takes text of a part.
func (m *machine) partText(p []byte) {
	switch {
	case m.probing:
		if eightBit(p) {
			m.facts.EightBitBody = true
			if !m.plain || m.sealed() || m.part >= maxParts {
				m.facts.Convertible = false
				return
			}
			m.facts.convert[m.part] = true
		}
	case m.converts():
		m.out = m.qp.add(m.out, p)
	default:
		m.emit(p)
	}
}

// converts tells whether the current part is to be converted.
func (m *machine) converts() bool {
	return m.part >= 0 && m.part < len(m.facts.convert) && m.facts.convert[m.part]
}

// finish takes the end of the message.
func (m *machine) finish() {
	switch {
	case m.place == inHeader:
		m.endHeader(nil)
	case m.place == inPart && m.converts():
		m.out = m.qp.end(m.out)
	}
}

// sealed tells whether what is being read must not change.
func (m *machine) sealed() bool {
	return len(m.levels) > 0 && m.levels[len(m.levels)-1].sealed
}

// boundary takes a line that ends a part (RFC 2046 section 5.1.1). That of an outer
// multipart ends all inside.
func (m *machine) boundary(line []byte) bool {
	if len(m.levels) == 0 || !bytes.HasPrefix(line, []byte("--")) || line[len(line)-1] != '\n' && len(line) >= bufferSize {
		return false
	}
	text := strings.TrimRight(string(line), " \t\r\n")
	for i := len(m.levels) - 1; i >= 0; i-- {
		last := text == m.levels[i].boundary+"--"
		if !last && text != m.levels[i].boundary {
			continue
		}
		if m.place == inHeader {
			m.endHeader(nil)
		}
		m.levels = m.levels[:i+1]
		m.place, m.whole = inHeader, false
		if last {
			m.levels = m.levels[:i]
			m.place = outside
		}
		m.emit(line)
		return true
	}
	return false
}

// endHeader takes the end of a header: the empty line, or the first of the body
// when the header is too large, or nothing where it ends with its part.
func (m *machine) endHeader(line []byte) {
	h := m.header
	m.header = m.header[:0]
	e := describe(h, !m.whole && m.levels[len(m.levels)-1].digest)
	if m.first && m.probing {
		m.facts.EightBitHeader = eightBit(h)
		if e.signed {
			m.facts.Convertible = false
		}
	}
	m.first = false
	complete := len(line) == 0 || line[0] == '\n'
	sealed := m.sealed() || e.sealed
	switch {
	case complete && e.boundary != "" && e.identity && len(m.levels) < maxDepth:
		m.levels = append(m.levels, level{boundary: "--" + e.boundary, digest: e.digest, sealed: sealed})
		m.place = outside
		m.emitHeader(h, e, "7bit")
	case complete && e.message && e.identity && m.nested < maxParts:
		m.nested++
		m.place, m.whole = inHeader, true
		m.emitHeader(h, e, "7bit")
	default:
		m.place = inPart
		m.plain = complete && e.identity && !e.composite
		m.qp = quoter{}
		if m.part++; m.probing && m.part < maxParts {
			m.facts.convert = append(m.facts.convert, false)
		}
		if m.converts() {
			m.emitHeader(h, e, "quoted-printable")
		} else {
			m.emit(h)
		}
	}
	switch {
	case complete:
		m.emit(line)
	case m.place == inPart:
		m.partText(line)
	}
}

// emit passes text on.
func (m *machine) emit(p []byte) {
	if !m.probing {
		m.out = append(m.out, p...)
	}
}

// emitHeader passes a header on with another encoding. Where the encoding was not
// declared, 7bit goes without saying.
func (m *machine) emitHeader(h []byte, e entity, encoding string) {
	if m.probing {
		return
	}
	found := false
	for f := range fields(h) {
		if !nameIs(f, encodingField) {
			m.out = append(m.out, f...)
			continue
		}
		if !found {
			m.out = append(m.out, encodingField+": "+encoding+"\n"...)
		}
		found = true
	}
	if found || encoding == "7bit" {
		return
	}
	if n := len(m.out); n > 0 && m.out[n-1] != '\n' {
		m.out = append(m.out, '\n')
	}
	if m.whole && !e.mime {
		m.out = append(m.out, "MIME-Version: 1.0\n"...)
		if !e.typed { // RFC 1428 section 3
			m.out = append(m.out, "Content-Type: text/plain; charset=unknown-8bit\n"...)
		}
	}
	m.out = append(m.out, encodingField+": "+encoding+"\n"...)
}

const encodingField = "Content-Transfer-Encoding"

// entity is what a header says of the body behind it.
type entity struct {
	signed    bool // by DKIM
	mime      bool // has MIME-Version
	typed     bool // has Content-Type
	identity  bool // the encoding is none
	composite bool // a multipart or message
	message   bool // message/rfc822
	digest    bool
	sealed    bool
	boundary  string
}

// describe reads a header. Without a type the body is a message in a digest, else
// text.
func describe(h []byte, digest bool) entity {
	e := entity{identity: true}
	encoded := false
	contentType := "text/plain"
	if digest {
		contentType = "message/rfc822"
	}
	for f := range fields(h) {
		switch {
		case nameIs(f, "DKIM-Signature"):
			e.signed = true
		case nameIs(f, "MIME-Version"):
			e.mime = true
		case nameIs(f, "Content-Type") && !e.typed:
			e.typed = true
			contentType = value(f)
		case nameIs(f, encodingField) && !encoded:
			encoded = true
			switch strings.ToLower(value(f)) {
			case "7bit", "8bit", "binary", "":
			default:
				e.identity = false
			}
		}
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		media = strings.TrimSpace(media)
	}
	if kind, sub, _ := strings.Cut(media, "/"); kind == "multipart" {
		e.composite = true
		e.digest = sub == "digest"
		e.sealed = sub == "signed" || sub == "encrypted"
		e.boundary = strings.TrimRight(params["boundary"], " \t")
	}
	e.message = media == "message/rfc822"
	e.composite = e.composite || e.message
	return e
}

// fields goes through the fields of a header, each with its folded lines.
func fields(h []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(h) > 0 {
			end := 0
			for {
				n := bytes.IndexByte(h[end:], '\n')
				if n < 0 {
					end = len(h)
					break
				}
				end += n + 1
				if end == len(h) || h[end] != ' ' && h[end] != '\t' {
					break
				}
			}
			if !yield(h[:end]) {
				return
			}
			h = h[end:]
		}
	}
}

// nameIs tells whether a field has this name.
func nameIs(field []byte, name string) bool {
	n := bytes.IndexByte(field, ':')
	return n >= 0 && strings.EqualFold(string(bytes.TrimRight(field[:n], " \t")), name)
}

// value returns the body of a field, unfolded.
func value(field []byte) string {
	_, v, _ := bytes.Cut(field, []byte{':'})
	return string(bytes.TrimSpace(bytes.ReplaceAll(v, []byte{'\n'}, nil)))
}

// eightBit tells whether p holds a byte above 127.
func eightBit(p []byte) bool {
	for _, c := range p {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// seven returns c, or a question mark in place of an 8-bit byte.
func seven(c byte) byte {
	if c >= 0x80 {
		return '?'
	}
	return c
}
