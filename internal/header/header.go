// Package header passes the header block of a message (RFC 5322 section 2.2)
// through while it arrives: it counts the hops, notices a block that is none, and,
// for a message that a user agent submits, completes it as RFC 6409 section 8
// allows. Only submitted messages are ever changed; and of those only the fields
// that lack something, in place, with their folding kept.
//
// Lines end with LF here. The server feeds what it has read and stores what comes
// back:
//
//	e.Reset(header.Options{})
//	body = e.Edit(body, chunk) // for each chunk
//	body = e.End(body)
package header

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Limits, in bytes.
const (
	maxBlock = 1 << 20  // of the whole header block
	maxName  = 1023     // of a field name
	maxField = 64 << 10 // of a field that is edited
)

// Errors of Err.
var (
	ErrMalformed = errors.New("not a header block as in RFC 5322")
	ErrTooLarge  = errors.New("header block or field too large")
)

// Options say what is done to a message. The zero value changes nothing.
type Options struct {
	// Submission drops Bcc, completes the addresses of To, Cc and From that have no
	// domain with Hostname, and adds Date and Message-ID where missing.
	Submission bool
	Hostname   string
	Now        time.Time // the Date to add

	// Masquerade, if not empty, replaces the addresses in From; names are kept.
	Masquerade string
}

// Editor passes one header block through. The zero value is ready, with zero
// Options.
type Editor struct {
	o        Options
	line     []byte // the beginning of a line whose end has not arrived
	field    []byte // the edited field read so far, name included
	what     kind   // of the current field
	read     int    // bytes of the block so far
	hops     int
	date, id bool
	noTLS    bool // TLS-Required: No
	done     bool
	err      error
}

// kind says how the lines of a field are treated.
type kind uint8

const (
	none    kind = iota // no field yet
	passed              // copied as it comes
	dropped             // Bcc
	address             // collected, completed
	from                // the same, masqueraded too
)

// Reset makes e ready for another message.
func (e *Editor) Reset(o Options) {
	*e = Editor{o: o, line: e.line[:0], field: e.field[:0]}
}

// Done tells whether the block has ended: Edit only copies from here on.
func (e *Editor) Done() bool { return e.done }

// Err returns ErrMalformed or ErrTooLarge once the block has turned out to be so.
// Edit discards its input then.
func (e *Editor) Err() error { return e.err }

// Hops returns the number of Received fields so far.
func (e *Editor) Hops() int { return e.hops }

// TLSOptional tells whether a field "TLS-Required: No" was seen: the message is to be
// delivered whatever the recipient's domain demands of TLS (RFC 8689 section 5).
func (e *Editor) TLSOptional() bool { return e.noTLS }

// Edit appends p, the next part of the message, to dst in its edited form. What
// needs more input to be decided is held back.
func (e *Editor) Edit(dst, p []byte) []byte {
	for !e.done && e.err == nil && len(p) > 0 {
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		if e.read += n; e.read > maxBlock {
			e.err = ErrTooLarge
			break
		}
		if !whole {
			e.line = append(e.line, p...)
			return dst
		}
		line := p[:n]
		if len(e.line) > 0 {
			e.line = append(e.line, line...)
			line = e.line
		}
		dst = e.handle(dst, line)
		e.line = e.line[:0]
		p = p[n:]
	}
	if e.err != nil {
		return dst
	}
	return append(dst, p...)
}

// End appends what was held back. It is called once, behind the last Edit.
func (e *Editor) End(dst []byte) []byte {
	if e.done || e.err != nil {
		return dst
	}
	if len(e.line) > 0 {
		dst = e.handle(dst, append(e.line, '\n'))
	}
	if e.done || e.err != nil {
		return dst
	}
	return e.finish(dst)
}

// handle takes one line with its LF.
func (e *Editor) handle(dst, line []byte) []byte {
	switch line[0] {
	case '\n':
		return append(e.finish(dst), '\n')
	case ' ', '\t':
		if e.what == none {
			e.err = ErrMalformed
			return dst
		}
		return e.add(dst, line)
	}
	dst = e.flush(dst)
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || colon > maxName {
		e.err = ErrMalformed
		return dst
	}
	name := bytes.TrimRight(line[:colon], " \t")
	if bytes.EqualFold(name, []byte("TLS-Required")) {
		e.noTLS = bytes.EqualFold(bytes.TrimSpace(line[colon+1:]), []byte("no"))
	}
	e.begin(name)
	return e.add(dst, line)
}

// begin decides what happens to the field called name.
func (e *Editor) begin(name []byte) {
	e.what = passed
	is := func(s string) bool { return len(name) == len(s) && bytes.EqualFold(name, []byte(s)) }
	switch {
	case is("Received"):
		e.hops++
	case is("From"):
		if e.o.Submission || e.o.Masquerade != "" {
			e.what = from
		}
	case !e.o.Submission:
	case is("Bcc"):
		e.what = dropped
	case is("To"), is("Cc"):
		e.what = address
	case is("Date"):
		e.date = true
	case is("Message-ID"):
		e.id = true
	}
}

// add takes a line of the current field.
func (e *Editor) add(dst, line []byte) []byte {
	switch e.what {
	case dropped:
		return dst
	case passed:
		return append(dst, line...)
	}
	if len(e.field)+len(line) > maxField {
		e.err = ErrTooLarge
		return dst
	}
	e.field = append(e.field, line...)
	return dst
}

// flush appends the collected field, if there is one.
func (e *Editor) flush(dst []byte) []byte {
	if len(e.field) == 0 {
		return dst
	}
	colon := bytes.IndexByte(e.field, ':') + 1
	name, value := e.field[:colon], e.field[colon:]
	dst = append(dst, name...)
	if e.what == from && e.o.Masquerade != "" {
		dst = masquerade(dst, value, e.o.Masquerade)
	} else {
		dst = complete(dst, value, e.o.Hostname)
	}
	e.field = e.field[:0]
	return dst
}

// finish ends the block, short of its empty line.
func (e *Editor) finish(dst []byte) []byte {
	dst = e.flush(dst)
	e.done = true
	if !e.o.Submission {
		return dst
	}
	if !e.date {
		dst = append(dst, "Date: "...)
		dst = AppendDate(dst, e.o.Now)
		dst = append(dst, '\n')
	}
	if !e.id {
		dst = fmt.Appendf(dst, "Message-ID: <%016x@%s>\n", rand.Uint64(), e.o.Hostname)
	}
	return dst
}

// AppendDate appends t as in a Date field, the zone's name in a comment (RFC 5322
// section 3.3): Mon, 2 Nov 2026 22:22:02 +0000 (UTC).
func AppendDate(dst []byte, t time.Time) []byte {
	dst = t.AppendFormat(dst, "Mon, 2 Jan 2006 15:04:05 -0700")
	zone, _ := t.Zone()
	if zone == "" || zone[0] == '+' || zone[0] == '-' {
		return dst
	}
	return append(append(append(dst, " ("...), zone...), ')')
}
