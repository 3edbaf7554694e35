package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/emersion/go-milter"

	"github.com/opensmtpd/opensmtpd/filter"
)

// bridge asks one milter for all sessions, over a connection for each.
type bridge struct {
	network, address string
	patience         time.Duration // for a step of the session
	forMessage       time.Duration // patience for a message
	failOpen         bool          // mail goes on while the milter cannot be asked
}

// state is what a session keeps in Data.
type state struct {
	milter *milter.ClientSession // nil: not to be asked any more
	line   *line                 // of milter, which leaves it open when it cannot say goodbye
	failed bool                  // it could not be asked
	skip   bool                  // it accepted the message under way
}

// Bounds of what a milter may change.
const (
	maxChanges = 1000     // besides a new body, which comes in many pieces
	maxBody    = 64 << 20 // bytes of a new body
)

// What a milter is offered. One that is made of the usual library ends the connection
// when a thing is missing that it may want to do, or a step that it does not care for
// and cannot leave out. Version 2 of the protocol knows the lowest bits only.
const (
	actions milter.OptAction = milter.OptAddHeader | milter.OptChangeBody | milter.OptAddRcpt | milter.OptRemoveRcpt |
		milter.OptChangeHeader | milter.OptQuarantine | milter.OptChangeFrom | milter.OptAddRcptWithArgs | milter.OptSetSymList
	steps milter.OptProtocol = milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom | milter.OptNoRcptTo |
		milter.OptNoBody | milter.OptNoHeaders | milter.OptNoEOH | milter.OptNoUnknown | milter.OptNoData |
		milter.OptNoHeaderReply | milter.OptNoConnReply | milter.OptNoHeloReply | milter.OptNoMailReply | milter.OptNoRcptReply |
		milter.OptNoDataReply | milter.OptNoUnknownReply | milter.OptNoEOHReply | milter.OptNoBodyReply
	actions2 = actions & 0x3f
	steps2   = steps & 0x7f
)

func (b *bridge) filter() *filter.Filter {
	return &filter.Filter{
		Connect:          b.connect,
		Helo:             b.hello,
		Ehlo:             b.hello,
		MailFrom:         b.mailFrom,
		RcptTo:           b.rcptTo,
		Message:          b.message,
		OnTxRollback:     b.abort,
		OnTxReset:        b.abort,
		OnLinkDisconnect: b.disconnect,
	}
}

// connect opens the session's own connection to the milter.
func (b *bridge) connect(s *filter.Session) filter.Verdict {
	st := &state{}
	s.Data = st
	if err := b.open(st); err != nil {
		return b.lost(s, st, err)
	}
	m := st.milter
	name := s.RDNS
	if name == "" {
		name = "unknown"
	}
	family, address := milter.FamilyUnknown, ""
	if a := s.Source.Addr().Unmap(); a.Is4() {
		family, address = milter.FamilyInet, a.String()
		if s.RDNS == "" {
			name = "[" + address + "]"
		}
	} else if a.Is6() {
		family, address = milter.FamilyInet6, a.String()
		if s.RDNS == "" {
			name = "[IPv6:" + address + "]"
		}
	}
	macros := []string{"{daemon_name}", "opensmtpd", "{client_addr}", address, "{client_name}", name}
	if host := hostname(s); host != "" {
		macros = append(macros, "j", host)
	}
	if err := m.Macros(milter.CodeConn, macros...); err != nil {
		return b.lost(s, st, err)
	}
	return b.answer(s, st)(m.Conn(name, family, s.Source.Port(), address))
}

// hostname returns the name of this server. The greeting tells it, which comes after
// the first step of a session.
func hostname(s *filter.Session) string {
	for _, name := range []string{s.Hostname, s.Daemon().Admd} {
		if name != "" {
			return name
		}
	}
	name, _ := os.Hostname() // "" when it has none
	return name
}

// open connects to the milter and agrees on what it may do and is told.
func (b *bridge) open(st *state) error {
	until := time.Now().Add(b.patience)
	err := b.tryOpen(st, until, actions, steps)
	if errors.Is(err, milter.ErrUnsupportedMilterVersion) {
		err = b.tryOpen(st, until, actions2, steps2)
	}
	return err
}

