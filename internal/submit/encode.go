package submit

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"
)

const (
	maxLine = 990 // bytes of a line that is sent as it is
	hardMax = 998 // RFC 5322 section 2.1.1
)

// encoding says how the body is sent.
type encoding uint8

const (
	asIs    encoding = iota
	quoted           // as quoted-printable
	brokeUp          // long lines broken, carriage returns made blanks
)

// encoding returns how the body has to be sent.
func (m *Message) encoding() encoding {
	if !m.long && !m.unclean {
		return asIs
	}
	kind, _ := m.value("Content-Type")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "message/") {
		return brokeUp
	}
	transfer, _ := m.value("Content-Transfer-Encoding")
	switch strings.ToLower(strings.TrimSpace(transfer)) {
	case "", "7bit", "8bit", "binary":
		return quoted
	}
	return brokeUp
}

// needsEightBit tells whether the message as sent has bytes above 127.
func (m *Message) needsEightBit() bool {
	if m.encoding() != quoted {
		return m.eightBit
	}
	for _, f := range m.fields {
		if !isASCII(f.text) {
			return true
		}
	}
	return false
}

// declared returns the SIZE parameter (RFC 1870), or "" where encoding makes it hard
// to tell.
func (m *Message) declared() string {
	if m.encoding() != asIs {
		return ""
	}
	return fmt.Sprintf(" SIZE=%d", m.size+m.bareLF+int64(len(m.fields)))
}

// writeTo sends the message in wire form, short of the final dot. extra is put in
// front of the header.
func (m *Message) writeTo(out *bufio.Writer, extra []byte) error {
	if err := m.writeHead(out, extra); err != nil {
		return err
	}
	w := &stuffer{w: out}
	if err := w.line(nil); err != nil {
		return err
	}
	body := io.NewSectionReader(m.raw, m.body, m.size-m.body)
	if m.encoding() == quoted {
		return writeQuoted(w, body)
	}
	return writeLines(w, bufio.NewReaderSize(body, readSize))
}

// writeHead sends the header only.
func (m *Message) writeHead(out *bufio.Writer, extra []byte) error {
	w := &stuffer{w: out}
	if err := w.block(extra); err != nil {
		return err
	}
	return m.writeHeader(w, m.encoding())
}

// writeHeader sends the fields that stay.
func (m *Message) writeHeader(w *stuffer, how encoding) error {
	_, mime := m.value("MIME-Version")
	_, kind := m.value("Content-Type")
	for _, f := range m.fields {
		switch strings.ToLower(f.name) {
		case "return-path", "bcc", "resent-bcc":
			continue
		case "content-transfer-encoding":
			if how == quoted {
				continue
			}
		}
		if err := w.block(f.text); err != nil {
			return err
		}
	}
	if how != quoted {
		return nil
	}
	var add string
	if !mime {
		add = "MIME-Version: 1.0\n"
	}
	if !kind {
		add += "Content-Type: text/plain; charset=" + m.charset() + "\n"
	}
	return w.block([]byte(add + "Content-Transfer-Encoding: quoted-printable\n"))
}

// charset names what the body is written in, as far as bytes tell (RFC 1428 section
// 3 for the unknown).
func (m *Message) charset() string {
	switch {
	case !m.eightBit:
		return "us-ascii"
	case m.utf8:
		return "utf-8"
	}
	return "unknown-8bit"
}

// stuffer writes lines with CRLF ends and a dot more in front of those that begin
// with one (RFC 5321 section 4.5.2).
type stuffer struct{ w *bufio.Writer }

// line writes a line that has no line end in it.
func (w *stuffer) line(text []byte) error {
	if len(text) > 0 && text[0] == '.' {
		if err := w.w.WriteByte('.'); err != nil {
			return err
		}
	}
	if _, err := w.w.Write(text); err != nil {
		return err
	}
	_, err := w.w.WriteString("\r\n")
	return err
}

