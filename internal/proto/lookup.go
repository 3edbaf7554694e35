package proto

import (
	"net/netip"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Served by lookup. Generation says under which configuration the session began;
// zero is the current one.
var (
	// Expand turns one RCPT into envelopes and submits them to the queue itself.
	Expand = imsg.Method[ExpandRequest, ExpandReply]{ID: 0x0301, Name: "lookup.expand"}
	// Authenticate checks a user's password. nil error: it is right.
	Authenticate = imsg.Method[AuthRequest, Empty]{ID: 0x0302, Name: "lookup.authenticate"}
	// CheckSender tells whether an authenticated user may send as an address.
	CheckSender = imsg.Method[CheckSenderRequest, Empty]{ID: 0x0303, Name: "lookup.check-sender"}
	// ReverseName returns the confirmed or unconfirmed name of a client.
	ReverseName = imsg.Method[ReverseRequest, ReverseReply]{ID: 0x0304, Name: "lookup.reverse-name"}
	// HostName returns the greeting name of a local address from a hostnames table.
	HostName = imsg.Method[KeyRequest, ValueReply]{ID: 0x0305, Name: "lookup.host-name"}
	// HasAddress tells whether a netaddr table holds an address.
	HasAddress = imsg.Method[KeyRequest, BoolReply]{ID: 0x0306, Name: "lookup.has-address"}
	// ReleaseGeneration says that no session needs the configuration any more. One-way.
	ReleaseGeneration = imsg.Method[GenerationRequest, Empty]{ID: 0x0307, Name: "lookup.release-generation"}
	// UserInfo returns uid, gid, home of a user from a userbase.
	UserInfo = imsg.Method[UserInfoRequest, UserInfoReply]{ID: 0x0308, Name: "lookup.user-info"}
	// UpdateTable reloads a table.
	UpdateTable = imsg.Method[TableRequest, Empty]{ID: 0x0309, Name: "lookup.update-table"}
)

// ExpandRequest is one accepted RCPT command and what is known of its session.
type ExpandRequest struct {
	Generation  uint32
	MsgID       envelope.MsgID
	Facts       policy.Facts
	Hostname    string // the client's reverse name
	SMTPName    string // ours
	EightBit    bool
	UTF8        bool
	RequireTLS  bool
	TLSOptional bool
	Ret         string
	EnvID       string
	Notify      envelope.Notify
	OrigRcpt    string
	Bounce      bool      // our own DSN
	Own         bool      // a message of our own: without a rule it is relayed
	Created     time.Time // of the envelope that is sent through the rules again; zero: now
}

// ExpandReply holds the ids of the envelopes made.
type ExpandReply struct{ IDs []envelope.ID }

// AuthRequest holds a secret: never logged.
type AuthRequest struct {
	Generation     uint32
	Table          string // empty: the system's users
	User, Password string
	Source         string // client address, for the limits on guessing
}

// CheckSenderRequest asks a senders table.
type CheckSenderRequest struct {
	Generation uint32
	Table      string
	User       string
	Sender     smtp.Path
}

// ReverseRequest holds a client's address.
type ReverseRequest struct{ Address netip.Addr }

// ReverseReply holds the name, empty when there is none, and whether it leads back.
type ReverseReply struct {
	Name      string
	Confirmed bool
}

// KeyRequest asks one table.
type KeyRequest struct {
	Generation uint32
	Table      string
	Key        string
}

// ValueReply is a value; Found tells whether there was one.
type ValueReply struct {
	Value string
	Found bool
}

// BoolReply is yes or no.
type BoolReply struct{ Yes bool }

// GenerationRequest names a configuration.
type GenerationRequest struct{ Generation uint32 }

// UserInfoRequest names a user and the table to ask; empty: the system's users.
type UserInfoRequest struct{ User, Userbase string }

// UserInfoReply is a user that mail may be delivered to.
type UserInfoReply struct {
	Found    bool
	UID, GID int
	Home     string
}

// TableRequest names a table.
type TableRequest struct{ Name string }