func (b *bridge) tryOpen(st *state, until time.Time, may milter.OptAction, mayLeave milter.OptProtocol) error {
	d := &dialer{until: until}
	client := milter.NewClientWithOptions(b.network, b.address, milter.ClientOptions{Dialer: d, ActionMask: may, ProtocolMask: mayLeave})
	m, err := client.Session()
	if err == nil {
		st.milter, st.line = m, d.line
	} else if d.line != nil {
		d.line.Close()
	}
	return err
}

// begin starts the measure of a step.
func (b *bridge) begin(st *state) {
	st.line.begin(time.Now().Add(b.patience), maxAnswer)
}

// close says goodbye to the milter, if there is one.
func (st *state) close() {
	if st.milter == nil {
		return
	}
	_ = st.milter.Close() // it may be gone already
	st.line.Close()
	st.milter = nil
}

// of returns the state of a session, also of one that was open when the filter was
// started.
func of(s *filter.Session) *state {
	st, ok := s.Data.(*state)
	if !ok {
		st = &state{failed: true}
		s.Data = st
	}
	return st
}

// lost gives the milter up for the rest of the session.
func (b *bridge) lost(s *filter.Session, st *state, err error) filter.Verdict {
	s.Logf("milter %s: %v", b.address, err)
	st.close()
	st.failed = true
	return b.withoutMilter(st)
}

// withoutMilter answers while the milter is not asked.
func (b *bridge) withoutMilter(st *state) filter.Verdict {
	if st.failed && !b.failOpen {
		return filter.Reject(451, "4.7.1", "Mail filter unavailable, try again later")
	}
	return filter.Proceed()
}

// answer makes a verdict of an action.
func (b *bridge) answer(s *filter.Session, st *state) func(*milter.Action, error) filter.Verdict {
	return func(a *milter.Action, err error) filter.Verdict {
		if err != nil {
			return b.lost(s, st, err)
		}
		switch a.Code {
		case milter.ActAccept:
			if s.Tx == nil { // of the whole session
				st.close()
			}
			st.skip = true
		case milter.ActReject:
			return filter.Reject(550, "5.7.1", "Refused by a mail filter")
		case milter.ActTempFail:
			return filter.Reject(451, "4.7.1", "A mail filter asks to try again later")
		case milter.ActDiscard:
			// Nobody would know that the message is gone.
			return filter.Reject(550, "5.7.1", "Refused by a mail filter")
		case milter.ActReplyCode:
			return reply(a.SMTPCode, a.SMTPText)
		}
		return filter.Proceed()
	}
}

// reply takes a milter's reply apart: its text begins with an enhanced code or not.
func reply(code int, text string) filter.Verdict {
	text, _, _ = strings.Cut(strings.ReplaceAll(text, "\r", ""), "\n")
	first, rest, _ := strings.Cut(text, " ")
	if p := strings.Split(first, "."); len(p) == 3 && p[0] == fmt.Sprint(code/100) {
		return filter.Reject(code, first, rest)
	}
	return filter.Reject(code, "", text)
}

func (b *bridge) hello(s *filter.Session, name string) filter.Verdict {
	st := of(s)
	if st.milter == nil {
		return b.withoutMilter(st)
	}
	b.begin(st)
	return b.answer(s, st)(st.milter.Helo(name))
}

func (b *bridge) mailFrom(s *filter.Session, address string) filter.Verdict {
	st := of(s)
	st.skip = false
	if st.milter == nil {
		return b.withoutMilter(st)
	}
	b.begin(st)
	macros := []string{"{mail_addr}", address}
	if s.User != "" {
		macros = append(macros, "{auth_authen}", s.User, "{auth_type}", "PLAIN")
	}
	if err := st.milter.Macros(milter.CodeMail, macros...); err != nil {
		return b.lost(s, st, err)
	}
	return b.answer(s, st)(st.milter.Mail(address, nil))
}

