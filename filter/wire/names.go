package wire

import "strconv"

// Direction says whose session a line is about.
type Direction uint8

// The directions.
const (
	In  Direction = iota + 1 // smtp-in: of a client of ours
	Out                      // smtp-out: with a next hop
)

// String returns the name in the protocol.
func (d Direction) String() string { return name(directionNames[:], int(d)) }

// ParseDirection returns the direction of that name, or false.
func ParseDirection[T text](s T) (Direction, bool) {
	i := find(directionNames[:], string(s))
	return Direction(i), i != 0
}

// Phase is a point where a filter decides.
type Phase uint8

// The phases. The comment says what the parameter of a request is.
const (
	PhaseConnect  Phase = iota + 1 // reverse name | address without port
	PhaseHelo                      // name
	PhaseEhlo                      // name
	PhaseStartTLS                  // nothing
	PhaseAuth                      // argument of AUTH
	PhaseMailFrom                  // address without <>
	PhaseRcptTo                    // address without <>
	PhaseData                      // nothing
	PhaseDataLine                  // line with its dot stuffed; "." ends the message
	PhaseRset                      // nothing
	PhaseQuit                      // nothing
	PhaseNoop                      // nothing
	PhaseHelp                      // nothing
	PhaseWiz                       // nothing
	PhaseCommit                    // nothing

	// Phases is one more than the last phase, to size arrays.
	Phases
)

// String returns the name in the protocol.
func (p Phase) String() string { return name(phaseNames[:], int(p)) }

// Reported returns the name that report filter-response has for the phase, which
// differs from String for connect and starttls.
func (p Phase) Reported() string {
	switch p {
	case PhaseConnect:
		return "connected"
	case PhaseStartTLS:
		return "tls"
	}
	return p.String()
}

// Outgoing tells whether the phase can be asked of smtp-out, given ExtOut.
func (p Phase) Outgoing() bool {
	switch p {
	case PhaseMailFrom, PhaseRcptTo, PhaseDataLine, PhaseCommit:
		return true
	}
	return false
}

// ParsePhase returns the phase of that name, or false.
func ParsePhase[T text](s T) (Phase, bool) {
	i := find(phaseNames[:], string(s))
	return Phase(i), i != 0
}

// Event is a thing that is reported.
type Event uint8

// The events. Their parameters are the types in events.go.
const (
	EventLinkConnect Event = iota + 1
	EventLinkGreeting
	EventLinkIdentify
	EventLinkTLS
	EventLinkAuth
	EventLinkDisconnect
	EventTxReset
	EventTxBegin
	EventTxMail
	EventTxRcpt
	EventTxEnvelope
	EventTxData
	EventTxCommit
	EventTxRollback
	EventProtocolClient
	EventProtocolServer
	EventFilterReport
	EventFilterResponse
	EventTimeout

	// Events is one more than the last event, to size arrays.
	Events

	// EventAll stands for "*" in a registration.
	EventAll Event = 255
)

// String returns the name in the protocol.
func (e Event) String() string {
	if e == EventAll {
		return "*"
	}
	return name(eventNames[:], int(e))
}

// ParseEvent returns the event of that name, or false. It does not know "*".
func ParseEvent[T text](s T) (Event, bool) {
	i := find(eventNames[:], string(s))
	return Event(i), i != 0
}

// Verdict is the answer to a request, but for data-line.
type Verdict uint8

// The verdicts.
const (
	VerdictProceed    Verdict = iota + 1 // go on
	VerdictJunk                          // go on, and mark the message as spam
	VerdictReject                        // send the parameter, an SMTP reply, instead
	VerdictDisconnect                    // the same, and close the connection
	VerdictRewrite                       // go on with the parameter as the argument of the command
	VerdictReport                        // tell what is the parameter and go on, given ExtResults
	VerdictBypass                        // go on and ask no later filter, given ExtResults
)

// String returns the name in the protocol.
func (v Verdict) String() string { return name(verdictNames[:], int(v)) }

// HasParameter tells whether a parameter belongs to the verdict.
func (v Verdict) HasParameter() bool {
	return v == VerdictReject || v == VerdictDisconnect || v == VerdictRewrite || v == VerdictReport
}

// Extension is a name that a daemon announces by config|extension.
type Extension string

// The extensions.
const (
	// ExtOut allows register|filter|smtp-out for the phases of Phase.Outgoing.
	ExtOut Extension = "smtp-out"

	// ExtDNS allows dns lines.
	ExtDNS Extension = "dns"

	// ExtResults allows the verdict bypass, junk at commit, report as a remark that
	// changes nothing, and report lines of the filter.
	ExtResults Extension = "results"
)

// Query is a kind of DNS question. The comment says what name and values are.
type Query uint8

// The kinds of questions.
const (
	QueryAddr Query = iota + 1 // address → names, confirmed or not
	QueryHost                  // name → addresses
	QueryTXT                   // name → texts, the strings of a record joined
	QueryMX                    // name → "preference host"
)

// String returns the name in the protocol.
func (q Query) String() string { return name(queryNames[:], int(q)) }

// ParseQuery returns the kind of that name, or false.
func ParseQuery[T text](s T) (Query, bool) {
	i := find(queryNames[:], string(s))
	return Query(i), i != 0
}

// Status ends the answer to a DNS question.
type Status uint8

// The statuses.
const (
	StatusValue    Status = iota + 1 // not the end: one more value
	StatusOK                         // that was all
	StatusNotFound                   // proven: no such name, or none of that kind
	StatusTempFail                   // could not be found out now
	StatusRefused                    // the question is malformed or not allowed
)

// String returns the name in the protocol.
func (s Status) String() string { return name(statusNames[:], int(s)) }

var (
	directionNames = [...]string{"", "smtp-in", "smtp-out"}
	phaseNames     = [Phases]string{"", "connect", "helo", "ehlo", "starttls", "auth", "mail-from", "rcpt-to",
		"data", "data-line", "rset", "quit", "noop", "help", "wiz", "commit"}
	eventNames = [Events]string{"", "link-connect", "link-greeting", "link-identify", "link-tls", "link-auth",
		"link-disconnect", "tx-reset", "tx-begin", "tx-mail", "tx-rcpt", "tx-envelope", "tx-data", "tx-commit",
		"tx-rollback", "protocol-client", "protocol-server", "filter-report", "filter-response", "timeout"}
	verdictNames = [...]string{"", "proceed", "junk", "reject", "disconnect", "rewrite", "report", "bypass"}
	queryNames   = [...]string{"", "addr", "host", "txt", "mx"}
	statusNames  = [...]string{"", "value", "ok", "notfound", "tempfail", "refused"}
)

// name returns the i'th name, or the number when there is none.
func name(names []string, i int) string {
	if i <= 0 || i >= len(names) {
		return strconv.Itoa(i)
	}
	return names[i]
}

// find returns the index of s, 0 when it is no name.
func find(names []string, s string) int {
	for i, n := range names {
		if n == s && i > 0 {
			return i
		}
	}
	return 0
}
