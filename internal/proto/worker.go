package proto

import (
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Served by a delivery worker.
var (
	// Deliver makes one delivery. The body is in the request, or a descriptor.
	Deliver = imsg.Method[DeliverRequest, DeliverReply]{ID: 0x0501, Name: "worker.deliver", MaxSize: envelope.InlineMax + 64<<10}
)

// Served by an enqueuer, which runs as the owner of the file.
var (
	// Inject submits one offline file, given as descriptor, over the local socket.
	Inject = imsg.Method[Empty, Empty]{ID: 0x0510, Name: "enqueue.inject"}
)

// DeliverRequest is one message for one recipient.
type DeliverRequest struct {
	Sender     smtp.Path
	Rcpt       smtp.Path
	Dest       smtp.Path
	User       string
	Home       string // for a worker that several users share; otherwise empty
	Subaddress string
	Exec       string // "|command" or "/file" out of an alias or .forward; empty: the action's method
	Body       []byte
	Size       int64 // bytes, of Body or the descriptor
}

// DeliverReply is what came of it.
type DeliverReply struct {
	Outcome  uint8 // mda.Outcome
	Enhanced smtp.EnhancedCode
	Text     string
	Exit     int // exit status of a command that failed
}
