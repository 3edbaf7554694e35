// Package maillog turns events into log lines: one event, one line. The lines are
// an interface for other programs; the first fields of each are fixed and further
// ones only ever appended:
//
//	00000000deadbeef smtp connected address=192.0.2.1 host=client.example
//	00000000deadbeef mta delivery evpid=5b1f0c4a9d8e7f60 from=<a@b.example> to=<c@d.example> rcpt=<-> source="-" relay="192.0.2.2 (mx.d.example)" delay=1s result="Ok" stat="250 2.0.0 queued"
//
// What a stranger chose the text of is made harmless: control characters and
// bytes that are no UTF-8 appear as \xHH, so do blanks and angle brackets in unquoted
// values; a backslash, and in quoted values a quote, has a backslash before it; and
// it is cut at 1024 bytes. So a field is where it seems to be, and a line is one line.
package maillog

import (
	"io"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Format is the form of the lines.
type Format uint8

// The formats.
const (
	Text Format = iota // fixed words and key=value
	JSON               // an object a line, with the time
)

// LineWriter takes finished lines, without line end. It may be called at the same
// time from many goroutines, and does not keep the line.
type LineWriter interface{ WriteLine(line []byte) }

// Log is a report.Sink that writes lines.
type Log struct {
	w      LineWriter
	format Format
	buffer sync.Pool // *[]byte
}

var _ report.Sink = (*Log)(nil)

// New returns a Log that writes to w.
func New(w LineWriter, f Format) *Log {
	return &Log{w: w, format: f, buffer: sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}}
}

// Lines returns a LineWriter that makes one Write of each line and its line end. An
// error is not reported: there is no other place to log it.
func Lines(w io.Writer) LineWriter { return &lines{w: w} }

type lines struct {
	mu  sync.Mutex // guards w and buf
	w   io.Writer
	buf []byte
}

func (l *lines) WriteLine(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(append(l.buf[:0], line...), '\n')
	_, _ = l.w.Write(l.buf)
}

// Report implements report.Sink.
func (l *Log) Report(ev report.Event) {
	p := l.buffer.Get().(*[]byte)
	f := fields{b: (*p)[:0]}
	if l.format == JSON {
		f.json = true
		f.b = append(f.b, `{"time":"`...)
		f.b = time.Now().UTC().AppendFormat(f.b, "2006-01-02T15:04:05.000Z07:00")
		f.b = append(f.b, '"')
	}
	if f.event(ev) {
		if f.json {
			f.b = append(f.b, '}')
		}
		l.w.WriteLine(f.b)
	}
	*p = f.b
	l.buffer.Put(p)
}

// event writes the fields of ev; false for an event without a line.
func (f *fields) event(ev report.Event) bool {
	switch e := ev.(type) {
	case report.Connected:
		f.session(e.Session, "smtp", "connected")
		f.word("address", e.Address)
		f.word("host", e.Host)
	case report.TLS:
		f.session(e.Session, "smtp", "tls")
		f.word("ciphers", e.Ciphers)
	case report.CertCheck:
		f.session(e.Session, "smtp", "cert-check")
		f.quoted("result", e.Result)
		f.quoted("fingerprint", e.Fingerprint)
	case report.Authentication:
		f.session(e.Session, "smtp", "authentication")
		f.word("user", e.User)
		f.word("result", e.Result)
	case report.Message:
		f.session(e.Session, "smtp", "message")
		f.id("msgid", uint64(e.MsgID), 8)
		f.number("size", e.Size)
		f.number("nrcpt", int64(e.Rcpts))
		f.word("proto", e.Proto)
	case report.Envelope:
		f.session(e.Session, "smtp", "envelope")
		f.id("evpid", uint64(e.ID), 16)
		f.path("from", e.From)
		f.path("to", e.To)
	case report.FailedCommand:
		f.session(e.Session, "smtp", "failed-command")
		f.quoted("command", e.Command)
		f.quoted("result", e.Result)
		f.optional("rule", e.Rule, false)
		f.optional("cause", e.Cause, true)
	case report.BadInput:
		f.session(e.Session, "smtp", "bad-input")
		f.quoted("result", e.Result)
	case report.Disconnected:
		f.session(e.Session, "smtp", "disconnected")
		f.reason(e.Reason)
	case report.Proxied:
		f.session(e.Session, "smtp", "")
		f.word("event", "proxy")
		f.word("address", e.Address)
	case report.FilterRemark:
		f.session(e.Session, "smtp", "filter-report")
		f.word("filter", e.Filter)
		f.word("kind", e.Kind)
		f.quoted("message", e.Text)
	case report.Refused:
		f.session(0, "smtp", "refused")
		f.word("address", e.Address)
		f.quoted("reason", e.Reason)
	case report.Delivery:
		f.delivery(&e)
	case report.QueueEnd:
		f.queueEnd(&e)
	default:
		return f.relayEvent(ev)
	}
	return true
}

