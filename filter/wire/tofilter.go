package wire

import (
	"bytes"
	"time"
)

// Kind is the kind of a line.
type Kind uint8

// The kinds of lines.
const (
	KindUnknown  Kind = iota // a first word that this package does not know
	KindConfig               // config|, to the filter
	KindReady                // config|ready, to the filter; register|ready, from it
	KindReport               // report|, both ways
	KindRequest              // filter|, to the filter
	KindRegister             // register|report| and register|filter|, from the filter
	KindResult               // filter-result|, from the filter
	KindDataLine             // filter-dataline|, from the filter
	KindDNS                  // dns|, both ways
)

// ToFilter is a line from the daemon to a filter.
type ToFilter struct {
	Kind      Kind
	Version   Version   // of KindReport and KindRequest
	Time      time.Time // of KindReport and KindRequest
	Direction Direction // of KindReport and KindRequest
	Event     Event     // of KindReport; zero for one that this package does not know
	Phase     Phase     // of KindRequest; zero for one that this package does not know
	Session   uint64    // of KindReport, KindRequest and KindDNS
	Token     uint64    // of KindRequest
	ID        uint64    // of KindDNS
	Status    Status    // of KindDNS
	Key       []byte    // of KindConfig

	// Text is the value of KindConfig and KindDNS, the parameters of KindReport, for
	// ParseReport, and the parameter of KindRequest.
	Text []byte
}

// ParseToFilter reads a line without its end. Slices of the result point into the
// line. A line that begins with a word of no kind above is KindUnknown: a filter
// skips it. Requests and reports of any version 0.x are read.
func ParseToFilter(line []byte) (ToFilter, error) {
	if len(line) > MaxLine {
		return ToFilter{}, ErrTooLong
	}
	word, rest, ok := cut(line)
	switch string(word) {
	case "filter":
		return parseRequest(line, rest)
	case "report":
		return parseReportLine(line, rest)
	case "config":
		if !ok {
			return ToFilter{}, syntax("config without a key", line)
		}
		if string(rest) == "ready" {
			return ToFilter{Kind: KindReady}, nil
		}
		key, value, _ := cut(rest)
		return ToFilter{Kind: KindConfig, Key: key, Text: value}, nil
	case "dns":
		return parseAnswer(line, rest)
	}
	return ToFilter{Kind: KindUnknown, Text: line}, nil
}

// parseHead reads VERSION|TIME|DIRECTION|.
func parseHead(m *ToFilter, line, s []byte) (rest []byte, err error) {
	field, s, _ := cut(s)
	version, ok := parseVersion(field)
	if !ok {
		return nil, syntax("bad version", line)
	}
	m.Version = version
	if m.Time, s, ok = timeField(s); !ok {
		return nil, syntax("bad time", line)
	}
	if m.Direction, s, ok = directionField(s); !ok {
		return nil, syntax("bad direction", line)
	}
	return s, nil
}

func parseRequest(line, s []byte) (ToFilter, error) {
	m := ToFilter{Kind: KindRequest}
	s, err := parseHead(&m, line, s)
	if err != nil {
		return ToFilter{}, err
	}
	field, s, _ := cut(s)
	m.Phase, _ = ParsePhase(field)
	var ok bool
	if m.Session, s, _, ok = hexField(s); !ok {
		return ToFilter{}, syntax("bad session", line)
	}
	if m.Token, s, _, ok = hexField(s); !ok {
		return ToFilter{}, syntax("bad token", line)
	}
	m.Text = s
	return m, nil
}

func parseReportLine(line, s []byte) (ToFilter, error) {
	m := ToFilter{Kind: KindReport}
	s, err := parseHead(&m, line, s)
	if err != nil {
		return ToFilter{}, err
	}
	field, s, _ := cut(s)
	m.Event, _ = ParseEvent(field)
	var ok bool
	if m.Session, s, _, ok = hexField(s); !ok {
		return ToFilter{}, syntax("bad session", line)
	}
	m.Text = s
	return m, nil
}

// parseAnswer reads SID|ID|STATUS[|VALUE].
func parseAnswer(line, s []byte) (ToFilter, error) {
	m := ToFilter{Kind: KindDNS}
	var ok bool
	if m.Session, s, _, ok = hexField(s); !ok {
		return ToFilter{}, syntax("bad session", line)
	}
	if m.ID, s, _, ok = hexField(s); !ok {
		return ToFilter{}, syntax("bad id", line)
	}
	field, s, _ := cut(s)
	i := find(statusNames[:], string(field))
	if i == 0 {
		return ToFilter{}, syntax("bad status", line)
	}
	if m.Status = Status(i); m.Status == StatusValue {
		m.Text = s
	}
	return m, nil
}

