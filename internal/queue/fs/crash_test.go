package fs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/queuetest"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// The crash suite runs a scenario that takes every way through the store, stops
// the power after each single operation of the file system, and compares what a
// reopened store holds with what was promised.

// crashOptions make the scenario go through several segments, reuse them, and
// have the mover empty some.
var crashOptions = Options{SegmentSize: 8 << 10, Segments: 4}

// promise is what the store answered about one message.
type promise struct {
	body      []byte
	committed bool // Commit returned nil
	envelopes map[envelope.ID]*state
}

// state is what may be found of one envelope.
type state struct {
	retries []uint32 // of the last acknowledged update, and of those tried since
	deleted bool     // Delete was called: it may be gone or there
}

// client runs a scenario and keeps the promises.
type client struct {
	t *testing.T
	s *Store

	mu       sync.Mutex
	promises map[envelope.MsgID]*promise
	failures int  // calls that returned an error
	stop     bool // give up at the first failure
}

// fail notes a failed call and tells whether to go on.
func (c *client) failed(err error) bool {
	if err == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures++
	return true
}

func (c *client) off() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop && c.failures > 0
}

// commit stores a message of n recipients and returns its id, or 0.
func (c *client) commit(n, size int, spill bool) envelope.MsgID {
	if c.off() {
		return 0
	}
	ctx := c.t.Context()
	id, err := c.s.NewID(ctx)
	if c.failed(err) {
		return 0
	}
	m := queuetest.Message(id, n, size)
	p := &promise{body: m.Body, envelopes: map[envelope.ID]*state{}}
	for _, e := range m.Envelopes {
		p.envelopes[e.ID] = &state{retries: []uint32{0}}
	}
	c.mu.Lock()
	c.promises[id] = p
	c.mu.Unlock()
	if spill {
		f, err := c.s.Spill(ctx, id)
		if c.failed(err) {
			c.s.Discard(id)
			return 0
		}
		if _, err := f.Write(m.Body); err != nil {
			c.t.Error(err)
		}
		if err := f.Close(); err != nil {
			c.t.Error(err)
		}
		m.Body, m.Spilled = nil, true
	}
	if c.failed(c.s.Commit(ctx, m)) {
		c.s.Discard(id)
		return 0
	}
	c.mu.Lock()
	p.committed = true
	c.mu.Unlock()
	return id
}

// update gives envelope n of a message a new number of retries.
func (c *client) update(id envelope.MsgID, n, retry uint32) {
	if c.off() || id == 0 {
		return
	}
	e := queuetest.Envelope(envelope.NewID(id, n))
	e.Retry = retry
	st := c.promises[id].envelopes[e.ID]
	st.retries = append(st.retries, retry)
	if !c.failed(c.s.Update(c.t.Context(), e)) {
		st.retries = []uint32{retry}
	}
}

func (c *client) delete(id envelope.MsgID, n uint32) {
	if c.off() || id == 0 {
		return
	}
	evp := envelope.NewID(id, n)
	c.promises[id].envelopes[evp].deleted = true
	c.failed(c.s.Delete(c.t.Context(), evp))
}

// run is the scenario.
func (c *client) run() {
	a := c.commit(1, 600, false)
	b := c.commit(3, 300, false)
	big := c.commit(2, 3000, true)
	c.update(b, 2, 1) // moves b to the directories
	c.update(b, 2, 2) // changes a file there
	c.update(big, 1, 1)
	c.delete(a, 1)
	c.delete(b, 1)
	c.delete(b, 3)
	c.commit(2, 4000, false) // does not fit the journal
	c.delete(b, 2)           // the directory goes
	var ids [6]envelope.MsgID
	var wg sync.WaitGroup
	for i := range ids { // share syncs
		wg.Go(func() { ids[i] = c.commit(1+i%2, 700, false) })
	}
	wg.Wait()
	c.delete(ids[0], 1)
	c.delete(ids[1], 1) // its second recipient stays
	c.update(ids[3], 2, 1)
	for i := range 14 { // fill and reuse segments
		id := c.commit(1, 900, false)
		if i%3 != 0 {
			c.delete(id, 1)
		}
	}
	c.delete(big, 1)
	c.delete(big, 2)
	c.delete(ids[3], 1)
	c.commit(1, 100, false)
}

