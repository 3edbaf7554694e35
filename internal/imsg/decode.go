package imsg

import (
	"encoding"
	"encoding/binary"
	"math"
	"reflect"
	"time"
)

// decoder reads values from the front of b. Lengths are checked against the
// bytes left before memory is taken.
type decoder struct {
	b     []byte
	alias bool // []byte values may share b's memory
}

func (d *decoder) next(n int) ([]byte, error) {
	if n > len(d.b) {
		return nil, errShort
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b, nil
}

func (d *decoder) uvarint() (uint64, error) {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		x := d.b[0]
		d.b = d.b[1:]
		return uint64(x), nil
	}
	x, n := binary.Uvarint(d.b)
	switch {
	case n == 0:
		return 0, errShort
	case n < 0:
		return 0, errRange
	case d.b[n-1] == 0: // longer than need be
		return 0, errForm
	}
	d.b = d.b[n:]
	return x, nil
}

// counted reads a length and that many bytes, which still belong to d.
func (d *decoder) counted() ([]byte, error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	if n > uint64(len(d.b)) {
		return nil, errCount
	}
	return d.next(int(n))
}

func (d *decoder) flag() (bool, error) {
	b, err := d.next(1)
	if err != nil {
		return false, err
	}
	if b[0] > 1 {
		return false, errForm
	}
	return b[0] == 1, nil
}

func readBool(d *decoder, v reflect.Value, _ int) error {
	x, err := d.flag()
	v.SetBool(x)
	return err
}

func readInt(d *decoder, v reflect.Value, _ int) error {
	u, err := d.uvarint()
	if err != nil {
		return err
	}
	x := int64(u>>1) ^ -int64(u&1)
	if v.OverflowInt(x) {
		return errRange
	}
	v.SetInt(x)
	return nil
}

func readUint(d *decoder, v reflect.Value, _ int) error {
	x, err := d.uvarint()
	if err != nil {
		return err
	}
	if v.OverflowUint(x) {
		return errRange
	}
	v.SetUint(x)
	return nil
}

func readFloat(d *decoder, v reflect.Value, _ int) error {
	b, err := d.next(8)
	if err != nil {
		return err
	}
	v.SetFloat(math.Float64frombits(binary.BigEndian.Uint64(b)))
	return nil
}

func readString(d *decoder, v reflect.Value, _ int) error {
	b, err := d.counted()
	if err != nil {
		return err
	}
	v.SetString(string(b))
	return nil
}

func readBytes(d *decoder, v reflect.Value, _ int) error {
	b, err := d.counted()
	if err != nil {
		return err
	}
	switch {
	case len(b) == 0:
		v.SetZero()
	case d.alias:
		v.SetBytes(b)
	default:
		v.SetBytes(append([]byte(nil), b...))
	}
	return nil
}

func readTime(d *decoder, v reflect.Value, _ int) error {
	set, err := d.flag()
	if err != nil || !set {
		return err
	}
	b, err := d.next(8)
	if err != nil {
		return err
	}
	*v.Addr().Interface().(*time.Time) = time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC()
	return nil
}

func readBinary(d *decoder, v reflect.Value, _ int) error {
	b, err := d.counted()
	if err != nil {
		return err
	}
	return v.Addr().Interface().(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
}
