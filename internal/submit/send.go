package submit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// RefusedError says that the server refused a message or some of its recipients.
// As an *smtp.Error it is the first refusal; a temporary one comes before permanent
// ones.
type RefusedError struct {
	Refusals []Refusal // at least one
	// Accepted tells that the message went to the other recipients.
	Accepted bool
}

// Refusal is one refusing reply.
type Refusal struct {
	Recipient string // empty: the message as a whole
	Err       *smtp.Error
}

// Error returns the refusals, parted by "; ".
func (e *RefusedError) Error() string {
	var b strings.Builder
	for i, r := range e.Refusals {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(r.String())
	}
	return b.String()
}

// String returns the recipient and the reply, in one line.
func (r Refusal) String() string {
	text := strings.ReplaceAll(r.Err.Reply(), "\n", " ")
	if r.Recipient == "" {
		return text
	}
	return r.Recipient + ": " + text
}

// Unwrap returns the *smtp.Error.
func (e *RefusedError) Unwrap() error {
	for _, r := range e.Refusals {
		if !r.Err.Permanent() {
			return r.Err
		}
	}
	return e.Refusals[0].Err
}

// refused makes a RefusedError of a refusal of the whole message; other errors stay.
func refused(err error) error {
	if e, ok := errors.AsType[*smtp.Error](err); ok {
		return &RefusedError{Refusals: []Refusal{{Err: e}}}
	}
	return err
}

// ErrUnsure says that the connection was lost after the message had been sent and
// before the server answered: it may have been accepted.
var ErrUnsure = errors.New("no answer to the message: it may have been accepted")

// Send submits s over conn, which speaks SMTP and is still to greet. All recipients
// must be accepted; else nothing is sent and the error is a *RefusedError. log, if
// not nil, gets the dialogue. The caller closes conn; waiting ends with ctx.
func (s *Submission) Send(ctx context.Context, conn net.Conn, log io.Writer) error {
	defer watch(ctx, conn)()
	d, err := open(conn, log)
	if err != nil {
		return refused(err)
	}
	err = s.transact(d, false)
	d.quit()
	return err
}

// transact makes one transaction. With some, refused recipients do not keep the
// message from the others, unless a refusal is temporary.
func (s *Submission) transact(d *dialogue, some bool) error {
	mail, rcpts, err := s.commands(d)
	if err != nil {
		return err
	}
	refusals, err := d.envelope(mail, rcpts)
	if err != nil {
		return refused(err)
	}
	for i := range refusals {
		some = some && refusals[i].Err.Permanent()
	}
	if len(refusals) > 0 && (!some || len(refusals) == len(rcpts)) {
		return &RefusedError{Refusals: refusals}
	}
	if err := d.data(func(w *bufio.Writer) error { return s.Message.writeTo(w, s.missingFields(d.host)) }); err != nil {
		return refused(err)
	}
	if len(refusals) > 0 {
		return &RefusedError{Refusals: refusals, Accepted: true}
	}
	return nil
}

// commands returns the MAIL and RCPT commands.
func (s *Submission) commands(d *dialogue) (mail string, rcpts []string, err error) {
	sender := qualify(s.Sender, d.host)
	utf8 := !sender.ASCII()
	for _, p := range s.Recipients {
		utf8 = utf8 || !p.ASCII()
	}
	mail = "MAIL FROM:<" + sender.String() + ">"
	if d.extensions["SIZE"] {
		mail += s.Message.declared()
	}
	if s.Message.needsEightBit() && d.extensions["8BITMIME"] {
		mail += " BODY=8BITMIME"
	}
	if utf8 {
		if !d.extensions["SMTPUTF8"] {
			return "", nil, refused(&smtp.Error{Code: 553, Enhanced: smtp.EnhancedCode{5, 6, 7}, Text: "Address needs SMTPUTF8, which the server does not offer"})
		}
		mail += " SMTPUTF8"
	}
	params := ""
	if d.extensions["DSN"] {
		mail += s.dsnParams()
		params = s.rcptParams()
	}
	for _, p := range s.Recipients {
		rcpts = append(rcpts, "RCPT TO:<"+qualify(p, d.host).String()+">"+params)
	}
	return mail, rcpts, nil
}

// envelope sends MAIL and the recipients, some ahead of the replies where the server
// allows that (RFC 2920). The refusals are those of recipients.
func (d *dialogue) envelope(mail string, rcpts []string) (refusals []Refusal, err error) {
	ahead := 1
	if d.extensions["PIPELINING"] {
		ahead = batch
	}
	commands := append([]string{mail}, rcpts...)
	for start := 0; start < len(commands); start += ahead {
		part := commands[start:min(start+ahead, len(commands))]
		for _, c := range part {
			if err := d.send(c); err != nil {
				return nil, err
			}
		}
		if err := d.flush(replyTimeout); err != nil {
			return nil, err
		}
		for i, c := range part {
			r, err := d.read(replyTimeout)
			if err != nil {
				return nil, err
			}
			err = r.err(2)
			if err == nil {
				continue
			}
			if start+i == 0 || r.code == 421 {
				return nil, err
			}
			_, addr, _ := strings.Cut(c, "<")
			addr = addr[:strings.LastIndexByte(addr, '>')]
			refusals = append(refusals, Refusal{Recipient: addr, Err: err.(*smtp.Error)})
		}
	}
	return refusals, nil
}

// data sends the message text.
func (d *dialogue) data(write func(*bufio.Writer) error) error {
	r, err := d.ask("DATA")
	if err != nil {
		return err
	}
	if err := r.err(3); err != nil {
		return err
	}
	w := bufio.NewWriterSize(&steady{conn: d.conn}, 32<<10)
	if err := write(w); err != nil {
		d.conn.Close() // so that half a message does not count as one
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.log != nil {
		fmt.Fprintln(d.log, ">>> .")
	}
	if _, err := d.w.WriteString(".\r\n"); err != nil {
		return err
	}
	if err := d.flush(replyTimeout); err != nil {
		return err
	}
	if r, err = d.read(endTimeout); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return r.err(2)
}

// steady writes with a deadline for each block (RFC 5321 section 4.5.3.2.5).
type steady struct{ conn net.Conn }

// Write implements io.Writer.
func (s *steady) Write(p []byte) (int, error) {
	if err := s.conn.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, err
	}
	return s.conn.Write(p)
}
