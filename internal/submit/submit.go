// Package submit is what sendmail(8) does with a message: it reads what a program
// wrote, finds the recipients, completes the header, and speaks SMTP to the daemon;
// or it keeps the message in the spool while there is no daemon, and later submits
// what was kept.
//
// Everything here runs with the rights of the user whose mail it is. The message
// and the offline file are still treated as hostile: the daemon's side of the
// offline file must not be led into more than one message by one user.
//
// A message keeps its text but for this:
//
//   - CRLF and LF both end a line; "." alone on a line is text.
//   - A "From " line in front, and the fields Return-Path, Bcc and Resent-Bcc, are
//     dropped. From and Date are added where missing; the server adds Message-ID.
//   - A text that SMTP cannot carry as it is, because of lines beyond 990 bytes, a
//     carriage return inside a line or a NUL, is encoded as quoted-printable (RFC 2045
//     section 6.7), with the MIME fields that takes. Where the message has a MIME
//     structure of its own, lines beyond 998 bytes (RFC 5322 section 2.1.1) are broken
//     at a blank instead, and carriage returns become blanks.
package submit

import (
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/header"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// maxRecipients bounds the recipients of one message; the server has a bound of its
// own, usually lower.
const maxRecipients = 10000

// Errors of Resolve.
var (
	ErrNoRecipients      = errors.New("no recipients")
	ErrTooManyRecipients = fmt.Errorf("more than %d recipients", maxRecipients)
)

// Request is what a command line asks for.
type Request struct {
	Sender     string   // -f or -r; empty: not given; "<>": the null sender
	FullName   string   // -F, for a From field that is added
	Recipients []string // each may be a list, as in a To field
	FromHeader bool     // -t: recipients are in the header, too
	Notify     string   // -N, as the NOTIFY parameter (RFC 3461 section 4.1)
	Ret        string   // -R, "FULL" or "HDRS"
	EnvelopeID string   // -V, not encoded
	User       string   // login name: the sender when nothing else says
	Date       time.Time
}

// Submission is a message ready to be sent: addresses are checked. A path without a
// domain gets the server's name when it is sent.
type Submission struct {
	Message    *Message
	Sender     smtp.Path
	Recipients []smtp.Path
	Notify     string
	Ret        string
	EnvelopeID string

	user     string // for a From field when the sender is null
	fullName string
	date     time.Time
}

// Resolve finds sender and recipients of m. The sender is the one asked for, else
// the first address of From, else the user. With FromHeader the addresses of To, Cc
// and Bcc are recipients as well; or, when the message is resent (RFC 5322 section
// 3.6.6), those of the first block of Resent fields only.
func (r Request) Resolve(m *Message) (*Submission, error) {
	s := &Submission{
		Message: m, Notify: strings.ToUpper(r.Notify), Ret: strings.ToUpper(r.Ret), EnvelopeID: r.EnvelopeID,
		user: r.User, fullName: r.FullName, date: r.Date,
	}
	if s.Notify != "" || s.Ret != "" || s.EnvelopeID != "" {
		if _, err := smtp.ParseRcptParams(s.rcptParams(), true); err != nil {
			return nil, fmt.Errorf("-N %s: %w", r.Notify, err)
		}
		if _, err := smtp.ParseMailParams(s.dsnParams(), true); err != nil {
			return nil, fmt.Errorf("-R %s or -V %s: %w", r.Ret, r.EnvelopeID, err)
		}
	}
	var err error
	if s.Sender, err = r.sender(m); err != nil {
		return nil, err
	}
	seen := map[smtp.Path]bool{}
	add := func(value string) error {
		list, err := ParseList(value)
		if err != nil {
			return fmt.Errorf("recipient %q: %w", clip(value), err)
		}
		for _, p := range list {
			if seen[p] {
				continue
			}
			if len(seen) == maxRecipients {
				return ErrTooManyRecipients
			}
			seen[p] = true
			s.Recipients = append(s.Recipients, p)
		}
		return nil
	}
	for _, arg := range r.Recipients {
		if strings.ContainsAny(arg, "\r\n\x00") {
			return nil, fmt.Errorf("recipient %q: line break in address", clip(arg))
		}
		if err := add(arg); err != nil {
			return nil, err
		}
	}
	if r.FromHeader {
		for _, value := range m.recipientFields() {
			if err := add(value); err != nil {
				return nil, err
			}
		}
	}
	if len(s.Recipients) == 0 {
		return nil, ErrNoRecipients
	}
	return s, nil
}

// sender returns the envelope sender.
func (r Request) sender(m *Message) (smtp.Path, error) {
	text := strings.TrimSpace(r.Sender)
	if text == "<>" {
		return smtp.Path{}, nil
	}
	if strings.ContainsAny(text, "\r\n\x00") {
		return smtp.Path{}, fmt.Errorf("sender %q: line break in address", clip(text))
	}
	if text == "" {
		if from, ok := m.value("From"); ok {
			if list, err := ParseList(from); err == nil && len(list) > 0 {
				return list[0], nil
			}
		}
		text = r.User
	}
	if text == "" {
		return smtp.Path{}, errors.New("no sender, and the user has no name")
	}
	list, err := ParseList(text)
	if err == nil && len(list) != 1 {
		err = errAddress
	}
	if err != nil {
		return smtp.Path{}, fmt.Errorf("sender %q: %w", clip(text), err)
	}
	return list[0], nil
}

// clip shortens an address for a message.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// dsnParams returns the DSN parameters of MAIL.
func (s *Submission) dsnParams() string {
	var out string
	if s.Ret != "" {
		out += " RET=" + s.Ret
	}
	if s.EnvelopeID != "" {
		out += " ENVID=" + smtp.EncodeXtext(s.EnvelopeID)
	}
	return out
}

// rcptParams returns the DSN parameters of RCPT.
func (s *Submission) rcptParams() string {
	if s.Notify == "" {
		return ""
	}
	return " NOTIFY=" + s.Notify
}

// qualify gives a path without domain the server's.
func qualify(p smtp.Path, host string) smtp.Path {
	if p.Local != "" && p.Domain == "" {
		p.Domain = host
	}
	return p
}

// missingFields returns the fields that the header of the message lacks, with LF
// line ends.
func (s *Submission) missingFields(host string) []byte {
	var out []byte
	if _, ok := s.Message.value("From"); !ok {
		from := s.Sender
		if from.IsNull() {
			from.Local = s.user
			if from.Local == "" {
				from.Local = "postmaster"
			}
		}
		addr := qualify(from, host).String()
		out = append(out, "From: "...)
		if name := phrase(s.fullName); name != "" {
			out = fmt.Appendf(out, "%s <%s>\n", name, addr)
		} else {
			out = fmt.Appendf(out, "%s\n", addr)
		}
	}
	if _, ok := s.Message.value("Date"); !ok {
		out = header.AppendDate(append(out, "Date: "...), s.date)
		out = append(out, '\n')
	}
	return out
}

// phrase returns name as the phrase in front of an address (RFC 5322 section 3.2.5,
// RFC 2047 section 5): plain, quoted or encoded. Control characters become blanks.
func phrase(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "?"))
	name = strings.TrimSpace(name)
	if len(name) > maxPhrase {
		name = strings.ToValidUTF8(name[:maxPhrase], "")
	}
	plain := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 0x80 {
			return mime.QEncoding.Encode("utf-8", name)
		}
		if c != ' ' && !isAtext(c) {
			plain = false
		}
	}
	if plain {
		return name
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// maxPhrase bounds a full name, in bytes, so that the field's line stays short.
const maxPhrase = 256

// isAtext tells whether c may stand in an atom (RFC 5322 section 3.2.3).
func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}