// check compares the content of a spool with the promises, and returns it.
func (c *client) check(fsys vfs.FS, when string) map[envelope.ID]uint32 {
	c.t.Helper()
	s, err := Open(fsys, crashOptions)
	if err != nil {
		c.t.Fatalf("%s: %v", when, err)
	}
	found := map[envelope.ID]uint32{}
	err = s.Walk(c.t.Context(), func(e *envelope.Envelope, err error) error {
		if err != nil {
			c.t.Errorf("%s: damage: %v", when, err)
			return nil
		}
		if _, twice := found[e.ID]; twice {
			c.t.Errorf("%s: %v is there twice", when, e.ID)
		}
		found[e.ID] = e.Retry
		return nil
	})
	if err != nil {
		c.t.Fatalf("%s: %v", when, err)
	}
	for id, p := range c.promises {
		c.checkMessage(s, id, p, found, when)
	}
	for evp := range found {
		if c.promises[evp.MsgID()] == nil {
			c.t.Errorf("%s: %v was never committed", when, evp)
		}
	}
	if list, err := s.Corrupt(); err != nil || len(list) > 0 {
		c.t.Errorf("%s: set aside as damaged: %v, %v", when, list, err)
	}
	if err := s.Close(); err != nil {
		c.t.Errorf("%s: %v", when, err)
	}
	return found
}

func (c *client) checkMessage(s *Store, id envelope.MsgID, p *promise, found map[envelope.ID]uint32, when string) {
	c.t.Helper()
	there := 0
	for evp := range p.envelopes {
		if _, ok := found[evp]; ok {
			there++
		}
	}
	if !p.committed && there != 0 && there != len(p.envelopes) {
		c.t.Errorf("%s: %d of %d envelopes of %v, which was not acknowledged", when, there, len(p.envelopes), id)
	}
	for evp, st := range p.envelopes {
		retry, ok := found[evp]
		switch {
		case ok && !slices.Contains(st.retries, retry):
			c.t.Errorf("%s: %v has retry %d, want one of %v", when, evp, retry, st.retries)
		case !ok && p.committed && !st.deleted:
			c.t.Errorf("%s: %v was acknowledged and is lost", when, evp)
		}
	}
	if there > 0 {
		if body, err := queuetest.Read(c.t.Context(), s, id); err != nil || !bytes.Equal(body, p.body) {
			c.t.Errorf("%s: body of %v: %d bytes, %v; want %d", when, id, len(body), err, len(p.body))
		}
	}
}

// finish deletes all that is left, and looks that none of it comes back.
func (c *client) finish(fsys vfs.FS, found map[envelope.ID]uint32, when string) {
	c.t.Helper()
	s, err := Open(fsys, crashOptions)
	if err != nil {
		c.t.Fatalf("%s: %v", when, err)
	}
	for evp := range found {
		if err := s.Delete(c.t.Context(), evp); err != nil {
			c.t.Errorf("%s: %v", when, err)
		}
	}
	if err := s.Close(); err != nil {
		c.t.Errorf("%s: %v", when, err)
	}
	s, err = Open(fsys, crashOptions)
	if err != nil {
		c.t.Fatalf("%s: %v", when, err)
	}
	if left := queuetest.Contents(c.t, s); len(left) > 0 {
		c.t.Errorf("%s: %d envelopes came back after their deletion", when, len(left))
	}
	if err := s.Close(); err != nil {
		c.t.Errorf("%s: %v", when, err)
	}
}

func newClient(t *testing.T, fsys vfs.FS) *client {
	c := &client{t: t, promises: map[envelope.MsgID]*promise{}}
	c.s, _ = Open(fsys, crashOptions)
	return c
}

// keeps are the disks to crash on.
func keeps(n int) []vfs.Keep {
	list := []vfs.Keep{vfs.KeepNone, vfs.KeepAll}
	for i := range 3 {
		list = append(list, vfs.KeepSome(uint64(3*n+i)))
	}
	return list
}

func TestStopAfterEveryOperation(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // for the descriptors of spilled bodies
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; ; n += step {
		disk := vfs.NewMem()
		disk.StopAfter(n)
		c := newClient(t, disk)
		c.stop = true
		if c.s != nil {
			c.run()
			_ = c.s.Close() // the power is off
		}
		for i, keep := range keeps(n) {
			left := disk.Crash(keep)
			when := fmt.Sprintf("stop after %d, disk %d", n, i)
			first := c.check(left, when)
			// A second power cut right after the opening changes nothing.
			again := c.check(left.Crash(vfs.KeepNone), when+", opened again")
			if !maps.Equal(first, again) {
				t.Errorf("%s: %d envelopes, opened again %d", when, len(first), len(again))
			}
			c.finish(left, again, when)
		}
		if t.Failed() {
			return
		}
		if c.s != nil && c.failures == 0 {
			t.Logf("%d operations", disk.Ops())
			return
		}
	}
}

