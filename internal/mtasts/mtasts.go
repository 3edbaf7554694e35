// Package mtasts learns from a domain how its mail hosts are to be spoken to: the
// policies of MTA Strict Transport Security (RFC 8461).
//
// A TXT record says that there is a policy and which edition is current; the policy
// itself is a text fetched by HTTPS.
//
//	_mta-sts.example.org. IN TXT "v=STSv1; id=20260102T000000;"
//
//	https://mta-sts.example.org/.well-known/mta-sts.txt
//	version: STSv1
//	mode: enforce
//	mx: mx.example.org
//	mx: *.backup.example.net
//	max_age: 604800
//
// A policy is believed for max_age, whether or not the record or the HTTPS server
// can still be reached, so that it protects against who can suppress them after the
// first contact. Everything fetched is bounded: length, time, count, fetches at
// once; redirects are not followed (section 3.3).
package mtasts

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
)

// Mode is what a policy asks for when a host does not meet it.
type Mode string

const (
	Enforce Mode = "enforce" // do not deliver to it
	Testing Mode = "testing" // deliver, and report
	None    Mode = "none"    // the domain has no policy any more
)

// Policy is a policy of a domain. It is shared and must not be changed.
type Policy struct {
	Mode   Mode
	MX     []string // names or "*." and the parent of names, in lower case
	MaxAge time.Duration
	text   string
}

// Bounds of a policy.
const (
	maxText = 64 << 10 // bytes
	maxMX   = 256
	// maxMaxAge is the greatest max_age (RFC 8461 section 3.2), about a year.
	maxMaxAge = 31557600 * time.Second
	maxLines  = 300
)

// ErrInvalid says that a policy text does not follow RFC 8461 section 3.2.
var ErrInvalid = errors.New("malformed MTA-STS policy")

// ParsePolicy parses the text of a policy. Of a field that may stand once the first
// counts; unknown fields are ignored.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrInvalid, maxText)
	}
	p := &Policy{text: string(text)}
	var version, mode, age string
	lines := 0
	for line := range bytes.Lines(text) {
		s := strings.Trim(string(line), " \t\r\n")
		if s == "" {
			continue
		}
		if lines++; lines > maxLines {
			return nil, fmt.Errorf("%w: more than %d lines", ErrInvalid, maxLines)
		}
		name, value, ok := strings.Cut(s, ":")
		if !ok || !printable(s) {
			return nil, fmt.Errorf("%w: line %d is no field", ErrInvalid, lines)
		}
		name, value = strings.TrimRight(name, " \t"), strings.TrimLeft(value, " \t")
		switch name {
		case "version":
			first(&version, value)
		case "mode":
			first(&mode, value)
		case "max_age":
			first(&age, value)
		case "mx":
			pattern, err := parsePattern(value)
			if err != nil || len(p.MX) >= maxMX {
				return nil, fmt.Errorf("%w: mx %.80q", ErrInvalid, value)
			}
			p.MX = append(p.MX, pattern)
		}
	}
	if version != "STSv1" {
		return nil, fmt.Errorf("%w: version %.20q", ErrInvalid, version)
	}
	switch p.Mode = Mode(mode); p.Mode {
	case Enforce, Testing, None:
	default:
		return nil, fmt.Errorf("%w: mode %.20q", ErrInvalid, mode)
	}
	if len(p.MX) == 0 && p.Mode != None {
		return nil, fmt.Errorf("%w: no mx", ErrInvalid)
	}
	seconds, err := strconv.ParseUint(age, 10, 34) // RFC 8461 has up to 10 digits
	if err != nil {
		return nil, fmt.Errorf("%w: max_age %.20q", ErrInvalid, age)
	}
	p.MaxAge = time.Duration(min(seconds, uint64(maxMaxAge/time.Second))) * time.Second
	return p, nil
}

// first sets a field that is not set yet. An empty value counts as set: it is
// malformed everywhere, so " " stands for it.
func first(field *string, value string) {
	if *field != "" {
		return
	}
	if *field = value; value == "" {
		*field = " "
	}
}

// printable tells whether s has no control characters.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// parsePattern parses the value of an mx field.
func parsePattern(s string) (string, error) {
	s = strings.ToLower(s)
	name := strings.TrimPrefix(s, "*.")
	if !dns.ValidName(name) || strings.HasSuffix(name, ".") {
		return "", ErrInvalid
	}
	return s, nil
}

// Match tells whether the policy covers an MX host: one of its names is the host's,
// or is that of its parent with "*" for exactly the first label (RFC 8461 section
// 4.1).
func (p *Policy) Match(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	label, parent, _ := strings.Cut(host, ".")
	for _, pattern := range p.MX {
		if wild, ok := strings.CutPrefix(pattern, "*."); ok {
			if label != "" && parent == wild {
				return true
			}
		} else if host == pattern {
			return true
		}
	}
	return false
}

// Lines returns the lines of the policy as they were fetched, for reports.
func (p *Policy) Lines() []string {
	var out []string
	for line := range strings.Lines(p.text) {
		if s := strings.Trim(line, " \t\r\n"); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// errNoRecord says that a domain announces no policy.
var errNoRecord = errors.New("no MTA-STS record")

// parseRecord returns the id of the edition that TXT records announce (RFC 8461
// section 3.1). Exactly one of them must be an MTA-STS record.
func parseRecord(texts []string) (id string, err error) {
	found := 0
	for _, text := range texts {
		version, rest, _ := strings.Cut(text, ";")
		if strings.TrimRight(version, " \t") != "v=STSv1" {
			continue
		}
		if found++; found > 1 {
			return "", errNoRecord
		}
		for field := range strings.SplitSeq(rest, ";") {
			name, value, ok := strings.Cut(strings.Trim(field, " \t"), "=")
			if ok && strings.TrimRight(name, " \t") == "id" {
				id = strings.TrimLeft(value, " \t")
				break
			}
		}
	}
	if !validID(id) {
		return "", errNoRecord
	}
	return id, nil
}

// validID tells whether s is 1 to 32 letters and digits.
func validID(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}
