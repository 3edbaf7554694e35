package filter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// ErrTooBig says that a message is longer than Filter.MaxMessage.
var ErrTooBig = errors.New("message too big")

// Message is a whole message: what the daemon sent and the changes that are made to
// it. It is to be used during the call it is given to. What is not changed goes on byte
// for byte.
type Message struct {
	text    store
	added   []byte // fields put in front, lines ending with CRLF
	removed []removal
	opt     *Filter // limits
}

// removal is a kind of field to be left out.
type removal struct {
	name  string
	match func(value string) bool
}

// Size returns the length in bytes, with lines ending with CRLF, before changes.
func (m *Message) Size() int64 { return m.text.size }

// Reader returns a reader on the message as it came, with lines ending with CRLF, or
// on what Replace put in its place. Each is independent of others.
func (m *Message) Reader() *io.SectionReader {
	return io.NewSectionReader(&m.text, 0, m.text.size)
}

// Values returns the values of the header fields of that name, in their order, each
// without line ends and the white space around it.
func (m *Message) Values(name string) []string {
	var values []string
	_ = m.fields(func(field []byte) error { // what cannot be read is reported when it is sent
		if n, v, ok := splitField(field); ok && strings.EqualFold(n, name) {
			values = append(values, v)
		}
		return nil
	})
	return values
}

// Prepend puts a header field in front of all others. The value may have line ends; a
// line of it that does not begin with white space is given a tab. A message gets the
// field that was prepended last as its first.
func (m *Message) Prepend(name, value string) {
	var b strings.Builder
	b.WriteString(oneLine(name))
	b.WriteString(": ")
	for i, line := range strings.Split(strings.TrimRight(value, "\r\n"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if i > 0 {
			b.WriteString("\r\n")
			if line == "" || line[0] != ' ' && line[0] != '\t' {
				b.WriteByte('\t')
			}
		}
		b.WriteString(line)
	}
	b.WriteString("\r\n")
	m.added = append([]byte(b.String()), m.added...)
}

// Remove leaves out the header fields of that name for which match is true; all of
// them when match is nil. It does not touch what Prepend added.
func (m *Message) Remove(name string, match func(value string) bool) {
	m.removed = append(m.removed, removal{name, match})
}

// Replace puts the content of r in the place of the message; lines may end with LF or
// CRLF. It reads r to its end. On an error, such as ErrTooBig, the message stays as
// it was.
func (m *Message) Replace(r io.Reader) error {
	next := store{memory: m.opt.messageMemory(), most: m.opt.maxMessage(), dir: m.opt.TempDir}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadSlice('\n')
		partial := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !partial && !errors.Is(err, io.EOF) {
			next.close()
			return err
		}
		if errors.Is(err, io.EOF) && len(line) == 0 {
			m.text.close()
			m.text = next
			return nil
		}
		if !partial {
			line = bytes.TrimSuffix(line, []byte{'\n'})
		}
		if partial && line[len(line)-1] == '\r' { // the LF may be next
			line = line[:len(line)-1]
			if err := in.UnreadByte(); err != nil {
				next.close()
				return err
			}
		}
		end := "\r\n"
		if partial {
			end = ""
		} else {
			line = bytes.TrimSuffix(line, []byte{'\r'})
		}
		if err := next.write(line, end); err != nil {
			next.close()
			return err
		}
	}
}

// maxHeader bounds what Header returns, in bytes.
const maxHeader = 1 << 20

