package dsn

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// status is the part for programs (RFC 3464 section 2).
func (c *composer) status() part {
	var b strings.Builder
	r := c.r
	if r.EnvID != "" {
		c.field(&b, "Original-Envelope-Id", decodeXtext(r.EnvID))
	}
	c.field(&b, "Reporting-MTA", "dns; "+r.ReportingMTA)
	if !r.Arrival.IsZero() {
		c.field(&b, "Arrival-Date", date(r.Arrival))
	}
	for i := range r.Recipients {
		b.WriteByte('\n')
		c.recipient(&b, &r.Recipients[i])
	}
	body := []byte(b.String())
	c.global = !isASCII(body)
	return part{"Content-Description: Delivery report\nContent-Type: message/" + c.reportType() + "\n", body}
}

// recipient writes the fields of one recipient (RFC 3464 section 2.3).
func (c *composer) recipient(b *strings.Builder, r *Recipient) {
	if typ, addr, ok := strings.Cut(r.OrigRcpt, ";"); ok {
		c.field(b, "Original-Recipient", atomText(typ)+"; "+c.address(decodeXtext(addr)))
	}
	addr := r.Rcpt.String()
	typ := "rfc822; "
	if !isASCII([]byte(addr)) {
		typ = "utf-8; " // RFC 6533 section 3
	}
	c.field(b, "Final-Recipient", typ+c.address(addr))
	c.field(b, "Action", string(r.Action))
	c.field(b, "Status", status(r).String())
	if r.RemoteMTA != "" {
		c.field(b, "Remote-MTA", "dns; "+r.RemoteMTA)
	}
	if d := strings.TrimSpace(clip(r.Diagnostic)); d != "" {
		c.field(b, "Diagnostic-Code", diagnosticType(d)+"; "+d)
	}
	if !r.LastAttempt.IsZero() {
		c.field(b, "Last-Attempt-Date", date(r.LastAttempt))
	}
	if r.Action == Delayed && !r.WillRetryUntil.IsZero() {
		c.field(b, "Will-Retry-Until", date(r.WillRetryUntil))
	}
}

// status returns the code to report. Its class follows from the action, whatever
// the peer's code was: a mail that failed has not failed for now.
func status(r *Recipient) smtp.EnhancedCode {
	class := uint8(2)
	switch r.Action {
	case Failed:
		class = 5
	case Delayed:
		class = 4
	}
	s := r.Status
	if s == (smtp.EnhancedCode{}) {
		return smtp.EnhancedCode{class, 0, 0}
	}
	// A recipient given up after temporary failures keeps the reason of the last one,
	// subject and detail.
	s[0] = class
	return s
}

// isReply tells replies from the words of local agents: the former begin with a
// reply code.
func isReply(d string) bool {
	return len(d) >= 3 && (d[0] >= '2' && d[0] <= '5') && isDigit(d[1]) && isDigit(d[2]) && (len(d) == 3 || d[3] == ' ' || d[3] == '-')
}

// diagnosticType returns the type of a diagnostic text (RFC 3464 section 2.3.6).
func diagnosticType(d string) string {
	if isReply(d) {
		return "smtp"
	}
	return "x-unix"
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// field writes one field, folded where the line would be too long.
func (c *composer) field(b *strings.Builder, name, value string) {
	var w strings.Builder
	writeWrapped(&w, "\t", name+": "+printable(value, c.r.UTF8))
	b.WriteString(strings.TrimPrefix(w.String(), "\t"))
}

// address returns an address for the machine-readable part: as it is where UTF-8
// may stand, else in the escaped form utf-8-addr-xtext (RFC 6533 section 3).
func (c *composer) address(a string) string {
	if c.r.UTF8 || isASCII([]byte(a)) {
		return a
	}
	var b strings.Builder
	for _, r := range a {
		if r > ' ' && r < 0x7f && r != '\\' && r != '+' && r != '=' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\x{%02X}", r)
		}
	}
	return b.String()
}

// decodeXtext undoes xtext (RFC 3461 section 4). What is no xtext is left as it is.
func decodeXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// clip cuts a diagnostic to its greatest length.
func clip(s string) string {
	if len(s) <= maxDiagnostic {
		return s
	}
	n := maxDiagnostic
	for n > maxDiagnostic-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// printable returns s as one line that can stand in the notification: controls
// become blanks, and what is no UTF-8, or no ASCII where only that may stand,
// question marks.
func printable(s string, utf8Allowed bool) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] >= ' ' && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029:
			b.WriteByte(' ')
		case r == utf8.RuneError && n == 1, r >= 0x7f && !utf8Allowed:
			b.WriteByte('?')
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// atomText returns the part of s that may stand in a domain or a msg-id.
func atomText(s string) string {
	return strings.Map(func(r rune) rune {
		if r > ' ' && r != 0x7f && !strings.ContainsRune("<>()@,;\\\"", r) && r != utf8.RuneError {
			return r
		}
		return -1
	}, s)
}

// wrapAt is the width that lines of ours aim at.
const wrapAt = 76

// writeWrapped writes words as lines that begin with the indent, broken at blanks
// where they pass wrapAt and by force at maxLine.
func writeWrapped(b *strings.Builder, indent, s string) {
	for first := true; first || s != ""; first = false {
		if len(indent)+len(s) <= wrapAt {
			b.WriteString(indent + s + "\n")
			return
		}
		cut := strings.LastIndexByte(s[:wrapAt-len(indent)+1], ' ')
		if cut <= 0 {
			if cut = strings.IndexByte(s[1:], ' ') + 1; cut == 0 {
				cut = len(s)
			}
		}
		if limit := maxLine - len(indent); cut > limit {
			for cut = limit; cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]); {
				cut--
			}
		}
		line := s[:cut]
		s = strings.TrimLeft(s[cut:], " ")
		if strings.TrimSpace(line) != "" {
			b.WriteString(indent + line + "\n")
		}
	}
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
