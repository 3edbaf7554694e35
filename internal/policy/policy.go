// Package policy holds match and action lines as data, with the facts that a match
// line asks about. Package ruleset decides with them.
package policy

import (
	"fmt"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Kind names a condition slot of a match line, in the order they are tested.
type Kind uint8

// The condition slots. Each occurs at most once in a rule.
const (
	Tag Kind = iota
	From
	For
	HELO
	Auth
	TLS
	MailFrom
	RcptTo
)

// How says how the value of a condition is compared.
type How uint8

// Ways to compare. Which table service is asked follows from the Kind and this.
const (
	Exists   How = iota // only presence: auth, tls, from rdns, for any
	InTable             // membership in Table
	RegexIn             // a pattern of Table matches
	IsSocket            // from socket
	HasRDNS             // from rdns, with or without Table (RDNS tells)
	IsAny               // from any, for any
	IsLocal             // from local, for local (Table names <localhost> or <localnames>)
)

// Condition is one condition of a match line.
type Condition struct {
	Kind  Kind
	How   How
	RDNS  bool   // From only: the key is the client's reverse name, not its address
	Table string // name of the table, empty when none is asked
	Not   bool
}

// Position is where a statement stands in the configuration.
type Position struct {
	File string
	Line int
}

// String returns FILE:LINE.
func (p Position) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Rule is one match line. Conditions are in the order of Kind.
type Rule struct {
	Pos        Position
	Conditions []Condition
	Action     string // name of an action; empty: reject
	Text       string // the line as understood, printed by smtpd -nv
}

// Method is how an action disposes of an envelope.
type Method uint8

// The methods of action lines.
const (
	Mbox Method = iota + 1
	Maildir
	LMTP
	Command // mda "command"
	ForwardOnly
	ExpandOnly
	Relay
)

// Action is one action line.
type Action struct {
	Pos    Position
	Name   string
	Method Method
	TTL    time.Duration // 0: the queue's default

	// Local delivery.
	Path     string // maildir path as written, may hold format specifiers; empty: ~/Maildir
	Junk     bool   // maildir: X-Spam mail goes to the Junk folder
	Dest     string // lmtp destination: socket path or host:port
	RcptTo   bool   // lmtp: give the recipient address, not the user name
	Command  string // mda command line with format specifiers
	Wrapper  string // wrapper command line (resolved), with %{mda}
	Alias    string // table names; at most one of Alias and Virtual
	Virtual  string
	Userbase string // table name; empty: the system's users
	User     string // deliver as this user

	Relay *RelayOptions // for Relay, else nil
}

// Local tells whether the action delivers on this host.
func (a *Action) Local() bool { return a.Method != Relay }

// SharesWorker tells whether one process may deliver for all users who have the same
// uid and gid: as these are not users of the system, or the action names the one, they
// have no groups of their own, and no command is run that had their names and homes.
func (a *Action) SharesWorker() bool {
	return (a.Method == Maildir || a.Method == LMTP) && a.Wrapper == "" && (a.Userbase != "" || a.User != "")
}

// RelayOptions are the options of a relay action, as written.
type RelayOptions struct {
	Backup     bool
	BackupName string // "backup mx NAME"; empty: the server name
	HELO       string
	HELOSource string // table addrname
	Host       string // table relayhost, fetched
	Domain     string // table relayhost, looked up by domain
	Auth       string // table credentials
	Bearer     bool   // its passwords are OAuth 2.0 access tokens
	TLS        string // "", "opportunistic", "no-verify", "required" (verified), "sts" or "dane"
	Family     string // "", "prefer inet4", "prefer inet6", "only inet4" or "only inet6"
	PKI        string
	CA         string
	Ciphers    string
	Protocols  string
	Source     string // table source
	MailFrom   string
	Filter     string
	SRS        bool
}

// Facts are what a rule may ask about: the session, the sender and one recipient.
type Facts struct {
	Tag           string
	Source        string // client address: "local", "192.0.2.1", "[2001:db8::1]"
	RDNS          string // "<unknown>" when there is none
	HELO          string
	Authenticated bool
	Username      string
	TLS           bool
	Internal      bool // the recipient was obtained by expansion: Source counts as "local"
	Sender        smtp.Path
	Rcpt          smtp.Path
}
