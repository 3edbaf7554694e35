// Package wire is the text protocol between the daemon and a table program,
// version 0.1, as OpenSMTPD speaks it since 7.6: lines of fields parted by "|", the
// last of which may hold a "|" itself. Programs use package table, which serves the
// protocol for them.
//
//	> config|tablename|aliases
//	> config|ready
//	< register|alias
//	< register|ready
//	> table|0.1|1700000000.000001|aliases|lookup|alias|0000002a|root
//	< lookup-result|0000002a|found|alice
package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Version is that of the protocol.
const Version = "0.1"

// MaxLine bounds a line in either direction, in bytes, its end included.
const MaxLine = 256 << 10

// Op is what a request asks for.
type Op string

// The requests.
const (
	Update Op = "update" // reload the content
	Check  Op = "check"  // is the key there?
	Lookup Op = "lookup" // the value of a key
	Fetch  Op = "fetch"  // the next value, no key
)

// Request is a question of the daemon.
type Request struct {
	Time    time.Time
	Table   string
	Op      Op
	Service string // empty for Update
	ID      string // of letters, digits and dashes
	Key     string // for Check and Lookup
}

// ErrSyntax says that a line is none of the protocol.
var ErrSyntax = errors.New("not a line of the table protocol")

// CanCarry tells whether text fits into the last field of a line.
func CanCarry(text string) bool {
	return len(text) < MaxLine-1024 && !strings.ContainsAny(text, "\r\n\x00")
}

// Append appends the line of a request, its end included. The key must be one that
// CanCarry, and the name of the table too, without a "|".
func (r *Request) Append(b []byte) []byte {
	b = append(b, "table|"+Version+"|"...)
	b = strconv.AppendInt(b, r.Time.Unix(), 10)
	b = fmt.Appendf(b, ".%06d|%s|%s|", r.Time.Nanosecond()/1000, r.Table, r.Op)
	if r.Op != Update {
		b = append(append(b, r.Service...), '|')
	}
	b = append(b, r.ID...)
	if r.Op == Check || r.Op == Lookup {
		b = append(append(b, '|'), r.Key...)
	}
	return append(b, '\n')
}

// ParseRequest reads a line of the daemon, without its end, that begins with
// "table|".
func ParseRequest(line string) (*Request, error) {
	f := strings.SplitN(line, "|", 6)
	if len(f) != 6 || f[0] != "table" {
		return nil, fmt.Errorf("%w: %.80q", ErrSyntax, line)
	}
	if f[1] != Version {
		return nil, fmt.Errorf("protocol version %.20q, want %s", f[1], Version)
	}
	at, err := parseTime(f[2])
	if err != nil {
		return nil, fmt.Errorf("%w: time %.40q", ErrSyntax, f[2])
	}
	r := &Request{Time: at, Table: f[3], Op: Op(f[4])}
	rest := f[5]
	if r.Op != Update {
		r.Service, rest, _ = strings.Cut(rest, "|")
	}
	r.ID = rest
	switch r.Op {
	case Update, Fetch:
	case Check, Lookup:
		var ok bool
		if r.ID, r.Key, ok = strings.Cut(rest, "|"); !ok {
			return nil, fmt.Errorf("%w: no key in %.80q", ErrSyntax, line)
		}
	default:
		return nil, fmt.Errorf("%w: unknown request %.40q", ErrSyntax, r.Op)
	}
	if !validID(r.ID) {
		return nil, fmt.Errorf("%w: id %.40q", ErrSyntax, r.ID)
	}
	return r, nil
}

// parseTime reads seconds since 1970 and, after a dot, six digits of microseconds.
func parseTime(s string) (time.Time, error) {
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) != 6 {
		return time.Time{}, ErrSyntax
	}
	micro, err := strconv.ParseUint(frac, 10, 32)
	return time.Unix(n, int64(micro)*1000), err
}

// validID keeps to what cannot be taken for a field or a line of its own.
func validID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return true
}

// Result is the kind of an answer.
type Result string

// The answers: those to Update are OK and Failed.
const (
	OK       Result = "ok"
	Found    Result = "found"
	NotFound Result = "not-found"
	Failed   Result = "error"
)

// Reply is an answer of a program.
type Reply struct {
	Op     Op
	ID     string
	Result Result
	Text   string // the value for Found, the message for Failed, which may be missing
}

// Append appends the line of a reply, its end included. Text must be one that
// CanCarry.
func (r *Reply) Append(b []byte) []byte {
	b = append(b, r.Op...)
	b = append(append(b, "-result|"...), r.ID...)
	b = append(append(b, '|'), r.Result...)
	if r.Text != "" {
		b = append(append(b, '|'), r.Text...)
	}
	return append(b, '\n')
}

// ParseReply reads a line of a program, without its end.
func ParseReply(line string) (*Reply, error) {
	f := strings.SplitN(line, "|", 4)
	word, ok := strings.CutSuffix(f[0], "-result")
	if !ok || len(f) < 3 || !validID(f[1]) {
		return nil, fmt.Errorf("%w: %.80q", ErrSyntax, line)
	}
	r := &Reply{Op: Op(word), ID: f[1], Result: Result(f[2])}
	if len(f) == 4 {
		r.Text = f[3]
	}
	switch r.Op {
	case Update:
		ok = r.Result == OK && r.Text == "" || r.Result == Failed
	case Check:
		ok = (r.Result == Found || r.Result == NotFound) && r.Text == "" || r.Result == Failed
	case Lookup, Fetch:
		ok = r.Result == Found && r.Text != "" || r.Result == NotFound && r.Text == "" || r.Result == Failed
	default:
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("%w: %.80q", ErrSyntax, line)
	}
	return r, nil
}
