// Package berkeley reads databases of Berkeley DB: hash and btree files of version
// 1.85, as makemap(8) and newaliases(8) of the BSDs write them, and those of the
// versions 4 to 18, as the tools of Linux systems do. It reads a file once, from end
// to end; it neither looks keys up nor writes. Either byte order is understood.
package berkeley

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds, in bytes.
const (
	MaxFile  = 512 << 20
	maxKey   = 64 << 10
	maxValue = 1 << 20
)

// ErrFormat says that a file is damaged, or none that this package reads.
var ErrFormat = errors.New("damaged Berkeley database")

// Magic numbers of the two kinds of file.
const (
	hashMagic  = 0x061561
	btreeMagic = 0x053162
)

// Is tells from its first bytes whether a file is a Berkeley database: the magic
// number comes first up to version 1.86, later behind twelve other bytes.
func Is(b []byte) bool {
	_, _, ok := magic(b, 0)
	if !ok {
		_, _, ok = magic(b, 12)
	}
	return ok
}

// magic looks for a magic number at off and tells the byte order.
func magic(b []byte, off int) (uint32, binary.ByteOrder, bool) {
	if len(b) < off+4 {
		return 0, nil, false
	}
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if m := o.Uint32(b[off:]); m == hashMagic || m == btreeMagic {
			return m, o, true
		}
	}
	return 0, nil, false
}

// Read calls f for each entry of the database in r, which has size bytes, until f
// returns an error. A file that has lost its end is damaged, but entries may have been
// handed over before that is seen. Key and value are valid during the call. A NUL byte at the end
// of either, which C programs store, is left out. Hash files have no order; those
// of btrees come sorted.
func Read(r io.ReaderAt, size int64, f func(key, value []byte) error) error {
	if size > MaxFile {
		return fmt.Errorf("a Berkeley database of %d bytes, at most %d are read", size, MaxFile)
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return err
	}
	d := &file{b: b, f: f, left: 2*len(b) + 1<<20}
	var kind uint32
	var ok bool
	if kind, d.order, ok = magic(b, 0); ok {
		if kind == hashMagic {
			return d.oldHash()
		}
		return d.oldBtree()
	}
	if kind, d.order, ok = magic(b, 12); ok {
		return d.modern(kind)
	}
	return fmt.Errorf("%w: no magic number", ErrFormat)
}

// file is a file being read.
type file struct {
	b       []byte
	order   binary.ByteOrder
	psize   int
	f       func(key, value []byte) error
	entries int // handed over
	left    int // bytes that may still be looked at, so that no file keeps us busy for ever
}

func (d *file) u16(b []byte, off int) int    { return int(d.order.Uint16(b[off:])) }
func (d *file) u32(b []byte, off int) uint32 { return d.order.Uint32(b[off:]) }

// damaged is an ErrFormat with a reason.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// setPageSize checks and sets the size of pages.
func (d *file) setPageSize(n uint32) error {
	if n < 64 || n > 64<<10 || n&(n-1) != 0 {
		return damaged("pages of %d bytes", n)
	}
	d.psize = int(n)
	return nil
}

// pages returns the number of whole pages.
func (d *file) pages() uint32 { return uint32(len(d.b) / d.psize) }

// page returns a page.
func (d *file) page(n uint32) ([]byte, error) {
	if n >= d.pages() {
		return nil, damaged("page %d of %d", n, d.pages())
	}
	if d.left -= 64; d.left < 0 {
		return nil, damaged("pages lead in a circle")
	}
	return d.b[int(n)*d.psize : (int(n)+1)*d.psize], nil
}

// slice returns part of a page.
func slice(p []byte, from, to int) ([]byte, error) {
	if from < 0 || from > to || to > len(p) {
		return nil, damaged("item from %d to %d in a page of %d", from, to, len(p))
	}
	return p[from:to], nil
}

// emit hands an entry over.
func (d *file) emit(key, value []byte) error {
	if d.left -= len(key) + len(value) + 8; d.left < 0 {
		return damaged("entries overlap")
	}
	key, value = bytes.TrimSuffix(key, []byte{0}), bytes.TrimSuffix(value, []byte{0})
	if len(key) > maxKey || len(value) > maxValue {
		return fmt.Errorf("entry %.40q…: key over %d or value over %d bytes", key, maxKey, maxValue)
	}
	d.entries++
	return d.f(key, value)
}

// grow appends a part of a long item, within the bounds.
func (d *file) grow(b, part []byte) ([]byte, error) {
	if d.left -= len(part); d.left < 0 || len(b)+len(part) > maxValue+1 {
		return nil, damaged("an item of more than %d bytes", maxValue)
	}
	return append(b, part...), nil
}
