package berkeley

import (
	"encoding/binary"
	"math/bits"
)

// Hash files of version 1.85. The header, always with the high byte first, is one
// of 32-bit numbers:
//
//	0 magic  1 version  2 byte order of the pages  3 page size  …  10 last bucket
//	…  14 entries  15 pages of the header  17… pages of overflow before each doubling, 32 numbers
//
// A page is an array of 16-bit numbers, n first, then for each pair where the key
// begins and where the value does; items are packed from the end of the page. A
// number below 4 in the place of a value's marks something else.
const (
	overflowPage = 0 // the number before it is the address of the next page
	partialKey   = 1 // of a pair larger than a page: the key goes on
	fullKey      = 2 // the key ends here, the value begins on the next page
	fullKeyData  = 3 // the key ends here, or the value does
	realKey      = 4 // and above: a pair
)

type oldHash struct {
	*file
	spares  [32]uint32
	headers uint32
}

func (d *file) oldHash() error {
	if len(d.b) < 49*4 {
		return damaged("no header")
	}
	var h [49]uint32
	for i := range h {
		h[i] = binary.BigEndian.Uint32(d.b[4*i:])
	}
	if h[1] != 1 && h[1] != 2 {
		return damaged("version %d of the hash format", h[1])
	}
	d.order = binary.LittleEndian
	if h[2] == 4321 {
		d.order = binary.BigEndian
	}
	if err := d.setPageSize(h[3]); err != nil {
		return err
	}
	o := &oldHash{file: d, headers: h[15]}
	copy(o.spares[:], h[17:])
	for bucket := uint32(0); bucket <= h[10]; bucket++ {
		n := o.bucketPage(bucket)
		if n >= d.pages() { // never written, nor are later ones
			break
		}
		if err := o.bucket(n); err != nil {
			return err
		}
	}
	if uint64(d.entries) < uint64(h[14]) {
		return damaged("%d entries of %d", d.entries, h[14])
	}
	return nil
}

// bucketPage returns the page of a bucket.
func (o *oldHash) bucketPage(bucket uint32) uint32 {
	n := bucket + o.headers
	if bucket > 0 {
		n += o.spares[(bits.Len32(bucket)-1)&31]
	}
	return n
}

// overflow returns the page of an overflow address: the doubling it belongs to in
// the upper five bits, its number in the others.
func (o *oldHash) overflow(addr int) uint32 {
	return o.bucketPage(1<<(addr>>11)-1) + uint32(addr&0x7ff)
}

// hashPage is a page with its numbers.
type hashPage struct {
	b []byte
	d *file
	n int // numbers behind the first
}

func (o *oldHash) load(n uint32) (hashPage, error) {
	b, err := o.page(n)
	if err != nil {
		return hashPage{}, err
	}
	p := hashPage{b, o.file, o.u16(b, 0)}
	if 2*(p.n+2) > len(b) || p.n%2 != 0 {
		return p, damaged("page %d has %d numbers", n, p.n)
	}
	return p, nil
}

func (p hashPage) at(i int) int { return p.d.u16(p.b, 2*i) }

// next returns the address of the page that follows.
func (p hashPage) next() int { return p.at(p.n - 1) }

// bucket reads the pages of a bucket.
func (o *oldHash) bucket(n uint32) error {
	for {
		p, err := o.load(n)
		if err != nil {
			return err
		}
		follow := false
		end := len(p.b)
		for i := 1; i < p.n && !follow; i += 2 {
			switch mark := p.at(i + 1); {
			case mark == overflowPage:
				n, follow = o.overflow(p.at(i)), true
			case mark < realKey:
				last, err := o.big(p)
				if err != nil || last.n == 2 {
					return err
				}
				n, follow = o.overflow(last.next()), true
			default:
				key, err := slice(p.b, p.at(i), end)
				if err != nil {
					return err
				}
				value, err := slice(p.b, mark, p.at(i))
				if err != nil {
					return err
				}
				if err := o.emit(key, value); err != nil {
					return err
				}
				end = mark
			}
		}
		if !follow {
			return nil
		}
	}
}

