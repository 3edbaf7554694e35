// Package dsn writes delivery status notifications and decides when one is due.
//
// A notification is a multipart/report (RFC 6522) of three parts: words for people,
// a message/delivery-status for programs (RFC 3464), and the original message or
// its header fields. Where the sender uses SMTPUTF8 the second and third are of the
// message/global family (RFC 6533); where it does not, addresses outside ASCII are
// written in the escaped form of the same document. It carries Auto-Submitted
// (RFC 3834), so that no robot answers it. Which events are reported is the
// sender's choice by NOTIFY (RFC 3461); a notification is never answered by one.
//
// The original message is a stranger's: it is copied, never trusted. Header fields
// are cut into lines that fit a message, and the boundary is one that occurs in no
// part.
package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Action is what became of a recipient (RFC 3464 section 2.3.3).
type Action string

// The actions.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed" // to a host that reports nothing itself
	Expanded  Action = "expanded"
)

// Recipient is one recipient of the original message.
type Recipient struct {
	Rcpt           smtp.Path // as the sender knows it
	OrigRcpt       string    // ORCPT as received, type;xtext; may be empty
	Action         Action
	Status         smtp.EnhancedCode // zero: undefined status of the action's class
	RemoteMTA      string            // host that gave the answer; may be empty
	Diagnostic     string            // its words, or those of the local agent; may be empty
	Expired        bool              // given up for its age; Diagnostic is of the last attempt
	LastAttempt    time.Time         // zero: unknown
	WillRetryUntil time.Time         // of a delay; zero: not said
}

// Report is what a notification is made of. ReportingMTA, To, Now and Recipients
// are needed.
type Report struct {
	ReportingMTA string    // our name
	ID           string    // left side of the Message-ID; unique in time and space with the name
	To           smtp.Path // sender of the original
	EnvID        string    // ENVID as received, xtext; may be empty
	Arrival      time.Time // of the original
	Now          time.Time
	Type         envelope.BounceType
	Recipients   []Recipient
	UTF8         bool // the sender used SMTPUTF8

	// The original message.
	Full     bool      // RET=FULL: return it whole if it failed and is not too large
	Original io.Reader // LF line ends; nil: nothing is returned
	Size     int64     // bytes
	MaxFull  int64     // largest one returned whole; <= 0 means DefaultMaxFull
}

// DefaultMaxFull is the largest original, in bytes, that is returned whole.
const DefaultMaxFull = 64 << 10

// maxHeader bounds the header fields that are returned, in bytes.
const maxHeader = 32 << 10

// maxDiagnostic bounds one diagnostic text, in bytes.
const maxDiagnostic = 1024

// maxLine is the longest line of a message, without its end (RFC 5322 section 2.1.1).
const maxLine = 998

// Message is a notification, ready for the store.
type Message struct {
	Body     []byte // LF line ends
	EightBit bool   // it needs 8BITMIME
	UTF8     bool   // it needs SMTPUTF8
}

// ErrNoReturnPath says that there is nobody to notify.
var ErrNoReturnPath = errors.New("no return path")

// Compose writes the notification. It fails when Original cannot be read, which is
// temporary, or with ErrNoReturnPath.
func Compose(r *Report) (Message, error) {
	if r.To.IsNull() {
		return Message{}, ErrNoReturnPath
	}
	if len(r.Recipients) == 0 {
		return Message{}, errors.New("notification about no recipient")
	}
	orig, err := readOriginal(r)
	if err != nil {
		return Message{}, fmt.Errorf("read original: %w", err)
	}
	c := composer{r: r, orig: orig}
	return c.message(), nil
}

// FromEnvelope returns what an envelope knows of its recipient. The address is the
// one the sender used, not what it was expanded to, which may be private
// (RFC 3464 section 4.2).
func FromEnvelope(e *envelope.Envelope, a Action) Recipient {
	r := Recipient{
		Rcpt: e.Rcpt, OrigRcpt: e.OrigRcpt, Action: a,
		Status: e.Status, LastAttempt: e.LastTry, RemoteMTA: remoteMTA(e.Relay),
	}
	r.Expired, r.Diagnostic = cutExpired(e.ErrorLine)
	if a == Delayed {
		r.WillRetryUntil = e.Expires()
	}
	return r
}

