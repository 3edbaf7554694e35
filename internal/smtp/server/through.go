package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// The text of a message on its way through filters. What the client sends is checked
// and edited first, so that they see what would be stored; what they give out is
// stored, and bounded on its own.

// errGrew is the cause when filters make too much of a message.
var errGrew = errors.New("filters give out more than twice the largest message")

// spamField marks a message as spam.
const spamField = "X-Spam: Yes\n"

// filter has the text pass through the filters, if any wants to see it. The trace
// header is the first that they get.
func (m *message) filter(ctx context.Context) {
	// From the call on the body is theirs, until Close or Abort.
	m.edited, m.body = m.body, m.s.buffers.Get().(*[]byte)
	*m.body = (*m.body)[:0]
	m.through = m.s.filter.Text(func(p []byte) error { return m.store(ctx, p) })
	if m.through == nil {
		m.s.buffers.Put(m.body)
		m.body, m.edited = m.edited, nil
		return
	}
	m.pass(*m.edited)
}

// takeThrough is take with filters.
func (m *message) takeThrough(p []byte) (used int, done bool) {
	var rest []byte
	*m.scratch, rest, done = m.text.read((*m.scratch)[:0], p)
	m.size += int64(len(*m.scratch))
	if m.refusal == nil {
		m.edit()
	}
	return len(p) - len(rest), done
}

// edit passes what is in scratch through the header editor, to the body or to filters.
func (m *message) edit() {
	if m.through == nil {
		*m.body = m.header.Edit(*m.body, *m.scratch)
		return
	}
	text := *m.scratch
	if !m.header.Done() {
		*m.edited = m.header.Edit((*m.edited)[:0], text)
		text = *m.edited
	}
	if m.check(); m.refusal == nil {
		m.pass(text)
	}
}

// pass gives text to the filters.
func (m *message) pass(text []byte) {
	if _, err := m.through.Write(text); err != nil {
		m.filterFailed(err)
	}
}

// endThrough ends the text and waits for what the filters made of it.
func (m *message) endThrough(ctx context.Context) {
	*m.edited = m.header.End((*m.edited)[:0])
	if m.check(); m.refusal == nil {
		m.pass(*m.edited)
	}
	if m.refusal != nil {
		return
	}
	err := m.through.Close(ctx)
	if m.through = nil; err != nil {
		m.filterFailed(err)
	}
}

// store takes what the filters give out. It is called from a goroutine of theirs.
func (m *message) store(ctx context.Context, p []byte) error {
	if m.stored += int64(len(p)); m.stored > 2*m.s.cfg.MaxSize+int64(m.s.cfg.InlineMax) {
		return errGrew
	}
	if *m.body = append(*m.body, p...); len(*m.body) > m.s.cfg.InlineMax {
		return m.spill(ctx)
	}
	return nil
}

// filterFailed refuses the message for a failure of filters, or of storing what they
// gave out.
func (m *message) filterFailed(err error) {
	refusal, ok := errors.AsType[*smtp.Error](err)
	if !ok {
		refusal = &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary failure, please try again", Err: err}
	}
	m.refusal = refusal
}

// insertFront puts text before the first size bytes of a file, which is all of it.
func insertFront(f File, size int64, text string) error {
	// What is to be written next is the text, then what it displaced.
	next, buf := []byte(text), make([]byte, 64<<10)
	for off := int64(0); off < size; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			return fmt.Errorf("read what was spilled: %w", err)
		}
		next = append(next, buf[:n]...)
		if _, err := f.WriteAt(next[:n], off); err != nil {
			return err
		}
		next = next[:copy(next, next[n:])]
		off += int64(n)
	}
	_, err := f.WriteAt(next, size)
	return err
}
