package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-milter"

	"github.com/opensmtpd/opensmtpd/filter"
)

// bridge asks one milter for all sessions, over a connection for each.
type bridge struct {
	network, address string
	patience         time.Duration // for an answer
	failOpen         bool          // mail goes on while the milter cannot be asked
}

// state is what a session keeps in Data.
type state struct {
	milter *milter.ClientSession // nil: not to be asked any more
	conn   net.Conn              // of milter, which leaves it open when it cannot say goodbye
	failed bool                  // it could not be asked
	skip   bool                  // it accepted the message under way
}

// Bounds of what a milter may change.
const (
	maxChanges = 1000
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
	if err := b.open(st, actions, steps); err != nil {
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
	if err := m.Macros(milter.CodeConn, "j", s.Hostname, "{daemon_name}", "opensmtpd", "{client_addr}", address, "{client_name}", name); err != nil {
		return b.lost(s, st, err)
	}
	return b.answer(s, st)(m.Conn(name, family, s.Source.Port(), address))
}

// open connects to the milter and agrees on what it may do and is told.
func (b *bridge) open(st *state, may milter.OptAction, mayLeave milter.OptProtocol) error {
	d := &dialer{Dialer: net.Dialer{Timeout: b.patience}}
	client := milter.NewClientWithOptions(b.network, b.address, milter.ClientOptions{
		Dialer: d, ReadTimeout: b.patience, WriteTimeout: b.patience, ActionMask: may, ProtocolMask: mayLeave,
	})
	m, err := client.Session()
	if err == nil {
		st.milter, st.conn = m, d.conn
		return nil
	}
	if d.conn != nil {
		d.conn.Close()
	}
	if errors.Is(err, milter.ErrUnsupportedMilterVersion) && may != actions2 {
		return b.open(st, actions2, steps2)
	}
	return err
}

// dialer remembers its connection.
type dialer struct {
	net.Dialer
	conn net.Conn
}

// Dial connects to the milter.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.Dialer.Dial(network, address)
	d.conn = c
	return c, err
}

// close says goodbye to the milter, if there is one.
func (st *state) close() {
	if st.milter == nil {
		return
	}
	_ = st.milter.Close() // it may be gone already
	st.conn.Close()
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
	return b.answer(s, st)(st.milter.Helo(name))
}

func (b *bridge) mailFrom(s *filter.Session, address string) filter.Verdict {
	st := of(s)
	st.skip = false
	if st.milter == nil {
		return b.withoutMilter(st)
	}
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
	if err := st.milter.Macros(milter.CodeRcpt, "{rcpt_addr}", address); err != nil {
		return b.lost(s, st, err)
	}
	return b.answer(s, st)(st.milter.Rcpt(address, nil))
}

// abort ends a transaction that does not come to its end.
func (b *bridge) abort(s *filter.Session) {
	if st := of(s); st.milter != nil {
		if err := st.milter.Abort(); err != nil {
			b.lost(s, st, err)
		}
	}
}

func (b *bridge) disconnect(s *filter.Session) {
	of(s).close()
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
	own := 0 // the field of this server, which milters expect to be added later
	if len(fields) > 0 {
		if name, _, _ := split(fields[0]); strings.EqualFold(name, "Received") {
			own = 1
		}
	}
	changes, action, err := give(st.milter, s, fields[own:], body)
	if err != nil {
		return b.lost(s, st, err)
	}
	v := b.answer(s, st)(action, nil)
	if action.Code != milter.ActContinue && action.Code != milter.ActAccept {
		return v
	}
	return b.apply(s, m, &draft{own: fields[:own:own], fields: fields[own:], body: body}, changes)
}

