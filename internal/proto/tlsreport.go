package proto

import (
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// How TLS with other hosts went: the dispatcher sees it, lookup counts it and tells
// the domains (RFC 8460).
var (
	// CountTLS counts sessions. One-way, to lookup.
	CountTLS = imsg.Method[CountTLSRequest, Empty]{ID: 0x0310, Name: "lookup.count-tls", MaxSize: 4 << 20}
	// ListTLS returns what was counted, by day and domain, a page at a time. Served by
	// lookup.
	ListTLS = imsg.Method[ListTLSRequest, ListTLSReply]{ID: 0x0311, Name: "lookup.list-tls", MaxSize: 16 << 20, MaxRequest: 4096}
	// SubmitMessage stores a message of the daemon's own, by way of the rules. Served
	// by the queue, to lookup alone.
	SubmitMessage = imsg.Method[SubmitMessageRequest, Empty]{ID: 0x0208, Name: "queue.submit-message", MaxSize: MaxOwnMessage + 4096}
)

// MaxOwnMessage is the size of the largest message of SubmitMessage, in bytes.
const MaxOwnMessage = 8 << 20

// CountTLSRequest holds sessions, or attempts at one.
type CountTLSRequest struct{ Events []tlsrpt.Event }

// ListTLSRequest asks for what comes after a day and domain; zero: all.
type ListTLSRequest struct{ After tlsrpt.Summary }

// ListTLSReply is a page; it is empty at the end.
type ListTLSReply struct{ Summaries []tlsrpt.Summary }

// SubmitMessageRequest is a message with LF line ends for one recipient. Its sender
// is not told of failures, and the recipient's domain cannot keep it from being
// delivered by what it demands of TLS (RFC 8460 section 3).
type SubmitMessageRequest struct {
	Sender, Rcpt smtp.Path
	Body         []byte
}
