package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sector is the piece of a write that reaches the disk whole or not at all, in bytes.
const sector = 512

// Keep says which of the changes that were not synced a power cut spares.
type Keep struct {
	kind uint8
	seed uint64
}

// The two extremes: a disk that wrote nothing it was not told to, and one that
// wrote everything at once.
var (
	KeepNone = Keep{}
	KeepAll  = Keep{kind: 1}
)

// KeepSome spares a random subset, different for each seed: of directory entries
// one by one, of files sector by sector, so that writes are torn and their order
// is not kept.
func KeepSome(seed uint64) Keep { return Keep{2, seed} }

// Crash returns what a power cut would leave now. The tree itself is unchanged.
func (m *Mem) Crash(keep Keep) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	rnd := rand.New(rand.NewPCG(keep.seed, 1))
	c := cloner{
		keep: func() bool { return keep.kind == 1 || keep.kind == 2 && rnd.IntN(2) == 0 },
		all:  keep.kind == 1,
		done: map[*inode]*inode{},
		over: map[*inode]map[string]*inode{},
	}
	view := func(n *inode) map[string]*inode {
		if c.over[n] == nil {
			c.over[n] = map[string]*inode{}
			for name, e := range n.durable {
				c.over[n][name] = e
			}
		}
		return c.over[n]
	}
	for _, op := range m.pending {
		if c.keep() {
			op.apply(view)
		}
	}
	return &Mem{root: c.clone(m.root), stop: -1}
}

// cloner copies the durable view of a tree.
type cloner struct {
	keep func() bool
	all  bool
	done map[*inode]*inode            // hard links stay links
	over map[*inode]map[string]*inode // entries of directories with spared changes
}

func (c *cloner) clone(n *inode) *inode {
	if d := c.done[n]; d != nil {
		return d
	}
	d := &inode{dir: n.dir, perm: n.perm}
	c.done[n] = d
	if !n.dir {
		d.data = c.content(n)
		d.synced = append([]byte(nil), d.data...)
		return d
	}
	entries := c.over[n]
	if entries == nil {
		entries = n.durable
	}
	d.entries, d.durable = map[string]*inode{}, map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(entries)) { // in order: the same seed, the same tree
		d.entries[name] = c.clone(entries[name])
		d.durable[name] = d.entries[name]
	}
	return d
}

// content returns the bytes of a file after the cut.
func (c *cloner) content(n *inode) []byte {
	if c.all {
		n.pull()
		return append([]byte(nil), n.data...)
	}
	t := &inode{data: append([]byte(nil), n.synced...)}
	for _, w := range n.writes {
		if w.data == nil {
			if c.keep() {
				t.data = t.data[:min(w.off, int64(len(t.data)))]
			}
			continue
		}
		for data, off := w.data, w.off; len(data) > 0; {
			size := min(len(data), int(sector-off%sector))
			if c.keep() {
				t.write(data[:size], off)
			}
			data, off = data[size:], off+int64(size)
		}
	}
	return t.data
}