// AppendConfig appends config|KEY|VALUE.
func AppendConfig(dst []byte, key, value string) []byte {
	dst = append(dst, "config|"...)
	dst = appendField(dst, key)
	dst = append(dst, '|')
	return append(appendLast(dst, value), '\n')
}

// AppendConfigReady appends config|ready.
func AppendConfigReady(dst []byte) []byte { return append(dst, "config|ready\n"...) }

// appendHead appends WORD|VERSION|TIME|DIRECTION|NAME|SID.
func appendHead(dst []byte, word string, t time.Time, d Direction, name string, session uint64) []byte {
	dst = append(dst, word...)
	dst = append(dst, '|', '0', '.', byte('0'+Current), '|')
	dst = appendTime(dst, t)
	dst = append(dst, '|')
	dst = append(dst, d.String()...)
	dst = append(dst, '|')
	dst = append(dst, name...)
	dst = append(dst, '|')
	return appendHex(dst, session, 16)
}

// AppendRequest appends a request for a decision of a phase other than connect and
// data-line. param is the parameter of the phase, empty for those without.
func AppendRequest[T text](dst []byte, t time.Time, d Direction, p Phase, session, token uint64, param T) []byte {
	dst = appendHead(dst, "filter", t, d, p.String(), session)
	dst = append(dst, '|')
	dst = appendHex(dst, token, 16)
	dst = append(dst, '|')
	return append(appendLast(dst, param), '\n')
}

// AppendConnectRequest appends a request for a decision about a connection. rdns is
// the name of the client, "<unknown>" without one, address its address without port.
func AppendConnectRequest(dst []byte, t time.Time, session, token uint64, rdns, address string) []byte {
	dst = appendHead(dst, "filter", t, In, PhaseConnect.String(), session)
	dst = append(dst, '|')
	dst = appendHex(dst, token, 16)
	dst = append(dst, '|')
	dst = appendField(dst, rdns)
	dst = append(dst, '|')
	return append(appendLast(dst, address), '\n')
}

// AppendDataRequest appends a line of a message, which is at most MaxText long and
// holds no LF; its first dot is stuffed, and "." ends the message. Other bytes pass
// as they are.
func AppendDataRequest(dst []byte, t time.Time, d Direction, session, token uint64, line []byte) []byte {
	dst = appendHead(dst, "filter", t, d, PhaseDataLine.String(), session)
	dst = append(dst, '|')
	dst = appendHex(dst, token, 16)
	dst = append(dst, '|')
	return append(appendRaw(dst, line), '\n')
}

// appendRaw appends a line of a message, of which only LF is replaced.
func appendRaw[T text](dst []byte, line T) []byte {
	start, most := len(dst), MaxText
	if len(line) > 0 && line[0] == '.' {
		most++ // a stuffed dot is no text
	}
	dst = append(dst, line[:min(len(line), most)]...)
	for i := start; ; i++ {
		j := bytes.IndexByte(dst[i:], '\n')
		if j < 0 {
			return dst
		}
		i += j
		dst[i] = '?'
	}
}

// AppendAnswer appends the answer to a DNS question: a line for each value, then
// the status, which is not StatusValue. Values may hold any bytes; they are written
// with %XX for control characters and '%'.
func AppendAnswer(dst []byte, session, id uint64, values []string, s Status) []byte {
	head := func() {
		dst = append(dst, "dns|"...)
		dst = appendHex(dst, session, 16)
		dst = append(dst, '|')
		dst = appendHex(dst, id, 16)
		dst = append(dst, '|')
	}
	for _, v := range values {
		head()
		dst = append(dst, "value|"...)
		dst = append(appendEscaped(dst, v), '\n')
	}
	head()
	return append(append(dst, s.String()...), '\n')
}

// appendEscaped appends s with %XX for control characters and '%', cut to MaxText.
func appendEscaped(dst []byte, s string) []byte {
	most := len(dst) + MaxText
	for i := 0; i < len(s) && len(dst)+3 <= most; i++ {
		if c := s[i]; c < ' ' || c == 0x7f || c == '%' {
			dst = append(dst, '%')
			dst = appendHex(dst, uint64(c), 2)
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// Unescape returns the value of a DNS answer. What is no %XX stays as it is.
func Unescape(value []byte) string {
	if bytes.IndexByte(value, '%') < 0 {
		return string(value)
	}
	b := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] == '%' && i+2 < len(value) {
			if n, ok := parseHex(value[i+1 : i+3]); ok {
				b = append(b, byte(n))
				i += 2
				continue
			}
		}
		b = append(b, value[i])
	}
	return string(b)
}