func (b *bridge) rcptTo(s *filter.Session, address string) filter.Verdict {
	st := of(s)
	if st.milter == nil || st.skip {
		return b.withoutMilter(st)
	}
	b.begin(st)
	if err := st.milter.Macros(milter.CodeRcpt, "{rcpt_addr}", address); err != nil {
		return b.lost(s, st, err)
	}
	return b.answer(s, st)(st.milter.Rcpt(address, nil))
}

// abort ends a transaction that does not come to its end.
func (b *bridge) abort(s *filter.Session) {
	if st := of(s); st.milter != nil {
		b.begin(st)
		if err := st.milter.Abort(); err != nil {
			b.lost(s, st, err)
		}
	}
}

func (b *bridge) disconnect(s *filter.Session) {
	if st := of(s); st.milter != nil {
		b.begin(st)
		st.close()
	}
}

// message gives a message to the milter and makes the changes that it asks for.
func (b *bridge) message(s *filter.Session, m *filter.Message) filter.Verdict {
	st := of(s)
	if st.milter == nil || st.skip {
		return b.withoutMilter(st)
	}
	fields, body, err := m.Header()
	if errors.Is(err, filter.ErrTooBig) {
		return filter.Reject(552, "5.3.4", "The header is too big for a filter")
	}
	if err != nil {
		s.Logf("read message: %v", err)
		return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
	}
	x := newDraft(fields, body)
	changes, action, err := give(st, s, x, time.Now().Add(b.forMessage))
	if err != nil {
		return b.lost(s, st, err)
	}
	v := b.answer(s, st)(action, nil)
	if action.Code != milter.ActContinue && action.Code != milter.ActAccept {
		return v
	}
	return b.apply(s, m, x, changes)
}

// give sends the milter a message. The milter may end it early.
func give(st *state, s *filter.Session, x *draft, until time.Time) ([]milter.ModifyAction, *milter.Action, error) {
	m := st.milter
	st.line.begin(until, maxChanged)
	if s.Tx != nil && s.Tx.ID != 0 {
		if err := m.Macros(milter.CodeHeader, "i", fmt.Sprintf("%08x", s.Tx.ID)); err != nil {
			return nil, nil, err
		}
	}
	for i, f := range x.fields {
		name, value, ok := split(f)
		if !ok || i == x.own {
			continue
		}
		a, err := m.HeaderField(name, value)
		if err != nil || a.Code != milter.ActContinue {
			return nil, a, err
		}
	}
	st.line.begin(until, maxChanged) // not less for the answers to many fields
	a, err := m.HeaderEnd()
	if err != nil || a.Code != milter.ActContinue {
		return nil, a, err
	}
	return m.BodyReadFrom(x.body)
}

// apply makes the changes, in their order. That a message goes other ways than the
// milter thinks, only -o can want.
func (b *bridge) apply(s *filter.Session, m *filter.Message, x *draft, changes []milter.ModifyAction) filter.Verdict {
	n := 0
	for _, c := range changes {
		if c.Code != milter.ActReplBody {
			n++
		}
	}
	if n > maxChanges {
		s.Logf("the milter asks for %d changes, more than %d", n, maxChanges)
		return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
	}
	v := filter.Proceed()
	changed, size := false, 0
	for _, c := range changes {
		switch c.Code {
		case milter.ActQuarantine:
			s.Logf("quarantine: %s", c.Reason)
			v = filter.Junk()
			continue
		case milter.ActAddRcpt, milter.ActDelRcpt, milter.ActChangeFrom:
			s.Logf("the milter asks to change the sender or recipients, which is not possible here")
			if !b.failOpen {
				return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
			}
			continue
		case milter.ActReplBody:
			if size += len(c.Body); size > maxBody {
				s.Logf("the milter's body is longer than %d bytes", maxBody)
				return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
			}
			x.newBody = append(x.newBody, bytes.NewReader(c.Body))
		default:
			x.change(c)
		}
		changed = true
	}
	if !changed {
		return v
	}
	if err := m.Replace(x.reader()); err != nil {
		s.Logf("change message: %v", err)
		return filter.Reject(451, "4.3.0", "Temporary failure of a filter")
	}
	return v
}
