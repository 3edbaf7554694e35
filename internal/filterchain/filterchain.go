// Package filterchain lets filters take part in SMTP sessions: built-in ones, and
// programs that speak the filter protocol (package filter/wire).
//
// A Chain is what a listener or a relay action names: filters in order. Open begins a
// session's part in it; the session then tells what happens (Report), asks before it
// obeys a command (Decide), and has the text of a message pass through (Text). All of
// a session's calls come from its one goroutine.
//
// At each phase the filters that have a say there are asked one after the other:
//
//	proceed, report, junk   the next one is asked
//	rewrite                 the next one is asked about the new argument
//	bypass                  no other is asked, the command is obeyed
//	reject, disconnect      no other is asked, the command is refused
//
// A Process is one filter program and serves all sessions. It is started again when it
// dies, breaks the protocol or stops answering, at once at first, with growing pauses
// when it keeps failing. A session that needs a process which is away is refused for
// the moment (451), or goes on without it where the filter says on-failure bypass. A
// process that comes back is introduced to the sessions that are there: it is told
// again who they are, outside of transactions.
//
// What the programs send is hostile: lines are bounded, a line that makes no sense or
// answers nothing is counted and logged, and a program that sends too many is started
// again.
package filterchain

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Filter is a member of a chain: Process or Builtin is set.
type Filter struct {
	Name    string
	Process *Process
	Builtin *Builtin

	Bypass      bool                       // sessions go on without the process while it fails
	Secrets     bool                       // the process is shown the argument of AUTH
	RewriteEnds bool                       // no later filter is asked after a rewrite
	Timeouts    [wire.Phases]time.Duration // for an answer; 0: the default
}

// Default times for an answer. The final ones come when a message has been read, and
// clients are patient there (RFC 5321 section 4.5.3.2.6).
const (
	answerTimeout = time.Minute
	finalTimeout  = 5 * time.Minute
)

// timeout returns how long the answer of a phase is waited for.
func (f *Filter) timeout(p wire.Phase) time.Duration {
	switch d := f.Timeouts[p]; {
	case d > 0:
		return d
	case p == wire.PhaseDataLine || p == wire.PhaseCommit:
		return finalTimeout
	}
	return answerTimeout
}

// Chain is an ordered list of filters. It is not changed while sessions use it.
type Chain struct {
	Filters   []*Filter
	Direction wire.Direction

	// Match decides a condition that asks a table.
	Match func(ctx context.Context, c *policy.Condition, f *policy.Facts) (bool, error)
	// Events is told of remarks.
	Events report.Sink
	Warn   func(error)

	buffers sync.Pool // of *[]byte, for text
}

// Verdict is what the filters of a chain have decided together.
type Verdict struct {
	// Kind is Proceed, Rewrite, Reject or Disconnect.
	Kind wire.Verdict

	// Argument replaces that of the command. It is as a client writes it: for MAIL and
	// RCPT the path in angle brackets, and parameters if it has any.
	Argument string

	// Refusal is the reply; its Err names the filter.
	Refusal *smtp.Error

	// Junk marks the message, or all messages of the session, as spam.
	Junk bool
}

// errRefused is the cause of a refusal by a filter.
type errRefused struct {
	filter string
	err    error
}

// Error names the filter.
func (e *errRefused) Error() string { return "filter " + e.filter + ": " + e.err.Error() }

// Unwrap returns what happened.
func (e *errRefused) Unwrap() error { return e.err }

// errUnavailable is the cause when a filter that is needed does not answer.
var errUnavailable = errors.New("filter process is not available")

// refusal makes a reply of a filter's words, which begin with a code. What is no reply
// becomes a temporary one that ends the session.
func refusal(filter, text string) *smtp.Error {
	e := &smtp.Error{Code: 421, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Internal server error",
		Err: &errRefused{filter, errors.New(text)}}
	code, rest, ok := strings.Cut(text, " ")
	if !ok || len(code) != 3 || code[0] != '4' && code[0] != '5' || !digits(code[1:]) {
		return e
	}
	e.Code = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	e.Enhanced, e.Text = smtp.EnhancedCode{}, rest
	if word, more, ok := strings.Cut(rest, " "); ok {
		if enhanced, ok := enhancedCode(word); ok && enhanced[0] == code[0]-'0' {
			e.Enhanced, e.Text = enhanced, more
		}
	}
	return e
}

// enhancedCode reads an enhanced status code (RFC 3463).
func enhancedCode(s string) (code smtp.EnhancedCode, ok bool) {
	f := strings.Split(s, ".")
	if len(f) != 3 {
		return code, false
	}
	for i, part := range f {
		if len(part) == 0 || len(part) > 3 || !digits(part) {
			return code, false
		}
		n := 0
		for _, c := range part {
			n = n*10 + int(c-'0')
		}
		if n > 255 {
			return code, false
		}
		code[i] = uint8(n)
	}
	return code, true
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// address returns the address in an argument of MAIL or RCPT, without its brackets.
func address(argument string) string {
	s := strings.TrimLeft(argument, " ")
	if rest, ok := strings.CutPrefix(s, "<"); ok {
		if i := strings.LastIndexByte(rest, '>'); i >= 0 {
			return rest[:i]
		}
		return rest
	}
	s, _, _ = strings.Cut(s, " ")
	return s
}

// bracketed returns an argument of MAIL or RCPT that a filter has written, with
// brackets if it left them out.
func bracketed(argument string) string {
	argument = strings.TrimLeft(argument, " ")
	if strings.HasPrefix(argument, "<") {
		return argument
	}
	addr, params, ok := strings.Cut(argument, " ")
	if !ok {
		return "<" + addr + ">"
	}
	return "<" + addr + "> " + params
}

// masked hides what a client authenticates with.
func masked(argument string) string {
	mechanism, _, ok := strings.Cut(argument, " ")
	if !ok {
		return mechanism
	}
	return mechanism + " ********"
}
