package ram

// heap is a 4-ary heap of slots by key. The key is kept beside the slot, so that
// sifting touches no entry but to note its place. Equal keys leave in the order in
// which they came.
type heap struct {
	items []heapItem
	count uint32 // pushes so far; wraps, which costs no more than that order
}

type heapItem struct {
	key   int64
	slot  uint32
	order uint32
}

func (a heapItem) before(b heapItem) bool {
	return a.key < b.key || a.key == b.key && a.order < b.order
}

func (h *heap) len() int   { return len(h.items) }
func (h *heap) min() int64 { return h.items[0].key }

func (h *heap) push(s *slab, key int64, slot uint32) {
	h.items = append(h.items, heapItem{key, slot, h.count})
	h.count++
	h.up(s, len(h.items)-1)
}

func (h *heap) pop(s *slab) uint32 {
	slot := h.items[0].slot
	h.remove(s, 0)
	return slot
}

func (h *heap) remove(s *slab, i int) {
	s.at(h.items[i].slot).pos = 0
	last := len(h.items) - 1
	moved := h.items[last]
	h.items = h.items[:last]
	if i == last {
		return
	}
	h.items[i] = moved
	if i > 0 && moved.before(h.items[(i-1)/4]) {
		h.up(s, i)
	} else {
		h.down(s, i)
	}
}

// up moves the item at i towards the root to where it belongs.
func (h *heap) up(s *slab, i int) {
	it := h.items[i]
	for i > 0 {
		parent := (i - 1) / 4
		if !it.before(h.items[parent]) {
			break
		}
		h.set(s, i, h.items[parent])
		i = parent
	}
	h.set(s, i, it)
}

// down moves the item at i towards the leaves to where it belongs.
func (h *heap) down(s *slab, i int) {
	it := h.items[i]
	for {
		child := 4*i + 1
		if child >= len(h.items) {
			break
		}
		for c, end := child+1, min(child+4, len(h.items)); c < end; c++ {
			if h.items[c].before(h.items[child]) {
				child = c
			}
		}
		if !h.items[child].before(it) {
			break
		}
		h.set(s, i, h.items[child])
		i = child
	}
	h.set(s, i, it)
}

func (h *heap) set(s *slab, i int, it heapItem) {
	h.items[i] = it
	s.at(it.slot).pos = uint32(i + 1)
}

// rekey computes all keys anew and restores the order.
func (h *heap) rekey(s *slab, key func(*entry) int64) {
	for i := range h.items {
		h.items[i].key = key(s.at(h.items[i].slot))
	}
	for i := len(h.items) - 1; i >= 0; i-- {
		h.down(s, i)
	}
}