// block writes lines that end with LF, those of header fields: what is too long is
// folded at a blank where there is one (RFC 5322 section 2.2.3).
func (w *stuffer) block(lines []byte) error {
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n')
		text := lines[:n]
		lines = lines[n+1:]
		for len(text) > hardMax {
			n := bytes.LastIndexAny(text[1:hardMax], " \t") + 1
			if n <= 1 || len(bytes.Trim(text[:n], " \t")) == 0 || len(bytes.Trim(text[n:], " \t")) == 0 {
				break
			}
			if err := w.line(text[:n]); err != nil {
				return err
			}
			text = text[n:]
		}
		if err := w.line(text); err != nil {
			return err
		}
	}
	return nil
}

// writeLines sends the body line by line. Lines beyond hardMax are broken.
func writeLines(w *stuffer, br *bufio.Reader) error {
	var rest []byte // of a line whose end was not read yet
	for {
		part, err := br.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read message: %w", err)
		}
		if len(rest) > 0 {
			part = append(rest, part...)
		}
		if err == bufio.ErrBufferFull {
			if part, err = breakUp(w, part); err != nil {
				return err
			}
			rest = append(rest[:0], part...)
			continue
		}
		if err == io.EOF && len(part) == 0 {
			return nil
		}
		text, werr := breakUp(w, bytes.TrimRight(bytes.TrimSuffix(part, []byte("\n")), "\r"))
		if werr == nil {
			werr = w.line(blankCR(text))
		}
		if werr != nil || err == io.EOF {
			return werr
		}
		rest = rest[:0]
	}
}

// breakUp sends the beginning of a long line in pieces and returns the last piece.
func breakUp(w *stuffer, text []byte) ([]byte, error) {
	for len(text) > hardMax {
		n := bytes.LastIndexAny(text[:hardMax], " \t") + 1
		if n == 0 {
			n = hardMax
			for i := 1; i < utf8.UTFMax && !utf8.RuneStart(text[n]); i++ {
				n--
			}
		}
		if err := w.line(blankCR(text[:n])); err != nil {
			return nil, err
		}
		text = text[n:]
	}
	return text, nil
}

// blankCR returns text with blanks for carriage returns.
func blankCR(text []byte) []byte {
	if bytes.IndexByte(text, '\r') < 0 {
		return text
	}
	return bytes.ReplaceAll(text, []byte("\r"), []byte(" "))
}

// writeQuoted sends the body as quoted-printable. A carriage return inside a line
// becomes a line end.
func writeQuoted(w *stuffer, r io.Reader) error {
	lw := &lineWriter{w: w}
	qp := quotedprintable.NewWriter(lw)
	in, out := make([]byte, 8<<10), make([]byte, 0, 16<<10)
	held := false // a carriage return, which may belong to a line end
	for {
		n, err := r.Read(in)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read message: %w", err)
		}
		out = out[:0]
		for _, c := range in[:n] {
			if c == '\r' {
				held = true
				continue
			}
			if held && c != '\n' {
				out = append(out, '\n')
			}
			held = false
			out = append(out, c)
		}
		if _, err := qp.Write(out); err != nil {
			return err
		}
		if err == io.EOF {
			break
		}
	}
	if err := qp.Close(); err != nil {
		return err
	}
	return lw.finish()
}

// lineWriter cuts a stream into the lines of a stuffer. It holds one line, which
// the quoted-printable writer keeps short.
type lineWriter struct {
	w    *stuffer
	held []byte
}

// Write takes text whose lines end with CRLF.
func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.held = append(l.held, p...)
			return n, nil
		}
		l.held = append(l.held, p[:i]...)
		if err := l.w.line(bytes.TrimSuffix(l.held, []byte("\r"))); err != nil {
			return 0, err
		}
		l.held = l.held[:0]
		p = p[i+1:]
	}
}

// finish writes a last line without end.
func (l *lineWriter) finish() error {
	if len(l.held) == 0 {
		return nil
	}
	return l.w.line(l.held)
}
