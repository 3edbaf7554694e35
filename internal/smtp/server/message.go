package server

import (
	"context"
	"errors"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/header"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Refusals of a message whose text has been read.
var (
	refuseSize = &smtp.Error{Code: 554, Enhanced: smtp.EnhancedCode{5, 3, 4},
		Text: "Message too big for system: Transaction failed, message too big"}
	refuseBare = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 5, 2},
		Text: "Syntax error: Message holds a bare CR or LF"}
	refuseNUL = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 5, 2},
		Text: "Syntax error: Message holds a NUL"}
	refuseLine = &smtp.Error{Code: 500, Enhanced: smtp.EnhancedCode{5, 5, 2},
		Text: "Syntax error: Message line too long"}
	refuseLoop = &smtp.Error{Code: 500, Enhanced: smtp.EnhancedCode{5, 4, 6},
		Text: "Routing loop detected: Loop detected"}
	refuseHeader = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 7, 1},
		Text: "Delivery not authorized, message refused: Message is not RFC 2822 compliant"}
	refuseHeaderSize = &smtp.Error{Code: 552, Enhanced: smtp.EnhancedCode{5, 3, 4},
		Text: "Message too big for system: Message header too large"}
)

// pace is the speed at which message text must arrive: Config.MinRate after
// Config.RateGrace, and something within each Config.Timeout. A peer that drips
// can not hold a session for long.
type pace struct {
	cfg      *Config
	start    time.Time
	received int64
}

// newPace starts the clock.
func newPace(cfg *Config) pace { return pace{cfg: cfg, start: time.Now()} }

// deadline returns until when the next bytes must come.
func (p *pace) deadline() time.Time {
	idle := time.Now().Add(p.cfg.Timeout)
	slow := p.start.Add(p.cfg.RateGrace + time.Duration(p.received/p.cfg.MinRate)*time.Second)
	if slow.Before(idle) {
		return slow
	}
	return idle
}

// message collects a message in its stored form.
type message struct {
	pace
	s       *session
	text    textReader
	header  header.Editor
	body    *[]byte // what is not in file
	scratch *[]byte // text on its way to the header editor
	edited  *[]byte // … and from there to filters
	through Text    // filters that the text passes through; nil: none
	stored  int64   // bytes that they gave out
	size    int64   // of the text, LF line ends
	spilled int64   // bytes in file
	file    File
	junk    bool        // to be marked as spam: filters said so when all of it had come
	refusal *smtp.Error // the first reason to refuse; the rest is read and dropped
}

// collect begins a message, with the trace in front.
func (s *session) collect(ctx context.Context, chunked bool) *message {
	m := &s.collector
	s.msg = m
	m.s, m.pace, m.text = s, newPace(s.cfg), textReader{chunked: chunked}
	m.size, m.spilled, m.stored, m.file, m.junk, m.refusal = 0, 0, 0, nil, false, nil
	m.body, m.scratch = s.buffers.Get().(*[]byte), s.buffers.Get().(*[]byte)
	o := header.Options{Submission: s.cfg.Submission || s.Username != "", Hostname: s.Name, Now: m.start}
	if s.cfg.Masquerade && s.Username != "" && !s.tx.Sender.IsNull() {
		o.Masquerade = s.tx.Sender.String()
	}
	m.header.Reset(o)
	*m.body = s.appendTrace((*m.body)[:0], m.start)
	if s.filter != nil {
		m.filter(ctx)
	}
	return m
}

// take takes the next part of the text. It returns how much of p was used, less
// than all only when the text has ended in it.
func (m *message) take(ctx context.Context, p []byte) (used int, done bool) {
	m.received += int64(len(p))
	if m.through != nil {
		return m.takeThrough(p)
	}
	var rest []byte
	if m.refusal == nil && m.header.Done() {
		before := len(*m.body)
		*m.body, rest, done = m.text.read(*m.body, p)
		m.size += int64(len(*m.body) - before)
	} else {
		*m.scratch, rest, done = m.text.read((*m.scratch)[:0], p)
		m.size += int64(len(*m.scratch))
		if m.refusal == nil {
			*m.body = m.header.Edit(*m.body, *m.scratch)
		}
	}
	m.check()
	if len(*m.body) > m.s.cfg.InlineMax {
		m.storageFailed(m.spill(ctx))
	}
	return len(p) - len(rest), done
}

// check notes why the message is refused.
func (m *message) check() {
	switch {
	case m.refusal != nil:
		return
	case m.size > m.s.cfg.MaxSize:
		m.refusal = refuseSize
	case m.text.long:
		m.refusal = refuseLine
	case m.text.nul:
		m.refusal = refuseNUL
	case m.text.bare && m.s.cfg.BareNewline != NormalizeBare:
		m.refusal = refuseBare
	case errors.Is(m.header.Err(), header.ErrTooLarge):
		m.refusal = refuseHeaderSize
	case m.header.Err() != nil:
		m.refusal = refuseHeader
	case m.header.Hops() >= m.s.cfg.MaxHops:
		m.refusal = refuseLoop
	default:
		return
	}
	if m.through == nil {
		*m.body = (*m.body)[:0]
	}
}

