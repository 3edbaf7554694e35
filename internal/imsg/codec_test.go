package imsg

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

type id uint64

type inner struct {
	Name string
	Next *inner
	Kids []inner
}

// everything has a field of each kind that can be sent.
type everything struct {
	B     bool
	I8    int8
	I     int
	U16   uint16
	ID    id
	F     float64
	S     string
	Bytes []byte
	Strs  []string
	Fixed [4]byte
	Pair  [2]uint32
	In    *inner
	T     time.Time
	D     time.Duration
	Addr  netip.Addr
	Port  netip.AddrPort
	Ptr   *int
	Hops  []netip.AddrPort
}

func full() everything {
	n := -7
	return everything{
		B: true, I8: -128, I: math.MinInt, U16: 65535, ID: math.MaxUint64, F: -0.5,
		S: "text", Bytes: []byte{0, 1}, Strs: []string{"", "b"},
		Fixed: [4]byte{1, 2, 3, 4}, Pair: [2]uint32{9, 300},
		In: &inner{Name: "a", Next: &inner{Name: "b"}, Kids: []inner{{Name: "c"}}},
		T:  time.Unix(1_700_000_000, 5).UTC(), D: -time.Second,
		Addr: netip.MustParseAddr("fe80::1%eth0"), Port: netip.MustParseAddrPort("192.0.2.1:25"),
		Ptr: &n, Hops: []netip.AddrPort{{}},
	}
}

func encodeValue[T any](v T) ([]byte, error) {
	return planOf(reflect.TypeFor[T]()).encode(nil, reflect.ValueOf(&v).Elem())
}

func decodeValue[T any](b []byte, alias bool) (T, error) {
	var v T
	err := planOf(reflect.TypeFor[T]()).decode(b, reflect.ValueOf(&v).Elem(), alias)
	return v, err
}

func TestValuesArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]everything{"full": full(), "zero": {}} {
		b, err := encodeValue(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, alias := range []bool{false, true} {
			got, err := decodeValue[everything](b, alias)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, alias %v: got %+v, %v, want %+v", name, alias, got, err, want)
			}
		}
		for i := range b {
			if _, err := decodeValue[everything](b[:i], false); err == nil {
				t.Errorf("%s: the first %d of %d bytes are accepted", name, i, len(b))
			}
		}
		if _, err := decodeValue[everything](append(b, 0), false); err != errTrailing {
			t.Errorf("%s and one byte: got %v", name, err)
		}
	}
}

func TestLongBinaryValuesKeepTheirLength(t *testing.T) {
	t.Parallel()
	want := netip.MustParseAddr("fe80::1").WithZone(strings.Repeat("z", 300))
	b, err := encodeValue([]netip.Addr{want, want})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeValue[[]netip.Addr](b, false)
	if err != nil || len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestGoldenPayloads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		enc  func() ([]byte, error)
		want string
	}{
		{"string", func() ([]byte, error) { return encodeValue("hi") }, "02 6869"},
		{"signed", func() ([]byte, error) { return encodeValue([]int{0, -1, 1, 64}) }, "04 00 01 02 8001"},
		{"unsigned", func() ([]byte, error) { return encodeValue([]uint16{127, 128}) }, "02 7f 8001"},
		{"optional", func() ([]byte, error) { return encodeValue([]*bool{nil, new(bool)}) }, "02 00 0100"},
		{"time", func() ([]byte, error) { return encodeValue([]time.Time{{}, time.Unix(1, 2)}) }, "02 00 01000000003b9aca02"},
		{"address", func() ([]byte, error) { return encodeValue(netip.MustParseAddr("192.0.2.1")) }, "04 c0000201"},
		{"struct", func() ([]byte, error) { return encodeValue(echo{N: 1, Text: "a", Body: []byte{9}}) }, "02 0161 0109"},
	} {
		b, err := tt.enc()
		if want := strings.ReplaceAll(tt.want, " ", ""); err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: got %x, %v, want %s", tt.name, b, err, want)
		}
	}
}

func TestMalformedPayloadsAreRefused(t *testing.T) {
	t.Parallel()
	deep := append(bytes.Repeat([]byte{0, 1}, maxDepth+1), 0, 0, 0)
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"bool 2", second(decodeValue[bool]([]byte{2}, false)), errForm},
		{"padded varint", second(decodeValue[uint32]([]byte{0x81, 0}, false)), errForm},
		{"65 bits", second(decodeValue[uint64](bytes.Repeat([]byte{0xff}, 11), false)), errRange},
		{"256 in a byte", second(decodeValue[uint8]([]byte{0x80, 2}, false)), errRange},
		{"128 in an int8", second(decodeValue[int8]([]byte{0x80, 2}, false)), errRange},
		{"long string", second(decodeValue[string]([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, false)), errCount},
		{"long slice", second(decodeValue[[]inner]([]byte{2, 0, 0, 0, 0, 0}, false)), errCount},
		{"deep nesting", second(decodeValue[inner](deep, false)), errDepth},
	} {
		if tt.err != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	if _, err := decodeValue[netip.Addr]([]byte{3, 1, 2, 3}, false); err == nil {
		t.Error("an address of three bytes is accepted")
	}
}

func second[T any](_ T, err error) error { return err }

func TestUnsendableValuesAreRefused(t *testing.T) {
	t.Parallel()
	ring := &inner{}
	ring.Next = ring
	if _, err := encodeValue(*ring); !errors.Is(err, errDepth) {
		t.Errorf("a ring: got %v", err)
	}
	if _, err := encodeValue(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)); !errors.Is(err, errTime) {
		t.Errorf("the year 3000: got %v", err)
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[map[string]int](), reflect.TypeFor[any](), reflect.TypeFor[func()](),
		reflect.TypeFor[struct{ hidden int }](), reflect.TypeFor[[]struct{}](), reflect.TypeFor[chan int](),
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v has a plan", typ)
				}
			}()
			planOf(typ)
		}()
	}
}

// memory is what v's pointers, slices and strings refer to, in bytes.
func memory(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Slice:
		n = v.Len() * int(v.Type().Elem().Size())
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return n
		}
		for i := range v.Len() {
			n += memory(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return int(v.Type().Elem().Size()) + memory(v.Elem())
		}
	case reflect.Struct:
		switch v.Type() {
		case reflect.TypeFor[time.Time](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.AddrPort]():
			return 0
		}
		for i := range v.NumField() {
			n += memory(v.Field(i))
		}
	}
	return n
}

// What decodes encodes to the same bytes, and takes at most 32 bytes of memory
// for each byte read.
func FuzzDecode(f *testing.F) {
	for _, v := range []everything{{}, full()} {
		b, err := encodeValue(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeValue[everything](b, false)
		if n := memory(reflect.ValueOf(v)); n > 32*len(b) {
			t.Errorf("%d bytes of memory for %d read", n, len(b))
		}
		if err != nil {
			return
		}
		again, err := encodeValue(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x, %v", b, again, err)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	v := full()
	p := planOf(reflect.TypeFor[everything]())
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = p.encode(buf[:0], reflect.ValueOf(&v).Elem()); err != nil {
			b.Fatal(err)
		}
		var got everything
		if err := p.decode(buf, reflect.ValueOf(&got).Elem(), true); err != nil {
			b.Fatal(err)
		}
	}
}
