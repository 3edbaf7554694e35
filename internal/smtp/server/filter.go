package server

import (
	"context"
	"io"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Filter takes part in one session: it is told what happens, decides on commands
// before they are obeyed, and may have the text of messages pass through. Its methods
// are called from the session's goroutine.
type Filter interface {
	// Wants tells whether an event of the dialogue or of a transaction is worth a
	// Report; those of the link are reported in any case.
	Wants(e wire.Event) bool
	Report(r wire.Report)

	// Decide is asked about a command that is sound and in order. param is the name of
	// HELO and EHLO, the argument of AUTH, the address of MAIL and RCPT.
	Decide(ctx context.Context, phase wire.Phase, param string) Verdict

	// Text returns where the text of a message goes, trace header and edits included,
	// or nil when it need not. out is given what is to be stored instead, from another
	// goroutine, which may call Backend.Spill there.
	Text(out func([]byte) error) Text

	Close()
}

// Text is a message on its way through filters.
type Text interface {
	// Write takes text with LF line ends, parted anywhere.
	io.Writer
	// Close waits until all has come out. Otherwise Abort is called.
	Close(ctx context.Context) error
	Abort()
}

// Verdict is a filter's decision.
type Verdict struct {
	Kind     wire.Verdict // VerdictProceed, VerdictRewrite, VerdictReject or VerdictDisconnect
	Argument string       // of VerdictRewrite: the new argument of the command
	Refusal  *smtp.Error  // of VerdictReject and VerdictDisconnect
	Junk     bool         // the message, or all of the session, is marked as spam
}

// wants tells whether the filters, if there are any, want to know of an event.
func (s *session) wants(e wire.Event) bool { return s.filter != nil && s.filter.Wants(e) }

// tell tells the filters of something that they always need to know.
func (s *session) tell(r wire.Report) {
	if s.filter != nil {
		s.filter.Report(r)
	}
}

// tellLine tells the filters what the client said. Secrets do not come here.
func (s *session) tellLine(line string) {
	if s.wants(wire.EventProtocolClient) {
		s.filter.Report(wire.ProtocolClient{Line: line})
	}
}

// tellCommand tells the filters of a command. What a client authenticates with is left
// out.
func (s *session) tellCommand(line []byte) {
	if !s.wants(wire.EventProtocolClient) {
		return
	}
	if !smtp.IsCommand(line, smtp.AUTH) {
		s.tellLine(string(line))
		return
	}
	words := strings.SplitN(string(line), " ", 3)
	if len(words) == 3 {
		words[2] = hidden
	}
	s.tellLine(strings.Join(words, " "))
}

// hidden stands for what a client authenticates with.
const hidden = "********"

// tellReply tells the filters what was said to the client: lines in wire form.
func (s *session) tellReply(reply []byte) {
	for line := range strings.SplitSeq(strings.TrimSuffix(string(reply), "\r\n"), "\r\n") {
		s.filter.Report(wire.ProtocolServer{Line: line})
	}
}

// tellTransaction tells the filters that MAIL began a transaction.
func (s *session) tellTransaction() {
	if s.filter == nil {
		return
	}
	s.filter.Report(wire.TxBegin{Message: uint32(s.tx.ID)})
	s.filter.Report(wire.TxMail{Message: uint32(s.tx.ID), Result: wire.OK, Address: s.tx.Sender.String()})
}

// tellRcpt tells the filters how RCPT was answered.
func (s *session) tellRcpt(rcpt smtp.Path, err error) {
	if s.wants(wire.EventTxRcpt) {
		s.filter.Report(wire.TxRcpt{Message: uint32(s.tx.ID), Result: resultOf(err), Address: rcpt.String()})
	}
}

// tellData tells the filters how DATA was answered.
func (s *session) tellData(err error) {
	if s.wants(wire.EventTxData) {
		s.filter.Report(wire.TxData{Message: uint32(s.tx.ID), Result: resultOf(err)})
	}
}

// resultOf returns the word for an answer of the backend.
func resultOf(err error) wire.Result {
	switch e := replyTo(err); {
	case err == nil:
		return wire.OK
	case e != nil && e.Permanent():
		return wire.PermFail
	}
	return wire.TempFail
}

// decide asks the filters about a command. It returns the argument to go on with and,
// unless the command was refused, true.
func (s *session) decide(ctx context.Context, phase wire.Phase, param, argument string) (string, bool) {
	if s.filter == nil {
		return argument, true
	}
	v := s.filter.Decide(ctx, phase, param)
	if v.Junk {
		s.junk(phase)
	}
	switch v.Kind {
	case wire.VerdictReject, wire.VerdictDisconnect:
		s.turnDown(v)
		return "", false
	case wire.VerdictRewrite:
		if !smtp.ValidLine([]byte(v.Argument)) {
			s.refuse(451, smtp.EnhancedCode{4, 3, 0}, "Temporary failure, please try again")
			return "", false
		}
		return v.Argument, true
	}
	return argument, true
}

// turnDown refuses the command as filters have decided.
func (s *session) turnDown(v Verdict) {
	s.refuseWith(v.Refusal)
	if v.Kind == wire.VerdictDisconnect && s.end == "" {
		s.end = reasonQuit
	}
}

// junk marks the message, or all messages of the session when none has begun, or the
// command ends it.
func (s *session) junk(phase wire.Phase) {
	switch {
	case phase == wire.PhaseHelo, phase == wire.PhaseEhlo, phase == wire.PhaseRset:
		s.junkAll = true
		if s.tx != nil { // it goes on if the command is refused
			s.tx.Junk = true
		}
	case phase == wire.PhaseCommit:
		s.msg.junk = true
	case s.tx != nil:
		s.tx.Junk = true
	case phase == wire.PhaseMailFrom:
		s.junkNext = true
	default:
		s.junkAll = true
	}
}

// withParams returns an argument of MAIL or RCPT that filters gave, with the parameters
// of the client when it has none.
func withParams(rewritten, original string) string {
	if _, rest, err := smtp.ParsePath(rewritten); err != nil || rest != "" {
		return rewritten
	}
	_, rest, err := smtp.ParsePath(original)
	if err != nil {
		return rewritten
	}
	return rewritten + rest
}
