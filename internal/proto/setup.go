package proto

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// setupSize bounds a configuration slice, in bytes: inline tables, certificates.
const setupSize = 16 << 20

// SetupReply tells the parent what protection the role obtained, a line for the log.
type SetupReply struct {
	Guarantees string
	Missing    string
}

// Parent → role. The first Setup of a life configures and confines the process;
// later ones are reloads: on an error the role keeps the configuration it has.
var (
	SetupDispatcher = imsg.Method[DispatcherConfig, SetupReply]{ID: 0x0101, Name: "setup.dispatcher", MaxSize: setupSize}
	SetupLookup     = imsg.Method[LookupConfig, SetupReply]{ID: 0x0102, Name: "setup.lookup", MaxSize: setupSize}
	SetupQueue      = imsg.Method[QueueConfig, SetupReply]{ID: 0x0103, Name: "setup.queue", MaxSize: setupSize}
	SetupKey        = imsg.Method[KeyConfig, SetupReply]{ID: 0x0104, Name: "setup.key", MaxSize: setupSize}
	SetupControl    = imsg.Method[ControlConfig, SetupReply]{ID: 0x0105, Name: "setup.control", MaxSize: setupSize}
	SetupWorker     = imsg.Method[WorkerConfig, SetupReply]{ID: 0x0106, Name: "setup.worker"}

	// PassListeners hands the dispatcher listening sockets ahead of SetupDispatcher:
	// the descriptors are those of DispatcherConfig.Listeners from First on.
	PassListeners = imsg.Method[PassListenersRequest, Empty]{ID: 0x0107, Name: "setup.pass-listeners"}

	// Attach hands a role its end of a link to another role, as the one descriptor.
	// It replaces the link to a role that died.
	Attach = imsg.Method[AttachRequest, Empty]{ID: 0x0110, Name: "attach"}
	// Start tells a role that its links are there and the configuration is in force.
	Start = imsg.Method[Empty, Empty]{ID: 0x0111, Name: "start"}
	// Shutdown asks a role to finish what it is doing and end.
	Shutdown = imsg.Method[Empty, Empty]{ID: 0x0112, Name: "shutdown"}
	// Verbose switches debug lines on or off, in every role.
	Verbose = imsg.Method[VerboseRequest, Empty]{ID: 0x0113, Name: "verbose"}
	// Stats returns a role's counters.
	Stats = imsg.Method[Empty, StatsReply]{ID: 0x0114, Name: "stats"}
)

// PassListenersRequest says which listeners the descriptors belong to. First 0
// forgets those passed before.
type PassListenersRequest struct{ First int }

// AttachRequest names the role at the other end.
type AttachRequest struct{ Role Role }

// VerboseRequest sets the level of logging; Trace lists subsystems, as -T.
type VerboseRequest struct {
	Debug bool
	Trace []string
}

// StatsReply is a snapshot of counters by name.
type StatsReply struct{ Counters []Counter }

// Counter is one counter.
type Counter struct {
	Name  string
	Value int64
}

// Confinement is what every role is told about itself. UID -1 means: stay (one
// process, no root).
type Confinement struct {
	Root     string
	UID, GID int
	Read     []string
	Write    []string
}

// Named is a file's content under the name that the configuration gives it.
type Named struct {
	Name string
	PEM  []byte
}

// Certificate is a chain under its pki's name; KeyName is what the key process
// knows the key by, different in each configuration.
type Certificate struct {
	Name    string
	KeyName string
	PEM     []byte
}

// DispatcherConfig follows the descriptors of its listeners.
type DispatcherConfig struct {
	Confine         Confinement
	Generation      uint32 // of the configuration, from 1
	ServerName      string
	Listeners       []Listener
	Socket          Listener // the local socket's options
	Certificates    []Certificate
	Authorities     []Named // bundles, by ca name
	Ciphers         string
	MaxMails        int
	MaxRcpt         int
	MaxMessageSize  int64
	MaxSessions     int
	MaxPerSource    int
	MaxErrors       int
	MaxAuthFailures int
	MinRate         int
	NormalizeBare   bool
	MaxDeferred     int  // envelopes remembered for each domain that cannot be reached
	Paused          bool // start without accepting
	ADMD            string
	FilterProcs     []FilterProc
	Filters         []Filter
	Verbose         VerboseRequest
}

