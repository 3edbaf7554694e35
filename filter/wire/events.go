package wire

import (
	"bytes"
	"strconv"
	"time"
)

// Result is the outcome of a check or a command in a report.
type Result string

// The results. Those of links (fcrdns, authentication) and of transactions have
// different words.
const (
	Pass  Result = "pass"
	Fail  Result = "fail"
	Error Result = "error"

	OK       Result = "ok"
	PermFail Result = "permfail"
	TempFail Result = "tempfail"
)

// Report is what is reported: one of the types below.
type Report interface {
	// Event returns which event it is.
	Event() Event
	append(dst []byte) []byte
}

// The reports, with the parameters in the order of the protocol. Sessions and
// messages are numbers; the protocol has them as 16 and 8 hex digits.
type (
	// LinkConnect: a connection stands. RDNS is "<unknown>" when the peer has no
	// name. Source and Destination are "192.0.2.1:25", "[2001:db8::1]:25" or
	// "unix:PATH".
	LinkConnect struct {
		RDNS                string
		FCrDNS              Result
		Source, Destination string
	}

	// LinkGreeting: the server greeted with this host name.
	LinkGreeting struct{ Hostname string }

	// LinkIdentify: the client introduced itself by HELO, EHLO or LHLO.
	LinkIdentify struct{ Method, Identity string }

	// LinkTLS: a handshake succeeded. Text is VERSION:CIPHER:BITS.
	LinkTLS struct{ Text string }

	// LinkAuth: an authentication ended.
	LinkAuth struct {
		Result Result
		User   string
	}

	// LinkDisconnect: the connection ended.
	LinkDisconnect struct{}

	// TxReset: the transaction is over.
	TxReset struct{ Message uint32 }

	// TxBegin: a transaction begins.
	TxBegin struct{ Message uint32 }

	// TxMail: MAIL was answered.
	TxMail struct {
		Message uint32
		Result  Result
		Address string
	}

	// TxRcpt: RCPT was answered.
	TxRcpt struct {
		Message uint32
		Result  Result
		Address string
	}

	// TxEnvelope: a recipient gave this envelope.
	TxEnvelope struct {
		Message  uint32
		Envelope uint64
	}

	// TxData: DATA was answered.
	TxData struct {
		Message uint32
		Result  Result
	}

	// TxCommit: the message was accepted.
	TxCommit struct {
		Message uint32
		Size    int64 // bytes
	}

	// TxRollback: the message was given up.
	TxRollback struct{ Message uint32 }

	// ProtocolClient: a line of the client, secrets masked.
	ProtocolClient struct{ Line string }

	// ProtocolServer: a line of the server.
	ProtocolServer struct{ Line string }

	// FilterReport: a filter reported something.
	FilterReport struct{ Type, Name, Message string } // Type is builtin or proc

	// FilterResponse: the filters decided.
	FilterResponse struct {
		Phase, Response string // Phase as of Phase.Reported
		Param           string // "" when there is none
	}

	// Timeout: the peer was silent for too long.
	Timeout struct{}
)

// Event implements Report.
func (LinkConnect) Event() Event    { return EventLinkConnect }
func (LinkGreeting) Event() Event   { return EventLinkGreeting }   // Event implements Report.
func (LinkIdentify) Event() Event   { return EventLinkIdentify }   // Event implements Report.
func (LinkTLS) Event() Event        { return EventLinkTLS }        // Event implements Report.
func (LinkAuth) Event() Event       { return EventLinkAuth }       // Event implements Report.
func (LinkDisconnect) Event() Event { return EventLinkDisconnect } // Event implements Report.
func (TxReset) Event() Event        { return EventTxReset }        // Event implements Report.
func (TxBegin) Event() Event        { return EventTxBegin }        // Event implements Report.
func (TxMail) Event() Event         { return EventTxMail }         // Event implements Report.
func (TxRcpt) Event() Event         { return EventTxRcpt }         // Event implements Report.
func (TxEnvelope) Event() Event     { return EventTxEnvelope }     // Event implements Report.
func (TxData) Event() Event         { return EventTxData }         // Event implements Report.
func (TxCommit) Event() Event       { return EventTxCommit }       // Event implements Report.
func (TxRollback) Event() Event     { return EventTxRollback }     // Event implements Report.
func (ProtocolClient) Event() Event { return EventProtocolClient } // Event implements Report.
func (ProtocolServer) Event() Event { return EventProtocolServer } // Event implements Report.
func (FilterReport) Event() Event   { return EventFilterReport }   // Event implements Report.
func (FilterResponse) Event() Event { return EventFilterResponse } // Event implements Report.
func (Timeout) Event() Event        { return EventTimeout }        // Event implements Report.

// AppendReport appends a report. A '|' in a field that others follow becomes '?'.
func AppendReport(dst []byte, t time.Time, d Direction, session uint64, r Report) []byte {
	dst = appendHead(dst, "report", t, d, r.Event().String(), session)
	return append(r.append(dst), '\n')
}

