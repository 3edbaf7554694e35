package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// Walk implements queue.Store. Damage that the opening found is told first, once.
func (s *Store) Walk(ctx context.Context, f func(*envelope.Envelope, error) error) error {
	s.mu.Lock()
	damage := s.damage
	s.damage = nil
	s.mu.Unlock()
	for _, err := range damage {
		if err := f(nil, err); err != nil {
			return err
		}
	}
	// The journal first: what moves meanwhile is then met twice, not never.
	seen := s.j.ids()
	for id := range seen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.walkJournal(id, f); err != nil {
			return err
		}
	}
	buckets, err := s.fs.ReadDir("queue")
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if !b.IsDir() || len(b.Name()) != 2 {
			continue
		}
		list, err := s.fs.ReadDir("queue/" + b.Name())
		if err != nil {
			return err
		}
		for _, d := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, _, ok := parseHex([]byte(d.Name()+"\n"), 8, '\n')
			id := envelope.MsgID(n)
			if !ok || id.String() != d.Name() || d.Name()[:2] != b.Name() || !d.IsDir() || id == 0 {
				continue
			}
			if _, met := seen[id]; met {
				continue
			}
			if err := s.walkDir(id, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// ids returns the live messages of the journal.
func (j *journal) ids() map[envelope.MsgID]struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := make(map[envelope.MsgID]struct{}, len(j.index))
	for id := range j.index {
		ids[id] = struct{}{}
	}
	return ids
}

// walkJournal tells the envelopes of one message of the journal.
func (s *Store) walkJournal(id envelope.MsgID, f func(*envelope.Envelope, error) error) error {
	p, err := s.j.read(id)
	if errors.Is(err, errGone) {
		return s.walkDir(id, f)
	}
	if errors.Is(err, queue.ErrCorrupt) {
		return f(nil, fmt.Errorf("message %v: %w", id, err))
	}
	if err != nil {
		return err
	}
	for _, stored := range p.envelopes {
		e, err := s.parse(stored.id, stored.text)
		if err != nil {
			e, err = nil, fmt.Errorf("envelope %v in the journal: %w", stored.id, corrupt(err))
		}
		if err := f(e, err); err != nil {
			return err
		}
	}
	return nil
}

// corrupt makes err wrap queue.ErrCorrupt.
func corrupt(err error) error {
	if errors.Is(err, queue.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", queue.ErrCorrupt, err)
}

// walkDir tells the envelopes of one message of the directories, and sets aside
// what is damaged.
func (s *Store) walkDir(id envelope.MsgID, f func(*envelope.Envelope, error) error) error {
	list, err := s.fs.ReadDir(messageDir(id))
	if isNotExist(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	var ids []envelope.ID
	body := false
	for _, d := range list {
		if evp, ok := parseID(d.Name(), id); ok {
			ids = append(ids, evp)
		}
		body = body || d.Name() == "message"
	}
	switch {
	case len(list) == 0:
		if !s.readOnly { // what an unfinished removal by another program leaves
			_ = s.fs.Remove(messageDir(id))
		}
		return nil
	case !body:
		damage, err := s.setAsideMessage(id, "has no body")
		return tell(f, damage, err)
	case len(ids) == 0:
		damage, err := s.setAsideMessage(id, "has no envelopes")
		return tell(f, damage, err)
	}
	slices.Sort(ids)
	for _, evp := range ids {
		text, err := s.readFile(envelopeFile(evp), maxStored)
		if isNotExist(err) {
			continue // deleted meanwhile
		}
		var e *envelope.Envelope
		if err == nil {
			e, err = s.parse(evp, text)
		}
		switch {
		case err == nil:
			err = f(e, nil)
		case errors.Is(err, queue.ErrCorrupt):
			var damage error
			damage, err = s.setAsideEnvelope(evp, err)
			err = tell(f, damage, err)
		default:
			// Unreadable, or encoded in a way that is not known: that may be the
			// configuration's fault, so it stays.
			err = f(nil, fmt.Errorf("envelope %s, left in place: %w", envelopeFile(evp), corrupt(err)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// aside returns an unused name in corrupt/ for a message.
func (s *Store) aside(id envelope.MsgID) (string, error) {
	name := "corrupt/" + id.String()
	for i := 1; ; i++ {
		there, err := vfs.Exists(s.fs, name)
		if err != nil || !there {
			return name, err
		}
		name = fmt.Sprintf("corrupt/%v.%d", id, i)
	}
}

// setAsideMessage moves a message directory to corrupt/, durably, and returns what
// to tell of it: nil when it was deleted meanwhile.
func (s *Store) setAsideMessage(id envelope.MsgID, why string) (damage, err error) {
	if s.readOnly {
		return fmt.Errorf("%w: message %v %s", queue.ErrCorrupt, id, why), nil
	}
	name, err := s.aside(id)
	if err != nil {
		return nil, err
	}
	err = s.fs.Rename(messageDir(id), name)
	if isNotExist(err) {
		return nil, nil
	}
	if err == nil {
		err = s.fs.SyncDir("corrupt")
	}
	if err != nil {
		return nil, fmt.Errorf("set message %v aside: %w", id, err)
	}
	return fmt.Errorf("%w: message %v %s, set aside in %s", queue.ErrCorrupt, id, why, name), nil
}

// setAsideEnvelope moves an envelope file to corrupt/MSGID, beside a link to its
// message. The last one takes the whole directory along.
func (s *Store) setAsideEnvelope(evp envelope.ID, cause error) (damage, err error) {
	if s.readOnly {
		return fmt.Errorf("%w: envelope %v: %w", queue.ErrCorrupt, evp, cause), nil
	}
	id := evp.MsgID()
	lock := s.lock(id) // see removeFile
	lock.Lock()
	defer lock.Unlock()
	left, err := s.left(id)
	if err != nil {
		return nil, err
	}
	if left <= 1 {
		return s.setAsideMessage(id, fmt.Sprintf("has the damaged envelope %v (%v)", evp, cause))
	}
	dir := "corrupt/" + id.String()
	if err := vfs.MkdirAll(s.fs, dir, 0o700); err != nil {
		return nil, err
	}
	_ = s.fs.Link(bodyFile(id), dir+"/message") // a help for the operator; it may be there
	name := dir + "/" + evp.String()
	if err := s.fs.Rename(envelopeFile(evp), name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.counts[id] = left - 1
	s.mu.Unlock()
	if err := s.fs.SyncDir(dir); err != nil {
		return nil, err
	}
	return fmt.Errorf("%w: envelope %v (%w), set aside in %s", queue.ErrCorrupt, evp, cause, name), nil
}

// tell passes damage on, if there is any and nothing went wrong.
func tell(f func(*envelope.Envelope, error) error, damage, err error) error {
	if err != nil || damage == nil {
		return err
	}
	return f(nil, damage)
}
