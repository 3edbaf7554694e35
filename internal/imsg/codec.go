package imsg

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"
)

// maxDepth bounds the nesting of structs, slices and pointers in one value.
const maxDepth = 32

var (
	errShort    = errors.New("value is cut short")
	errTrailing = errors.New("trailing bytes")
	errRange    = errors.New("number out of range")
	errForm     = errors.New("not in canonical form")
	errCount    = errors.New("count exceeds the bytes left")
	errDepth    = errors.New("nested too deeply")
	errTime     = errors.New("time not representable in nanoseconds")
)

// plan is how one Go type is written and read. A value has one encoding only,
// and what decodes encodes to the same bytes:
//
//	bool                          0 or 1
//	unsigned integers             shortest uvarint
//	signed integers, Duration     zigzag, then uvarint
//	float64                       8 bytes
//	string, []byte                uvarint length, bytes
//	slice                         uvarint count, elements
//	array                         elements
//	struct                        its fields, all exported
//	pointer                       0 for nil, or 1 and what it points to
//	time.Time                     0 for the zero time, or 1 and 8 bytes Unix nanoseconds
//	AppendBinary+UnmarshalBinary  uvarint length, bytes (netip.Addr, netip.AddrPort …)
//
// Empty slices arrive as nil, times in UTC without monotonic reading. Maps,
// interfaces, functions, channels and unexported fields have no plan.
type plan struct {
	min    int // fewest bytes of an encoded value
	append func(b []byte, v reflect.Value, depth int) ([]byte, error)
	read   func(d *decoder, v reflect.Value, depth int) error
}

// plans caches by reflect.Type what planOf made.
var plans sync.Map

// planOf returns the plan of a type and panics when there is none, which is a
// mistake in the declaration of a Method.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	made := map[reflect.Type]*plan{}
	p := compile(t, made)
	for t, p := range made {
		plans.LoadOrStore(t, p)
	}
	return p
}

// encode appends v, which must be addressable.
func (p *plan) encode(b []byte, v reflect.Value) ([]byte, error) {
	return p.append(b, v, 0)
}

// decode reads all of b into v. With alias, []byte values share b's memory.
func (p *plan) decode(b []byte, v reflect.Value, alias bool) error {
	d := decoder{b: b, alias: alias}
	if err := p.read(&d, v, 0); err != nil {
		return err
	}
	if len(d.b) != 0 {
		return errTrailing
	}
	return nil
}

// compile makes the plan of t. A type that contains itself finds its own
// unfinished plan in made, with a minimum of 0; compileSlice copes.
func compile(t reflect.Type, made map[reflect.Type]*plan) *plan {
	if p := made[t]; p != nil {
		return p
	}
	p := new(plan)
	made[t] = p
	switch {
	case t == reflect.TypeFor[time.Time]():
		*p = plan{1, appendTime, readTime}
		return p
	case isBinary(t):
		*p = plan{1, appendBinary, readBinary}
		return p
	}
	switch t.Kind() {
	case reflect.Bool:
		*p = plan{1, appendBool, readBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		*p = plan{1, appendInt, readInt}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		*p = plan{1, appendUint, readUint}
	case reflect.Float64:
		*p = plan{8, appendFloat, readFloat}
	case reflect.String:
		*p = plan{1, appendString, readString}
	case reflect.Slice:
		compileSlice(p, t, made)
	case reflect.Array:
		compileArray(p, t, made)
	case reflect.Struct:
		compileStruct(p, t, made)
	case reflect.Pointer:
		compilePointer(p, t, made)
	default:
		panic(fmt.Sprintf("imsg: type %v cannot be sent", t))
	}
	return p
}

func isBinary(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[encoding.BinaryAppender]()) &&
		reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.BinaryUnmarshaler]()) &&
		t.Kind() != reflect.Pointer
}