// reason returns the outcome in words for people.
func (r *Recipient) reason() string {
	why := strings.TrimSpace(clip(r.Diagnostic))
	switch {
	case why == "" && r.Expired:
		return expired
	case why == "":
		why = string(r.Action)
		if s := r.Status.String(); s != "" {
			why += " (" + s + ")"
		}
	}
	switch {
	case r.RemoteMTA != "" && isReply(why):
		why = r.RemoteMTA + " said: " + why
	case r.RemoteMTA != "":
		why = r.RemoteMTA + ": " + why
	}
	if r.Expired {
		return Expired(why)
	}
	return why
}

// expired is why an envelope is given up whose time is over; the outcome of the last
// attempt may follow.
const (
	expired      = "Envelope expired"
	expiredAfter = expired + "; the last attempt ended with: "
)

// Expired returns the error line of an envelope whose time is over, from the one of
// its last attempt, which may be empty.
func Expired(last string) string {
	if last == "" {
		return expired
	}
	return expiredAfter + last
}

// cutExpired undoes Expired.
func cutExpired(line string) (bool, string) {
	if line == expired {
		return true, ""
	}
	last, ok := strings.CutPrefix(line, expiredAfter)
	return ok, last
}

// remoteMTA returns the name in "ADDR (NAME)" as logs have a host, or the address
// itself in brackets; nothing where no host was reached.
func remoteMTA(relay string) string {
	addr, name, named := strings.Cut(relay, " (")
	if _, err := netip.ParseAddr(addr); err != nil {
		return ""
	}
	if named {
		return strings.TrimSuffix(name, ")")
	}
	return "[" + addr + "]"
}

// composer writes one notification.
type composer struct {
	r        *Report
	orig     original
	eightBit bool // some part needs it
	global   bool // the status part is of the global family
}

// part is one body part.
type part struct {
	header string
	body   []byte
}

func (c *composer) message() Message {
	parts := []part{c.notification(), c.status()}
	if c.orig.present {
		parts = append(parts, c.returned())
	}
	for _, p := range parts {
		c.eightBit = c.eightBit || !isASCII(p.body)
	}
	boundary := boundary(c.sum(parts), parts)

	var b bytes.Buffer
	c.header(&b, boundary)
	b.WriteString("This is a delivery status notification in MIME format.\n")
	for _, p := range parts {
		b.WriteString("\n--" + boundary + "\n" + p.header)
		if !isASCII(p.body) {
			b.WriteString("Content-Transfer-Encoding: 8bit\n")
		}
		b.WriteByte('\n')
		b.Write(p.body)
	}
	b.WriteString("\n--" + boundary + "--\n")
	// Parts of the global family are body, for which 8BITMIME is enough. Only our own
	// header asks for SMTPUTF8.
	utf8 := !isASCII([]byte(c.r.To.String()))
	return Message{Body: b.Bytes(), EightBit: c.eightBit || utf8, UTF8: utf8}
}

// header writes the header fields of the notification.
func (c *composer) header(b *bytes.Buffer, boundary string) {
	name := atomText(c.r.ReportingMTA)
	fmt.Fprintf(b, "From: Mailer Daemon <MAILER-DAEMON@%s>\n", name)
	fmt.Fprintf(b, "To: <%s>\n", printable(c.r.To.String(), true))
	fmt.Fprintf(b, "Subject: Delivery status notification: %s\n", subject(c.r.Type))
	fmt.Fprintf(b, "Date: %s\n", date(c.r.Now))
	fmt.Fprintf(b, "Message-ID: <%s@%s>\n", c.id(), name)
	if id := c.orig.messageID; id != "" {
		fmt.Fprintf(b, "In-Reply-To: %s\nReferences: %s\n", id, id)
	}
	b.WriteString("Auto-Submitted: auto-replied\nMIME-Version: 1.0\n")
	b.WriteString("Content-Type: multipart/report; report-type=" + c.reportType() + ";\n")
	b.WriteString("\tboundary=\"" + boundary + "\"\n")
	if c.eightBit {
		b.WriteString("Content-Transfer-Encoding: 8bit\n")
	}
	b.WriteByte('\n')
}