// relayEvent writes the events of outgoing sessions.
func (f *fields) relayEvent(ev report.Event) bool {
	switch e := ev.(type) {
	case report.RelayConnecting:
		f.session(e.Session, "mta", "connecting")
		f.word("address", e.Address)
		if e.Host == "" {
			e.Host = "-"
		}
		f.word("host", e.Host)
	case report.RelayConnected:
		f.session(e.Session, "mta", "connected")
	case report.RelayTLS:
		f.session(e.Session, "mta", "tls")
		f.word("ciphers", e.Ciphers)
	case report.RelayCertCheck:
		f.session(e.Session, "mta", "cert-check")
		f.quoted("result", e.Result)
		f.optional("fingerprint", e.Fingerprint, true)
	case report.RelayError:
		f.session(e.Session, "mta", "error")
		f.rest("reason", e.Reason)
	case report.RelayRejects:
		f.session(e.Session, "mta", "host-rejects-all-mails")
	case report.RelayClosing:
		f.session(e.Session, "mta", "closing")
		f.reason(e.Reason)
	case report.RelayDisconnected:
		f.session(e.Session, "mta", "disconnected")
		f.reason(e.Reason)
		f.number("messages", int64(e.Messages))
	case report.RelayRoute:
		f.route(&e)
	default:
		return false
	}
	return true
}

// route writes that a route was taken out of use, or put back.
func (f *fields) route(e *report.RelayRoute) {
	switch {
	case f.json:
		f.quoted("event", "mta route")
		f.quoted("source", e.Source)
		f.quoted("relay", e.Relay)
		f.duration("disabled", e.Disabled)
		f.optional("reason", e.Reason, true)
		return
	case e.Disabled > 0:
		f.b = append(f.b, "smtp-out: Disabling route "...)
	default:
		f.b = append(f.b, "smtp-out: Enabling route "...)
	}
	f.b = appendSafe(f.b, e.Source+" <-> "+e.Relay, false)
	if e.Disabled > 0 {
		f.b = append(f.b, " for "...)
		f.b = AppendDuration(f.b, e.Disabled)
	}
	switch {
	case e.Reason == "":
		return
	case e.Disabled > 0:
		f.b = append(f.b, ": "...)
	default:
		f.b = append(f.b, ' ')
	}
	f.b = appendSafe(f.b, e.Reason, false)
}

// delivery writes a delivery line. The two forms differ in their quotes: a relay
// quotes the words of the peer, a local delivery puts them at the end.
func (f *fields) delivery(e *report.Delivery) {
	v := e.Envelope
	local := v.Type != envelope.MTA
	if local {
		f.session(e.Session, "mda", "delivery")
	} else {
		f.session(e.Session, "mta", "delivery")
	}
	f.id("evpid", uint64(v.ID), 16)
	f.path("from", v.Sender)
	f.path("to", v.Dest)
	switch {
	case v.Rcpt != v.Dest:
		f.path("rcpt", v.Rcpt)
	case !local && !f.json:
		f.b = append(f.b, " rcpt=<->"...)
	}
	if local {
		f.word("user", v.User)
		f.duration("delay", e.Delay)
		f.word("result", e.Result)
		f.rest("stat", e.Stat)
	} else {
		source := e.Source
		if source == "" {
			source = "-"
		}
		f.quoted("source", source)
		f.quoted("relay", e.Relay)
		f.duration("delay", e.Delay)
		f.quoted("result", e.Result)
		f.quoted("stat", e.Stat)
	}
	if e.Result == report.TempFail && !e.Next.IsZero() {
		f.time("next", e.Next)
	}
	if e.Result == report.TempFail {
		f.optional("held", v.Held, true)
	}
}

// queueEnd writes the line of an envelope that left without an attempt.
func (f *fields) queueEnd(e *report.QueueEnd) {
	v := e.Envelope
	what := "delivery"
	switch v.Type {
	case envelope.MTA:
		what = "relay"
	case envelope.Bounce:
		what = "bounce"
	}
	if f.json {
		f.quoted("event", "queue "+e.Verb)
		f.quoted("type", what)
		f.id("evpid", uint64(v.ID), 16)
		f.path("from", v.Sender)
		f.path("to", v.Dest)
		f.path("rcpt", v.Rcpt)
		f.duration("delay", e.Delay)
		f.quoted("stat", e.Stat)
		return
	}
	f.b = append(f.b, what...)
	f.b = append(f.b, ": "...)
	f.b = append(f.b, e.Verb...)
	f.b = append(f.b, " for "...)
	f.b = appendHex(f.b, uint64(v.ID), 16)
	f.b = append(f.b, ": from=<"...)
	f.b = appendPath(f.b, v.Sender)
	f.b = append(f.b, ">, to=<"...)
	f.b = appendPath(f.b, v.Dest)
	f.b = append(f.b, ">, rcpt=<"...)
	if v.Rcpt == v.Dest {
		f.b = append(f.b, '-')
	} else {
		f.b = appendPath(f.b, v.Rcpt)
	}
	f.b = append(f.b, ">, delay="...)
	f.b = AppendDuration(f.b, e.Delay)
	f.b = append(f.b, ", stat="...)
	f.b = appendSafe(f.b, e.Stat, false)
}