func compileSlice(p *plan, t reflect.Type, made map[reflect.Type]*plan) {
	if t.Elem().Kind() == reflect.Uint8 && !isBinary(t.Elem()) {
		*p = plan{1, appendBytes, readBytes}
		return
	}
	p.min = 1 // known before the element, which may hold this very type
	elem := compile(t.Elem(), made)
	if t.Elem().Size() == 0 {
		panic(fmt.Sprintf("imsg: elements of %v take no bytes", t))
	}
	p.append = func(b []byte, v reflect.Value, depth int) ([]byte, error) {
		if depth >= maxDepth {
			return b, errDepth
		}
		n := v.Len()
		b = binary.AppendUvarint(b, uint64(n))
		var err error
		for i := range n {
			if b, err = elem.append(b, v.Index(i), depth+1); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	p.read = func(d *decoder, v reflect.Value, depth int) error {
		if depth >= maxDepth {
			return errDepth
		}
		n, err := d.uvarint()
		if err != nil {
			return err
		}
		if n > uint64(len(d.b)/max(elem.min, 1)) {
			return errCount
		}
		if n == 0 {
			v.SetZero()
			return nil
		}
		v.Set(reflect.MakeSlice(t, int(n), int(n)))
		for i := range int(n) {
			if err := elem.read(d, v.Index(i), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
}

func compileArray(p *plan, t reflect.Type, made map[reflect.Type]*plan) {
	elem := compile(t.Elem(), made)
	n := t.Len()
	bytes := t.Elem().Kind() == reflect.Uint8 && !isBinary(t.Elem())
	p.min = n * elem.min
	p.append = func(b []byte, v reflect.Value, depth int) ([]byte, error) {
		if bytes {
			return append(b, v.Bytes()...), nil
		}
		var err error
		for i := range n {
			if b, err = elem.append(b, v.Index(i), depth); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	p.read = func(d *decoder, v reflect.Value, depth int) error {
		if bytes {
			b, err := d.next(n)
			copy(v.Bytes(), b)
			return err
		}
		for i := range n {
			if err := elem.read(d, v.Index(i), depth); err != nil {
				return err
			}
		}
		return nil
	}
}

func compileStruct(p *plan, t reflect.Type, made map[reflect.Type]*plan) {
	fields := make([]*plan, t.NumField())
	for i := range fields {
		f := t.Field(i)
		if !f.IsExported() {
			panic(fmt.Sprintf("imsg: field %v.%s is not exported", t, f.Name))
		}
		fields[i] = compile(f.Type, made)
		p.min += fields[i].min
	}
	p.append = func(b []byte, v reflect.Value, depth int) ([]byte, error) {
		var err error
		for i, f := range fields {
			if b, err = f.append(b, v.Field(i), depth); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	p.read = func(d *decoder, v reflect.Value, depth int) error {
		for i, f := range fields {
			if err := f.read(d, v.Field(i), depth); err != nil {
				return err
			}
		}
		return nil
	}
}

func compilePointer(p *plan, t reflect.Type, made map[reflect.Type]*plan) {
	p.min = 1
	elem := compile(t.Elem(), made)
	p.append = func(b []byte, v reflect.Value, depth int) ([]byte, error) {
		if v.IsNil() {
			return append(b, 0), nil
		}
		if depth >= maxDepth {
			return b, errDepth
		}
		return elem.append(append(b, 1), v.Elem(), depth+1)
	}
	p.read = func(d *decoder, v reflect.Value, depth int) error {
		set, err := d.flag()
		if err != nil || !set {
			return err
		}
		if depth >= maxDepth {
			return errDepth
		}
		// Memory is taken only when at least the shortest value is there.
		if len(d.b) < elem.min {
			return errShort
		}
		v.Set(reflect.New(t.Elem()))
		return elem.read(d, v.Elem(), depth+1)
	}
}

func appendBool(b []byte, v reflect.Value, _ int) ([]byte, error) {
	if v.Bool() {
		return append(b, 1), nil
	}
	return append(b, 0), nil
}

func appendInt(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return binary.AppendVarint(b, v.Int()), nil
}

func appendUint(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return binary.AppendUvarint(b, v.Uint()), nil
}

func appendFloat(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float())), nil
}

func appendString(b []byte, v reflect.Value, _ int) ([]byte, error) {
	s := v.String()
	return append(binary.AppendUvarint(b, uint64(len(s))), s...), nil
}

func appendBytes(b []byte, v reflect.Value, _ int) ([]byte, error) {
	s := v.Bytes()
	return append(binary.AppendUvarint(b, uint64(len(s))), s...), nil
}

func appendTime(b []byte, v reflect.Value, _ int) ([]byte, error) {
	t := v.Addr().Interface().(*time.Time)
	if t.IsZero() {
		return append(b, 0), nil
	}
	n := t.UnixNano()
	if !time.Unix(0, n).Equal(*t) {
		return b, errTime
	}
	return binary.BigEndian.AppendUint64(append(b, 1), uint64(n)), nil
}

func appendBinary(b []byte, v reflect.Value, _ int) ([]byte, error) {
	// Most encodings are shorter than 128 bytes: leave one byte for the length.
	at := len(b)
	b, err := v.Addr().Interface().(encoding.BinaryAppender).AppendBinary(append(b, 0))
	if err != nil {
		return b, err
	}
	n := len(b) - at - 1
	if n < 0x80 {
		b[at] = byte(n)
		return b, nil
	}
	var head [binary.MaxVarintLen64]byte
	h := binary.PutUvarint(head[:], uint64(n))
	b = append(b, head[:h-1]...)
	copy(b[at+h:], b[at+1:at+1+n])
	copy(b[at:], head[:h])
	return b, nil
}
