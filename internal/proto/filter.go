package proto

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// Filters: the parent starts their programs, the dispatcher talks to them, lookup
// asks the tables of built-in ones and the DNS for the others.
var (
	// StartFilter starts a filter program, which ends the one that runs under the same
	// id, and returns the socket that is its standard input and output. What is run
	// follows from the parent's own configuration. Served by the parent.
	StartFilter = imsg.Method[FilterRequest, StartFilterReply]{ID: 0x0409, Name: "parent.start-filter"}
	// StopFilter ends a filter program that is needed no more. Served by the parent.
	StopFilter = imsg.Method[FilterRequest, Empty]{ID: 0x040a, Name: "parent.stop-filter"}
	// MatchFilter decides a condition of a built-in filter. Served by lookup.
	MatchFilter = imsg.Method[MatchFilterRequest, BoolReply]{ID: 0x030b, Name: "lookup.match-filter"}
	// ResolveFilter answers a filter's question to the DNS. Served by lookup.
	ResolveFilter = imsg.Method[ResolveFilterRequest, ResolveFilterReply]{ID: 0x030c, Name: "lookup.resolve-filter"}
	// ListFilters tells how filter processes are doing. Served by the dispatcher.
	ListFilters = imsg.Method[Empty, ListFiltersReply]{ID: 0x0606, Name: "dispatcher.list-filters", MaxSize: 1 << 20}
)

// FilterProc is a filter process of a configuration. ID stands for all that it is
// run with: when any of it changes, so does the ID.
type FilterProc struct {
	Name     string
	ID       string
	Incoming bool // listeners use it
	Outgoing bool // relay actions do
}

// Filter is a declared filter: a process, a built-in one or a chain of others.
type Filter struct {
	Name    string
	Proc    string   // name of a FilterProc
	Chain   []string // names of filters
	Builtin *BuiltinFilter

	Bypass      bool // go on without it while it fails
	Secrets     bool // show it what clients authenticate with
	RewriteEnds bool // its rewrite ends the chain
	Timeout     time.Duration
	Phases      []string // that have Timeouts of their own
	Timeouts    []time.Duration
}

// BuiltinFilter is what a built-in filter tests and does.
type BuiltinFilter struct {
	Phase     string
	Condition string // fcrdns, rdns, src, helo, auth, mail-from, rcpt-to
	Not       bool
	Regex     bool
	Table     string // empty: the bare condition
	Action    string // reject, disconnect, rewrite, report, junk, bypass
	Argument  string
}

// FilterRequest names a filter process by the ID of its FilterProc.
type FilterRequest struct{ ID string }

// StartFilterReply comes with one descriptor.
type StartFilterReply struct{ PID int }

// MatchFilterRequest is a condition, and what is known of the session.
type MatchFilterRequest struct {
	Generation uint32
	Condition  policy.Condition
	Facts      policy.Facts
}

// ResolveFilterRequest is a question: addr, host, txt or mx.
type ResolveFilterRequest struct {
	Type string
	Name string
}

// ResolveFilterReply holds the values. Found is false when it is proven that there
// are none.
type ResolveFilterReply struct {
	Found  bool
	Values []string
}

// ListFiltersReply describes filter processes.
type ListFiltersReply struct{ Filters []FilterStatus }

// FilterStatus is how one filter process is doing.
type FilterStatus struct {
	Name      string
	State     string // starting, ready, waiting
	PID       int
	Since     time.Duration // in this state
	Restarts  int64
	Sessions  int
	Phases    []string // registered: "smtp-in mail-from"
	Events    int      // registered
	Asked     int64    // verdicts
	Failed    int64    // verdicts that never came
	Nonsense  int64    // lines that made no sense
	Mean      time.Duration
	Slowest   time.Duration
	LastError string
}
