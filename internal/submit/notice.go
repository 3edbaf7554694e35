package submit

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/header"
)

// notice tells the sender of an offline message what was refused, with the message,
// or, when the refusal was about its text, with the header only. It has the null
// sender, so nobody answers it.
type notice struct {
	s        *Submission
	refusals []Refusal
	now      time.Time
}

func (s *Submission) notice(e *RefusedError) *notice {
	return &notice{s: s, refusals: e.Refusals, now: time.Now()}
}

// maxNotice bounds the refusals that are told one by one.
const maxNotice = 100

// transact implements submitter.
func (n *notice) transact(d *dialogue, _ bool) error {
	to := qualify(n.s.Sender, d.host).String()
	mail := "MAIL FROM:<>"
	if n.s.Message.eightBit && d.extensions["8BITMIME"] {
		mail += " BODY=8BITMIME"
	}
	if !n.s.Sender.ASCII() {
		mail += " SMTPUTF8"
	}
	refusals, err := d.envelope(mail, []string{"RCPT TO:<" + to + ">"})
	if err != nil {
		return refused(err)
	}
	if len(refusals) > 0 {
		return &RefusedError{Refusals: refusals}
	}
	return refused(d.data(func(w *bufio.Writer) error { return n.write(w, d.host, to) }))
}

// write sends the notice.
func (n *notice) write(w *bufio.Writer, host, to string) error {
	boundary := rand.Text()
	var b strings.Builder
	fmt.Fprintf(&b, "From: Mailer Daemon <MAILER-DAEMON@%s>\nTo: %s\nDate: %s\n", host, to, header.AppendDate(nil, n.now))
	fmt.Fprintf(&b, "Subject: Undeliverable mail\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n"+
		"Content-Type: multipart/mixed; boundary=%q\n\n--%s\nContent-Type: text/plain; charset=utf-8\n\n", boundary, boundary)
	b.WriteString("The mail server was not running when you sent the attached message, so it was\n" +
		"kept. Now that the server runs it refuses the message:\n\n")
	for i, r := range n.refusals {
		if i == maxNotice {
			fmt.Fprintf(&b, "    and %d recipients more\n", len(n.refusals)-i)
			break
		}
		fmt.Fprintf(&b, "    %s\n", r)
	}
	kind, write := "message/rfc822", n.s.Message.writeTo
	if n.refusals[0].Recipient == "" {
		kind, write = "text/rfc822-headers", n.s.Message.writeHead
	}
	fmt.Fprintf(&b, "\n--%s\nContent-Type: %s\n\n", boundary, kind)
	out := &stuffer{w: w}
	if err := out.block([]byte(b.String())); err != nil {
		return err
	}
	if err := write(w, n.s.missingFields(host)); err != nil {
		return err
	}
	return out.block([]byte("\n--" + boundary + "--\n"))
}
