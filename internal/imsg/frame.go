package imsg

import (
	"encoding/binary"
	"fmt"
)

const (
	headerSize = 16       // bytes
	maxPayload = 64 << 10 // bytes of a frame after its header

	flagReply  = 0x0001
	flagError  = 0x0002
	flagOneWay = 0x0004
	flagMore   = 0x0008
	flagCancel = 0x0010
	fileShift  = 8
	fileMask   = 0x0f00
	knownFlags = flagReply | flagError | flagOneWay | flagMore | flagCancel | fileMask
)

// header is the fixed part of a frame.
type header struct {
	length uint32 // of the payload
	method uint16
	flags  uint16
	id     uint64
}

func (h header) files() int { return int(h.flags & fileMask >> fileShift) }

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = binary.BigEndian.AppendUint16(b, h.method)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	return binary.BigEndian.AppendUint64(b, h.id)
}

// parseHeader reads a header from the first headerSize bytes of b and refuses
// those that mean nothing whatever came before.
func parseHeader(b []byte) (header, error) {
	h := header{
		length: binary.BigEndian.Uint32(b),
		method: binary.BigEndian.Uint16(b[4:]),
		flags:  binary.BigEndian.Uint16(b[6:]),
		id:     binary.BigEndian.Uint64(b[8:]),
	}
	is := func(f uint16) bool { return h.flags&f != 0 }
	switch {
	case h.length > maxPayload:
		return h, violation("frame of %d bytes", h.length)
	case is(^uint16(knownFlags)):
		return h, violation("unknown flags %#04x", h.flags)
	case h.files() > MaxFiles:
		return h, violation("%d descriptors in a frame", h.files())
	case is(flagCancel) && (h.flags != flagCancel || h.length != 0 || h.method != 0):
		return h, violation("cancel with flags %#04x, method %d, %d bytes", h.flags, h.method, h.length)
	case is(flagReply) && is(flagOneWay):
		return h, violation("one-way reply")
	case is(flagError) && (!is(flagReply) || is(flagMore) || h.files() > 0):
		return h, violation("error with flags %#04x", h.flags)
	case is(flagMore) && h.length != maxPayload:
		return h, violation("%d bytes in a frame that is not the last of its message", h.length)
	}
	return h, nil
}

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
