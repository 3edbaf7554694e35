package submit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// Bounds, in bytes.
const (
	maxHeader = 1 << 20   // of the header block, as the server's
	maxName   = 998       // of a field name
	maxMemory = 256 << 10 // of a message that is kept in memory
	readSize  = 64 << 10  // of one read
)

// ErrHeaderTooLarge says that the header block exceeds 1 MiB.
var ErrHeaderTooLarge = errors.New("header of the message is too large")

// Message is a message as a program wrote it. Its header block is in memory, its
// body is read again from where the message is kept. The file may change meanwhile:
// what is sent is one message all the same.
type Message struct {
	raw    io.ReaderAt
	size   int64 // bytes, as read
	body   int64 // offset of the body
	fields []field
	file   *os.File // to be closed; nil when in memory or the caller's

	long     bool  // a line of the body exceeds maxLine
	unclean  bool  // a NUL or a carriage return that ends no line, in the body
	eightBit bool  // a byte above 127, in header or body
	utf8     bool  // the body is valid UTF-8
	bareLF   int64 // lines of the body that end without CR
}

// field is a header field: its lines with LF ends, at least one.
type field struct {
	name string
	text []byte
}

// Read takes a message from a program until its end. Beyond 256 KiB it goes to a
// file without a name in the directory for temporary files.
func Read(r io.Reader) (*Message, error) {
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, maxMemory+1)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read message: %w", err)
	}
	if err == io.EOF {
		return Scan(bytes.NewReader(head.Bytes()), n)
	}
	f, err := os.CreateTemp("", "sendmail.")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		if _, err = f.Write(head.Bytes()); err == nil {
			var more int64
			more, err = io.Copy(f, r)
			n += more
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read message: %w", err)
	}
	m, err := Scan(f, n)
	if err != nil {
		f.Close()
		return nil, err
	}
	m.file = f
	return m, nil
}

// Scan looks through a message of size bytes that starts at offset 0 of raw. raw
// stays the caller's and is read as long as the Message is used.
func Scan(raw io.ReaderAt, size int64) (*Message, error) {
	m := &Message{raw: raw, size: size, utf8: true}
	if err := m.readHeader(bufio.NewReaderSize(io.NewSectionReader(raw, 0, size), readSize)); err != nil {
		return nil, err
	}
	return m, m.scanBody()
}

// Close releases what Read took.
func (m *Message) Close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// Raw returns the message as it was read.
func (m *Message) Raw() io.Reader { return io.NewSectionReader(m.raw, 0, m.size) }

// readHeader takes the header block apart. The first line that is neither a field
// nor the rest of one begins the body.
func (m *Message) readHeader(br *bufio.Reader) error {
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read message: %w", err)
		}
		n := int64(len(line))
		text := cleanLine(line)
		switch {
		case len(line) == 0:
			return nil
		case first && bytes.HasPrefix(line, []byte("From ")):
			m.body += n
			continue
		case len(text) == 0: // the empty line
			m.body += n
			return nil
		case (text[0] == ' ' || text[0] == '\t') && len(m.fields) > 0:
		default:
			name := fieldName(text)
			if name == "" {
				return nil
			}
			m.fields = append(m.fields, field{name: name})
		}
		if m.body += n; m.body > maxHeader || err == bufio.ErrBufferFull {
			return ErrHeaderTooLarge
		}
		f := &m.fields[len(m.fields)-1]
		f.text = append(append(f.text, text...), '\n')
		m.eightBit = m.eightBit || !isASCII(text)
	}
}

// cleanLine returns a header line without its end, and with blanks for carriage
// returns inside and NULs.
func cleanLine(line []byte) []byte {
	line = bytes.TrimRight(bytes.TrimSuffix(line, []byte("\n")), "\r")
	if bytes.IndexByte(line, '\r') < 0 && bytes.IndexByte(line, 0) < 0 {
		return line
	}
	line = bytes.Clone(line)
	for i, c := range line {
		if c == '\r' || c == 0 {
			line[i] = ' '
		}
	}
	return line
}

// fieldName returns the name of the field that line begins, or "".
func fieldName(line []byte) string {
	n := bytes.IndexByte(line[:min(len(line), maxName+1)], ':')
	if n <= 0 {
		return ""
	}
	name := bytes.TrimRight(line[:n], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return string(name)
}

// scanBody notes what SMTP would not carry.
func (m *Message) scanBody() error {
	br := bufio.NewReaderSize(io.NewSectionReader(m.raw, m.body, m.size-m.body), readSize)
	var length int // of the current line
	var tail []byte
	for {
		line, err := br.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read message: %w", err)
		}
		ended := err == nil
		text := line
		if ended || err == io.EOF {
			text = bytes.TrimRight(bytes.TrimSuffix(line, []byte("\n")), "\r")
		}
		length += len(text)
		m.long = m.long || length > maxLine
		m.unclean = m.unclean || bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, 0) >= 0
		if !isASCII(line) {
			m.eightBit = true
			tail = m.checkUTF8(tail, line)
		} else if len(tail) > 0 {
			m.utf8, tail = false, tail[:0]
		}
		if ended {
			length = 0
			if !bytes.HasSuffix(line, []byte("\r\n")) {
				m.bareLF++
			}
		}
		if err == io.EOF {
			m.utf8 = m.utf8 && len(tail) == 0
			return nil
		}
	}
}

// checkUTF8 looks at the next part of the body and returns the beginning of a
// character that may go on in the part that follows.
func (m *Message) checkUTF8(tail, part []byte) []byte {
	if len(tail) > 0 {
		part = append(tail, part...)
	}
	end := len(part)
	for i := 1; i <= min(len(part), utf8.UTFMax-1); i++ {
		if utf8.RuneStart(part[len(part)-i]) {
			if !utf8.FullRune(part[len(part)-i:]) {
				end = len(part) - i
			}
			break
		}
	}
	m.utf8 = m.utf8 && utf8.Valid(part[:end])
	return bytes.Clone(part[end:])
}

// isASCII tells whether b has no byte above 127.
func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// value returns the value of the first field of a name, line ends included.
func (m *Message) value(name string) (string, bool) {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			return f.value(), true
		}
	}
	return "", false
}

// value returns what stands behind the colon.
func (f field) value() string {
	_, v, _ := strings.Cut(string(f.text), ":")
	return v
}

// recipientFields returns the values of the fields that name recipients.
func (m *Message) recipientFields() []string {
	var plain, resent []string
	block := map[string]bool{} // the first block of Resent fields
	ended := false
	for _, f := range m.fields {
		name := strings.ToLower(f.name)
		isResent := strings.HasPrefix(name, "resent-")
		ended = ended || len(block) > 0 && !isResent || block[name]
		if isResent {
			block[name] = true
		}
		switch name {
		case "to", "cc", "bcc":
			plain = append(plain, f.value())
		case "resent-to", "resent-cc", "resent-bcc":
			if !ended {
				resent = append(resent, f.value())
			}
		}
	}
	if len(resent) > 0 {
		return resent
	}
	return plain
}
