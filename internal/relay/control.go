package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Relayer relays.
type Relayer struct{}

// New returns a Relayer. It does nothing until Run is called. events may be nil.
func New(o Options, rt Router, d Dialer, b Bodies, desk Desk, events report.Sink) *Relayer {
	return nil
}

// Run serves until ctx ends; then it lets running transactions end for Options.Grace.
// It returns when every goroutine has ended; it is called once.
func (r *Relayer) Run(ctx context.Context) error { return nil }

// Add takes an attempt, or has Desk.Hold called for it. It does not wait.
func (r *Relayer) Add(a *Attempt) {}

// Reload forgets every route that was looked up and asks anew, also for what waits:
// nothing lives on that was learned under the old configuration.
func (r *Relayer) Reload(o Options) {}

// Pause lets no mail for domain leave from source; an invalid source means all, an
// empty domain too. It returns false when that is so already. What waits is given back.
func (r *Relayer) Pause(source netip.Addr, domain string) bool { return false }

// Resume undoes Pause. It returns false when there is nothing to undo.
func (r *Relayer) Resume(source netip.Addr, domain string) bool { return false }

// EnableRoute lets a disabled route be tried again, and DisableRoute disables one.
// They return false when there is no such route, or nothing to change.
func (r *Relayer) EnableRoute(id uint64) bool                   { return false }
func (r *Relayer) DisableRoute(id uint64, d time.Duration) bool { return false }

// Snapshots, for the operator.
func (r *Relayer) Counts() Counts        { return Counts{} }
func (r *Relayer) Paused() []Block       { return nil }
func (r *Relayer) Relays() []RelayInfo   { return nil }
func (r *Relayer) Routes() []RouteInfo   { return nil }
func (r *Relayer) Hosts() []HostInfo     { return nil }
func (r *Relayer) HostStats() []HostStat { return nil }

// Counts is a snapshot of what is going on.
type Counts struct {
	Relays                                      int
	Pending                                     int // envelopes waiting, for a route too
	Running                                     int // envelopes in transactions
	Messages                                    int // tasks, waiting and running
	Sessions                                    int // connections, idle and opening ones included
	Idle                                        int
	Lookups                                     int // routes being looked up
	Routes, Hosts, Sources, Domains, Connectors int
}

// Block is what Pause made.
type Block struct {
	Source netip.Addr // invalid: all
	Domain string     // empty: all
}

// ConnectorInfo describes a connector.
type ConnectorInfo struct {
	Source   netip.Addr // invalid: the system's choice
	Sessions int
	LastConn time.Time
}

// RelayInfo describes a relay.
type RelayInfo struct {
	ID         string // 16 hex digits; the hold queue is "mta|" and this
	Name       string // as in logs: "[relay:example.org,smtp]"
	Domain     string
	Messages   int // waiting
	Envelopes  int
	Sessions   int
	Idle       int
	Window     int    // connections it may have now
	Held       bool   // more messages wait in the hold queue
	Why        string // it has not more connections; may be empty
	LastError  string
	Connectors []ConnectorInfo
}

// RouteInfo describes a route.
type RouteInfo struct {
	ID       uint64
	Source   netip.Addr // invalid: the system's choice
	Addr     netip.Addr
	Host     string // name of the address
	New      bool   // no connection was ready yet
	Disabled bool
	Sessions int
	Errors   int
	Penalty  int
	Until    time.Time     // it is disabled, else zero
	Spacing  time.Duration // between messages, learned from the host's complaints
}

// HostInfo describes a remote address.
type HostInfo struct {
	Addr     netip.Addr
	Name     string
	Refs     int // routes
	Sessions int
	LastConn time.Time
	Plain    bool // TLS failed here: tried in clear where that is allowed
}

// HostStat is the last word about a recipient domain.
type HostStat struct {
	Domain string
	Time   time.Time
	Status string
}
