// Package wire reads and writes the lines of the filter protocol, version 0.7, in
// both directions. The library for filters and the daemon both use it.
//
// A line ends with LF and has fields parted by '|'. Only the last field of a line
// may contain '|'; nothing is escaped.
//
// From the daemon, before anything else:
//
//	config|KEY|VALUE
//	config|ready
//
// From the filter, once:
//
//	register|report|DIRECTION|EVENT
//	register|filter|DIRECTION|PHASE
//	register|ready
//
// From the daemon, for the life of the filter (TIME is seconds.microseconds, SID and
// TOKEN are 16 hex digits):
//
//	report|0.7|TIME|DIRECTION|EVENT|SID[|PARAMETERS]
//	filter|0.7|TIME|DIRECTION|PHASE|SID|TOKEN|PARAMETER
//
// From the filter:
//
//	filter-result|SID|TOKEN|RESULT[|PARAMETER]
//	filter-dataline|SID|TOKEN|LINE
//	report|TIME|DIRECTION|SID|MESSAGE
//
// An example of a question and its answer:
//
//	filter|0.7|1795472472.760347|smtp-in|mail-from|6b22dfe431c7c0d2|03cb0a4a325aa765|a@b.c
//	filter-result|6b22dfe431c7c0d2|03cb0a4a325aa765|reject|550 no
//
// A daemon announces what it understands beyond that, one line an extension:
//
//	config|extension|NAME
//
// The extensions are constants of type [Extension]. With [ExtDNS] these lines go
// from the filter to the daemon and back; ID is chosen by the filter:
//
//	dns|SID|ID|TYPE|NAME
//	dns|SID|ID|cancel
//	dns|SID|ID|value|VALUE
//	dns|SID|ID|STATUS
//
// Lines are bounded by [MaxLine]. Parsers never panic; what they return shares the
// memory of the line.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Bounds of a line, in bytes.
const (
	// MaxText bounds one line of a message, without a stuffed dot, and any other last field.
	MaxText = 64 << 10

	// MaxLine bounds a line without its LF: MaxText and room for the fields before.
	MaxLine = MaxText + 4<<10
)

// ErrSyntax is wrapped by the errors of all parsers.
var ErrSyntax = errors.New("filter protocol")

// ErrTooLong says that a line is longer than MaxLine.
var ErrTooLong = fmt.Errorf("%w: line too long", ErrSyntax)

// syntax makes an error that quotes the start of the line it is about.
func syntax(what string, line []byte) error {
	const most = 120
	if len(line) > most {
		line = line[:most]
	}
	return fmt.Errorf("%w: %s: %q", ErrSyntax, what, line)
}

// Version is a version of the protocol: 7 for "0.7". Versions differ in:
//
//	before 0.5   filter-result|TOKEN|SID, filter-dataline|TOKEN|SID
//	before 0.6   tx-mail and tx-rcpt have the result behind the address
//	before 0.7   link-auth has the result behind the user
type Version int

// Current is the version that this package writes as a daemon.
const Current Version = 7

// parseVersion reads "0.N". A version of another major number is taken as Current.
func parseVersion(s []byte) (Version, bool) {
	major, minor, ok := bytes.Cut(s, []byte{'.'})
	if !ok || len(minor) == 0 || len(minor) > 4 || len(major) == 0 || len(major) > 4 {
		return 0, false
	}
	n := 0
	for _, c := range minor {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	for _, c := range major {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	if string(major) != "0" {
		return Current, true
	}
	return Version(n), true
}

// ParseVersion reads the value of config|protocol.
func ParseVersion(s string) (Version, error) {
	v, ok := parseVersion([]byte(s))
	if !ok {
		return 0, syntax("bad version", []byte(s))
	}
	return v, nil
}

// String returns "0.N".
func (v Version) String() string { return fmt.Sprintf("0.%d", int(v)) }

// cut splits s at its first '|'.
func cut(s []byte) (field, rest []byte, ok bool) {
	if i := bytes.IndexByte(s, '|'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, nil, false
}

// parseHex reads 1 to 16 hex digits.
func parseHex(s []byte) (uint64, bool) {
	if len(s) == 0 || len(s) > 16 {
		return 0, false
	}
	var n uint64
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | uint64(c-'A'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// hexField reads hex digits up to the next '|'; more says that there was one.
func hexField(s []byte) (n uint64, rest []byte, more, ok bool) {
	field, rest, more := cut(s)
	n, ok = parseHex(field)
	return n, rest, more, ok
}

// timeField reads a time up to the next '|'.
func timeField(s []byte) (t time.Time, rest []byte, ok bool) {
	field, rest, _ := cut(s)
	t, ok = parseTime(field)
	return t, rest, ok
}

// directionField reads a direction up to the next '|'.
func directionField(s []byte) (d Direction, rest []byte, ok bool) {
	field, rest, _ := cut(s)
	d, ok = ParseDirection(field)
	return d, rest, ok
}

// appendHex appends the low digits of n, that many.
func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// parseTime reads seconds.microseconds. The fraction may have up to nine digits.
func parseTime(s []byte) (time.Time, bool) {
	var sec, nsec int64
	digits, fraction := 0, -1
	for _, c := range s {
		switch {
		case c == '.' && fraction < 0 && digits > 0:
			fraction = 0
		case c < '0' || c > '9':
			return time.Time{}, false
		case fraction < 0:
			if digits++; digits > 12 {
				return time.Time{}, false
			}
			sec = sec*10 + int64(c-'0')
		default:
			if fraction++; fraction > 9 {
				return time.Time{}, false
			}
			nsec = nsec*10 + int64(c-'0')
		}
	}
	if digits == 0 || fraction == 0 {
		return time.Time{}, false
	}
	for i := max(fraction, 0); i < 9; i++ {
		nsec *= 10
	}
	return time.Unix(sec, nsec), true
}

// appendTime appends seconds.microseconds; a time before 1970 becomes zero.
func appendTime(dst []byte, t time.Time) []byte {
	us := max(t.UnixMicro(), 0)
	dst = strconv.AppendInt(dst, us/1e6, 10)
	dst = append(dst, '.')
	frac := us % 1e6
	for div := int64(100000); div > 0; div /= 10 {
		dst = append(dst, byte('0'+frac/div%10))
	}
	return dst
}

// text is what a field may be given as.
type text interface{ ~string | ~[]byte }

// appendLast appends a last field: line ends and NUL become '?', and what is longer
// than MaxText is cut.
func appendLast[T text](dst []byte, s T) []byte {
	return appendClean(dst, s, '\n')
}

// appendField appends a field that others follow: '|' becomes '?' as well.
func appendField[T text](dst []byte, s T) []byte {
	return appendClean(dst, s, '|')
}

func appendClean[T text](dst []byte, s T, also byte) []byte {
	start := len(dst)
	dst = append(dst, s[:min(len(s), MaxText)]...)
	for i, c := range dst[start:] {
		if c == '\n' || c == '\r' || c == 0 || c == also {
			dst[start+i] = '?'
		}
	}
	return dst
}
