package proto

import (
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// Relaying: the queue hands due envelopes to the dispatcher, which asks lookup for
// the way and the queue for the text.
var (
	// Relay relays one envelope. The reply comes when its attempt has ended, or says
	// that it must wait in a hold queue. Served by the dispatcher.
	Relay = imsg.Method[RelayRequest, RelayReply]{ID: 0x0603, Name: "dispatcher.relay"}
	// ReleaseRelay asks for envelopes out of a hold queue, all when N < 0. One-way,
	// to the queue.
	ReleaseRelay = imsg.Method[ReleaseRequest, Empty]{ID: 0x0206, Name: "queue.release-relay"}
	// RescheduleRelay asks for another attempt at envelopes whose destination took mail
	// again. One-way, to the queue.
	RescheduleRelay = imsg.Method[RescheduleRequest, Empty]{ID: 0x0208, Name: "queue.reschedule-relay"}
	// OpenMessage returns the text of a stored message, or a descriptor of a large
	// one. Served by the queue, for the dispatcher.
	OpenMessage = imsg.Method[MsgRequest, OpenReply]{ID: 0x0207, Name: "queue.open-message", MaxSize: envelope.InlineMax + 4096, MaxRequest: 4096}
	// Route returns the way to a domain. Served by lookup.
	Route = imsg.Method[RouteRequest, RouteReply]{ID: 0x030a, Name: "lookup.route", MaxSize: 1 << 20}
	// RelayList lists what relaying is doing, a page of lines at a time; RelayAdmin
	// changes it. Served by the dispatcher.
	RelayList  = imsg.Method[RelayListRequest, RelayListReply]{ID: 0x0604, Name: "dispatcher.relay-list", MaxSize: 8 << 20, MaxRequest: 4096}
	RelayAdmin = imsg.Method[RelayAdminRequest, Empty]{ID: 0x0605, Name: "dispatcher.relay-admin"}
	// RetryRoutes lets routes be tried again at once that failures have disabled. Served
	// by the dispatcher, for the queue.
	RetryRoutes = imsg.Method[Empty, Empty]{ID: 0x060a, Name: "dispatcher.retry-routes"}
)

// RelayRequest is an envelope whose time has come.
type RelayRequest struct{ Envelope envelope.Envelope }

// RelayReply is what came of it. A Hold is no attempt.
type RelayReply struct {
	Hold       string // name of the hold queue it must wait in, or empty
	Outcome    uint8  // relay.Outcome
	Status     smtp.EnhancedCode
	Text       string
	Relay      string // host, as logs have it
	Source     string // local address
	Session    uint64
	DSN        bool   // the host reports success itself
	Held       string // which host, route or limit held it back
	RetryAfter time.Duration
	Cause      string // for the log
}

// ReleaseRequest names a hold queue.
type ReleaseRequest struct {
	Queue string
	N     int
}

// RescheduleRequest names envelopes that were given back before.
type RescheduleRequest struct{ IDs []envelope.ID }

// OpenReply is a message's text; large ones come as descriptor.
type OpenReply struct {
	Text []byte
	Size int64
}

// RouteRequest asks for the way of an envelope.
type RouteRequest struct {
	Action    string
	Domain    string
	Sender    smtp.Path
	Forwarder string
	// RequireTLS and TLSOptional are what the message asks of TLS (RFC 8689).
	RequireTLS, TLSOptional bool
}

// RouteReply is a way: the data of relay.Route.
type RouteReply struct {
	Sender    smtp.Path
	PerSender bool
	AnyDomain bool
	Name      string
	Fixed     bool
	Hosts     []RouteHost
	Sources   []RouteSource
	HELO      string
	Bearer    bool // passwords are OAuth 2.0 access tokens
	PKI       string
	CA        string
	Ciphers   string
	Protocols string
	Filter    string
	Limits    RouteLimits
	TTL       time.Duration
	// Policies are what the domain asks for, for reports; see RouteTLS.Policy.
	Policies []tlsrpt.Policy
}

// RouteHost is one next hop.
type RouteHost struct {
	Name       string
	Port       uint16
	Preference uint16
	Weight     uint16
	Addrs      []netip.Addr
	LMTP       bool
	TLS        RouteTLS
	User       string // of AUTH; empty: none
	Password   string
	Label      string
}

// The values of RouteTLS.Mode: those of relay.TLSMode.
const (
	RouteNoTLS uint8 = iota
	RouteOpportunistic
	RouteRequireTLS
	RouteVerifyTLS
	RouteDANE
)

// RouteTLS is the demand on a host: the data of relay.TLS.
type RouteTLS struct {
	Mode     uint8
	Implicit bool
	TLSA     []RouteTLSA
	SNI      string
	Names    []string
	Testing  bool
	Policy   int // index in Policies; -1: nothing is to be reported
}

// RouteTLSA is one TLSA record.
type RouteTLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// RouteSource is a local address and the name to greet with from there.
type RouteSource struct {
	Addr netip.Addr
	HELO string
}

// RouteLimits are the limits for a destination, by the words of smtpd.conf;
// delays in seconds.
type RouteLimits struct {
	Domain string // that they are for; empty: the default
	Family string // "", inet4, inet6, prefer-inet4 or prefer-inet6
	Names  []string
	Values []int64
}

// RelayListRequest names what to list: relays, routes, hosts, hoststats, paused;
// as JSON, an object a line, or as text. From is the first line wanted.
type RelayListRequest struct {
	What string
	JSON bool
	From int
}

// RelayListReply is a page; Next is zero at the end.
type RelayListReply struct {
	Lines []string
	Next  int
}

// RelayAdminRequest pauses or resumes a source and domain, or resumes a route.
type RelayAdminRequest struct {
	Verb   string     // pause, resume, resume-route
	Source netip.Addr // invalid: all
	Domain string     // empty: all
	Route  uint64
}
