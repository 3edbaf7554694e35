package fs

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// maxStored bounds a stored envelope, in bytes: the plain size and what an
// encoding may add.
const maxStored = envelope.MaxText + 4<<10

// openFiles is the number of new files kept open to be synced together.
const openFiles = 64

func bucket(id envelope.MsgID) string               { return "queue/" + id.String()[:2] }
func messageDir(id envelope.MsgID) string           { return bucket(id) + "/" + id.String() }
func bodyFile(id envelope.MsgID) string             { return messageDir(id) + "/message" }
func envelopeFile(id envelope.ID) string            { return messageDir(id.MsgID()) + "/" + id.String() }
func (s *Store) lock(id envelope.MsgID) *sync.Mutex { return &s.locks[uint32(id)%uint32(len(s.locks))] }

// temporary returns an unused name in temporary/ for something of a message.
func (s *Store) temporary(id envelope.MsgID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	return "temporary/" + id.String() + "." + strconv.FormatUint(s.seq, 10)
}

// emptyTemporary removes everything in temporary/.
func (s *Store) emptyTemporary() error {
	list, err := s.fs.ReadDir("temporary")
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := vfs.RemoveAll(s.fs, "temporary/"+d.Name()); err != nil {
			return err
		}
	}
	return nil
}

// writeFile makes a file and syncs its bytes, not its directory.
func (s *Store) writeFile(name string, b []byte) error {
	f, err := s.fs.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.SyncData()
	}
	return errors.Join(err, f.Close())
}

// readFile reads a file of at most max bytes.
func (s *Store) readFile(name string, max int64) ([]byte, error) {
	f, err := s.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	b, err := readAll(f, max)
	return b, errors.Join(err, f.Close())
}

func readAll(f vfs.File, max int64) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > max {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", queue.ErrCorrupt, size, max)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}

// commitDirs stores a message in the directories.
func (s *Store) commitDirs(m *queue.Message) error {
	envelopes := make([]storedEnvelope, 0, len(m.Envelopes))
	for _, e := range m.Envelopes {
		text, err := e.Append(nil)
		if err == nil {
			text, err = s.encode(text, e.ID.String())
		}
		if err != nil {
			return err
		}
		envelopes = append(envelopes, storedEnvelope{e.ID, text})
	}
	if m.Spilled {
		err := s.store(m.ID, envelopes, func(name string) error { return s.takeSpilled(m.ID, name) })
		if err != nil {
			return err
		}
		_ = s.fs.Remove(spillName(m.ID)) // it is there no more unless it was encoded
		return nil
	}
	body, err := s.encode(m.Body, m.ID.String())
	if err != nil {
		return err
	}
	return s.store(m.ID, envelopes, func(name string) error { return s.writeFile(name, body) })
}

// takeSpilled makes the spilled body the file name, synced.
func (s *Store) takeSpilled(id envelope.MsgID, name string) error {
	in, err := s.fs.OpenFile(spillName(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var head [4]byte
	n, err := in.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, in.Close())
	}
	if s.plain(head[:n]) {
		if err := errors.Join(in.Sync(), in.Close()); err != nil {
			return err
		}
		// Linked, not renamed, so that a commit that fails can be discarded.
		return s.fs.Link(spillName(id), name)
	}
	size, err := in.Size()
	if err != nil {
		return errors.Join(err, in.Close())
	}
	out, err := s.fs.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	err = s.codec.EncodeStream(out, io.NewSectionReader(in, 0, size), id.String())
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close(), in.Close())
}

// store writes a message directory under a temporary name, with everything in it
// synced, and renames it into place: it is there as a whole or not at all.
func (s *Store) store(id envelope.MsgID, envelopes []storedEnvelope, body func(name string) error) error {
	dir := s.temporary(id)
	if err := s.fs.Mkdir(dir, 0o700); err != nil {
		return err
	}
	err := body(dir + "/message")
	for len(envelopes) > 0 && err == nil {
		n := min(len(envelopes), openFiles)
		err = s.writeEnvelopes(dir, envelopes[:n])
		envelopes = envelopes[n:]
	}
	if err == nil {
		err = s.fs.SyncDir(dir)
	}
	if err == nil {
		err = s.makeBucket(id)
	}
	if err == nil {
		err = s.fs.Rename(dir, messageDir(id))
	}
	if err != nil {
		_ = vfs.RemoveAll(s.fs, dir) // what remains is removed at the next start
		return err
	}
	if err := s.dirs.sync(bucket(id)); err != nil {
		// Nobody is promised anything, so it must not stay.
		if s.fs.Rename(messageDir(id), dir) == nil {
			_ = vfs.RemoveAll(s.fs, dir)
		}
		return err
	}
	return nil
}

