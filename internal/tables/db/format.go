package db

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Bounds of the format.
const (
	headerSize = 256 * 8
	maxFile    = math.MaxUint32 // bytes
	maxKey     = 64 << 10
	maxValue   = 1 << 20
)

// ErrFormat says that a file is no database of ours.
var ErrFormat = errors.New("not a table database")

// hash is the hash of the constant database format.
func hash(key string) uint32 {
	h := uint32(5381)
	for i := 0; i < len(key); i++ {
		h = (h << 5) + h ^ uint32(key[i])
	}
	return h
}

// bucket is one of the 256 hash tables: where it begins and how many slots of 8
// bytes it has.
type bucket struct{ pos, slots uint32 }

// reader reads a database.
type reader struct {
	r       io.ReaderAt
	buckets [256]bucket
	end     uint32 // of the records, which begin at headerSize
}

// newReader checks the header: the hash tables follow each other without a gap,
// from behind the records to the end of the file.
func newReader(r io.ReaderAt, size int64) (*reader, error) {
	if size < headerSize || size > maxFile {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, size)
	}
	var b [headerSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	d := &reader{r: r}
	next := uint64(0)
	for i := range d.buckets {
		k := bucket{binary.LittleEndian.Uint32(b[8*i:]), binary.LittleEndian.Uint32(b[8*i+4:])}
		if i == 0 {
			next, d.end = uint64(k.pos), k.pos
		}
		if uint64(k.pos) != next || k.pos < headerSize {
			return nil, fmt.Errorf("%w: bad header", ErrFormat)
		}
		next += 8 * uint64(k.slots)
		d.buckets[i] = k
	}
	if next != uint64(size) {
		return nil, fmt.Errorf("%w: %d bytes, the header tells of %d", ErrFormat, size, next)
	}
	return d, nil
}

// readAt fills b from pos, which must lie inside the file.
func (d *reader) readAt(b []byte, pos uint32) error {
	if _, err := d.r.ReadAt(b, int64(pos)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at %d: %w", pos, err)
	}
	return nil
}

// sizes returns the length of key and value of the record at pos.
func (d *reader) sizes(pos uint32) (klen, vlen uint32, err error) {
	if pos < headerSize || uint64(pos)+8 > uint64(d.end) {
		return 0, 0, fmt.Errorf("%w: record at %d", ErrFormat, pos)
	}
	var b [8]byte
	if err := d.readAt(b[:], pos); err != nil {
		return 0, 0, err
	}
	klen, vlen = binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])
	if klen > maxKey || vlen > maxValue || uint64(pos)+8+uint64(klen)+uint64(vlen) > uint64(d.end) {
		return 0, 0, fmt.Errorf("%w: record at %d", ErrFormat, pos)
	}
	return klen, vlen, nil
}

// text reads n bytes at pos.
func (d *reader) text(pos, n uint32) (string, error) {
	if n == 0 {
		return "", nil
	}
	b := make([]byte, n)
	err := d.readAt(b, pos)
	return string(b), err
}

// record is one row and its place; the next begins at next.
type record struct {
	key, value string
	pos, next  uint32
}

// record reads the record at pos.
func (d *reader) record(pos uint32) (record, error) {
	klen, vlen, err := d.sizes(pos)
	if err != nil {
		return record{}, err
	}
	both, err := d.text(pos+8, klen+vlen)
	if err != nil {
		return record{}, err
	}
	return record{both[:klen], both[klen:], pos, pos + 8 + klen + vlen}, nil
}

// find returns the first record of a key.
func (d *reader) find(key string) (record, bool, error) {
	h := hash(key)
	k := d.buckets[h&255]
	if k.slots == 0 || len(key) > maxKey {
		return record{}, false, nil
	}
	var b [8]byte
	slot := (h >> 8) % k.slots
	for range k.slots {
		if err := d.readAt(b[:], k.pos+8*slot); err != nil {
			return record{}, false, err
		}
		pos := binary.LittleEndian.Uint32(b[4:])
		if pos == 0 {
			return record{}, false, nil
		}
		if binary.LittleEndian.Uint32(b[:]) == h {
			klen, _, err := d.sizes(pos)
			if err != nil {
				return record{}, false, err
			}
			if int(klen) == len(key) {
				r, err := d.record(pos)
				if err != nil || r.key == key {
					return r, err == nil, err
				}
			}
		}
		if slot++; slot == k.slots {
			slot = 0
		}
	}
	return record{}, false, nil
}

// walk calls f for each record in the order written.
func (d *reader) walk(f func(record) error) error {
	for pos := uint32(headerSize); pos < d.end; {
		r, err := d.record(pos)
		if err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
		pos = r.next
	}
	return nil
}

// layout is the file being written: records first, the hash tables at the end.
type layout struct {
	w     io.Writer
	pos   uint64
	slots [256][]slot
}

type slot struct{ hash, pos uint32 }

func (l *layout) write(b []byte) error {
	if l.pos += uint64(len(b)); l.pos > maxFile {
		return errors.New("a table database holds at most 4 GiB")
	}
	_, err := l.w.Write(b)
	return err
}

// add writes a record.
func (l *layout) add(key, value string) error {
	if len(key) > maxKey || len(value) > maxValue {
		return fmt.Errorf("entry %.40q…: key over %d or value over %d bytes", key, maxKey, maxValue)
	}
	h := hash(key)
	l.slots[h&255] = append(l.slots[h&255], slot{h, uint32(l.pos)})
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(key)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	return l.write(append(append(b, key...), value...))
}

// finish writes the hash tables and returns the header.
func (l *layout) finish() ([]byte, error) {
	var header bytes.Buffer
	for _, list := range l.slots {
		n := uint32(2 * len(list))
		table := make([]slot, n)
		for _, s := range list {
			at := (s.hash >> 8) % n
			for table[at].pos != 0 {
				at = (at + 1) % n
			}
			table[at] = s
		}
		b := binary.LittleEndian.AppendUint32(nil, uint32(l.pos))
		header.Write(binary.LittleEndian.AppendUint32(b, n))
		b = b[:0]
		for _, s := range table {
			b = binary.LittleEndian.AppendUint32(b, s.hash)
			b = binary.LittleEndian.AppendUint32(b, s.pos)
		}
		if err := l.write(b); err != nil {
			return nil, err
		}
	}
	return header.Bytes(), nil
}
