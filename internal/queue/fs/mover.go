package fs

import (
	"errors"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
)

// movers is the number of messages that are moved at the same time.
const movers = 8

// move moves a message from the journal to the directories, durably, with one
// envelope replaced if change is given. errGone means that it is not in the
// journal, or was moved by somebody else meanwhile.
//
// The order makes a stop at any point harmless: the directory is durable, then
// the record "moved" is, and only then may the directory change. While the record
// is not there, the journal counts and the directory is dropped at opening.
func (s *Store) move(id envelope.MsgID, change *storedEnvelope) error {
	j := s.j
	j.mu.Lock()
	m := j.index[id]
	if m != nil && m.moving != nil {
		moving := m.moving
		j.mu.Unlock()
		<-moving
		return s.move(id, change)
	}
	switch {
	case m == nil:
		j.mu.Unlock()
		return errGone
	case m.limbo:
		j.mu.Unlock()
		return errLimbo
	case change != nil && m.find(uint32(change.id)) < 0:
		j.mu.Unlock()
		return queue.ErrNotFound
	}
	m.moving = make(chan struct{})
	j.mu.Unlock()

	limbo, err := s.copyOut(id, change)
	j.mu.Lock()
	defer j.mu.Unlock()
	close(m.moving)
	m.moving = nil
	m.limbo = limbo
	if err == nil {
		j.drop(id, m)
	}
	return err
}

var errLimbo = errors.New("the journal failed while the message was being moved; it is retried after a restart")

// copyOut writes the directory and then the record. When only the latter failed,
// and may be on disk all the same, the message is in limbo: which copy counts is
// seen at the next opening.
func (s *Store) copyOut(id envelope.MsgID, change *storedEnvelope) (limbo bool, err error) {
	p, err := s.j.read(id)
	if err != nil {
		return false, err
	}
	envelopes := make([]storedEnvelope, 0, len(p.envelopes))
	for _, e := range p.envelopes {
		if change != nil && e.id == change.id {
			e = *change
		}
		envelopes = append(envelopes, e)
	}
	err = s.store(id, envelopes, func(name string) error { return s.writeFile(name, p.body) })
	if err != nil {
		return false, err
	}
	written, err := s.j.appendAndWait(kindMoved, appendHex(nil, uint64(id), 8, '\n'))
	if err != nil && !written {
		if name := s.temporary(id); s.fs.Rename(messageDir(id), name) == nil {
			s.throwAway(name)
		}
	}
	return err != nil && written, err
}

// mover empties the oldest segments when more than half of those allowed are in
// use. Close ends it.
func (s *Store) mover() {
	for {
		select {
		case <-s.closing:
			return
		case <-s.j.fullness:
		}
		for s.moveOldest() {
			select {
			case <-s.closing:
				return
			default:
			}
		}
	}
}

// moveOldest moves the messages of the oldest segment that has any, if too many
// segments are in use. It tells whether it got further.
func (s *Store) moveOldest() bool {
	ids := s.j.oldestMessages()
	if len(ids) == 0 {
		return false
	}
	work := make(chan envelope.MsgID)
	var wg sync.WaitGroup
	var mu sync.Mutex
	moved := 0
	for range movers {
		wg.Go(func() {
			for id := range work {
				err := s.move(id, nil)
				if err == nil || errors.Is(err, errGone) {
					mu.Lock()
					moved++
					mu.Unlock()
				}
			}
		})
	}
feed:
	for _, id := range ids {
		select {
		case work <- id:
		case <-s.closing:
			break feed
		}
	}
	close(work)
	wg.Wait()
	return moved > 0 && s.j.settle() == nil
}

// oldestMessages returns the messages of the oldest segment that has any, or none
// while few segments are in use.
func (j *journal) oldestMessages() []envelope.MsgID {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segs) <= j.segments/2 {
		return nil
	}
	for _, seg := range j.segs[:len(j.segs)-1] {
		if seg.live == 0 {
			continue
		}
		var ids []envelope.MsgID
		for id, m := range j.index {
			if m.seg == seg && !m.limbo {
				ids = append(ids, id)
			}
		}
		if len(ids) > 0 {
			return ids
		}
	}
	return nil
}