// writeEnvelopes writes all files before it syncs them: the first sync often does
// most of the work for all.
func (s *Store) writeEnvelopes(dir string, envelopes []storedEnvelope) error {
	var files [openFiles]vfs.File
	var err error
	for i, e := range envelopes {
		files[i], err = s.fs.OpenFile(dir+"/"+e.id.String(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = files[i].Write(e.text)
		}
		if err != nil {
			break
		}
	}
	for _, f := range files {
		if f == nil {
			continue
		}
		if err == nil {
			err = f.SyncData()
		}
		err = errors.Join(err, f.Close())
	}
	return err
}

// makeBucket makes queue/XX durably, once.
func (s *Store) makeBucket(id envelope.MsgID) error {
	i := uint32(id) >> 24
	s.mu.Lock()
	there := s.buckets[i]
	s.mu.Unlock()
	if there {
		return nil
	}
	if err := s.fs.Mkdir(bucket(id), 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	if err := s.dirs.sync("queue"); err != nil {
		return err
	}
	s.mu.Lock()
	s.buckets[i] = true
	s.mu.Unlock()
	return nil
}

// openBody opens the body of a message in the directories.
func (s *Store) openBody(id envelope.MsgID) (queue.Body, error) {
	f, err := s.fs.OpenFile(bodyFile(id), os.O_RDONLY, 0)
	if err != nil {
		return queue.Body{}, err
	}
	size, err := f.Size()
	if err != nil {
		return queue.Body{}, errors.Join(err, f.Close())
	}
	var head [4]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return queue.Body{}, errors.Join(err, f.Close())
	}
	if s.codec.Encoded(head[:n]) {
		return s.decodeBody(id, f, size)
	}
	if size <= queue.InlineMax {
		b, err := readAll(f, queue.InlineMax)
		return queue.Body{Bytes: b, Size: int64(len(b))}, errors.Join(err, f.Close())
	}
	file, err := f.OS()
	return queue.Body{File: file, Size: size}, err
}

// decodeBody gives the plain body of an encoded file. A large one is decoded into
// a file without a name.
func (s *Store) decodeBody(id envelope.MsgID, f vfs.File, size int64) (queue.Body, error) {
	defer f.Close()
	name := s.temporary(id)
	out, err := s.fs.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return queue.Body{}, noSpace(err)
	}
	w := &spool{file: out}
	err = s.codec.DecodeStream(w, io.NewSectionReader(f, 0, size), id.String())
	if err == nil {
		err = w.finish()
	}
	if err != nil || !w.spilled {
		err = errors.Join(err, out.Close(), s.fs.Remove(name))
		return queue.Body{Bytes: w.buf, Size: int64(len(w.buf))}, noSpace(err)
	}
	file, err := out.OS()
	if err != nil {
		return queue.Body{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return queue.Body{}, errors.Join(err, file.Close())
	}
	return queue.Body{File: file, Size: w.size}, s.fs.Remove(name)
}

// spool gathers what is written in memory, and beyond queue.InlineMax in a file.
type spool struct {
	file    vfs.File
	buf     []byte
	size    int64
	spilled bool
}

func (w *spool) Write(p []byte) (int, error) {
	w.size += int64(len(p))
	w.buf = append(w.buf, p...)
	if w.size > queue.InlineMax {
		w.spilled = true
	}
	if w.spilled && len(w.buf) >= 64<<10 {
		if err := w.finish(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *spool) finish() error {
	if !w.spilled {
		return nil
	}
	_, err := w.file.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// updateFile replaces an envelope in the directories.
func (s *Store) updateFile(id envelope.ID, text []byte) error {
	name := envelopeFile(id)
	if _, err := s.fs.Stat(name); err != nil {
		return err
	}
	tmp := s.temporary(id.MsgID())
	err := s.writeFile(tmp, text)
	if err == nil {
		err = s.fs.Rename(tmp, name)
	}
	if err != nil {
		_ = s.fs.Remove(tmp) // what remains is removed at the next start
		return err
	}
	return s.dirs.sync(messageDir(id.MsgID()))
}

// removeFile removes an envelope from the directories, and its message with the
// last one. The last one goes with its whole directory, so that a message without
// envelopes is never a rest of this.
func (s *Store) removeFile(id envelope.ID) error {
	// Held over a few calls of the file system, none of which waits for the disk:
	// two deletions must not both see the other's file.
	lock := s.lock(id.MsgID())
	lock.Lock()
	defer lock.Unlock()
	left, err := s.left(id.MsgID())
	if err != nil {
		return err
	}
	if left > 1 {
		if err := s.fs.Remove(envelopeFile(id)); err != nil {
			return err
		}
		s.mu.Lock()
		s.counts[id.MsgID()] = left - 1
		s.mu.Unlock()
		return nil
	}
	if _, err := s.fs.Stat(envelopeFile(id)); err != nil {
		return err
	}
	name := s.temporary(id.MsgID())
	if err := s.fs.Rename(messageDir(id.MsgID()), name); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.counts, id.MsgID())
	s.mu.Unlock()
	s.throwAway(name)
	return nil
}

// throwAway has the cleaner empty a name in temporary/.
func (s *Store) throwAway(name string) {
	select {
	case s.trash <- name:
	default: // too much at once: the next start removes it
	}
}

// left returns the number of envelopes of a message in the directories.
func (s *Store) left(id envelope.MsgID) (int, error) {
	s.mu.Lock()
	n, known := s.counts[id]
	s.mu.Unlock()
	if known {
		return n, nil
	}
	list, err := s.fs.ReadDir(messageDir(id))
	if err != nil {
		return 0, err
	}
	for _, d := range list {
		if _, ok := parseID(d.Name(), id); ok {
			n++
		}
	}
	return n, nil
}

// parseID reads the name of an envelope file of a message.
func parseID(name string, id envelope.MsgID) (envelope.ID, bool) {
	n, _, ok := parseHex([]byte(name+"\n"), 16, '\n')
	return envelope.ID(n), ok && len(name) == 16 && envelope.ID(n).MsgID() == id && uint32(n) != 0
}

// clean empties what Delete moved to temporary/. The rename is made durable
// first: otherwise a power cut could leave the directory in place with a part of
// its files gone, which looks like damage. Close ends it, after the last one.
func (s *Store) clean() {
	for {
		var name string
		select {
		case name = <-s.trash:
		case <-s.closing:
			select {
			case name = <-s.trash:
			default:
				return
			}
		}
		names := []string{name}
	more:
		for len(names) < cap(s.trash) {
			select {
			case name = <-s.trash:
				names = append(names, name)
			default:
				break more
			}
		}
		if s.dirs.sync("temporary") != nil {
			continue // left for the next start
		}
		for _, name := range names {
			_ = vfs.RemoveAll(s.fs, name) // what remains is removed at the next start
		}
	}
}

// dirSyncer shares the sync of a directory among those who ask for it while one
// is under way: they wait for one more together.
type dirSyncer struct {
	fs   vfs.FS
	mu   sync.Mutex
	next map[string]*dirGroup // an entry: a sync is under way; not nil: others wait
}

// dirGroup waits for one sync.
type dirGroup struct {
	lead chan struct{} // one slot: one of the group is to do the sync
	done chan struct{}
	err  error
}

func (d *dirSyncer) sync(name string) error {
	d.mu.Lock()
	g, busy := d.next[name]
	if !busy {
		d.next[name] = nil
		d.mu.Unlock()
		return d.lead(name)
	}
	if g == nil {
		g = &dirGroup{lead: make(chan struct{}, 1), done: make(chan struct{})}
		d.next[name] = g
	}
	d.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-g.lead:
		g.err = d.lead(name)
		close(g.done)
		return g.err
	}
}

// lead does one sync and hands over to the group that gathered meanwhile.
func (d *dirSyncer) lead(name string) error {
	err := d.fs.SyncDir(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.next[name]; g != nil {
		d.next[name] = nil
		g.lead <- struct{}{}
	} else {
		delete(d.next, name)
	}
	return err
}

// isNotExist tells whether a file was missing.
func isNotExist(err error) bool { return errors.Is(err, iofs.ErrNotExist) }
