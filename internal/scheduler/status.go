package scheduler

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Entry is one envelope of the queue as an operator sees it, in JSON. Times are
// UTC; those that are not known are left out.
type Entry struct {
	ID        string     `json:"evpid"`
	MsgID     string     `json:"msgid"`
	Source    string     `json:"source"` // local, inet4 or inet6
	Type      string     `json:"type"`   // mda, mta or bounce
	Flags     []string   `json:"flags"`  // bounce, auth, internal, suspend, hold
	Sender    string     `json:"sender"` // empty for the null sender
	Rcpt      string     `json:"rcpt"`
	Dest      string     `json:"dest"`
	Action    string     `json:"action"`
	User      string     `json:"user,omitempty"`
	Created   time.Time  `json:"created"`
	Expires   time.Time  `json:"expires"`
	LastTry   *time.Time `json:"last_try,omitempty"`
	NextTry   *time.Time `json:"next_try,omitempty"` // while pending
	Retry     uint32     `json:"retry"`
	State     string     `json:"state"` // pending, inflight, held or offline
	Hold      string     `json:"hold,omitempty"`
	Relay     string     `json:"relay,omitempty"`  // host of the last attempt
	Reason    string     `json:"reason,omitempty"` // what held it back
	Status    string     `json:"status,omitempty"` // enhanced code of the last failure
	ErrorLine string     `json:"error,omitempty"`
}

// Describe returns what is known of an envelope. A Status with State 0 stands for
// an envelope read from the spool while the daemon is down.
func Describe(s Status, e *envelope.Envelope) Entry {
	d := Entry{
		ID: e.ID.String(), MsgID: e.ID.MsgID().String(),
		Source: family(e.Source), Type: e.Type.String(), Flags: []string{},
		Sender: e.Sender.String(), Rcpt: e.Rcpt.String(), Dest: e.Dest.String(),
		Action: e.Action, User: e.User,
		Created: e.Created.UTC(), Expires: e.Expires().UTC(), LastTry: known(e.LastTry),
		Retry: e.Retry, State: "offline", Hold: s.Hold,
		Relay: e.Relay, Reason: e.Held, Status: e.Status.String(), ErrorLine: e.ErrorLine,
	}
	eachFlag(s, e, func(f string) { d.Flags = append(d.Flags, f) })
	switch s.State {
	case Pending, Scheduled:
		d.State, d.NextTry = "pending", known(s.Next)
	case InFlight:
		d.State = "inflight"
	case Held:
		d.State = "held"
	}
	return d
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// family names the address family of Envelope.Source in the words of show queue.
func family(source string) string {
	switch {
	case source == "" || source == "local":
		return "local"
	case strings.HasPrefix(source, "["):
		return "inet6"
	}
	return "inet4"
}

func eachFlag(s Status, e *envelope.Envelope, f func(string)) {
	if e.Flags&envelope.IsBounce != 0 {
		f("bounce")
	}
	if e.Flags&envelope.Authenticated != 0 {
		f("auth")
	}
	if e.Flags&envelope.Internal != 0 {
		f("internal")
	}
	if s.Suspended {
		f("suspend")
	}
	if s.State == Held {
		f("hold")
	}
}

// Line returns the line of an envelope in the listing of the queue, without line
// end: 14 fields parted by "|".
//
//	EVPID|FAMILY|TYPE|FLAGS|SENDER|RCPT|DEST|CTIME|EXPIRE|LASTTRY|RETRY|STATE|SECONDS|ERROR
//
//	5b1f0c4a9d8e7f60|inet4|mta|auth|a@example.org|b@example.net|b@example.net|1700000000|1700345600|1700000001|1|pending|399|451 4.7.1 later
//
// FAMILY is inet4, inet6 or local; FLAGS a comma list of bounce, auth, internal,
// suspend and hold; times are Unix seconds, 0 when there is none; the null sender is
// "@". STATE is pending, with the seconds to the next attempt, inflight, with those
// since the last, or offline, with none. ERROR is the last failure in the words of
// who caused it; the host that was tried and what held the envelope back follow in
// brackets: "451 4.7.1 later [192.0.2.2 (mx.example.net); limit of 10 messages a minute]". A "|", a backslash or a control character
// in an address or in the error is written as a backslash and three octal digits, so
// that splitting at "|" is always right.
func Line(s Status, e *envelope.Envelope, now time.Time) string {
	return string(AppendLine(make([]byte, 0, 256), s, e, now))
}

// AppendLine appends what Line returns to b.
func AppendLine(b []byte, s Status, e *envelope.Envelope, now time.Time) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[uint64(e.ID)>>shift&0xf])
	}
	b = append(b, '|')
	b = append(b, family(e.Source)...)
	b = append(b, '|')
	b = append(b, e.Type.String()...)
	b = append(b, '|')
	sep := false
	eachFlag(s, e, func(f string) {
		if sep {
			b = append(b, ',')
		}
		sep = true
		b = append(b, f...)
	})
	for _, p := range []smtp.Path{e.Sender, e.Rcpt, e.Dest} {
		b = append(b, '|')
		if p.IsNull() {
			b = append(b, '@')
		} else {
			b = appendSafe(b, p.String())
		}
	}
	b = append(b, '|')
	b = appendUnix(b, e.Created)
	b = append(b, '|')
	b = appendUnix(b, e.Expires())
	b = append(b, '|')
	b = appendUnix(b, e.LastTry)
	b = append(b, '|')
	b = strconv.AppendUint(b, uint64(e.Retry), 10)
	switch s.State {
	case Pending, Scheduled, Held:
		b = append(b, "|pending|"...)
		b = appendSeconds(b, now, s.Next)
	case InFlight:
		b = append(b, "|inflight|"...)
		b = appendSeconds(b, e.LastTry, now)
	default:
		b = append(b, "|offline|"...)
	}
	b = append(b, '|')
	b = appendSafe(b, e.ErrorLine)
	lead := " ["
	for _, s := range [...]string{e.Relay, e.Held} {
		if s != "" {
			b = appendSafe(append(b, lead...), s)
			lead = "; "
		}
	}
	if lead != " [" {
		b = append(b, ']')
	}
	return b
}

func appendUnix(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, '0')
	}
	return strconv.AppendInt(b, t.Unix(), 10)
}

// appendSeconds appends the whole seconds from a to z, 0 when z is earlier or one of
// them is not known.
func appendSeconds(b []byte, a, z time.Time) []byte {
	if a.IsZero() || z.IsZero() {
		return append(b, '0')
	}
	return strconv.AppendInt(b, max(0, z.Unix()-a.Unix()), 10)
}

// appendSafe appends s with what would break the line or a terminal in octal.
func appendSafe(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r < ' ' || r == '|' || r == '\\' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1 {
			for _, c := range []byte(s[i : i+n]) {
				b = append(b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
			}
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return b
}
