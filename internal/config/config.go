package config

import (
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Config is a whole configuration, names resolved and checked.
type Config struct {
	ServerName  string // the name of this host in greetings and traces
	AdminDomain string // admd; empty: ServerName

	Tables    []*Table // built-ins, then declared ones in order, then anonymous ones
	PKIs      []*PKI
	CAs       []*CA
	Listeners []*Listener
	Socket    SocketListener
	Actions   []*policy.Action
	Rules     []*policy.Rule
	Filters   []*Filter
	Procs     []*Proc
	Wrappers  map[string]string // mda wrapper name → command line

	Bounce    BounceConfig
	MDA       MDALimits
	MTA       MTAConfig
	Scheduler SchedulerLimits
	Queue     QueueConfig
	SMTP      SMTPConfig
	SRS       SRSConfig
	TLSReport TLSReportConfig

	// Warnings are doubts about a configuration that is valid: things declared and
	// never used, rules that never match, open relays. They have no part in printing.
	Warnings []*Error
}

// Table is a declared table.
type Table struct {
	Pos     policy.Position
	Name    string // as used in the rules, without angle brackets; built-in and anonymous names hold them: "<localhost>", "<dynamic:0>"
	Backend string // "static" (inline), "file", "db", "passwd", "getpwnam", "proc-exec", or the name of a program
	Path    string // configuration of the backend; empty for inline tables
	Command string // of a proc-exec table, for the shell
	Kind    TableKind
	Entries []Entry       // of an inline table, in the order written
	TTL     time.Duration // for which answers are kept; 0: not at all
}

// CommandBackend is the backend of a table that a command of the configuration
// answers.
const CommandBackend = "proc-exec"

// Program tells whether a program of its own answers the table.
func (t *Table) Program() bool { return !builtinBackends[t.Backend] }

// TableKind is what a table may be used for: a list has keys only, a map has
// values, a dynamic table answers what its program answers.
type TableKind uint8

// The kinds of table.
const (
	List TableKind = iota + 1
	Map
	Dynamic
	Empty // a file without entries: fits wherever a list or a map is asked for
)

// String names the kind as error messages do.
func (k TableKind) String() string {
	switch k {
	case List:
		return "list"
	case Map:
		return "map"
	case Dynamic:
		return "dynamic table"
	case Empty:
		return "empty table"
	}
	return "table of unknown kind"
}

// Entry is one element of an inline table; Value is empty in a list.
type Entry struct{ Key, Value string }

// PKI is a certificate and its key. Files are read by the wiring, not here.
type PKI struct {
	Pos  policy.Position
	Name string // host name in lower case, or "*"
	Cert string // file
	Key  string // file
	DHE  string // none, auto or legacy; kept for the printer
}

// CA is a bundle of certificate authorities.
type CA struct {
	Pos  policy.Position
	Name string
	Cert string // file
}

// TLSMode says how a listener speaks TLS.
type TLSMode uint8

// The TLS modes of a listener.
const (
	NoTLS      TLSMode = iota
	STARTTLS           // tls: offered
	RequireTLS         // tls-require: before MAIL
	SMTPS              // from the first byte
)

// AuthMode says what a listener asks of its clients.
type AuthMode uint8

// The authentication modes of a listener.
const (
	NoAuth AuthMode = iota
	AuthOptional
	AuthRequired
)

// ProxyMode says whether a listener expects a PROXY header before anything else.
type ProxyMode uint8

// The PROXY modes of a listener.
const (
	NoProxy  ProxyMode = iota
	ProxyV2            // proxy-v2: the binary header only
	ProxyAny           // proxy: the text header of version 1, or the binary one
)

// Listener is one listen line; Target may stand for several addresses. The
// wiring resolves it at start: interface, group, address or host name.
type Listener struct {
	Pos          policy.Position
	Target       string // as written: "all", "egress", interface, group, address, host name
	Family       string // "", "inet4", "inet6"
	Port         uint16
	TLS          TLSMode
	VerifyPeer   bool // the client's certificate must verify
	Ciphers      string
	Protocols    string
	PKI          []string // names in lower case; the first is the default
	CA           string   // name in lower case
	Auth         AuthMode
	AuthTable    string // table credentials or auth; empty: the system's users
	Tag          string
	Hostname     string // empty: ServerName
	Hostnames    string // table addrname
	Filter       string // name of a filter or chain
	MaskSource   bool
	ReceivedAuth bool
	NoDSN        bool
	Proxy        ProxyMode
	ProxyFrom    string // table netaddr: who may send a PROXY header; empty: anyone (warned about)
	Senders      string // table mailaddrmap
	Masquerade   bool
}

// SocketListener is the local socket's options.
type SocketListener struct {
	Pos        policy.Position
	Filter     string
	MaskSource bool
	NoDSN      bool
	Tag        string
}

// Proc is a declared filter process.
type Proc struct {
	Pos                 policy.Position
	Name, Command       string
	User, Group, Chroot string
}

// Filter is a declared filter: a builtin, a process, or a chain.
type Filter struct {
	Pos     policy.Position
	Name    string   // "<dynchain:0>" for a chain written at its use
	Proc    string   // name of a Proc, for process filters
	Chain   []string // for chains
	Builtin *BuiltinFilter
	Options FilterOptions // for process filters
}

// FilterOptions say how a process filter is treated.
type FilterOptions struct {
	Bypass      bool                     // sessions go on without it while it fails; otherwise they get 451
	Secrets     bool                     // it is shown what clients authenticate with
	RewriteEnds bool                     // when it rewrites, no later filter is asked
	Timeout     time.Duration            // for an answer; 0: the default
	Timeouts    map[string]time.Duration // by phase, instead of Timeout
}

// BuiltinFilter is "phase PHASE match CONDITION ACTION".
type BuiltinFilter struct {
	Phase     string // connect, helo, ehlo, auth, mail-from, rcpt-to, data, commit
	Not       bool
	Condition string // fcrdns, rdns, src, helo, auth, mail-from, rcpt-to
	Regex     bool
	Table     string // empty: bare condition
	Action    string // reject, disconnect, rewrite, report, junk, bypass
	Argument  string
}

// BounceConfig holds the delays after which a sender is told that mail waits.
type BounceConfig struct {
	WarnIntervals []time.Duration // default 4h
	MaxPerMinute  int             // reports on strangers' mail to one domain, 60; 0: any number
	Postmaster    smtp.Path       // is told of mail whose sender cannot be; null: nobody is
}

// MDALimits bound local deliveries.
type MDALimits struct {
	MaxSession, MaxSessionPerUser, TaskHiwat, TaskLowat, TaskRelease int // 50 7 50 30 10
}

// MTAConfig holds relay limits: the default and those per domain.
type MTAConfig struct {
	MaxDeferred int // 100
	Default     MTALimits
	Domains     []DomainLimits
}

// DomainLimits are the limits for one destination domain.
type DomainLimits struct {
	Domain string // in lower case
	MTALimits
}

// MTALimits are upper bounds and delays of relaying; delays in seconds. The
// delays default to 0: they are there for who wants them.
type MTALimits struct {
	Family string // "", inet4, inet6
	Values map[string]int64
}

// SchedulerLimits bound the scheduler.
type SchedulerLimits struct {
	MaxInflight, MaxSchedule, MaxEnvelopeBatch, MaxMessageBatch int // 5000 10 256 1024
}

// KeySource says where the key of the queue's encryption comes from.
type KeySource uint8

// The sources of the key.
const (
	NoKey     KeySource = iota // mail is stored in clear
	KeyAsk                     // asked for on the terminal at start
	KeyStdin                   // the first line of standard input
	KeyInline                  // QueueConfig.Key
	KeyInFile                  // the first line of QueueConfig.KeyFile
)

// QueueConfig is how mail is stored and when it is tried again.
type QueueConfig struct {
	Compression   string // "" none, "gzip", "zstd"
	Encryption    KeySource
	Key           string        // 32 bytes, for KeyInline
	KeyFile       string        // absolute path, for KeyInFile
	TTL           time.Duration // 4 days
	ReserveSpace  int           // percent of the file system's space kept free, 5; 0: no check
	ReserveInodes int           // percent of its inodes kept free, 5; 0: no check

	// The nth attempt happens n*n times this long after the message came in.
	RetryMDA time.Duration // 10 s; local deliveries and bounces
	RetryMTA time.Duration // 400 s; relaying
}

// BareNewline says what happens to a line of a client that ends in LF alone.
type BareNewline uint8

// The policies for bare newlines.
const (
	RejectBareNewline    BareNewline = iota // the message is refused
	NormalizeBareNewline                    // it counts as CRLF, except around the final dot
)

// SMTPConfig holds what all listeners share.
type SMTPConfig struct {
	Ciphers              string
	MaxMails             int    // per session, 100
	MaxRcpt              int    // per message, 1000
	MaxMessageSize       int64  // bytes, 36700160
	SubAddrDelim         string // one character, "+"
	MaxSessions          int    // at a time; 0: derived from the limit of descriptors
	MaxSessionsPerSource int    // at a time from one address, 256; 0: unlimited
	MaxErrors            int    // failed commands before a session is closed, 20; 0: unlimited
	MaxAuthFailures      int    // failed AUTH before a session is closed, 5; 0: unlimited
	MinRate              int    // bytes per second a client must send on average in DATA, 100; 0: any
	BareNewline          BareNewline
}

// SRSConfig holds the keys of the sender rewriting scheme.
type SRSConfig struct {
	Key, BackupKey string
	TTLDays        int // whole days, 4
}

// TLSReportConfig says how domains are told of TLS with their hosts (RFC 8460).
type TLSReportConfig struct {
	From         string // address of the sender; empty: no reports are sent
	Organization string // empty: the server name
	Contact      string // empty: From
}

// Error is one mistake in a configuration.
type Error struct {
	Pos     policy.Position
	Message string // names the token and, where known, the remedy
}

// Error returns "FILE:LINE: message".
func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Pos.File, e.Pos.Line, e.Message) }
