// Package mbox appends messages to files in mbox format.
//
// A message starts with a line "From SENDER DATE", the date in UTC as asctime(3)
// writes it, and ends with an empty line. Every line of the message that begins
// with "From " gets a ">" before it (the variant called mboxo):
//
//	From bob@example.com Tue Nov 24 07:55:09 2026
//	Return-Path: <bob@example.com>
//	Delivered-To: alice@example.org
//	Subject: hi
//
//	>From here on, all is text.
//
// The file is locked in the two ways other programs know: by a file named like
// the mailbox with ".lock" behind it, where the directory can be written, and
// then by fcntl(2). Deliveries to the same file that wait at the same time share
// one holding of the locks and one sync. What a failed delivery has written is
// cut off again.
package mbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/mda"
)

// DefaultLockWait is how long a delivery waits for the locks of a mailbox.
const DefaultLockWait = 2 * time.Minute

// bufferSize bounds the buffers of a round of deliveries, in bytes.
const bufferSize = 64 << 10

// Errors of mailboxes that are not as they should be.
var (
	errNotRegular = errors.New("not a regular file")
	errLinks      = errors.New("file has more than one link")
	errOwner      = errors.New("file belongs to another user")
	errLocked     = errors.New("mailbox is locked by another program")
	errPath       = errors.New("path is not absolute")
)

// Target is the file that messages go to.
type Target struct {
	Path string // absolute
	UID  int    // the user the file must belong to; AnyOwner: whoever
}

// AnyOwner as a Target's UID leaves the permissions of the file to decide.
const AnyOwner = -1

// Store delivers to any number of files. Its methods may be called at the same
// time from several goroutines. Where fcntl locks belong to processes, that is
// everywhere but on Linux, a process should deliver to a file by one Store only.
type Store struct {
	LockWait time.Duration // 0: DefaultLockWait; set before the first delivery

	now  func() time.Time
	sync func(*os.File) error

	mu    sync.Mutex
	boxes map[string]*box // those with deliveries; guarded by mu
}

// box is the line of deliveries to one file; its fields are guarded by Store.mu.
type box struct {
	running *round // the one that holds or awaits the locks
	next    *round // gathers deliveries meanwhile
	users   int
}

// round is a set of deliveries under one holding of the locks.
type round struct {
	jobs []*job
	done chan struct{} // closed when all jobs have their results
}

// job is one delivery of a round.
type job struct {
	d      *mda.Delivery
	gone   <-chan struct{} // closed when the caller has given up
	result mda.Result
}

// New returns a Store.
func New() *Store {
	return &Store{now: time.Now, sync: (*os.File).Sync, boxes: make(map[string]*box)}
}

// Deliver appends the message to the file, which is made with mode 0600 if it
// does not exist. Every failure is temporary.
func (s *Store) Deliver(ctx context.Context, t Target, d *mda.Delivery) mda.Result {
	if !filepath.IsAbs(t.Path) {
		return mda.Fail("mailbox", errPath)
	}
	t.Path = filepath.Clean(t.Path)
	if t.Path == os.DevNull {
		return mda.OK()
	}
	j := &job{d: d, gone: ctx.Done()}
	s.mu.Lock()
	b := s.boxes[t.Path]
	if b == nil {
		b = new(box)
		s.boxes[t.Path] = b
	}
	b.users++
	defer func() {
		s.mu.Lock()
		if b.users--; b.users == 0 {
			delete(s.boxes, t.Path)
		}
		s.mu.Unlock()
	}()
	if r := b.next; r != nil {
		r.jobs = append(r.jobs, j)
		s.mu.Unlock()
		<-r.done // soon: locks are waited for no longer than LockWait
		return j.result
	}
	r := &round{jobs: []*job{j}, done: make(chan struct{})}
	before := b.running
	b.next = r
	s.mu.Unlock()
	if before != nil {
		<-before.done
	}
	s.deliver(t, b, r)
	return j.result
}

// deliver runs a round. Deliveries may join it until the locks are held.
func (s *Store) deliver(t Target, b *box, r *round) {
	defer close(r.done)
	m, err := s.lock(t, func() bool { return s.abandoned(r) })
	s.mu.Lock()
	b.running, b.next = r, nil
	s.mu.Unlock()
	if err == nil {
		s.append(m, r.jobs)
		err = m.unlock()
		if err == nil {
			return
		}
	}
	for _, j := range r.jobs {
		if j.result.Text == "" {
			j.result = failure(err)
		}
	}
}

