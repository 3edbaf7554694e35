package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrStopped is what every operation gives after the stop asked for by StopAfter.
var ErrStopped = errors.New("the power is off")

// Mem is a tree in memory with two views: the current one, which its methods work
// on, and the durable one, which Crash builds on. It is safe for concurrent use.
type Mem struct {
	mu      sync.Mutex
	root    *inode
	pending []dirOp // changes of entries that no SyncDir made durable yet
	ops     int     // changing operations so far
	stop    int     // operations done before the stop; negative: never
	fail    func(op string, name string, n int) error
}

// inode is a file or a directory.
type inode struct {
	dir     bool
	perm    fs.FileMode
	entries map[string]*inode // current, of a directory
	durable map[string]*inode

	data    []byte // current, of a file
	synced  []byte
	writes  []write // since the last sync
	backing string  // a real file that a descriptor was handed out for
}

// write is bytes written at an offset, or a truncation when data is nil.
type write struct {
	off  int64
	data []byte
}

// slot is one name in one directory.
type slot struct {
	dir  *inode
	name string
}

// dirOp is one change of entries: node (nil: nothing) stands at to afterwards, and
// nothing at from, if that is set.
type dirOp struct {
	from, to slot
	node     *inode
}

// NewMem returns an empty tree.
func NewMem() *Mem { return &Mem{root: newDir(0o700), stop: -1} }

func newDir(perm fs.FileMode) *inode {
	return &inode{dir: true, perm: perm, entries: map[string]*inode{}, durable: map[string]*inode{}}
}

// StopAfter turns the power off after n further changing operations: the next
// one, and all that follow, change nothing and give ErrStopped.
func (m *Mem) StopAfter(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stop = m.ops + n
}