// spill moves the body so far to the file of the backend.
func (m *message) spill(ctx context.Context) error {
	if m.file == nil {
		f, err := m.s.backend.Spill(ctx, m.s.tx)
		if err != nil {
			return err
		}
		m.file = f
	}
	if _, err := m.file.Write(*m.body); err != nil {
		return err
	}
	m.spilled += int64(len(*m.body))
	*m.body = (*m.body)[:0]
	return nil
}

// storageFailed refuses the message for a failure of ours, if there was one.
func (m *message) storageFailed(err error) {
	if err == nil {
		return
	}
	refusal, ok := errors.AsType[*smtp.Error](err)
	if !ok {
		refusal = &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary Error", Err: err}
	}
	m.refusal = refusal
	*m.body = (*m.body)[:0]
}

// complete ends the text: what was held back goes to the body.
func (m *message) complete(ctx context.Context) {
	if m.refusal != nil {
		return
	}
	if m.text.chunked {
		*m.scratch = m.text.close((*m.scratch)[:0])
		m.size += int64(len(*m.scratch))
		m.edit()
	}
	if m.through != nil {
		m.endThrough(ctx)
	} else {
		*m.body = m.header.End(*m.body)
		m.check()
	}
}

// settle brings the body of a complete message into its last form: marked if it is
// junk, and all of it in the file if there is one.
func (m *message) settle(ctx context.Context) {
	inFile := m.file != nil
	if m.junk && !inFile {
		*m.body = append(append(make([]byte, 0, len(*m.body)+len(spamField)), spamField...), *m.body...)
	}
	if !inFile && len(*m.body) <= m.s.cfg.InlineMax {
		return
	}
	if m.storageFailed(m.spill(ctx)); m.refusal != nil {
		return
	}
	if m.junk && inFile {
		m.storageFailed(insertFront(m.file, m.spilled, spamField))
		m.spilled += int64(len(spamField))
	}
	err := m.file.Close()
	if m.file = nil; err != nil && m.refusal == nil {
		m.storageFailed(err)
	}
}

// discard gives back what the message holds.
func (m *message) discard() {
	if m.through != nil {
		m.through.Abort()
		m.through = nil
	}
	if m.file != nil {
		_ = m.file.Close() // nobody will read it
		m.file = nil
	}
	m.s.buffers.Put(m.body)
	m.s.buffers.Put(m.scratch)
	if m.edited != nil {
		m.s.buffers.Put(m.edited)
	}
	m.body, m.scratch, m.edited = nil, nil, nil
}

// finish commits or refuses the message that was read, and ends the transaction.
func (s *session) finish(ctx context.Context) {
	m := s.msg
	m.complete(ctx)
	if !m.text.chunked {
		s.tellLine(".")
	}
	if m.refusal != nil {
		s.refuseWith(m.refusal)
		s.reset()
		return
	}
	if _, ok := s.decide(ctx, wire.PhaseCommit, "", ""); !ok {
		s.reset()
		return
	}
	if m.settle(ctx); m.refusal != nil {
		s.refuseWith(m.refusal)
		s.reset()
		return
	}
	body, size := *m.body, int64(len(*m.body))
	if m.spilled > 0 {
		body, size = nil, m.spilled
	}
	t := s.tx
	t.TLSOptional = m.header.TLSOptional() && !t.RequireTLS // RFC 8689 section 5
	err := s.backend.Commit(ctx, t, body, size)
	s.tx, s.msg = nil, nil
	m.discard()
	if err != nil {
		if _, ok := errors.AsType[*smtp.Error](err); !ok {
			err = &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary failure", Err: err}
		}
		s.refuseErr(err)
		s.tell(wire.TxRollback{Message: uint32(t.ID)})
		s.tell(wire.TxReset{Message: uint32(t.ID)})
		return
	}
	s.errors = 0
	proto := "SMTP"
	if s.Extended {
		proto = "ESMTP"
	}
	s.cfg.Events.Report(report.Message{Session: s.ID, MsgID: t.ID, Size: size, Rcpts: len(t.Rcpts), Proto: proto})
	s.say(250, smtp.EnhancedCode{2, 0, 0}, t.ID.String()+" Message accepted for delivery")
	if s.wants(wire.EventTxCommit) {
		s.filter.Report(wire.TxCommit{Message: uint32(t.ID), Size: size})
	}
	s.tell(wire.TxReset{Message: uint32(t.ID)})
}