// Header returns the header fields as they came, each with its line ends (CRLF), and
// a reader on the body. A header of more than 1 MiB is ErrTooBig.
func (m *Message) Header() (fields []string, body *io.SectionReader, err error) {
	size := int64(0)
	next, err := eachField(m.lines(), func(field []byte) error {
		if size += int64(len(field)); size > maxHeader {
			return ErrTooBig
		}
		fields = append(fields, string(field))
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if string(next) == "\r\n" {
		size += 2
	}
	return fields, io.NewSectionReader(m.Reader(), size, m.Size()-size), nil
}

// fields calls f with each header field, its lines with their ends.
func (m *Message) fields(f func(field []byte) error) error {
	_, err := eachField(m.lines(), f)
	return err
}

// lines returns a reader that holds the longest line the daemon sends.
func (m *Message) lines() *bufio.Reader {
	return bufio.NewReaderSize(m.Reader(), int(min(m.text.size, wire.MaxText)+2))
}

// maxField bounds a header field that can be matched, in bytes; a longer one is cut
// into pieces that belong to no name.
const maxField = 256 << 10

// eachField calls f with each field of the header at the start of r. It returns the
// line behind the last field, if there is one: the empty line, or what is no field.
func eachField(r *bufio.Reader, f func(field []byte) error) (next []byte, err error) {
	var field []byte
	for {
		line, err := readLine(r)
		if len(line) == 0 {
			if len(field) > 0 {
				if err := f(field); err != nil {
					return nil, err
				}
			}
			return nil, err
		}
		continued := line[0] == ' ' || line[0] == '\t'
		if continued && len(field) > 0 && len(field)+len(line) <= maxField {
			field = append(field, line...)
			continue
		}
		if len(field) > 0 {
			if err := f(field); err != nil {
				return nil, err
			}
		}
		if field = field[:0]; !continued && bytes.IndexByte(line, ':') <= 0 {
			return line, nil
		}
		field = append(field, line...)
	}
}

// readLine returns the next line with its end, or what there is of it in a full
// buffer; nothing at the end of r.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if len(line) > 0 || errors.Is(err, io.EOF) {
		return line, nil
	}
	return nil, err
}

// splitField returns the name and the unfolded value of a field.
func splitField(field []byte) (name, value string, ok bool) {
	n, v, ok := bytes.Cut(field, []byte{':'})
	if !ok {
		return "", "", false
	}
	v = bytes.ReplaceAll(v, []byte("\r\n"), nil)
	return strings.TrimRight(string(n), " \t"), strings.TrimSpace(string(v)), true
}

// leaveOut tells whether a field was removed.
func (m *Message) leaveOut(field []byte) bool {
	for _, r := range m.removed {
		if name, value, ok := splitField(field); ok && strings.EqualFold(name, r.name) && (r.match == nil || r.match(value)) {
			return true
		}
	}
	return false
}