func (r LinkConnect) append(dst []byte) []byte {
	return last(field(field(field(dst, r.RDNS), string(r.FCrDNS)), r.Source), r.Destination)
}
func (r LinkGreeting) append(dst []byte) []byte { return last(dst, r.Hostname) }
func (r LinkIdentify) append(dst []byte) []byte { return last(field(dst, r.Method), r.Identity) }
func (r LinkTLS) append(dst []byte) []byte      { return last(dst, r.Text) }
func (r LinkAuth) append(dst []byte) []byte     { return last(field(dst, string(r.Result)), r.User) }
func (LinkDisconnect) append(dst []byte) []byte { return dst }
func (r TxReset) append(dst []byte) []byte      { return message(dst, r.Message) }
func (r TxBegin) append(dst []byte) []byte      { return message(dst, r.Message) }
func (r TxMail) append(dst []byte) []byte {
	return last(field(message(dst, r.Message), string(r.Result)), r.Address)
}
func (r TxRcpt) append(dst []byte) []byte {
	return last(field(message(dst, r.Message), string(r.Result)), r.Address)
}
func (r TxEnvelope) append(dst []byte) []byte {
	return appendHex(append(message(dst, r.Message), '|'), r.Envelope, 16)
}
func (r TxData) append(dst []byte) []byte { return last(message(dst, r.Message), string(r.Result)) }
func (r TxCommit) append(dst []byte) []byte {
	return strconv.AppendInt(append(message(dst, r.Message), '|'), r.Size, 10)
}
func (r TxRollback) append(dst []byte) []byte     { return message(dst, r.Message) }
func (r ProtocolClient) append(dst []byte) []byte { return last(dst, r.Line) }
func (r ProtocolServer) append(dst []byte) []byte { return last(dst, r.Line) }
func (r FilterReport) append(dst []byte) []byte {
	return last(field(field(dst, r.Type), r.Name), r.Message)
}
func (r FilterResponse) append(dst []byte) []byte {
	if r.Param == "" {
		return field(field(dst, r.Phase), r.Response)
	}
	return last(field(field(dst, r.Phase), r.Response), r.Param)
}
func (Timeout) append(dst []byte) []byte { return dst }

func field(dst []byte, s string) []byte { return appendField(append(dst, '|'), s) }

func last(dst []byte, s string) []byte { return appendLast(append(dst, '|'), s) }

func message(dst []byte, id uint32) []byte { return appendHex(append(dst, '|'), uint64(id), 8) }

// params takes the parameters of a report apart; bad is set when one is missing or
// malformed.
type params struct {
	rest []byte
	more bool
	bad  bool
}

// next returns the parameter up to the next '|'.
func (p *params) next() string {
	if !p.more {
		p.bad = true
		return ""
	}
	var f []byte
	f, p.rest, p.more = cut(p.rest)
	return string(f)
}

// all returns what is left.
func (p *params) all() string {
	if !p.more {
		p.bad = true
	}
	p.more = false
	return string(p.rest)
}

// before returns what is left up to the last '|', and the rest is behind it.
func (p *params) before() string {
	i := bytes.LastIndexByte(p.rest, '|')
	if i < 0 {
		p.bad = true
		return ""
	}
	f := string(p.rest[:i])
	p.rest = p.rest[i+1:]
	return f
}

func (p *params) hex(digits int) uint64 {
	s := p.next()
	n, ok := parseHex([]byte(s))
	if !ok || len(s) > digits {
		p.bad = true
	}
	return n
}

func (p *params) message() uint32 { return uint32(p.hex(8)) }

// ParseReport reads the parameters of a report as version v has them: the Version,
// Event and Text of a ToFilter. More parameters than there should be are ignored
// where the last is no free text.
func ParseReport(v Version, e Event, text []byte) (Report, error) {
	p := params{rest: text, more: true}
	r := p.report(v, e)
	if r == nil {
		return nil, syntax("unknown event", text)
	}
	if p.bad {
		return nil, syntax("bad parameters of "+e.String(), text)
	}
	return r, nil
}

func (p *params) report(v Version, e Event) Report {
	switch e {
	case EventLinkConnect:
		return LinkConnect{RDNS: p.next(), FCrDNS: Result(p.next()), Source: p.next(), Destination: p.next()}
	case EventLinkGreeting:
		return LinkGreeting{p.all()}
	case EventLinkIdentify:
		return LinkIdentify{p.next(), p.all()}
	case EventLinkTLS:
		return LinkTLS{p.all()}
	case EventLinkAuth:
		if v < 7 {
			user := p.before()
			return LinkAuth{User: user, Result: Result(p.all())}
		}
		return LinkAuth{Result(p.next()), p.all()}
	case EventLinkDisconnect:
		return LinkDisconnect{}
	case EventTxMail:
		id, result, address := p.tx(v)
		return TxMail{id, result, address}
	case EventTxRcpt:
		id, result, address := p.tx(v)
		return TxRcpt{id, result, address}
	case EventTxReset:
		return TxReset{p.message()}
	case EventTxBegin:
		return TxBegin{p.message()}
	case EventTxEnvelope:
		return TxEnvelope{p.message(), p.hex(16)}
	case EventTxData:
		return TxData{p.message(), Result(p.next())}
	case EventTxCommit:
		r := TxCommit{Message: p.message()}
		n, err := strconv.ParseInt(p.next(), 10, 64)
		p.bad = p.bad || err != nil
		r.Size = n
		return r
	case EventTxRollback:
		return TxRollback{p.message()}
	case EventProtocolClient:
		return ProtocolClient{p.all()}
	case EventProtocolServer:
		return ProtocolServer{p.all()}
	case EventFilterReport:
		return FilterReport{p.next(), p.next(), p.all()}
	case EventFilterResponse:
		r := FilterResponse{Phase: p.next(), Response: p.next()}
		if p.more {
			r.Param = p.all()
		}
		return r
	case EventTimeout:
		return Timeout{}
	}
	return nil
}

// tx reads the parameters of tx-mail and tx-rcpt.
func (p *params) tx(v Version) (id uint32, r Result, address string) {
	id = p.message()
	if v < 6 {
		address = p.before()
		return id, Result(p.all()), address
	}
	return id, Result(p.next()), p.all()
}
