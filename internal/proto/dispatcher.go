package proto

import (
	"github.com/opensmtpd/opensmtpd/internal/imsg"
)

// Served by the dispatcher.
var (
	// LocalSession returns a descriptor that speaks SMTP, for local submission.
	LocalSession = imsg.Method[LocalSessionRequest, Empty]{ID: 0x0601, Name: "dispatcher.local-session"}
	// HoldSMTP stops or restarts accepting connections.
	HoldSMTP = imsg.Method[HoldRequest, Empty]{ID: 0x0602, Name: "dispatcher.hold-smtp"}
)

// LocalSessionRequest says who asks, as the system told.
type LocalSessionRequest struct{ UID, GID int }

// Served by the key process.
var (
	// Sign signs a digest with the private key of a pki.
	Sign = imsg.Method[SignRequest, SignReply]{ID: 0x0701, Name: "key.sign"}
)

// SignRequest names a key and what to sign; see tlsconf.SignRequest.
type SignRequest struct {
	Key    string
	Hash   uint32
	PSS    bool
	Digest []byte
}

// SignReply holds the signature.
type SignReply struct{ Signature []byte }

// Served by control, to programs on this host (smtpctl, sendmail). They may also
// call, if they are root, List, Show, Manage, Hold, HoldSMTP, UpdateTable, Reload,
// Stop, Status, SetVerbose and Stats, which control passes on.
var (
	// Hello opens the conversation; the versions of the protocol must agree.
	Hello = imsg.Method[HelloRequest, HelloReply]{ID: 0x0801, Name: "control.hello"}
)

// ControlVersion is the version of the calls that programs make over the local socket.
const ControlVersion = 1

// HelloRequest tells what the program speaks.
type HelloRequest struct{ Version uint32 }

// HelloReply tells what the daemon is.
type HelloReply struct {
	Version    uint32
	Software   string
	ServerName string
}
