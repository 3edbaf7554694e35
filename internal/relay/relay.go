// Package relay decides how mail leaves for other hosts: which next hop, over which
// connection, how many at a time, and what a failure means. It opens no socket, asks
// no name server and reads no file: the way to a domain, the connections and the
// bodies are injected, and results are handed back.
//
// The objects, and what names them:
//
//	relay      where mail goes and all that changes what is sent on the way there: the
//	           hosts with their TLS demands and credentials, sources, HELO, pki, ...
//	host       a remote address
//	source     a local address, or the system's choice
//	connector  relay and source
//	route      source and host
//	task       a message within a relay, with the recipients that wait
//
// Recipients of different domains whose routes ask for the same share a relay, and so
// transactions and connections. A connection takes one task after the other from its
// relay, senders in turn and the messages of a sender in turn; a failed connection
// leaves its task to the next one. The number of connections of a relay grows while
// it succeeds and shrinks when the peer is not pleased, within the Limits, and is no
// larger than what waits is worth.
//
// A route whose connection fails is disabled for 15·n² seconds, at most an hour,
// where n counts failures in a row. Mail falls over to the next host at once. When no
// route is left, what waits is given back as a temporary failure: nothing waits here
// for a host to come back.
//
// Goroutines: one for each connection, at most Options.MaxSessions, one for each
// route that is being looked up, at most Options.MaxLookups, and the one of Run.
// Messages waiting: Limits.HiWat a relay; of each only its envelopes are in memory.
package relay

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Attempt is one envelope to be relayed.
type Attempt struct {
	Envelope *envelope.Envelope

	since time.Time // when it came
	tries int       // connections that broke under it
}

// Outcome is what came of an attempt.
type Outcome uint8

// The outcomes.
const (
	OK Outcome = iota + 1
	TempFail
	PermFail
)

// String returns the word of the log: Ok, TempFail or PermFail.
func (o Outcome) String() string {
	switch o {
	case OK:
		return report.OK
	case PermFail:
		return report.PermFail
	}
	return report.TempFail
}

// Result tells what came of an attempt and where.
type Result struct {
	Outcome  Outcome
	Code     int               // the peer's reply code; 0 when it is not the peer who speaks
	Enhanced smtp.EnhancedCode // the peer's, or ours
	Text     string            // the peer's reply, code included, or our words; one line, may be told to the sender

	Host    string     // name of the remote host; empty when none was reached
	Addr    netip.Addr // its address
	Source  netip.Addr // local address of the connection; invalid when unknown
	Session report.Session
	Stage   Stage // how far the conversation was
	DSN     bool  // the peer took over the reporting of success (RFC 3461 section 5.2.2)

	Held       string        // which host, route or limit held it back; for the operator
	RetryAfter time.Duration // after which another attempt makes sense; zero: the usual times
	Cause      error         // what Text does not tell the sender; for the log, may be nil
}

// Relay returns the host of the result as logs have it: "ADDR (NAME)", or the name.
func (r *Result) Relay() string {
	if !r.Addr.IsValid() {
		return r.Host
	}
	return hostText(r.Addr, r.Host)
}

// hostText returns "ADDR (NAME)", or the address alone when its name says no more.
func hostText(a netip.Addr, name string) string {
	if name == "" || name == "["+a.String()+"]" {
		return a.String()
	}
	return a.String() + " (" + name + ")"
}

// Desk is where attempts report to: the queue process.
type Desk interface {
	// Done takes the result of an attempt. It is called once for each attempt that Add
	// took and did not give to Hold, from several goroutines and without a lock. The
	// connection that was used does nothing else meanwhile. Attempts that end because
	// Run was told to end are not reported.
	Done(a *Attempt, r Result)

	// Hold says that a relay has too many messages here already: a goes into the hold
	// queue of that name. Release asks for up to n of a hold queue back, all when
	// n < 0. Both are called in the order of what happened, under a lock: they must
	// neither wait nor call back.
	Hold(a *Attempt, queue string)
	Release(queue string, n int)
}

// Rescheduler is an optional ability of a Desk: to try envelopes at once that were
// given back because their destination could not be reached. It is called when the
// destination took mail again, like Done.
type Rescheduler interface {
	Reschedule(ids []envelope.ID)
}

// Witness is an optional ability of a Desk: to be told how connections to hosts went,
// for the reports of RFC 8460. It must neither wait nor call back.
type Witness interface {
	// Session tells that a connection to t was opened for recipients of some domains,
	// with what the host announced, or, when failure is not nil, that there was no
	// agreement on TLS. It is told once for each connection and domain.
	Session(t *Target, caps Caps, domains []string, failure *DialError)
}

// Bodies opens the text of messages. It is called from several goroutines, when a
// transaction begins.
type Bodies interface {
	// Open returns the text. It ends when ctx does. The caller closes the body.
	Open(ctx context.Context, id envelope.MsgID) (Body, error)
}

