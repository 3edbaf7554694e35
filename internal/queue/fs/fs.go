// Package fs is the mail store on disk, the spool. It has two tiers.
//
// The journal takes fresh messages: envelopes and body are appended, as text, to
// a segment of fixed size, and one sync covers every message that is being
// committed at that moment. A message that is delivered at once costs a second
// short record and no file at all. Segments are reused in order, when nothing in
// them and in those before them is needed any more.
//
// The directories take messages that are large, and those that outlive their
// first attempt: queue/XX/MSGID holds the file "message" and one file for each
// envelope, named by its id. Update moves a message there; a mover empties the
// oldest segments when many are in use.
//
//	journal/NNNN             segments; see record.go for their format
//	queue/XX/MSGID/message   the body, XX the first two digits of MSGID
//	queue/XX/MSGID/EVPID     one envelope, its text form
//	temporary/               what is being written or removed; emptied at start
//	corrupt/                 what was found damaged, set aside for the operator
//
// docs/states.md lists which files exist when, and what a stop at any point
// leaves. The directory part is that of OpenSMTPD 7, whose spools are read as
// they are.
package fs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/codec"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// Options of a store. The zero value is usable.
type Options struct {
	SegmentSize int64 // bytes of a journal segment; 0: 16 MiB
	Segments    int   // most segments in use, beyond which commits go to the directories; 0: 16

	// MinFreeSpace and MinFreeInodes are the fractions of space and of inodes that
	// stay free: below them new mail is refused with queue.ErrNoSpace. 0: no reserve.
	MinFreeSpace, MinFreeInodes float64
	// Free returns the free fractions of the spool's file system. Nil: no reserve.
	Free func() (space, inodes float64, err error)

	// Codec compresses or encrypts bodies and envelopes. Nil: plain text, though
	// what was compressed before is still read.
	Codec Codec
}

// Codec is a reversible encoding of bodies and envelopes. name is where the
// content belongs (MSGID or EVPID): an encoding may bind the content to it.
// Decoding passes through what was stored before the codec was turned on.
type Codec interface {
	// Idle tells that encoding leaves all content as it is that does not look
	// encoded. The store then does not ask for each.
	Idle() bool
	// Encoded tells from the first 4 bytes whether content is encoded.
	Encoded(head []byte) bool
	// Encode appends the encoded src to dst.
	Encode(dst, src []byte, name string) ([]byte, error)
	// Decode appends the decoded src to dst. It fails when that exceeds max bytes.
	Decode(dst, src []byte, name string, max int) ([]byte, error)
	// EncodeStream and DecodeStream do the same for large bodies.
	EncodeStream(w io.Writer, r io.Reader, name string) error
	DecodeStream(w io.Writer, r io.Reader, name string) error
}

const (
	defaultSegmentSize = 16 << 20
	minSegmentSize     = 4 << 10
	maxSegmentSize     = 256 << 20
	defaultSegments    = 16
	freeFor            = time.Second // how long an answer of Free holds
)

// Store is a spool. It is made by Open.
type Store struct {
	fs    vfs.FS
	o     Options
	codec Codec // never nil
	j     *journal
	dirs  dirSyncer
	locks [64]sync.Mutex // by MsgID: removing envelopes and counting the rest

	readOnly bool // made by Inspect

	mu       sync.Mutex
	reserved map[envelope.MsgID]bool // true: a spilled body exists
	counts   map[envelope.MsgID]int  // envelopes left in directories, where some were deleted
	damage   []error                 // found at opening, for Walk and Corrupt
	buckets  [256]bool               // queue/XX known to exist durably
	seq      uint64                  // for names in temporary

	freeChecked atomic.Int64 // Unix nanoseconds
	freeLow     atomic.Bool

	trash   chan string // names in temporary to be emptied, for the cleaner
	closing chan struct{}
	closed  sync.Once
	wg      sync.WaitGroup
}

var (
	_ queue.Store = (*Store)(nil)

	errClosed = errors.New("the store is closed")
	errGone   = errors.New("the message left the journal")
)

// Open opens the spool, makes what is missing of its directories, recovers the
// journal, and empties temporary. Only one Store may use a spool at a time.
func Open(fsys vfs.FS, o Options) (*Store, error) {
	s, err := newStore(fsys, o)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"queue", "temporary", "corrupt", "journal"} {
		if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
	}
	if err := s.emptyTemporary(); err != nil {
		return nil, fmt.Errorf("spool: empty temporary: %w", err)
	}
	if s.j, err = s.recover(); err != nil {
		return nil, fmt.Errorf("spool: recover the journal: %w", err)
	}
	s.wg.Add(2)
	go func() { defer s.wg.Done(); s.clean() }()
	go func() { defer s.wg.Done(); s.mover() }()
	s.j.start()
	return s, nil
}