// TestWorkAfterCrash goes on with a spool that was cut off, and cuts it again.
func TestWorkAfterCrash(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for n := 0; n < 200; n += 9 {
		disk := vfs.NewMem()
		disk.StopAfter(n)
		c := newClient(t, disk)
		c.stop = true
		if c.s != nil {
			c.run()
			_ = c.s.Close() // the power is off
		}
		for round := range 3 {
			disk = disk.Crash(vfs.KeepSome(uint64(n + round)))
			c.failures = 0
			s, err := Open(disk, crashOptions)
			if err != nil {
				t.Fatal(err)
			}
			c.s = s
			disk.StopAfter(20 + n%50)
			c.run()
			_ = s.Close() // the power is off
		}
		c.check(disk.Crash(vfs.KeepSome(uint64(n))), fmt.Sprintf("stop after %d", n))
		if t.Failed() {
			return
		}
	}
}

func TestFailedOperationsLoseNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, tt := range []struct {
		name string
		err  error
		fail func(op string, n, at int) bool
	}{
		{"one fails", syscall.EIO, func(_ string, n, at int) bool { return n == at }},
		{"ten fail", syscall.EIO, func(_ string, n, at int) bool { return n >= at && n < at+10 }},
		{"the disk is full for a while", syscall.ENOSPC, func(op string, n, at int) bool {
			return n >= at && n < at+15 && (op == "create" || op == "write" || op == "mkdir" || op == "link")
		}},
		{"syncs fail for a while", syscall.EIO, func(op string, n, at int) bool {
			return n >= at && n < at+15 && (op == "sync" || op == "syncdir")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for at := 20; ; at += step {
				disk := vfs.NewMem()
				c := newClient(t, disk)
				failed := false
				disk.FailWith(func(op, _ string, n int) error {
					if tt.fail(op, n, at) {
						failed = true
						return tt.err
					}
					return nil
				})
				c.run()
				disk.FailWith(nil)
				c.works(fmt.Sprintf("failure at %d", at))
				for i, keep := range keeps(at) {
					c.check(disk.Crash(keep), fmt.Sprintf("failure at %d, disk %d", at, i))
				}
				if err := c.s.Close(); err != nil {
					t.Errorf("failure at %d: %v", at, err)
				}
				c.check(disk.Crash(vfs.KeepAll), fmt.Sprintf("failure at %d, closed", at))
				if t.Failed() || !failed {
					return
				}
			}
		})
	}
}

// works checks that the store recovered: it takes mail and has what it promised.
func (c *client) works(when string) {
	before := c.failures
	for range 2 { // the first may meet what is left of the failure
		if c.commit(1, 50, false) != 0 {
			before = -1
		}
	}
	if before != -1 {
		c.t.Errorf("%s: the store does not take mail any more", when)
	}
	for id, p := range c.promises {
		for evp, st := range p.envelopes {
			if !p.committed || st.deleted {
				continue
			}
			if e, err := c.s.Load(c.t.Context(), evp); err != nil || !slices.Contains(st.retries, e.Retry) {
				c.t.Errorf("%s: Load %v: %v, %v", when, evp, e, err)
			}
			if _, err := c.s.Open(c.t.Context(), id); err != nil {
				c.t.Errorf("%s: %v", when, err)
			}
		}
	}
}

func TestFullDiskIsNoSpace(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	disk := vfs.NewMem()
	s := open(t, disk, crashOptions)
	disk.FailWith(func(op, _ string, _ int) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	for _, size := range []int{100, 6000} { // by the journal, and by the directories
		id, err := s.NewID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(t.Context(), queuetest.Message(id, 1, size)); !errors.Is(err, queue.ErrNoSpace) {
			t.Errorf("Commit of %d bytes: %v", size, err)
		}
	}
	disk.FailWith(nil)
	if got := queuetest.Contents(t, s); len(got) > 0 {
		t.Errorf("left %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
