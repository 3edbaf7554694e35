package smtp

import (
	"slices"
	"strconv"
	"strings"
)

// Limits of the DSN parameters, in bytes (RFC 3461 sections 4.2 and 4.4).
const (
	maxEnvID = 100
	maxORcpt = 500
)

// MailParams are the parameters of MAIL.
type MailParams struct {
	Size       int64  // SIZE (RFC 1870), 0 when absent
	EightBit   bool   // BODY=8BITMIME (RFC 6152)
	UTF8       bool   // SMTPUTF8 (RFC 6531)
	RequireTLS bool   // REQUIRETLS (RFC 8689)
	Ret        string // RET: "FULL", "HDRS" or "" (RFC 3461 section 4.3)
	EnvID      string // ENVID as received, xtext (RFC 3461 section 4.4)
}

// Notify is what NOTIFY asks for (RFC 3461 section 4.1).
type Notify struct{ Never, Success, Failure, Delay bool }

// RcptParams are the parameters of RCPT.
type RcptParams struct {
	Notify   Notify
	OrigRcpt string // ORCPT as received: type;xtext (RFC 3461 section 4.2)
}

// ParseMailParams parses what follows the path of MAIL. AUTH= is checked and
// dropped: nobody here vouches for it (RFC 4954 section 5 allows that). DSN
// parameters are unknown where dsn is false. The error is an *Error.
func ParseMailParams(s string, dsn bool) (MailParams, error) {
	var m MailParams
	var seen []string
	for opt := range strings.FieldsSeq(s) {
		key, value, hasValue := strings.Cut(opt, "=")
		key = strings.ToUpper(key)
		if slices.Contains(seen, key) {
			return m, badParam(503, "duplicate option", opt)
		}
		seen = append(seen, key)
		ok := true
		switch {
		case key == "SIZE" && hasValue:
			m.Size, ok = parseSize(value)
		case key == "BODY" && hasValue:
			m.EightBit = strings.EqualFold(value, "8BITMIME")
			ok = m.EightBit || strings.EqualFold(value, "7BIT")
		case key == "AUTH" && hasValue:
			ok = value == "<>" || value != "" && isXtext(value)
		case key == "SMTPUTF8" && !hasValue:
			m.UTF8 = true
		case key == "REQUIRETLS" && !hasValue:
			m.RequireTLS = true
		case key == "RET" && hasValue && dsn:
			m.Ret = strings.ToUpper(value)
			ok = m.Ret == "FULL" || m.Ret == "HDRS"
		case key == "ENVID" && hasValue && dsn:
			if len(value) > maxEnvID {
				return m, badParam(503, "option too large, truncated:", opt)
			}
			m.EnvID, ok = value, value != "" && isXtext(value)
		default:
			return m, badParam(503, "Unsupported option", opt)
		}
		if !ok {
			return m, badParam(501, "invalid value:", opt)
		}
	}
	return m, nil
}

// ParseRcptParams parses what follows the path of RCPT. DSN parameters are unknown
// where dsn is false. The error is an *Error.
func ParseRcptParams(s string, dsn bool) (RcptParams, error) {
	var r RcptParams
	var seen []string
	for opt := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(opt, "=")
		key = strings.ToUpper(key)
		if slices.Contains(seen, key) {
			return r, &Error{Code: 503, Enhanced: EnhancedCode{5, 5, 4}, Text: "Duplicate option " + cut(opt)}
		}
		seen = append(seen, key)
		switch {
		case key == "NOTIFY" && dsn:
			n, err := parseNotify(value)
			if err != nil {
				return r, err
			}
			r.Notify = n
		case key == "ORCPT" && dsn:
			if !validORcpt(value) {
				return r, &Error{Code: 553, Enhanced: EnhancedCode{5, 5, 4}, Text: "ORCPT address syntax error"}
			}
			r.OrigRcpt = value
		default:
			return r, &Error{Code: 503, Enhanced: EnhancedCode{5, 5, 4}, Text: "Unsupported option " + cut(opt)}
		}
	}
	return r, nil
}

// parseNotify parses NEVER, or a list of the other words.
func parseNotify(s string) (Notify, error) {
	var n Notify
	for word := range strings.SplitSeq(s, ",") {
		switch strings.ToUpper(word) {
		case "NEVER":
			n.Never = true
		case "SUCCESS":
			n.Success = true
		case "FAILURE":
			n.Failure = true
		case "DELAY":
			n.Delay = true
		default:
			return Notify{}, &Error{Code: 501, Enhanced: EnhancedCode{5, 5, 4}, Text: "NOTIFY option syntax error"}
		}
	}
	if n.Never && (n.Success || n.Failure || n.Delay) {
		return Notify{}, &Error{Code: 553, Enhanced: EnhancedCode{5, 5, 4},
			Text: "NOTIFY option NEVER cannot be combined with other options"}
	}
	return n, nil
}

// validORcpt tells whether s is an address type, a semicolon and xtext.
func validORcpt(s string) bool {
	kind, addr, ok := strings.Cut(s, ";")
	if !ok || len(s) > maxORcpt || kind == "" || addr == "" || !isXtext(addr) {
		return false
	}
	for i := 0; i < len(kind); i++ {
		if c := kind[i]; c >= 0x80 || !isAtext(c) {
			return false
		}
	}
	return true
}

// parseSize parses 1 to 20 digits (RFC 1870 section 3); more than an int64 holds
// counts as its maximum, which no limit allows.
func parseSize(s string) (int64, bool) {
	if s == "" || len(s) > 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil && strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	return int64(n), true
}

// badParam names an option that MAIL refuses.
func badParam(code int, what, opt string) error {
	return &Error{Code: code, Enhanced: EnhancedCode{5, 5, 4}, Text: "Invalid command arguments: " + what + " " + cut(opt)}
}

// cut shortens what is echoed to the peer.
func cut(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// isXtext tells whether s is xtext (RFC 3461 section 4): printable ASCII but "+"
// and "=", and "+" with two upper-case hexadecimal digits.
func isXtext(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < '!' || c > '~' || c == '=' {
			return false
		}
		if c == '+' {
			if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
				return false
			}
			i += 2
		}
	}
	return true
}

// EncodeXtext returns s as xtext.
func EncodeXtext(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < '!' || c > '~' || c == '=' || c == '+' {
			b.Write([]byte{'+', digits[c>>4], digits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// DecodeXtext is the inverse of EncodeXtext. What it returns may hold any byte,
// line breaks among them.
func DecodeXtext(s string) (string, bool) {
	if !isXtext(s) {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			c = byte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

// unhex returns the value of an upper-case hexadecimal digit, -1 for other bytes.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
