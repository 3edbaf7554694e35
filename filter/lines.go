package filter

import (
	"bytes"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Lines takes the lines of a message that go on. It is to be used during the call it
// is given to.
type Lines struct {
	s     *Session
	token uint64
}

// Line writes a line without its end; a dot in front is stuffed by the library. If
// there are line ends in it, LF or CRLF, it is several lines. A line of more than
// 64 KiB is broken.
func (l *Lines) Line(line []byte) {
	for {
		i := bytes.IndexByte(line, '\n')
		if i < 0 {
			l.one(line)
			return
		}
		l.one(bytes.TrimSuffix(line[:i], []byte{'\r'}))
		line = line[i+1:]
	}
}

// String writes a line as Line does.
func (l *Lines) String(line string) { l.Line([]byte(line)) }

// one writes a line without LF in it.
func (l *Lines) one(line []byte) {
	s := l.s
	for len(line) > wire.MaxText {
		s.out = wire.AppendDataLine(s.out, s.version, s.ID, l.token, true, line[:wire.MaxText])
		line = line[wire.MaxText:]
	}
	s.out = wire.AppendDataLine(s.out, s.version, s.ID, l.token, true, line)
	if len(s.out) > maxRun {
		s.flush()
	}
}

// end writes the line that ends the message.
func (l *Lines) end() {
	l.s.out = wire.AppendDataLine(l.s.out, l.s.version, l.s.ID, l.token, false, ".")
}

// dataLine handles a line of a message.
func (s *Session) dataLine(m *wire.ToFilter) {
	line := m.Text
	out := &s.lines
	out.s, out.token = s, m.Token
	if len(line) == 1 && line[0] == '.' {
		switch {
		case s.f.Message != nil:
			s.messageEnd(out)
			return
		case s.f.DataEnd != nil:
			s.f.DataEnd(s, out)
		}
		out.end()
		return
	}
	if len(line) > 0 && line[0] == '.' {
		line = line[1:]
	}
	switch {
	case s.f.Message != nil:
		s.message.add(s, line, out)
	case s.f.DataLine != nil:
		s.f.DataLine(s, line, out)
	default:
		out.one(line)
	}
}