// Inspect opens the spool of a service that is down, for Walk, Load, Open and
// Corrupt only. Nothing on disk is changed: damage is told and stays where it is. A
// service that starts meanwhile is not disturbed, but what it changes may be told as
// damage.
func Inspect(fsys vfs.FS, o Options) (*Store, error) {
	s, err := newStore(fsys, o)
	if err != nil {
		return nil, err
	}
	s.readOnly = true
	j := newJournal(s.fs, s.o)
	if _, _, err := s.restore(j); err != nil {
		return nil, fmt.Errorf("spool: read the journal: %w", err)
	}
	s.j = j
	return s, nil
}

// newStore returns a store that has touched nothing yet.
func newStore(fsys vfs.FS, o Options) (*Store, error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	if o.Segments == 0 {
		o.Segments = defaultSegments
	}
	if o.SegmentSize < minSegmentSize || o.SegmentSize > maxSegmentSize || o.Segments < 2 {
		return nil, fmt.Errorf("spool: %d segments of %d bytes are out of range", o.Segments, o.SegmentSize)
	}
	s := &Store{
		fs: fsys, o: o,
		codec:    o.Codec,
		dirs:     dirSyncer{fs: fsys, next: map[string]*dirGroup{}},
		reserved: map[envelope.MsgID]bool{},
		counts:   map[envelope.MsgID]int{},
		trash:    make(chan string, 1024),
		closing:  make(chan struct{}),
	}
	if s.codec == nil {
		c, err := codec.New(codec.None, nil)
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		s.codec = c
	}
	if s.codec.Idle() {
		s.o.Codec = nil
	}
	return s, nil
}

// Close finishes pending writes and stops the background work.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		if s.readOnly {
			err = s.j.closeFiles()
			return
		}
		close(s.closing)
		s.wg.Wait()
		err = s.j.close()
	})
	return err
}

// space tells whether the reserve of the file system is touched.
func (s *Store) space() error {
	if s.o.Free == nil || s.o.MinFreeSpace <= 0 && s.o.MinFreeInodes <= 0 {
		return nil
	}
	now := time.Now().UnixNano()
	last := s.freeChecked.Load()
	if now-last > int64(freeFor) && s.freeChecked.CompareAndSwap(last, now) {
		space, inodes, err := s.o.Free()
		if err != nil {
			s.freeChecked.Store(last)
			return fmt.Errorf("free space of the spool: %w", err)
		}
		s.freeLow.Store(space < s.o.MinFreeSpace || inodes < s.o.MinFreeInodes)
	}
	if s.freeLow.Load() {
		return queue.ErrNoSpace
	}
	return nil
}

// noSpace makes a full disk known as queue.ErrNoSpace.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", queue.ErrNoSpace, err)
	}
	return err
}

// NewID implements queue.Store.
func (s *Store) NewID(ctx context.Context) (envelope.MsgID, error) {
	if err := s.space(); err != nil {
		return 0, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		id := envelope.MsgID(binary.BigEndian.Uint32(b[:]))
		if id == 0 || s.j.has(id) {
			continue
		}
		there, err := vfs.Exists(s.fs, messageDir(id))
		if err != nil {
			return 0, fmt.Errorf("new message id: %w", err)
		}
		if there {
			continue
		}
		s.mu.Lock()
		_, taken := s.reserved[id]
		if !taken {
			s.reserved[id] = false
		}
		s.mu.Unlock()
		if !taken {
			return id, nil
		}
	}
}

