package proto

import (
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// Served by the queue.
var (
	// Begin opens a transaction and reserves its message id. The transaction is
	// rolled back when the link it came over is lost.
	Begin = imsg.Method[BeginRequest, BeginReply]{ID: 0x0201, Name: "queue.begin"}
	// Spill returns a descriptor to write a large body to.
	Spill = imsg.Method[MsgRequest, Empty]{ID: 0x0202, Name: "queue.spill"}
	// Commit makes the message durable. Its reply is the instant of responsibility.
	Commit = imsg.Method[CommitRequest, Empty]{ID: 0x0203, Name: "queue.commit", MaxSize: envelope.InlineMax + 4096}
	// Rollback drops an open transaction. One-way.
	Rollback = imsg.Method[MsgRequest, Empty]{ID: 0x0204, Name: "queue.rollback"}
	// Submit adds recipients to an open transaction. Called by lookup only.
	Submit = imsg.Method[SubmitRequest, SubmitReply]{ID: 0x0205, Name: "queue.submit", MaxSize: 8 << 20}

	// List returns envelopes in id order, a page at a time.
	List = imsg.Method[ListRequest, ListReply]{ID: 0x0210, Name: "queue.list", MaxSize: 8 << 20}
	// Show returns an envelope's text, or with Body a descriptor of the message.
	Show = imsg.Method[ShowRequest, ShowReply]{ID: 0x0211, Name: "queue.show", MaxSize: 8 << 20}
	// Manage changes envelopes: pause, resume, schedule, remove, discover.
	Manage = imsg.Method[ManageRequest, CountReply]{ID: 0x0212, Name: "queue.manage"}
	// Hold stops or restarts whole classes: mda, mta.
	Hold = imsg.Method[HoldRequest, Empty]{ID: 0x0213, Name: "queue.hold"}
)

// BeginRequest names the session, for the log.
type BeginRequest struct{ Session uint64 }

// BeginReply holds the reserved message id.
type BeginReply struct{ MsgID envelope.MsgID }

// MsgRequest names an open transaction.
type MsgRequest struct{ MsgID envelope.MsgID }

// CommitRequest ends a transaction. Body is nil when it was spilled.
type CommitRequest struct {
	MsgID   envelope.MsgID
	Spilled bool
	// TLSOptional is what the header says, which came after the recipients.
	TLSOptional bool
	Body        []byte
}

// SubmitRequest holds envelopes without ids; the queue numbers them.
type SubmitRequest struct {
	MsgID     envelope.MsgID
	Envelopes []*envelope.Envelope
}

// SubmitReply holds the ids given, in order.
type SubmitReply struct{ IDs []envelope.ID }

// ListRequest asks for up to Max envelopes from From on; MsgID limits to one message.
type ListRequest struct {
	From  envelope.ID
	MsgID envelope.MsgID
	Max   int
}

// ListReply is a page; Next is zero at the end.
type ListReply struct {
	Entries []ListEntry
	Corrupt []string // names of damaged entries set aside, on the first page
	Next    envelope.ID
}

// ListEntry is one envelope and where it stands.
type ListEntry struct {
	Envelope envelope.Envelope
	Status   scheduler.Status
}

// ShowRequest asks for an envelope's text, or for its message's body.
type ShowRequest struct {
	ID   envelope.ID
	Body bool
}

// ShowReply holds the envelope's text, or a small body; a large one comes as descriptor.
type ShowReply struct{ Text []byte }

// ManageRequest names an envelope, a message (lower half zero), or all (zero).
type ManageRequest struct {
	Verb string // pause, resume, schedule, remove, discover
	ID   envelope.ID
}

// CountReply says how many envelopes changed.
type CountReply struct{ Count int }

// HoldRequest pauses or resumes a class.
type HoldRequest struct {
	Class string // mda, mta, smtp
	Pause bool
}
