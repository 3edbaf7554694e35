// Package queue is the contract of the mail store: where accepted messages and
// their envelopes live until every recipient is done. Implementations are fs (the
// spool on disk) and mem; codec wraps either with compression and encryption.
package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// Errors that callers test for.
var (
	ErrNotFound = errors.New("no such message or envelope")
	ErrNoSpace  = errors.New("below the reserve of free space or inodes") // temporary, 452 4.3.1
	ErrCorrupt  = errors.New("damaged entry")
)

// InlineMax is the largest body, in bytes, that Commit takes in memory; larger
// ones are spilled to a file first.
const InlineMax = envelope.InlineMax

// Store keeps messages. All methods may be called at the same time; calls for one
// MsgID are made one after the other, except Open, Update and Delete of different
// envelopes. Errors are temporary unless they wrap ErrNotFound or ErrCorrupt.
type Store interface {
	// NewID reserves an unused message id. It writes nothing to disk.
	NewID(ctx context.Context) (envelope.MsgID, error)

	// Spill opens a file for the body of a message that outgrew InlineMax. The
	// caller writes to it and closes it, then calls Commit with Spilled, or Discard.
	Spill(ctx context.Context, id envelope.MsgID) (*os.File, error)

	// Commit makes the message and its envelopes durable. When it returns nil they
	// survive a power cut. It is called once per id. Envelopes have their IDs set.
	Commit(ctx context.Context, m Message) error

	// Discard drops a reserved id and its spilled body, if any.
	Discard(id envelope.MsgID)

	// Open returns the body of a committed message.
	Open(ctx context.Context, id envelope.MsgID) (Body, error)

	// Load returns one envelope.
	Load(ctx context.Context, id envelope.ID) (*envelope.Envelope, error)

	// Update stores the changed state of an envelope (after a failed attempt). The
	// change is durable when it returns.
	Update(ctx context.Context, e *envelope.Envelope) error

	// Delete forgets an envelope, and its message with the last one. It need not be
	// durable on return: after a power cut the envelope may be tried again.
	Delete(ctx context.Context, id envelope.ID) error

	// Walk calls f for each stored envelope, in no order, until f returns an error,
	// and for each damaged entry with a nil envelope and an error that wraps
	// ErrCorrupt and names the file it was set aside in.
	Walk(ctx context.Context, f func(*envelope.Envelope, error) error) error

	// Close finishes pending writes.
	Close() error
}

// Message is what Commit stores. The body has LF line ends.
type Message struct {
	ID        envelope.MsgID
	Envelopes []*envelope.Envelope
	Body      []byte // when not Spilled
	Spilled   bool   // the body was written to the file of Spill
}

// Check tells what makes m unfit to be stored: no id, no envelopes, an envelope of
// another message or twice the same, an inline body above InlineMax.
func (m *Message) Check() error {
	switch {
	case m.ID == 0:
		return errors.New("message without an id")
	case len(m.Envelopes) == 0:
		return fmt.Errorf("message %v has no envelopes", m.ID)
	case !m.Spilled && len(m.Body) > InlineMax:
		return fmt.Errorf("message %v has a body of %d bytes in memory", m.ID, len(m.Body))
	}
	for _, e := range m.Envelopes {
		if e.ID.MsgID() != m.ID || uint32(e.ID) == 0 {
			return fmt.Errorf("message %v has envelope %v", m.ID, e.ID)
		}
	}
	if len(m.Envelopes) > 1 {
		seen := make(map[envelope.ID]struct{}, len(m.Envelopes))
		for _, e := range m.Envelopes {
			seen[e.ID] = struct{}{}
		}
		if len(seen) != len(m.Envelopes) {
			return fmt.Errorf("message %v has an envelope twice", m.ID)
		}
	}
	return nil
}

// Body is the text of a stored message, LF line ends. Either Bytes is set (small
// messages) or File is: an open descriptor of just this body, positioned at 0,
// which may be handed to another process.
type Body struct {
	Bytes []byte
	File  *os.File
	Size  int64 // bytes
}

// Close closes File, if any.
func (b *Body) Close() error {
	if b.File != nil {
		return b.File.Close()
	}
	return nil
}

// Reader returns the body from its start.
func (b *Body) Reader() io.Reader {
	if b.File != nil {
		return io.NewSectionReader(b.File, 0, b.Size)
	}
	return bytes.NewReader(b.Bytes)
}
