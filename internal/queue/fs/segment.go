package fs

import (
	"fmt"
	"os"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// segment is one file of the journal. Fields but name and file are guarded by
// journal.mu.
type segment struct {
	name string // below the spool
	file vfs.File
	gen  uint32
	end  int64 // where the next record goes
	live int   // messages that need it
}

// oldestLive returns the generation of the oldest segment that is needed: the
// active one at the latest. j.mu is held.
func (j *journal) oldestLive() uint32 {
	for _, seg := range j.segs {
		if seg.live > 0 {
			return seg.gen
		}
	}
	return j.gen
}

// full tells whether no further segment may be opened for messages. j.mu is held.
func (j *journal) full() bool {
	return len(j.segs) >= j.segments && len(j.free) == 0
}

// reclaim makes segments free whose end is known on disk. j.mu is held.
func (j *journal) reclaim() {
	for len(j.segs) > 1 && j.segs[0].gen < j.durable {
		j.free = append(j.free, j.segs[0])
		j.segs = j.segs[1:]
	}
}

// surplus takes the free segments beyond the number to keep. j.mu is held.
func (j *journal) surplus() []*segment {
	n := min(len(j.free), len(j.segs)+len(j.free)-j.segments)
	if n <= 0 {
		return nil
	}
	list := slices.Clone(j.free[:n])
	j.free = j.free[n:]
	return list
}

// discard removes the files of segments.
func (j *journal) discard(list []*segment) {
	for _, seg := range list {
		_ = seg.file.Close() // nothing in it is needed
		_ = j.fs.Remove(seg.name)
	}
}

// nextSegment makes a free or new segment the active one. It is called by the
// writer, with nothing waiting to be written, and tells whether it got one.
func (j *journal) nextSegment() bool {
	j.mu.Lock()
	if making := j.making; len(j.free) == 0 && making != nil {
		j.mu.Unlock()
		<-making
		j.mu.Lock()
	}
	if j.stopped {
		j.mu.Unlock()
		return false
	}
	var seg *segment
	if len(j.free) > 0 {
		seg = j.free[0]
		j.free = j.free[1:]
	}
	tooMany := len(j.segs) >= j.segments+extraSegments
	name := j.nextName()
	j.mu.Unlock()

	var err error
	if seg == nil && tooMany {
		err = fmt.Errorf("all %d journal segments are in use", j.segments+extraSegments)
	} else if seg == nil {
		seg, err = j.create(name)
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.broadcast()
	j.rollErr = err
	if err != nil {
		return false
	}
	j.begin(seg)
	if len(j.segs) > j.segments/2 {
		signal(j.fullness)
	}
	if len(j.free) == 0 && len(j.segs) < j.segments && j.making == nil {
		j.makeAhead()
	}
	return true
}

// begin makes seg the active segment and writes what stands at its front. j.mu is
// held.
func (j *journal) begin(seg *segment) {
	j.roll = false
	j.gen++
	seg.gen, seg.end, seg.live = j.gen, 0, 0
	j.segs = append(j.segs, seg)
	j.oldest = j.oldestLive()
	p := appendHex(nil, uint64(j.oldest), 8, '\n')
	j.put(kindOldest, p, crcOf(p))
	redo := j.redo
	for len(redo) > 0 && seg.end+recordSize(len(redo[0].payload))+spareRoom < j.size/2 {
		j.put(redo[0].kind, redo[0].payload, crcOf(redo[0].payload))
		redo = redo[1:]
	}
	j.redo = slices.Clone(redo)
}

// makeAhead makes a segment in the background, so that no commit has to wait for
// it. One at a time; close waits for it. j.mu is held.
func (j *journal) makeAhead() {
	making := make(chan struct{})
	j.making = making
	name := j.nextName()
	go func() {
		seg, err := j.create(name)
		j.mu.Lock()
		defer j.mu.Unlock()
		if err == nil { // else nextSegment meets the error itself
			j.free = append(j.free, seg)
		}
		j.making = nil
		close(making)
	}()
}

// nextName returns the name for a new segment file. j.mu is held.
func (j *journal) nextName() string {
	j.names++
	return fmt.Sprintf("journal/%04d", j.names)
}

// create makes a new segment file, filled with zeros: a sync of bytes written
// into existing blocks has no block map or size to write.
func (j *journal) create(name string) (*segment, error) {
	f, err := j.fs.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("new journal segment: %w", err)
	}
	err = fill(f, j.size)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.fs.SyncDir("journal")
	}
	if err != nil {
		_ = f.Close()
		_ = j.fs.Remove(name)
		return nil, fmt.Errorf("new journal segment: %w", err)
	}
	return &segment{name: name, file: f}, nil
}

// fill writes size zero bytes.
func fill(f vfs.File, size int64) error {
	zeros := make([]byte, min(size, 256<<10))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