// give sends the milter a message. The milter may end it early.
func give(m *milter.ClientSession, s *filter.Session, fields []string, body *io.SectionReader) ([]milter.ModifyAction, *milter.Action, error) {
	if s.Tx != nil && s.Tx.ID != 0 {
		if err := m.Macros(milter.CodeHeader, "i", fmt.Sprintf("%08x", s.Tx.ID)); err != nil {
			return nil, nil, err
		}
	}
	for _, f := range fields {
		name, value, ok := split(f)
		if !ok {
			continue
		}
		a, err := m.HeaderField(name, value)
		if err != nil || a.Code != milter.ActContinue {
			return nil, a, err
		}
	}
	a, err := m.HeaderEnd()
	if err != nil || a.Code != milter.ActContinue {
		return nil, a, err
	}
	return m.BodyReadFrom(body)
}

// split returns a field's name, and its value as milters have it: lines end with LF.
func split(f string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(strings.TrimRight(f, "\r\n"), ":")
	value = strings.ReplaceAll(value, "\r\n", "\n")
	return strings.TrimRight(name, " \t"), strings.TrimPrefix(value, " "), ok && name != ""
}

// field is the opposite of split.
func field(name, value string) string {
	value = strings.ReplaceAll(strings.TrimRight(value, "\r\n"), "\r\n", "\n")
	lines := strings.Split(value, "\n")
	for i, l := range lines[1:] {
		if l == "" || l[0] != ' ' && l[0] != '\t' {
			lines[i+1] = "\t" + l
		}
	}
	return name + ": " + strings.Join(lines, "\r\n") + "\r\n"
}

// draft is a message under change: the fields of this server, those that the milter saw,
// and the body.
type draft struct {
	own, fields []string
	body        *io.SectionReader
	newBody     []io.Reader // nil: the body stays
}

// reader returns the whole message.
func (x *draft) reader() io.Reader {
	head := strings.NewReader(strings.Join(x.own, "") + strings.Join(x.fields, "") + "\r\n")
	if x.newBody != nil {
		return io.MultiReader(head, io.MultiReader(x.newBody...))
	}
	return io.MultiReader(head, io.NewSectionReader(x.body, 0, x.body.Size())) // from its start
}

// apply makes the changes, in their order. That a message goes other ways than the
// milter thinks, only -o can want.
func (b *bridge) apply(s *filter.Session, m *filter.Message, x *draft, changes []milter.ModifyAction) filter.Verdict {
	if len(changes) > maxChanges {
		s.Logf("the milter asks for %d changes, more than %d", len(changes), maxChanges)
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
			x.newBody = append(x.newBody, strings.NewReader(string(c.Body)))
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

// change adds, changes or removes a field. What is put in front comes before this
// server's own field, too.
func (x *draft) change(c milter.ModifyAction) {
	if c.Code == milter.ActInsertHeader && c.HeaderIndex <= 1 {
		x.own = changeHeader(x.own, c)
		return
	}
	x.fields = changeHeader(x.fields, c)
}

// changeHeader adds, changes or removes a field. A change of one that is not there
// adds it.
func changeHeader(fields []string, c milter.ModifyAction) []string {
	if c.HeaderName == "" || strings.ContainsAny(c.HeaderName, ": \t\r\n") {
		return fields
	}
	switch c.Code {
	case milter.ActAddHeader:
		return append(fields, field(c.HeaderName, c.HeaderValue))
	case milter.ActInsertHeader:
		i := min(int(max(c.HeaderIndex, 1))-1, len(fields)) // counted from 1; 0 is the place in front, too
		return slices.Insert(fields, i, field(c.HeaderName, c.HeaderValue))
	case milter.ActChangeHeader:
		n := uint32(0)
		for i, f := range fields {
			name, _, ok := split(f)
			if !ok || !strings.EqualFold(name, c.HeaderName) {
				continue
			}
			if n++; n < max(c.HeaderIndex, 1) {
				continue
			}
			if c.HeaderValue == "" {
				return slices.Delete(fields, i, i+1)
			}
			fields[i] = field(c.HeaderName, c.HeaderValue)
			return fields
		}
		if c.HeaderValue != "" {
			fields = append(fields, field(c.HeaderName, c.HeaderValue))
		}
	}
	return fields
}