// id returns the left side of the Message-ID.
func (c *composer) id() string {
	if id := atomText(c.r.ID); id != "" {
		return id
	}
	return fmt.Sprintf("dsn.%x.%x", c.r.Now.UnixNano(), c.sum(nil))
}

// boundary returns a boundary that occurs in no part, the first one from sum on.
// The sum depends on the content only: composing twice gives the same message.
func boundary(sum uint64, parts []part) string {
	for ; ; sum++ {
		s := fmt.Sprintf("=_dsn_%016x", sum)
		used := false
		for _, p := range parts {
			used = used || bytes.Contains(p.body, []byte(s))
		}
		if !used {
			return s
		}
	}
}

func (c *composer) sum(parts []part) uint64 {
	h := fnv.New64a()
	io.WriteString(h, c.r.ReportingMTA)
	io.WriteString(h, c.r.To.String())
	for i := range c.r.Recipients {
		io.WriteString(h, c.r.Recipients[i].Rcpt.String())
	}
	for _, p := range parts {
		h.Write(p.body)
	}
	return h.Sum64()
}

func subject(t envelope.BounceType) string {
	switch t {
	case envelope.BounceDelayed:
		return "delayed"
	case envelope.BounceDelivered:
		return "delivered"
	}
	return "failed"
}

// reportType returns the subtype of the second part (RFC 6522 section 3).
func (c *composer) reportType() string {
	if c.global {
		return "global-delivery-status"
	}
	return "delivery-status"
}

// date formats a time as RFC 5322 section 3.3 asks.
func date(t time.Time) string { return t.Format("Mon, 2 Jan 2006 15:04:05 -0700") }

// notification is the part for people.
func (c *composer) notification() part {
	var b strings.Builder
	r := c.r
	fmt.Fprintf(&b, "This is the mail system of %s.\n\n", printable(r.ReportingMTA, r.UTF8))
	switch r.Type {
	case envelope.BounceDelayed:
		b.WriteString("Your message has not been delivered yet to the recipients below. This is a\n" +
			"warning only: you need not send it again.\n")
		if until := r.Recipients[0].WillRetryUntil; !until.IsZero() {
			fmt.Fprintf(&b, "Delivery will be tried until %s.\n", date(until))
		}
	case envelope.BounceDelivered:
		b.WriteString("As you asked to be told: your message has reached these recipients, or the\n" +
			"mail system that is in charge of them.\n")
	default:
		b.WriteString("Your message could not be delivered to the recipients below, and will not be\ntried again.\n")
	}
	for _, g := range byReason(r.Recipients) {
		b.WriteByte('\n')
		for _, a := range g.addresses {
			writeWrapped(&b, "", "<"+printable(a, r.UTF8)+">")
		}
		writeWrapped(&b, "    ", printable(g.reason, r.UTF8))
	}
	if c.orig.present {
		what := "The header of your message"
		if c.orig.whole {
			what = "Your message"
		}
		fmt.Fprintf(&b, "\nA report for programs follows. %s is attached.\n", what)
	}
	charset := "us-ascii"
	if r.UTF8 {
		charset = "utf-8"
	}
	return part{"Content-Description: Notification\nContent-Type: text/plain; charset=" + charset + "\n", []byte(b.String())}
}

// reason is the recipients that share an outcome.
type reason struct {
	reason    string
	addresses []string
}

// byReason groups recipients by outcome, in the order in which each came first.
func byReason(rs []Recipient) []reason {
	var groups []reason
	place := map[string]int{}
	seen := map[[2]string]bool{}
	for i := range rs {
		r := &rs[i]
		why := r.reason()
		k, ok := place[why]
		if !ok {
			k = len(groups)
			place[why] = k
			groups = append(groups, reason{reason: why})
		}
		if a := r.Rcpt.String(); !seen[[2]string{why, a}] {
			seen[[2]string{why, a}] = true
			groups[k].addresses = append(groups[k].addresses, a)
		}
	}
	return groups
}