// Body is the text of a message, with LF line ends.
type Body interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// Router knows the ways to domains. It is called from several goroutines.
type Router interface {
	// Route returns the way for a recipient. An error that is or wraps an *smtp.Error
	// tells the sender its text, and is permanent when the code says so: no such
	// domain, a domain that takes no mail (RFC 7505), a loop. All others are temporary.
	// An error holds for all senders. It ends when ctx does.
	Route(ctx context.Context, q RouteQuery) (*Route, error)
}

// RouteQuery asks for the way of an envelope.
type RouteQuery struct {
	Action    string
	Domain    string    // of the recipient, lower case; may be an address literal
	Sender    smtp.Path // envelope sender
	Forwarder string    // domain of the recipient before expansion, when that changed it; else empty
	// RequireTLS and TLSOptional are what the message asks of TLS (RFC 8689).
	RequireTLS, TLSOptional bool
}

// Options of a Relayer. Zero fields mean the default.
type Options struct {
	MaxSessions int           // connections, idle ones included; default 500
	MaxLookups  int           // routes being looked up; default 100
	MaxWait     time.Duration // after which a message that got no connection is given back; default 10 min
	Grace       time.Duration // how long running transactions may take when Run is told to end; default 5 s
	MaxDeferred int           // envelopes remembered per domain that cannot be reached; default 100, negative: none
}

func (o Options) withDefaults() Options {
	def(&o.MaxSessions, 500)
	def(&o.MaxLookups, 100)
	def(&o.MaxWait, 10*time.Minute)
	def(&o.Grace, 5*time.Second)
	if o.MaxDeferred == 0 {
		o.MaxDeferred = 100
	}
	return o
}

// def gives a field that is not positive its default.
func def[T ~int | ~int64](p *T, v T) {
	if *p <= 0 {
		*p = v
	}
}

// Family says which addresses of hosts may be used.
type Family uint8

// The choices of a family.
const (
	AnyFamily Family = iota // in the order the route gives them
	Inet4Only
	Inet6Only
	PreferInet4
	PreferInet6
)

// rateMinutes is how many minutes' worth of messages a relay with a rate has here;
// the others wait in its hold queue.
const rateMinutes = 5

// Limits of a relay. All counts are upper bounds. Zero counts mean the default, zero
// delays none.
type Limits struct {
	Domain string // destination that they are for; empty: no special one
	Family Family

	MaxConnPerHost      int // connections to a remote address; default 10
	MaxConnPerRoute     int // from a source to a remote address; default 5
	MaxConnPerSource    int // default 100
	MaxConnPerConnector int // default 20
	MaxConnPerRelay     int // default 100
	MaxConnPerDomain    int // of all relays with the name of this one; default 100

	ConnDelayHost      time.Duration // least time between connects
	ConnDelayRoute     time.Duration
	ConnDelaySource    time.Duration
	ConnDelayConnector time.Duration
	ConnDelayRelay     time.Duration
	ConnDelayDomain    time.Duration
	ReconnDelayRoute   time.Duration // between the end of a connection and the next one

	SessionMailMax          int           // messages in a connection; default 1000
	SessionTransactionDelay time.Duration // between the transactions of a connection
	SessionKeepalive        time.Duration // how long a connection without work is kept; default 10 s
	SessionMaxAge           time.Duration // after which a connection takes no more messages; default 5 min
	MaxFailuresPerSession   int           // recipients refused in a row, after which a connection is given up; default 25
	MaxRcpt                 int           // recipients in a transaction; default 100
	RatePerMinute           int           // messages a minute, of all relays with the name of this one; 0: as many as go

	HiWat   int // messages a relay may have here; what goes beyond is held; default 200
	LoWat   int // messages left at which held ones are released; default 100
	Release int // how many envelopes are released at a time; default 100
}

func (l Limits) withDefaults() Limits {
	def(&l.MaxConnPerHost, 10)
	def(&l.MaxConnPerRoute, 5)
	def(&l.MaxConnPerSource, 100)
	def(&l.MaxConnPerConnector, 20)
	def(&l.MaxConnPerRelay, 100)
	def(&l.MaxConnPerDomain, 100)
	def(&l.SessionMailMax, 1000)
	def(&l.SessionKeepalive, 10*time.Second)
	def(&l.SessionMaxAge, 5*time.Minute)
	def(&l.MaxFailuresPerSession, 25)
	def(&l.MaxRcpt, 100)
	def(&l.HiWat, 200)
	def(&l.LoWat, 100)
	def(&l.Release, 100)
	if n := l.RatePerMinute; n > 0 {
		// What waits here must get its turn before it has waited too long.
		l.HiWat, l.Release = min(l.HiWat, rateMinutes*n), min(l.Release, n)
	}
	l.LoWat = min(l.LoWat, l.HiWat-1)
	return l
}
