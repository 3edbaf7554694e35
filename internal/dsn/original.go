package dsn

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// original is what is returned of the original message.
type original struct {
	present   bool
	whole     bool // text is the message, not just its header
	text      []byte
	messageID string // with its angle brackets; empty if it has no proper one
}

// readOriginal reads as much of the original as will be returned.
func readOriginal(r *Report) (original, error) {
	if r.Original == nil {
		return original{}, nil
	}
	limit := r.MaxFull
	if limit <= 0 {
		limit = DefaultMaxFull
	}
	// RFC 3461 section 4.3: FULL is about failures; others return the header.
	full := r.Full && r.Type != envelope.BounceDelayed && r.Type != envelope.BounceDelivered && r.Size <= limit
	read := int64(maxHeader)
	if full {
		read = max(read, limit)
	}
	text, err := io.ReadAll(io.LimitReader(r.Original, read+1))
	if err != nil {
		return original{}, err
	}
	o := original{present: true}
	head := headerOf(text)
	o.messageID = messageID(head)
	if full && int64(len(text)) <= limit && fits(text) {
		o.whole, o.text = true, text
		return o, nil
	}
	o.text = cleanHeader(head, r.UTF8)
	return o, nil
}

// returned is the part with the original.
func (c *composer) returned() part {
	o := &c.orig
	switch {
	case o.whole && c.r.UTF8 && !isASCII(headerOf(o.text)) && utf8.Valid(headerOf(o.text)):
		return part{"Content-Description: Message\nContent-Type: message/global\n", o.text}
	case o.whole:
		return part{"Content-Description: Message\nContent-Type: message/rfc822\n", o.text}
	case c.r.UTF8 && !isASCII(o.text):
		return part{"Content-Description: Message header\nContent-Type: message/global-headers\n", o.text}
	}
	return part{"Content-Description: Message header\nContent-Type: text/rfc822-headers\n", o.text}
}

// headerOf returns the header of a message: all before the first empty line, or as
// much of it as maxHeader allows, in whole lines.
func headerOf(text []byte) []byte {
	switch i := bytes.Index(text, []byte("\n\n")); {
	case len(text) > 0 && text[0] == '\n':
		return nil
	case i >= 0:
		text = text[:i+1]
	}
	if len(text) > maxHeader {
		text = text[:maxHeader]
		if i := bytes.LastIndexByte(text, '\n'); i >= 0 {
			text = text[:i+1]
		}
	}
	return text
}

// fits tells whether a message can be returned as it is: no line too long, no NUL,
// no bare CR. An encoding cannot help, message/rfc822 allows none
// (RFC 2046 section 5.2.1).
func fits(text []byte) bool {
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if len(line) > maxLine || bytes.IndexByte(line, 0) >= 0 || bytes.IndexByte(line, '\r') >= 0 {
			return false
		}
		text = rest
	}
	return true
}

// cleanHeader makes header fields fit to be returned: lines are cut at maxLine,
// controls become blanks, and bytes that may not stand question marks.
func cleanHeader(head []byte, utf8Allowed bool) []byte {
	out := make([]byte, 0, len(head)+1)
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		// printable keeps tabs from the stranger out too; a blank folds as well.
		s := printable(string(line), utf8Allowed)
		if len(s) > maxLine {
			n := maxLine
			for n > maxLine-utf8.UTFMax && !utf8.RuneStart(s[n]) {
				n--
			}
			s = s[:n]
		}
		out = append(append(out, s...), '\n')
	}
	return out
}

// messageID returns the msg-id of the Message-ID field of a header, or nothing when
// it is missing or malformed.
func messageID(head []byte) string {
	const name = "message-id:"
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
			continue
		}
		v := string(line[len(name):])
		for len(head) > 0 && (head[0] == ' ' || head[0] == '\t') && len(v) < maxLine { // folded
			line, rest, _ = bytes.Cut(head, []byte("\n"))
			v, head = v+string(line), rest
		}
		return msgID(strings.Trim(v, " \t\r"))
	}
	return ""
}

// msgID returns s if it is a msg-id that can be copied into a header field.
func msgID(s string) string {
	if len(s) < 5 || len(s) > 250 || s[0] != '<' || s[len(s)-1] != '>' || !strings.Contains(s, "@") {
		return ""
	}
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			return ""
		}
	}
	return s
}