// Spill implements queue.Store.
func (s *Store) Spill(_ context.Context, id envelope.MsgID) (*os.File, error) {
	if err := s.space(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	spilled, reserved := s.reserved[id]
	if reserved && !spilled {
		s.reserved[id] = true
	}
	s.mu.Unlock()
	if !reserved || spilled {
		return nil, fmt.Errorf("spill message %v: not reserved, or spilled before", id)
	}
	f, err := s.fs.OpenFile(spillName(id), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, noSpace(fmt.Errorf("spill message %v: %w", id, err))
	}
	return f.OS()
}

func spillName(id envelope.MsgID) string { return "temporary/" + id.String() }

// Discard implements queue.Store.
func (s *Store) Discard(id envelope.MsgID) {
	s.mu.Lock()
	spilled := s.reserved[id]
	delete(s.reserved, id)
	s.mu.Unlock()
	if spilled {
		_ = s.fs.Remove(spillName(id)) // what remains is removed at the next start
	}
}

// Commit implements queue.Store. Once begun it runs to its end whatever ctx does,
// so that its answer is true.
func (s *Store) Commit(ctx context.Context, m queue.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	if err := s.space(); err != nil {
		return err
	}
	if !m.Spilled {
		err := s.commitJournal(&m)
		if !errors.Is(err, errJournalFull) {
			if err != nil {
				return noSpace(fmt.Errorf("commit message %v: %w", m.ID, err))
			}
			s.forget(m.ID)
			return nil
		}
	}
	if err := s.commitDirs(&m); err != nil {
		return noSpace(fmt.Errorf("commit message %v: %w", m.ID, err))
	}
	s.forget(m.ID)
	return nil
}

func (s *Store) forget(id envelope.MsgID) {
	s.mu.Lock()
	delete(s.reserved, id)
	s.mu.Unlock()
}

// Open implements queue.Store. A body of the journal, or one up to
// queue.InlineMax, comes as bytes.
func (s *Store) Open(_ context.Context, id envelope.MsgID) (queue.Body, error) {
	if p, err := s.j.read(id); err == nil {
		body, err := s.decode(p.body, id.String(), queue.InlineMax)
		if err != nil {
			return queue.Body{}, fmt.Errorf("message %v: %w", id, err)
		}
		return queue.Body{Bytes: body, Size: int64(len(body))}, nil
	} else if !errors.Is(err, errGone) {
		return queue.Body{}, fmt.Errorf("message %v: %w", id, err)
	}
	b, err := s.openBody(id)
	if err != nil {
		return queue.Body{}, fmt.Errorf("message %v: %w", id, notFound(err))
	}
	return b, nil
}

// Load implements queue.Store.
func (s *Store) Load(_ context.Context, id envelope.ID) (*envelope.Envelope, error) {
	e, err := s.load(id)
	if err != nil {
		return nil, fmt.Errorf("envelope %v: %w", id, notFound(err))
	}
	return e, nil
}

func (s *Store) load(id envelope.ID) (*envelope.Envelope, error) {
	p, err := s.j.read(id.MsgID())
	if errors.Is(err, errGone) {
		text, err := s.readFile(envelopeFile(id), maxStored)
		if err != nil {
			return nil, err
		}
		return s.parse(id, text)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range p.envelopes {
		if e.id == id {
			return s.parse(id, e.text)
		}
	}
	return nil, queue.ErrNotFound
}

// parse decodes and parses a stored envelope.
func (s *Store) parse(id envelope.ID, stored []byte) (*envelope.Envelope, error) {
	text, err := s.decode(stored, id.String(), envelope.MaxText)
	if err != nil {
		return nil, err
	}
	e, err := envelope.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", queue.ErrCorrupt, err)
	}
	e.ID = id
	return e, nil
}

// Update implements queue.Store. A message of the journal moves to the
// directories for it.
func (s *Store) Update(_ context.Context, e *envelope.Envelope) error {
	text, err := e.Append(nil)
	if err == nil {
		text, err = s.encode(text, e.ID.String())
	}
	if err != nil {
		return err
	}
	err = s.move(e.ID.MsgID(), &storedEnvelope{e.ID, text})
	if errors.Is(err, errGone) {
		err = s.updateFile(e.ID, text)
	}
	if err != nil {
		return noSpace(fmt.Errorf("update envelope %v: %w", e.ID, notFound(err)))
	}
	return nil
}

// Delete implements queue.Store.
func (s *Store) Delete(_ context.Context, id envelope.ID) error {
	limbo, err := s.j.remove(id)
	if errors.Is(err, errGone) {
		err = s.removeFile(id)
	} else if limbo {
		_ = s.removeFile(id) // a copy, or none
	}
	if err != nil {
		return fmt.Errorf("delete envelope %v: %w", id, notFound(err))
	}
	return nil
}

// Corrupter is offered by stores that set damaged entries aside.
type Corrupter interface {
	// Corrupt lists what was set aside, by name below the spool.
	Corrupt() ([]string, error)
}

// Corrupt lists the entries of corrupt/, by name below the spool.
func (s *Store) Corrupt() ([]string, error) {
	list, err := s.fs.ReadDir("corrupt")
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, d := range list {
		name := "corrupt/" + d.Name()
		if !d.IsDir() {
			names = append(names, name)
			continue
		}
		files, err := s.fs.ReadDir(name)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			names = append(names, name+"/"+f.Name())
		}
	}
	return names, nil
}

// notFound makes a missing file known as queue.ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, iofs.ErrNotExist) {
		return queue.ErrNotFound
	}
	return err
}

// plain tells whether content that begins with head is stored as it is: there is
// no codec, and it does not look encoded.
func (s *Store) plain(head []byte) bool { return s.o.Codec == nil && !s.codec.Encoded(head) }

// encode returns content as it is stored.
func (s *Store) encode(plain []byte, name string) ([]byte, error) {
	if s.plain(plain) {
		return plain, nil
	}
	return s.codec.Encode(nil, plain, name)
}

// decode is the inverse of encode.

func (s *Store) decode(stored []byte, name string, max int) ([]byte, error) {
	if !s.codec.Encoded(stored) {
		return stored, nil
	}
	return s.codec.Decode(nil, stored, name, max)
}
