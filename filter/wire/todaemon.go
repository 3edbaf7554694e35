package wire

import "time"

// ToDaemon is a line from a filter to the daemon.
type ToDaemon struct {
	Kind      Kind      // KindRegister, KindReady, KindResult, KindDataLine, KindReport, KindDNS
	Direction Direction // of KindRegister and KindReport
	Event     Event     // of KindRegister for a report, EventAll for "*"; else zero
	Phase     Phase     // of KindRegister for a filter; else zero
	Session   uint64    // of all but KindRegister and KindReady
	Token     uint64    // of KindResult and KindDataLine
	ID        uint64    // of KindDNS
	Verdict   Verdict   // of KindResult
	Query     Query     // of KindDNS; zero for one that this package does not know
	Cancel    bool      // of KindDNS: the question with that ID is given up
	Time      time.Time // of KindReport

	// Text is the parameter of KindResult, the line of KindDataLine, the message of
	// KindReport and the name of KindDNS.
	Text []byte
}

// ParseToDaemon reads a line without its end. Slices of the result point into the
// line. It is strict: what it does not know is an error, and the filter that wrote it
// is not to be trusted further. Whether an extension was announced that allows the
// line is for the caller to check.
func ParseToDaemon(line []byte) (ToDaemon, error) {
	if len(line) > MaxLine {
		return ToDaemon{}, ErrTooLong
	}
	word, rest, _ := cut(line)
	switch string(word) {
	case "filter-dataline":
		return parseDataLine(line, rest)
	case "filter-result":
		return parseResult(line, rest)
	case "register":
		return parseRegister(line, rest)
	case "report":
		return parseRemark(line, rest)
	case "dns":
		return parseQuestion(line, rest)
	}
	return ToDaemon{}, syntax("unknown line", line)
}

func parseRegister(line, s []byte) (ToDaemon, error) {
	if string(s) == "ready" {
		return ToDaemon{Kind: KindReady}, nil
	}
	m := ToDaemon{Kind: KindRegister}
	what, s, _ := cut(s)
	direction, name, ok := directionField(s)
	if !ok {
		return ToDaemon{}, syntax("bad direction", line)
	}
	m.Direction = direction
	switch string(what) {
	case "report":
		if string(name) == "*" {
			m.Event = EventAll
			return m, nil
		}
		if m.Event, ok = ParseEvent(name); !ok {
			return ToDaemon{}, syntax("unknown event", line)
		}
		return m, nil
	case "filter":
		if m.Phase, ok = ParsePhase(name); !ok || m.Direction == Out && !m.Phase.Outgoing() {
			return ToDaemon{}, syntax("unknown phase", line)
		}
		return m, nil
	}
	return ToDaemon{}, syntax("bad registration", line)
}

// parseSession reads SID|TOKEN|.
func parseSession(m *ToDaemon, line, s []byte) (rest []byte, err error) {
	var more, ok bool
	if m.Session, s, _, ok = hexField(s); !ok {
		return nil, syntax("bad session", line)
	}
	if m.Token, s, more, ok = hexField(s); !ok || !more {
		return nil, syntax("bad token", line)
	}
	return s, nil
}

func parseDataLine(line, s []byte) (ToDaemon, error) {
	m := ToDaemon{Kind: KindDataLine}
	s, err := parseSession(&m, line, s)
	if err != nil {
		return ToDaemon{}, err
	}
	m.Text = s
	return m, nil
}

func parseResult(line, s []byte) (ToDaemon, error) {
	m := ToDaemon{Kind: KindResult}
	s, err := parseSession(&m, line, s)
	if err != nil {
		return ToDaemon{}, err
	}
	verdict, param, more := cut(s)
	m.Verdict = Verdict(find(verdictNames[:], string(verdict)))
	switch {
	case m.Verdict == 0:
		return ToDaemon{}, syntax("unknown result", line)
	case m.Verdict.HasParameter() && !more:
		return ToDaemon{}, syntax("missing parameter", line)
	case !m.Verdict.HasParameter() && more:
		return ToDaemon{}, syntax("unexpected parameter", line)
	}
	m.Text = param
	return m, nil
}

// parseRemark reads TIME|DIRECTION|SID|MESSAGE.
func parseRemark(line, s []byte) (ToDaemon, error) {
	m := ToDaemon{Kind: KindReport}
	var more, ok bool
	if m.Time, s, ok = timeField(s); !ok {
		return ToDaemon{}, syntax("bad time", line)
	}
	if m.Direction, s, ok = directionField(s); !ok {
		return ToDaemon{}, syntax("bad direction", line)
	}
	if m.Session, s, more, ok = hexField(s); !ok || !more {
		return ToDaemon{}, syntax("bad session", line)
	}
	m.Text = s
	return m, nil
}

