package server

import (
	"context"
	"errors"

	"github.com/opensmtpd/opensmtpd/internal/report"
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
	m.through = m.s.filter.Text(func(p []byte) error { return m.store(ctx, p) })
	if m.through == nil {
		return
	}
	m.edited = m.s.buffers.Get().(*[]byte)
	*m.edited, *m.body = append((*m.edited)[:0], *m.body...), (*m.body)[:0]
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

// markJunk marks a message whose text has come. One that has gone to a file already
// stays as it is.
func (m *message) markJunk() {
	if m.spilled > 0 {
		m.s.cfg.Events.Report(report.FilterRemark{Session: m.s.ID, Kind: "smtp", Filter: "-",
			Text: "junk at commit: the message is too large to be marked now"})
		return
	}
	*m.body = append(append(make([]byte, 0, len(*m.body)+len(spamField)), spamField...), *m.body...)
}