// Ops returns the number of changing operations so far.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// FailWith has f asked before each changing operation, with its kind ("create",
// "write", "sync", "syncdir", "mkdir", "rename", "remove", "link", "truncate"),
// its name, and its number from 1 on. An error of f is the operation's result: it
// changes nothing, except that of a write the first half is done. f must not call
// the tree. Nil ends it.
func (m *Mem) FailWith(f func(op, name string, n int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// change counts one changing operation and gives its injected error. m.mu is held.
func (m *Mem) change(op, name string) error {
	if m.stop >= 0 && m.ops >= m.stop {
		return &fs.PathError{Op: op, Path: name, Err: ErrStopped}
	}
	m.ops++
	if m.fail != nil {
		if err := m.fail(op, name, m.ops); err != nil {
			return &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	return nil
}

// find returns the slot that name stands for, and what is in it, if anything.
func (m *Mem) find(op, name string) (slot, *inode, error) {
	fail := func(err error) (slot, *inode, error) {
		return slot{}, nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	if m.stop >= 0 && m.ops >= m.stop {
		return fail(ErrStopped)
	}
	if name == "." {
		return slot{}, m.root, nil
	}
	d := m.root
	dirName, base := path.Split(name)
	for elem := range strings.SplitSeq(strings.TrimSuffix(dirName, "/"), "/") {
		if elem == "" {
			continue
		}
		next := d.entries[elem]
		if next == nil {
			return fail(fs.ErrNotExist)
		}
		if !next.dir {
			return fail(syscall.ENOTDIR)
		}
		d = next
	}
	return slot{d, base}, d.entries[base], nil
}

// apply changes the current view and remembers the change as pending.
func (m *Mem) apply(op dirOp) {
	op.apply(func(n *inode) map[string]*inode { return n.entries })
	m.pending = append(m.pending, op)
}

func (op dirOp) apply(view func(*inode) map[string]*inode) {
	if op.from.dir != nil && view(op.from.dir)[op.from.name] == op.node {
		delete(view(op.from.dir), op.from.name)
	}
	if op.node == nil {
		delete(view(op.to.dir), op.to.name)
	} else {
		view(op.to.dir)[op.to.name] = op.node
	}
}

// OpenFile implements FS.
func (m *Mem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, node, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case node == nil && flag&os.O_CREATE == 0:
		return fail(fs.ErrNotExist)
	case node != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return fail(fs.ErrExist)
	case node != nil && node.dir:
		return fail(syscall.EISDIR)
	case node == nil:
		if err := m.change("create", name); err != nil {
			return nil, err
		}
		node = &inode{perm: perm}
		m.apply(dirOp{to: at, node: node})
	case flag&os.O_TRUNC != 0:
		if err := m.change("truncate", name); err != nil {
			return nil, err
		}
		node.data = nil
		node.writes = append(node.writes, write{})
	}
	node.pull()
	return &memFile{m: m, node: node, name: name, written: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

// Mkdir implements FS.
func (m *Mem) Mkdir(name string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, node, err := m.find("mkdir", name)
	if err != nil {
		return err
	}
	if node != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	if err := m.change("mkdir", name); err != nil {
		return err
	}
	m.apply(dirOp{to: at, node: newDir(perm)})
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, node, err := m.find("rename", from)
	if err != nil {
		return err
	}
	b, old, err := m.find("rename", to)
	if err != nil {
		return err
	}
	fail := func(err error) error { return &os.LinkError{Op: "rename", Old: from, New: to, Err: err} }
	switch {
	case node == nil:
		return fail(fs.ErrNotExist)
	case old != nil && node.dir && !old.dir:
		return fail(syscall.ENOTDIR)
	case old != nil && !node.dir && old.dir:
		return fail(syscall.EISDIR)
	case old != nil && old.dir && len(old.entries) > 0:
		return fail(syscall.ENOTEMPTY)
	}
	if err := m.change("rename", to); err != nil {
		return err
	}
	m.apply(dirOp{from: a, to: b, node: node})
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, node, err := m.find("remove", name)
	if err != nil {
		return err
	}
	if node == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if node.dir && len(node.entries) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	if err := m.change("remove", name); err != nil {
		return err
	}
	m.apply(dirOp{to: at})
	return nil
}

// Link implements FS.
func (m *Mem) Link(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, node, err := m.find("link", from)
	if err != nil {
		return err
	}
	b, old, err := m.find("link", to)
	if err != nil {
		return err
	}
	fail := func(err error) error { return &os.LinkError{Op: "link", Old: from, New: to, Err: err} }
	switch {
	case node == nil:
		return fail(fs.ErrNotExist)
	case node.dir:
		return fail(syscall.EPERM)
	case old != nil:
		return fail(fs.ErrExist)
	}
	if err := m.change("link", to); err != nil {
		return err
	}
	m.apply(dirOp{to: b, node: node})
	return nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, node, err := m.find("stat", name)
	if err != nil {
		return nil, err
	}
	if node == nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	node.pull()
	return memInfo{path.Base(name), node, int64(len(node.data))}, nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, node, err := m.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if node == nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	if !node.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	var list []fs.DirEntry
	for n, e := range node.entries {
		list = append(list, fs.FileInfoToDirEntry(memInfo{n, e, int64(len(e.data))}))
	}
	return list, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, node, err := m.find("syncdir", name)
	if err != nil {
		return err
	}
	if node == nil || !node.dir {
		return &fs.PathError{Op: "syncdir", Path: name, Err: fs.ErrNotExist}
	}
	if err := m.change("syncdir", name); err != nil {
		return err
	}
	m.flush(node)
	return nil
}

// flush makes the pending changes of a directory durable, together with earlier
// ones of the same names elsewhere, as of a file created there and renamed to here.
func (m *Mem) flush(d *inode) {
	needed := map[slot]bool{}
	take := make([]bool, len(m.pending))
	for i := len(m.pending) - 1; i >= 0; i-- {
		op := m.pending[i]
		if op.to.dir != d && op.from.dir != d && !needed[op.to] && (op.from.dir == nil || !needed[op.from]) {
			continue
		}
		take[i] = true
		needed[op.to] = true
		if op.from.dir != nil {
			needed[op.from] = true
		}
	}
	rest := m.pending[:0]
	for i, op := range m.pending {
		if take[i] {
			op.apply(func(n *inode) map[string]*inode { return n.durable })
		} else {
			rest = append(rest, op)
		}
	}
	m.pending = rest
}

// memInfo is what Stat tells.
type memInfo struct {
	name string
	node *inode
	size int64
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.node.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.node.dir {
		return i.node.perm | fs.ModeDir
	}
	return i.node.perm
}

// memFile is an open file of a Mem.
type memFile struct {
	m    *Mem
	node *inode
	name string
	pos  int64 // of Write

	written bool // was opened for writing
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.node.pull()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.m.change("write", f.name)
	if errors.Is(err, ErrStopped) {
		return 0, err
	}
	if err != nil {
		p = p[:len(p)/2]
	}
	f.node.write(p, off)
	return len(p), err
}

func (f *memFile) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (n *inode) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > int64(len(n.data)) {
		n.data = append(n.data, make([]byte, end-int64(len(n.data)))...)
	}
	copy(n.data[off:], p)
	n.writes = append(n.writes, write{off, append([]byte{}, p...)})
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.change("sync", f.name); err != nil {
		return err
	}
	f.node.pull()
	f.node.synced = append([]byte(nil), f.node.data...)
	f.node.writes = nil
	return nil
}

func (f *memFile) SyncData() error { return f.Sync() }

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.node.pull()
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error { return nil }

// OS implements File with a real file in os.TempDir. What is written there comes
// into the tree when the file is next looked at in it.
func (f *memFile) OS() (*os.File, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	file, err := os.CreateTemp("", "vfs-mem-*")
	if err != nil {
		return nil, err
	}
	_, err = file.Write(f.node.data)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err == nil && !f.written {
		err = os.Remove(file.Name())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if f.written {
		f.node.backing = file.Name()
	}
	return file, nil
}

// pull takes over what was written to a handed out descriptor and lets go of it.
func (n *inode) pull() {
	if n.backing == "" {
		return
	}
	data, err := os.ReadFile(n.backing)
	if err == nil {
		err = os.Remove(n.backing)
	}
	if err != nil {
		panic(fmt.Sprintf("vfs: the real file behind a file in memory: %v", err))
	}
	n.backing = ""
	n.writes = append(n.writes, write{})
	n.data = nil
	n.write(data, 0)
}