// parseQuestion reads SID|ID|TYPE|NAME or SID|ID|cancel.
func parseQuestion(line, s []byte) (ToDaemon, error) {
	m := ToDaemon{Kind: KindDNS}
	var ok bool
	if m.Session, s, _, ok = hexField(s); !ok {
		return ToDaemon{}, syntax("bad session", line)
	}
	if m.ID, s, _, ok = hexField(s); !ok {
		return ToDaemon{}, syntax("bad id", line)
	}
	field, s, more := cut(s)
	if string(field) == cancelWord && !more {
		m.Cancel = true
		return m, nil
	}
	if !more {
		return ToDaemon{}, syntax("missing name", line)
	}
	m.Query, _ = ParseQuery(field)
	m.Text = s
	return m, nil
}

// AppendRegisterReport appends register|report; EventAll registers all.
func AppendRegisterReport(dst []byte, d Direction, e Event) []byte {
	return appendRegister(dst, "register|report|", d, e.String())
}

// AppendRegisterFilter appends register|filter.
func AppendRegisterFilter(dst []byte, d Direction, p Phase) []byte {
	return appendRegister(dst, "register|filter|", d, p.String())
}

func appendRegister(dst []byte, head string, d Direction, name string) []byte {
	dst = append(dst, head...)
	dst = append(dst, d.String()...)
	dst = append(dst, '|')
	return append(append(dst, name...), '\n')
}

// AppendRegisterReady appends register|ready.
func AppendRegisterReady(dst []byte) []byte { return append(dst, "register|ready\n"...) }

// appendSession appends SID|TOKEN| as a daemon of version v wants it.
func appendSession(dst []byte, v Version, session, token uint64) []byte {
	if v < 5 {
		session, token = token, session
	}
	dst = append(appendHex(dst, session, 16), '|')
	return append(appendHex(dst, token, 16), '|')
}

// AppendResult appends a verdict for a daemon of version v. param is left out when
// the verdict has none.
func AppendResult(dst []byte, v Version, session, token uint64, verdict Verdict, param string) []byte {
	dst = append(dst, "filter-result|"...)
	dst = appendSession(dst, v, session, token)
	dst = append(dst, verdict.String()...)
	if verdict.HasParameter() {
		dst = append(dst, '|')
		dst = appendLast(dst, param)
	}
	return append(dst, '\n')
}

// AppendDataLine appends a line of the message that a filter passes on, for a daemon
// of version v. The line is at most MaxText long and holds no LF. With stuff, a first
// dot is doubled; without, the line is passed as it is, and "." ends the message.
func AppendDataLine[T text](dst []byte, v Version, session, token uint64, stuff bool, line T) []byte {
	dst = append(dst, "filter-dataline|"...)
	dst = appendSession(dst, v, session, token)
	if stuff && len(line) > 0 && line[0] == '.' {
		dst = append(dst, '.')
	}
	return append(appendRaw(dst, line), '\n')
}

// AppendRemark appends a report line of a filter. It needs ExtResults.
func AppendRemark(dst []byte, t time.Time, d Direction, session uint64, message string) []byte {
	dst = append(dst, "report|"...)
	dst = append(appendTime(dst, t), '|')
	dst = append(dst, d.String()...)
	dst = append(dst, '|')
	dst = append(appendHex(dst, session, 16), '|')
	return append(appendLast(dst, message), '\n')
}

// cancelWord stands in the place of a type.
const cancelWord = "cancel"

// AppendCancel appends that a DNS question is given up. It needs ExtDNS.
func AppendCancel(dst []byte, session, id uint64) []byte {
	dst = append(dst, "dns|"...)
	dst = append(appendHex(dst, session, 16), '|')
	dst = append(appendHex(dst, id, 16), '|')
	return append(append(dst, cancelWord...), '\n')
}

// AppendQuestion appends a DNS question. It needs ExtDNS.
func AppendQuestion(dst []byte, session, id uint64, q Query, name string) []byte {
	dst = append(dst, "dns|"...)
	dst = append(appendHex(dst, session, 16), '|')
	dst = append(appendHex(dst, id, 16), '|')
	dst = append(dst, q.String()...)
	dst = append(dst, '|')
	return append(appendLast(dst, name), '\n')
}