// send writes the message with its changes.
func (m *Message) send(out *Lines) error {
	for line := range bytes.Lines(m.added) {
		out.one(bytes.TrimSuffix(line, []byte("\r\n")))
	}
	r := m.lines()
	if len(m.removed) > 0 {
		next, err := eachField(r, func(field []byte) error {
			if m.leaveOut(field) {
				return nil
			}
			for line := range bytes.Lines(field) {
				out.one(bytes.TrimSuffix(line, []byte("\r\n")))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(next) > 0 {
			out.one(bytes.TrimSuffix(next, []byte("\r\n")))
		}
	}
	return sendLines(r, out)
}

// sendLines writes the rest of r.
func sendLines(r *bufio.Reader, out *Lines) error {
	for {
		line, err := readLine(r)
		if len(line) == 0 {
			return err
		}
		out.one(bytes.TrimSuffix(line, []byte("\r\n")))
	}
}

func (f *Filter) maxMessage() int64 {
	if f.MaxMessage > 0 {
		return f.MaxMessage
	}
	return defaultMaxMessage
}

func (f *Filter) messageMemory() int {
	if f.MessageMemory > 0 {
		return f.MessageMemory
	}
	return defaultMessageMemory
}

// inMessage is the message that a session is receiving.
type inMessage struct {
	m       *Message
	waiting *Message // complete, for its verdict to be made
	passing bool     // it cannot be kept: lines go on as they come
	verdict Verdict  // the answer at commit
}

// add keeps a line. If that fails, what was kept goes on, and so do the lines to come;
// the message is refused at commit.
func (in *inMessage) add(s *Session, line []byte, out *Lines) {
	if in.passing {
		out.one(line)
		return
	}
	if in.m == nil {
		in.drop() // what nobody waits for any more
		opt := s.c.f
		in.m = &Message{opt: opt, text: store{memory: opt.messageMemory(), most: opt.maxMessage(), dir: opt.TempDir}}
	}
	err := in.m.text.write(line, "\r\n")
	if err == nil {
		return
	}
	in.giveUp(s, err)
	if err := in.m.send(out); err != nil {
		s.Logf("keep message: %v", err)
	}
	out.one(line)
	in.m.text.close()
	in.m = nil
}

// giveUp has the message refused at commit.
func (in *inMessage) giveUp(s *Session, err error) {
	in.passing = true
	if errors.Is(err, ErrTooBig) {
		in.verdict = Reject(552, "5.3.4", "Message too big for a filter")
		return
	}
	s.Logf("keep message: %v", err)
	in.verdict = Reject(451, "4.3.0", "Temporary failure of a filter")
}

// drop forgets a message that will not be completed, and its verdict.
func (in *inMessage) drop() {
	for _, m := range []*Message{in.m, in.waiting} {
		if m != nil {
			m.text.close()
		}
	}
	*in = inMessage{}
}

// messageEnd shows the message to the filter and sends it on.
func (s *Session) messageEnd(out *Lines) {
	in := &s.message
	if in.passing {
		in.passing = false
		out.end()
		return
	}
	m := in.m
	if m == nil { // without a line
		in.drop()
		m = &Message{opt: s.c.f}
	}
	in.m = nil
	s.settle(m, out, s.f.Message(s, m))
}

// settle sends the message on when the verdict on it is made.
func (s *Session) settle(m *Message, out *Lines, v Verdict) {
	in, token := &s.message, out.token
	if v.later != nil {
		in.waiting = m
		v.later.to(func(v Verdict) {
			s.c.resume(s, func() {
				if in.waiting == m { // else it was given up
					out.token = token
					s.settle(m, out, v)
				}
			})
		})
		return
	}
	in.waiting = nil
	if v.kind == wire.VerdictJunk {
		m.Prepend("X-Spam", "Yes")
		v = Proceed()
	}
	in.verdict = v
	if err := m.send(out); err != nil {
		in.giveUp(s, err)
		in.passing = false
	}
	m.text.close()
	out.end()
}

// store keeps bytes: the first in memory, more in a file.
type store struct {
	memory int    // bytes kept in memory
	most   int64  // bytes kept at all
	dir    string // of the file

	size int64
	mem  []byte
	file *os.File
	buf  *bufio.Writer // on file
}

// write adds line and end.
func (st *store) write(line []byte, end string) error {
	n := len(line) + len(end)
	if st.size+int64(n) > st.most {
		return ErrTooBig
	}
	if st.file == nil && len(st.mem)+n > st.memory {
		if err := st.spill(); err != nil {
			return err
		}
	}
	if st.file == nil {
		st.mem = append(append(st.mem, line...), end...)
		st.size += int64(n)
		return nil
	}
	if _, err := st.buf.Write(line); err != nil {
		return err
	}
	if _, err := st.buf.WriteString(end); err != nil {
		return err
	}
	st.size += int64(n)
	return nil
}

// spill opens the file, for what does not fit into memory.
func (st *store) spill() error {
	f, err := os.CreateTemp(st.dir, "filter-*")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return fmt.Errorf("temporary file: %w", err)
	}
	st.file, st.buf = f, bufio.NewWriterSize(f, maxRun)
	return nil
}

// ReadAt implements io.ReaderAt.
func (st *store) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(st.mem)) {
		n = copy(p, st.mem[off:])
		if n == len(p) || st.file == nil {
			return n, eofIf(n < len(p))
		}
	} else if st.file == nil {
		return 0, io.EOF
	}
	if st.buf.Buffered() > 0 {
		if err := st.buf.Flush(); err != nil {
			return n, err
		}
	}
	k, err := st.file.ReadAt(p[n:], off+int64(n)-int64(len(st.mem)))
	return n + k, err
}

func eofIf(short bool) error {
	if short {
		return io.EOF
	}
	return nil
}

func (st *store) close() {
	if st.file != nil {
		_ = st.file.Close() // it has no name: there is nothing to lose
	}
	*st = store{}
}

// oneLine makes text safe for a line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == ':' {
			return '-'
		}
		return r
	}, text)
}
