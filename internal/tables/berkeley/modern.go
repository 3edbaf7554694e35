package berkeley

import "fmt"

// Files of the versions from 2 on. Page 0 describes the file: magic at 12, version
// at 16, page size at 20, encryption at 24, flags at 26, last page at 32. Every page
// has a header of 26 bytes, or 32 when pages have checksums:
//
//	0 log position  8 page number  12 page before  16 page behind  20 items
//	22 where they begin, or the length of an overflow page's part  24 level  25 kind
//
// The index of 16-bit positions follows; keys and values take turns in it. The
// items of btrees have their length in front, those of hashes end where the one
// before begins.
const (
	metaChecksum = 0x01
	subDatabases = 0x20 // flag of a btree that holds other databases

	kindHashUnsorted = 2
	kindLeaf         = 5
	kindOverflow     = 7
	kindHash         = 13

	itemPlain    = 1 // of either
	itemBtreeFar = 3 // on overflow pages
	itemHashFar  = 3
	itemDeleted  = 0x80
)

// modern reads every page that holds entries, in the order of the file.
func (d *file) modern(kind uint32) error {
	if len(d.b) < 72 {
		return damaged("no header")
	}
	if v := d.u32(d.b, 16); v < 8 || v > 10 {
		return fmt.Errorf("version %d of the format of Berkeley DB is not read; make the file anew", v)
	}
	if d.b[24] != 0 {
		return fmt.Errorf("the Berkeley database is encrypted")
	}
	if kind == btreeMagic && d.u32(d.b, 48)&subDatabases != 0 {
		return fmt.Errorf("the file holds several Berkeley databases")
	}
	if err := d.setPageSize(d.u32(d.b, 20)); err != nil {
		return err
	}
	if d.psize < 512 {
		return damaged("pages of %d bytes", d.psize)
	}
	last := d.u32(d.b, 32)
	if last >= d.pages() {
		return damaged("the file ends at page %d of %d", d.pages(), last+1)
	}
	header := 26
	if d.b[26]&metaChecksum != 0 {
		header = 32
	}
	for n := uint32(1); n <= last; n++ {
		p, err := d.page(n)
		if err != nil {
			return err
		}
		switch k := p[25]; {
		case kind == btreeMagic && k == kindLeaf:
			err = d.items(p, header, d.btreeItem)
		case kind == hashMagic && (k == kindHash || k == kindHashUnsorted):
			err = d.items(p, header, d.hashItem)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// items reads the pairs of a page. An item is what lies from its position to that
// of the one before, or to the end of the page.
func (d *file) items(p []byte, header int, read func(p []byte, off, end, header int) ([]byte, bool, error)) error {
	n := d.u16(p, 20)
	if n%2 != 0 || header+2*n > len(p) {
		return damaged("page with %d items", n)
	}
	end := len(p)
	for i := 0; i < n; i += 2 {
		ko, vo := d.u16(p, header+2*i), d.u16(p, header+2*i+2)
		key, kok, err := read(p, ko, end, header)
		if err != nil {
			return err
		}
		value, vok, err := read(p, vo, ko, header)
		if err != nil {
			return err
		}
		end = vo
		if !kok || !vok { // deleted
			continue
		}
		if err := d.emit(key, value); err != nil {
			return err
		}
	}
	return nil
}

// btreeItem reads a length, a kind and the text.
func (d *file) btreeItem(p []byte, off, _, header int) (text []byte, ok bool, err error) {
	if off+3 > len(p) {
		return nil, false, damaged("item at %d", off)
	}
	switch kind := p[off+2]; kind &^ itemDeleted {
	case itemPlain:
		text, err = slice(p, off+3, off+3+d.u16(p, off))
		return text, kind&itemDeleted == 0, err
	case itemBtreeFar:
		text, err = d.far(p, off, header)
		return text, kind&itemDeleted == 0, err
	default:
		return nil, false, fmt.Errorf("the Berkeley database has several values for a key")
	}
}

// hashItem reads a kind and the text up to end.
func (d *file) hashItem(p []byte, off, end, header int) (text []byte, ok bool, err error) {
	item, err := slice(p, off, end)
	if err != nil || len(item) == 0 {
		return nil, false, damaged("item at %d", off)
	}
	switch item[0] {
	case itemPlain:
		return item[1:], true, nil
	case itemHashFar:
		text, err = d.far(p, off, header)
		return text, true, err
	}
	return nil, false, fmt.Errorf("the Berkeley database has several values for a key")
}

// far reads an item on overflow pages: the reference at off has the first of them
// behind four bytes, then the length.
func (d *file) far(p []byte, off, header int) ([]byte, error) {
	ref, err := slice(p, off, off+12)
	if err != nil {
		return nil, err
	}
	n, size := d.u32(ref, 4), d.u32(ref, 8)
	if size > maxValue+1 {
		return nil, damaged("an item of %d bytes", size)
	}
	var out []byte
	for len(out) < int(size) {
		p, err := d.page(n)
		if err != nil {
			return nil, err
		}
		if p[25] != kindOverflow {
			return nil, damaged("page %d is none of a long item", n)
		}
		part, err := slice(p, header, header+d.u16(p, 22))
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			return nil, damaged("an empty part of a long item")
		}
		if out, err = d.grow(out, part); err != nil {
			return nil, err
		}
		n = d.u32(p, 16)
	}
	return out[:size], nil
}