// Listener is a bound listening socket and how its sessions behave.
type Listener struct {
	Address      string // host:port it is bound to
	Local        bool   // bound to loopback: submission
	Port         uint16
	TLS          uint8 // config.TLSMode
	VerifyPeer   bool
	Ciphers      string
	Protocols    string
	PKI          []string
	CA           string
	Auth         uint8 // config.AuthMode
	AuthTable    string
	Tag          string
	Hostname     string
	Hostnames    string
	Filter       string
	MaskSource   bool
	ReceivedAuth bool
	NoDSN        bool
	Proxy        bool // a PROXY header comes first
	ProxyV2Only  bool
	ProxyFrom    string
	Senders      string
	Masquerade   bool
}

// LookupConfig is the rules and the tables.
type LookupConfig struct {
	Confine      Confinement
	Generation   uint32
	ServerName   string
	Tables       []Table
	Rules        []*policy.Rule
	Actions      []*policy.Action
	SubAddrDelim string
	QueueTTL     time.Duration
	RelayLimits  RouteLimits
	DomainLimits []DomainLimits
	SRSKey       string
	SRSBackup    string
	SRSTTLDays   int
	TLSReport    TLSReport
	Verbose      VerboseRequest
}

// TLSReport says who sends reports of TLS; without From nobody does.
type TLSReport struct{ From, Organization, Contact string }

// DomainLimits are the relay limits for one destination.
type DomainLimits struct {
	Domain string
	Limits RouteLimits
}

// Table is a declared table. File contents come through OpenTable.
type Table struct {
	Name    string
	Backend string
	Path    string
	Kind    uint8 // config.TableKind
	Entries []Entry
	Program bool          // a program of its own answers it
	TTL     time.Duration // for which answers are kept; 0: not at all
	Delim   string        // parts a user name from its tag
	Regex   bool          // a rule asks for patterns
	File    string        // file and line of the declaration, for messages
	Line    int
}

// Entry is one element of an inline table.
type Entry struct{ Key, Value string }

// QueueConfig is how mail is kept and tried again.
type QueueConfig struct {
	Confine       Confinement
	Generation    uint32
	ServerName    string
	Actions       []Action
	CommandUser   string // runs commands straight out of aliases
	TTL           time.Duration
	RetryMDA      time.Duration // base of the quadratic retry times
	RetryMTA      time.Duration
	WarnIntervals []time.Duration
	MaxBounces    int       // a minute to one domain, about mail of strangers; 0: any number
	Postmaster    smtp.Path // is told of mail whose sender cannot be; null: nobody
	Compression   string    // "", gzip, zstd
	Key           []byte    // queue encryption, 32 bytes, or empty
	MinFreeSpace  float64
	MinFreeInodes float64
	MaxInflight   int
	MaxSession    int // local deliveries at a time
	MaxPerUser    int
	TaskHiwat     int
	TaskLowat     int
	TaskRelease   int
	PauseMDA      bool
	PauseMTA      bool
	Verbose       VerboseRequest
}

// Action is what the queue knows of an action: not how it delivers, only that.
type Action struct {
	Name     string
	Local    bool
	Mbox     bool   // as deliver.Attempt says
	Shared   bool   // likewise
	Userbase string // table; empty: the system's users
	User     string // deliver as this user
	TTL      time.Duration
}

// KeyConfig holds the private keys, PEM, by pki name.
type KeyConfig struct {
	Confine Confinement
	Keys    []Named
}

// ControlConfig comes with one descriptor: the listening local socket.
type ControlConfig struct {
	Confine    Confinement
	ServerName string
	Version    string
}

// WorkerConfig tells a delivery worker what it delivers to and for whom. It is
// made by the parent from its own configuration.
type WorkerConfig struct {
	User      string
	Home      string
	Shared    bool  // for several users of the same uid: requests name the user's home
	Exec      bool  // every delivery names its command or file; otherwise none does
	Method    uint8 // policy.Method
	Path      string
	Junk      bool
	Dest      string
	RcptTo    bool
	Command   string
	Wrapper   string
	HostName  string
	MailDir   string // system mailboxes
	Libexec   string
	Shell     string
	DefPath   string
	Delimiter string
	Timeout   time.Duration
}