// failure is the result for a mailbox that could not be opened or locked.
func failure(err error) mda.Result {
	for _, e := range [...]error{errNotRegular, errLinks, errOwner, errLocked} {
		if errors.Is(err, e) {
			return mda.Fail("mailbox: "+e.Error(), err)
		}
	}
	return mda.Fail("cannot open mailbox", err)
}

// abandoned tells whether nobody waits for the round any more.
func (s *Store) abandoned(r *round) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range r.jobs {
		select {
		case <-j.gone:
		default:
			return false
		}
	}
	return true
}

// append writes the messages and syncs the file, which is locked.
func (s *Store) append(m *mailbox, jobs []*job) {
	start, err := m.file.Seek(0, io.SeekEnd)
	if err != nil {
		failAll(jobs, err)
		return
	}
	end, err := separate(m.file, start)
	if err != nil {
		failAll(jobs, errors.Join(err, m.file.Truncate(start)))
		return
	}
	var longest int64
	for _, j := range jobs {
		longest = max(longest, j.d.Len())
	}
	size := int(min(longest+256, bufferSize))
	w, r := bufio.NewWriterSize(m.file, size), bufio.NewReaderSize(nil, size)
	for i, j := range jobs {
		w.Reset(m.file)
		if err = s.write(w, r, j.d); err == nil {
			var now int64
			if now, err = m.file.Seek(0, io.SeekCurrent); err == nil {
				end = now
				j.result = mda.OK()
				continue
			}
		}
		j.result = mda.Fail("cannot write to mailbox", err)
		// Cut off what this delivery has left.
		if err = m.file.Truncate(end); err == nil {
			_, err = m.file.Seek(end, io.SeekStart)
		}
		if err != nil {
			failAll(jobs[i+1:], err)
			break
		}
	}
	if err := s.sync(m.file); err != nil {
		failAll(jobs, errors.Join(err, m.file.Truncate(start)))
	}
}

// failAll gives a failure to the jobs that have none of their own.
func failAll(jobs []*job, err error) {
	for _, j := range jobs {
		if j.result.Outcome == mda.Delivered || j.result.Text == "" {
			j.result = mda.Fail("cannot write to mailbox", err)
		}
	}
}

// separate makes the file end with an empty line, which a delivery cut short by a
// crash may have left without, and returns the new end.
func separate(f *os.File, end int64) (int64, error) {
	if end == 0 {
		return 0, nil
	}
	var last [2]byte
	tail := last[:min(end, 2)]
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return end, err
	}
	missing := "\n\n"
	switch {
	case string(tail) == "\n\n" || string(tail) == "\n":
		return end, nil
	case tail[len(tail)-1] == '\n':
		missing = "\n"
	}
	n, err := f.WriteString(missing)
	return end + int64(n), err
}

// write writes one message: its From line, the quoted text, an empty line.
func (s *Store) write(w *bufio.Writer, r *bufio.Reader, d *mda.Delivery) error {
	text, err := d.Reader()
	if err != nil {
		return err
	}
	r.Reset(text)
	fmt.Fprintf(w, "From %s %s\n", fromAddress(d), s.now().UTC().Format(time.ANSIC))
	lineStart := true
	for {
		line, err := r.ReadSlice('\n')
		if lineStart && bytes.HasPrefix(line, []byte("From ")) {
			w.WriteByte('>')
		}
		w.Write(line)
		if len(line) > 0 {
			lineStart = line[len(line)-1] == '\n'
		}
		if err == io.EOF {
			break
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
	}
	if !lineStart {
		w.WriteByte('\n')
	}
	w.WriteByte('\n')
	return w.Flush() // reports the first error of all writes
}

// fromAddress returns the sender for the From line: one word.
func fromAddress(d *mda.Delivery) string {
	if d.Sender.IsNull() {
		return "MAILER-DAEMON"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, d.Sender.String())
}

// Close is there to end use of the Store; nothing is kept open between deliveries.
func (s *Store) Close() error { return nil }

// missing tells whether an error says that a file does not exist.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
