package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Bounds of what a server may say. RFC 5321 section 4.5.3.1.5 allows lines of 512
// bytes; longer ones are met.
const (
	maxLine     = 2048    // bytes of a line without its end
	maxLines    = 100     // of a reply
	maxReceived = 2 << 20 // bytes in a session
	maxText     = 2047    // bytes of a reply's text that are kept
)

// Sizes of the buffers of a session, in bytes.
const (
	readSize   = 4 << 10 // must hold maxLine
	maxWrite   = 64 << 10
	maxResting = 8 << 10 // of out between transactions
)

// wire is the connection with its two buffers.
type wire struct {
	raw      net.Conn
	conn     net.Conn // raw, or TLS over it
	r        *bufio.Reader
	out      []byte // commands and text to be sent
	received int    // bytes, without TLS
	limit    time.Time
	block    time.Duration
	trace    Trace
	broken   bool // the connection is of no use any more
}

// begin bounds the operation that follows: it ends when ctx does or after most.
// What it returns must be called at the operation's end.
func (w *wire) begin(ctx context.Context, most time.Duration) (end func() bool) {
	w.limit = time.Now().Add(most)
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	raw := w.raw
	return context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) }) // fails on a closed connection only
}

// within sets the time by which the next step is over.
func (w *wire) within(ctx context.Context, d time.Duration) error {
	t := time.Now().Add(d)
	if w.limit.Before(t) {
		t = w.limit
	}
	if err := w.raw.SetDeadline(t); err != nil {
		return err
	}
	return ctx.Err() // what begin does at ctx's end may have come before
}

// cause returns the error to report for one of the connection, since the end of
// ctx shows as a timeout.
func cause(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// command adds a command to what will be sent. Control characters, which must
// have been refused earlier, do not get through. shown is what the trace is told
// when line holds secrets.
func (w *wire) command(line, shown string) {
	start := len(w.out)
	w.out = append(w.out, line...)
	for i := start; i < len(w.out); i++ {
		if c := w.out[i]; c < ' ' || c == 0x7f {
			w.out[i] = '?'
		}
	}
	w.out = append(w.out, '\r', '\n')
	if w.trace != nil {
		if shown == "" {
			shown = line
		}
		w.trace.Sent(shown)
	}
}

// flush sends what was added. Nothing may have been received that is not yet
// read: the server would be speaking out of turn.
func (w *wire) flush(ctx context.Context) error {
	if w.r.Buffered() > 0 {
		return ErrTooMuchData
	}
	out := w.out
	w.out = w.out[:0]
	for len(out) > 0 {
		if err := w.within(ctx, w.block); err != nil {
			return cause(ctx, err)
		}
		n, err := w.conn.Write(out[:min(len(out), maxWrite)])
		if err != nil {
			return cause(ctx, err)
		}
		out = out[n:]
	}
	return nil
}

// rest gives memory back between transactions.
func (w *wire) rest() {
	if w.out = w.out[:0]; cap(w.out) > maxResting {
		w.out = nil
	}
}

// line returns the next line without its end; it is valid until the next call.
// wait is called before the connection is read.
func (w *wire) line(wait func() error) ([]byte, error) {
	for from := 0; ; {
		p, _ := w.r.Peek(w.r.Buffered()) // cannot fail
		if n := bytes.IndexByte(p[from:], '\n'); n >= 0 {
			line := p[:from+n]
			_, _ = w.r.Discard(len(line) + 1) // cannot fail
			if w.received += len(line) + 1; w.received > maxReceived {
				return nil, ErrTooMuchData
			}
			line = bytes.TrimSuffix(line, []byte{'\r'})
			if len(line) > maxLine {
				return nil, ErrLineTooLong
			}
			return line, nil
		}
		if from = len(p); from > maxLine+1 {
			return nil, ErrLineTooLong
		}
		if err := wait(); err != nil {
			return nil, err
		}
		if _, err := w.r.Peek(from + 1); err != nil {
			return nil, err
		}
	}
}

// reply reads one reply, all of it within d. each, if not nil, is given the text
// of every line.
func (w *wire) reply(ctx context.Context, d time.Duration, each func(text string)) (Reply, error) {
	waited := false
	wait := func() error {
		if waited {
			return nil
		}
		waited = true
		return w.within(ctx, d)
	}
	var b builder
	for {
		line, err := w.line(wait)
		if err != nil {
			return Reply{}, cause(ctx, err)
		}
		if w.trace != nil {
			w.trace.Received(clean(line))
		}
		more, err := b.add(line)
		if err != nil {
			return Reply{}, err
		}
		if each != nil && len(line) > 4 {
			each(string(line[4:]))
		}
		if !more {
			return b.reply(), nil
		}
	}
}

// builder puts the lines of a reply together.
type builder struct {
	code     int
	enhanced smtp.EnhancedCode
	lines    int
	text     string
}

// add adds a line and tells whether more belong to the reply.
func (b *builder) add(line []byte) (more bool, err error) {
	if len(line) < 3 {
		return false, ErrLineTooShort
	}
	code, err := strconv.ParseUint(string(line[:3]), 10, 16)
	if err != nil || code < 200 || code > 599 {
		return false, ErrReplyCode
	}
	if len(line) > 3 && line[3] != ' ' && line[3] != '-' || b.lines > 0 && b.code != int(code) {
		return false, ErrReplyLines
	}
	if b.lines++; b.lines > maxLines {
		return false, ErrReplyTooLong
	}
	b.code = int(code)
	more = len(line) > 3 && line[3] == '-'
	if len(line) <= 4 || len(b.text) >= maxText {
		return more, nil
	}
	text := line[4:]
	if e, rest, ok := enhancedCode(text); ok && int(e[0]) == b.code/100 {
		switch {
		case b.lines == 1:
			b.enhanced, text = e, rest
		case e == b.enhanced:
			text = rest
		}
	}
	switch s := clean(text); {
	case s == "":
	case b.text == "":
		b.text = s
	default:
		b.text += " " + s
	}
	return more, nil
}

// reply returns what was put together.
func (b *builder) reply() Reply {
	text := b.text
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return Reply{Code: b.code, Enhanced: b.enhanced, Text: text}
}

// enhancedCode takes an enhanced status code (RFC 3463 section 2) off the front of
// a line's text.
func enhancedCode(text []byte) (e smtp.EnhancedCode, rest []byte, ok bool) {
	i := 0
	for part := range e {
		start, n := i, 0
		for ; i < len(text) && text[i] >= '0' && text[i] <= '9' && i-start < 3; i++ {
			n = n*10 + int(text[i]-'0')
		}
		if i == start || n > 255 {
			return smtp.EnhancedCode{}, text, false
		}
		e[part] = uint8(n)
		if part < 2 {
			if i >= len(text) || text[i] != '.' {
				return smtp.EnhancedCode{}, text, false
			}
			i++
		}
	}
	if i < len(text) && text[i] != ' ' {
		return smtp.EnhancedCode{}, text, false
	}
	return e, bytes.TrimLeft(text[i:], " "), true
}

// clean returns p as printable text: valid UTF-8, with each control character
// replaced by a blank, without blanks at the ends.
func clean(p []byte) string {
	plain := true
	for _, c := range p {
		if c < ' ' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return string(bytes.TrimSpace(p))
	}
	s := strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029':
			return ' '
		case r == utf8.RuneError:
			return '?'
		}
		return r
	}, string(p))
	return strings.TrimSpace(s)
}