// big reads a pair larger than a page and returns its last page.
func (o *oldHash) big(p hashPage) (last hashPage, err error) {
	var key, value []byte
	for {
		part, err := slice(p.b, p.at(1), len(p.b))
		if err != nil {
			return p, err
		}
		if key, err = o.grow(key, part); err != nil {
			return p, err
		}
		if p.n < 2 || p.at(2) != partialKey {
			break
		}
		if p, err = o.load(o.overflow(p.next())); err != nil {
			return p, err
		}
	}
	if p.n < 2 {
		return p, damaged("a long key without an end")
	}
	if p.at(2) == fullKeyData {
		part, err := slice(p.b, p.at(p.n), p.at(1))
		if err != nil {
			return p, err
		}
		if value, err = o.grow(value, part); err != nil {
			return p, err
		}
		if p.at(p.n+1) != 0 { // free space: nothing follows
			return p, o.emit(key, value)
		}
	}
	for {
		if p, err = o.load(o.overflow(p.next())); err != nil {
			return p, err
		}
		if p.n < 2 {
			return p, damaged("a long value without an end")
		}
		part, err := slice(p.b, p.at(1), len(p.b))
		if err != nil {
			return p, err
		}
		if value, err = o.grow(value, part); err != nil {
			return p, err
		}
		if p.at(2) == fullKeyData {
			return p, o.emit(key, value)
		}
	}
}

// Btree files of version 1.85. Page 0 begins with magic, version, page size; page 1
// is the root. A page has a header of 20 bytes, its own number, those of the pages
// before and behind, flags, and the end of its index, which follows.
const (
	oldHeader   = 20
	oldInternal = 0x01
	oldLeaf     = 0x02
	oldOverflow = 0x04
	oldKind     = 0x1f
	bigData     = 0x01 // the value is elsewhere
	bigKey      = 0x02
)

func (d *file) oldBtree() error {
	if len(d.b) < 24 {
		return damaged("no header")
	}
	if v := d.u32(d.b, 4); v != 3 {
		return damaged("version %d of the btree format", v)
	}
	if err := d.setPageSize(d.u32(d.b, 8)); err != nil {
		return err
	}
	n := uint32(1) // which an empty tree has too
	for {          // down to the first leaf
		p, err := d.page(n)
		if err != nil {
			return err
		}
		switch d.u32(p, 12) & oldKind {
		case oldLeaf:
			return d.oldLeaves(n)
		case oldInternal:
		default:
			return damaged("page %d is no page of a tree", n)
		}
		at := d.u16(p, oldHeader)
		if d.u16(p, 16) < oldHeader+2 || at+9 > len(p) {
			return damaged("page %d is empty", n)
		}
		n = d.u32(p, at+4)
	}
}

// oldLeaves reads a leaf and those behind it.
func (d *file) oldLeaves(n uint32) error {
	for n != 0 {
		p, err := d.page(n)
		if err != nil {
			return err
		}
		if d.u32(p, 12)&oldKind != oldLeaf {
			return damaged("page %d is no leaf", n)
		}
		lower := d.u16(p, 16)
		if lower > len(p) {
			return damaged("page %d has an index of %d bytes", n, lower)
		}
		for at := oldHeader; at+2 <= lower; at += 2 {
			if err := d.oldEntry(p, d.u16(p, at)); err != nil {
				return err
			}
		}
		n = d.u32(p, 8)
	}
	return nil
}

// oldEntry reads the entry at off: the lengths of key and value, flags, both texts.
func (d *file) oldEntry(p []byte, off int) error {
	if off+9 > len(p) {
		return damaged("entry at %d", off)
	}
	klen, vlen, flags := d.u32(p, off), d.u32(p, off+4), p[off+8]
	if klen > uint32(len(p)) || vlen > uint32(len(p)) {
		return damaged("entry at %d", off)
	}
	both, err := slice(p, off+9, off+9+int(klen)+int(vlen))
	if err != nil {
		return err
	}
	key, value := both[:klen], both[klen:]
	if flags&bigKey != 0 {
		if key, err = d.oldOverflow(key); err != nil {
			return err
		}
	}
	if flags&bigData != 0 {
		if value, err = d.oldOverflow(value); err != nil {
			return err
		}
	}
	return d.emit(key, value)
}

// oldOverflow reads an item on pages of its own; ref is the first of them and the
// length.
func (d *file) oldOverflow(ref []byte) ([]byte, error) {
	if len(ref) != 8 {
		return nil, damaged("reference of %d bytes", len(ref))
	}
	n, size := d.u32(ref, 0), int64(d.u32(ref, 4))
	if size > maxValue {
		return nil, damaged("an item of %d bytes", size)
	}
	var out []byte
	for int64(len(out)) < size {
		p, err := d.page(n)
		if err != nil {
			return nil, err
		}
		if d.u32(p, 12)&oldKind != oldOverflow {
			return nil, damaged("page %d is none of a long item", n)
		}
		if out, err = d.grow(out, p[oldHeader:min(int64(len(p)), oldHeader+size-int64(len(out)))]); err != nil {
			return nil, err
		}
		n = d.u32(p, 8)
	}
	return out, nil
}
