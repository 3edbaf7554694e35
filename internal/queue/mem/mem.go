// Package mem is a mail store in memory: for tests, and for setups that would
// rather lose the queue than write it to disk. It keeps the promises of
// queue.Store except that nothing survives the process.
//
// Envelopes are kept in their text form, so that what the disk would refuse or
// round is refused or rounded here too.
package mem

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
)

// Store is a store in memory, made by New.
type Store struct {
	mu       sync.Mutex
	messages map[envelope.MsgID]*message // nil value: reserved
	spilled  map[envelope.MsgID]string   // file names
	full     bool
}

type message struct {
	body      []byte
	envelopes map[envelope.ID][]byte // text form
}

var _ queue.Store = (*Store)(nil)

// New returns an empty store. Spilled bodies pass through files in os.TempDir.
func New() *Store {
	return &Store{messages: map[envelope.MsgID]*message{}, spilled: map[envelope.MsgID]string{}}
}

// SetFull makes NewID, Spill and Commit fail with queue.ErrNoSpace, for tests.
func (s *Store) SetFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

// NewID implements queue.Store.
func (s *Store) NewID(ctx context.Context) (envelope.MsgID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return 0, queue.ErrNoSpace
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
		if _, used := s.messages[id]; id != 0 && !used {
			s.messages[id] = nil
			return id, nil
		}
	}
}

// Spill implements queue.Store.
func (s *Store) Spill(_ context.Context, id envelope.MsgID) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return nil, queue.ErrNoSpace
	}
	if m, reserved := s.messages[id]; !reserved || m != nil || s.spilled[id] != "" {
		return nil, fmt.Errorf("spill message %v: not reserved, or spilled before", id)
	}
	f, err := os.CreateTemp("", "message-"+id.String()+"-*")
	if err != nil {
		return nil, err
	}
	s.spilled[id] = f.Name()
	return f, nil
}

// Commit implements queue.Store.
func (s *Store) Commit(_ context.Context, m queue.Message) error {
	if err := m.Check(); err != nil {
		return err
	}
	stored := &message{envelopes: make(map[envelope.ID][]byte, len(m.Envelopes))}
	for _, e := range m.Envelopes {
		text, err := e.Append(nil)
		if err != nil {
			return err
		}
		stored.envelopes[e.ID] = text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return queue.ErrNoSpace
	}
	if old := s.messages[m.ID]; old != nil {
		return fmt.Errorf("commit message %v: committed before", m.ID)
	}
	stored.body = append([]byte(nil), m.Body...)
	if m.Spilled {
		body, err := os.ReadFile(s.spilled[m.ID])
		if err != nil {
			return err
		}
		stored.body = body
	}
	s.dropSpilled(m.ID)
	s.messages[m.ID] = stored
	return nil
}

// Discard implements queue.Store.
func (s *Store) Discard(id envelope.MsgID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.messages[id]; ok && m == nil {
		delete(s.messages, id)
		s.dropSpilled(id)
	}
}

// dropSpilled removes the file of a spilled body. s.mu is held: the file is
// small work, and this store is not made for speed.
func (s *Store) dropSpilled(id envelope.MsgID) {
	if name := s.spilled[id]; name != "" {
		delete(s.spilled, id)
		_ = os.Remove(name) // a left-over temporary file harms nothing
	}
}

// Open implements queue.Store. Bodies above queue.InlineMax come as a file.
func (s *Store) Open(_ context.Context, id envelope.MsgID) (queue.Body, error) {
	s.mu.Lock()
	m := s.messages[id]
	s.mu.Unlock()
	if m == nil {
		return queue.Body{}, fmt.Errorf("message %v: %w", id, queue.ErrNotFound)
	}
	if len(m.body) <= queue.InlineMax {
		return queue.Body{Bytes: m.body, Size: int64(len(m.body))}, nil
	}
	f, err := os.CreateTemp("", "message-"+id.String()+"-*")
	if err != nil {
		return queue.Body{}, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = f.Write(m.body)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return queue.Body{}, err
	}
	return queue.Body{File: f, Size: int64(len(m.body))}, nil
}

// Load implements queue.Store.
func (s *Store) Load(_ context.Context, id envelope.ID) (*envelope.Envelope, error) {
	s.mu.Lock()
	var text []byte
	if m := s.messages[id.MsgID()]; m != nil {
		text = m.envelopes[id]
	}
	s.mu.Unlock()
	if text == nil {
		return nil, fmt.Errorf("envelope %v: %w", id, queue.ErrNotFound)
	}
	e, err := envelope.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("envelope %v: %w: %w", id, queue.ErrCorrupt, err)
	}
	e.ID = id
	return e, nil
}

// Update implements queue.Store.
func (s *Store) Update(_ context.Context, e *envelope.Envelope) error {
	text, err := e.Append(nil)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[e.ID.MsgID()]
	if m == nil || m.envelopes[e.ID] == nil {
		return fmt.Errorf("envelope %v: %w", e.ID, queue.ErrNotFound)
	}
	m.envelopes[e.ID] = text
	return nil
}

// Delete implements queue.Store.
func (s *Store) Delete(_ context.Context, id envelope.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id.MsgID()]
	if m == nil || m.envelopes[id] == nil {
		return fmt.Errorf("envelope %v: %w", id, queue.ErrNotFound)
	}
	delete(m.envelopes, id)
	if len(m.envelopes) == 0 {
		delete(s.messages, id.MsgID())
	}
	return nil
}

// Walk implements queue.Store.
func (s *Store) Walk(ctx context.Context, f func(*envelope.Envelope, error) error) error {
	s.mu.Lock()
	var ids []envelope.ID
	for _, m := range s.messages {
		if m != nil {
			for id := range m.envelopes {
				ids = append(ids, id)
			}
		}
	}
	s.mu.Unlock()
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := s.Load(ctx, id)
		if err != nil {
			continue // deleted meanwhile; nothing is damaged in memory
		}
		if err := f(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the files of spilled bodies that were never committed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.spilled {
		s.dropSpilled(id)
	}
	return nil
}
