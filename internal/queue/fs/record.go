package fs

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// A segment is a run of records, text that less and grep can read. A record is a
// header line of fixed length, a payload, and a line end:
//
//	=record= 00000007 00000000000004d2 00000000000004d0 message 000001a4 8c5df56a
//	message 1a2b3c4d envelopes 1 body 113
//	envelope 1a2b3c4d00000001 size 187
//	version: 4
//	…
//	Received: from …
//
// The fields are hexadecimal: the generation of the segment, which grows with
// each reuse so that older bytes are never taken for newer ones; the number of
// the record; a number below which all records are known to have been synced,
// mostly that of the first record of the same sync; the kind; the length
// of the payload; and the CRC-32C of payload and header up to there.
//
// Kinds and payloads:
//
//	message  above; the envelopes and then the body follow without separators
//	deleted  "EVPID\n": the envelope is done
//	moved    "MSGID\n": the message is in the directories now
//	oldest   "GEN\n": segments of earlier generations hold nothing any more
//	invalid  "SEQ SEQ\n": messages in this range failed to be synced; ignore them
//	damaged  "GEN OFF OFF\n": this gap in a segment was dealt with
//	stopped  "\n": the journal was closed
//
// A payload never holds the magic word: a message that does goes to the
// directories. So a search behind damaged bytes finds real records only, and no
// mail can contain a forged one.

// magic begins a record. It is at the start of a line.
const magic = "=record= "

// kind is what a record is about; on disk its 7-letter word.
type kind string

const (
	kindMessage kind = "message"
	kindDeleted kind = "deleted"
	kindMoved   kind = "moved  "
	kindOldest  kind = "oldest "
	kindInvalid kind = "invalid"
	kindDamaged kind = "damaged"
	kindStopped kind = "stopped"
)

const (
	headerLen = len(magic) + 9 + 17 + 17 + 8 + 9 + 9
	crcAt     = headerLen - 9 // where the CRC begins in a header
)

// crcOf returns the CRC-32C of a payload.
func crcOf(payload []byte) uint32 { return crc32.Checksum(payload, castagnoli) }

// castagnoli is the table of CRC-32C, for which processors have instructions.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is a header, and the payload it announces.
type record struct {
	gen     uint32
	seq     uint64
	batch   uint64 // records before this one were synced, or are declared invalid
	kind    kind
	off     int64 // in the segment
	payload []byte
}

// size returns the length of the whole record.
func (r *record) size() int64 { return recordSize(len(r.payload)) }

func recordSize(payload int) int64 { return int64(headerLen + payload + 1) }

// appendRecord appends a record. crc is that of the payload.
func appendRecord(dst []byte, r *record, crc uint32) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = appendHex(dst, uint64(r.gen), 8, ' ')
	dst = appendHex(dst, r.seq, 16, ' ')
	dst = appendHex(dst, r.batch, 16, ' ')
	dst = append(dst, r.kind...)
	dst = append(dst, ' ')
	dst = appendHex(dst, uint64(len(r.payload)), 8, ' ')
	crc = crc32.Update(crc, castagnoli, dst[start:])
	dst = appendHex(dst, uint64(crc), 8, '\n')
	dst = append(dst, r.payload...)
	return append(dst, '\n')
}

// appendHex appends n in digits hexadecimal digits, and end.
func appendHex(dst []byte, n uint64, digits int, end byte) []byte {
	const hex = "0123456789abcdef"
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, hex[n>>(4*i)&15])
	}
	return append(dst, end)
}

// parseHex reads exactly digits hexadecimal digits and the byte end from the
// front of b, and returns the rest.
func parseHex(b []byte, digits int, end byte) (n uint64, rest []byte, ok bool) {
	if len(b) <= digits || b[digits] != end {
		return 0, nil, false
	}
	for _, c := range b[:digits] {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, nil, false
		}
	}
	return n, b[digits+1:], true
}

// parseRecord reads the record that begins at the front of b and verifies it.
// payload lies in b.
func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < headerLen || string(b[:len(magic)]) != magic {
		return r, false
	}
	h := b[len(magic):]
	gen, h, ok1 := parseHex(h, 8, ' ')
	seq, h, ok2 := parseHex(h, 16, ' ')
	batch, h, ok3 := parseHex(h, 16, ' ')
	if !ok1 || !ok2 || !ok3 || h[7] != ' ' {
		return r, false
	}
	r = record{gen: uint32(gen), seq: seq, batch: batch, kind: kind(h[:7])}
	size, h, ok1 := parseHex(h[8:], 8, ' ')
	crc, _, ok2 := parseHex(h, 8, '\n')
	if !ok1 || !ok2 || size >= uint64(len(b)-headerLen) || size > math.MaxInt32 {
		return r, false
	}
	r.payload = b[headerLen : headerLen+int(size)]
	if b[headerLen+int(size)] != '\n' || bytes.Contains(r.payload, []byte(magic)) {
		return r, false
	}
	sum := crc32.Update(crc32.Checksum(r.payload, castagnoli), castagnoli, b[:crcAt])
	return r, sum == uint32(crc)
}

// scan calls f for each valid record of a segment, in order of offset. Its work
// is linear in the size: a record ends before the next magic word.
func scan(segment []byte, f func(record)) {
	for pos := 0; ; {
		i := bytes.Index(segment[pos:], []byte(magic))
		if i < 0 {
			return
		}
		pos += i
		end := len(segment)
		if next := bytes.Index(segment[pos+len(magic):], []byte(magic)); next >= 0 {
			end = pos + len(magic) + next
		}
		r, ok := parseRecord(segment[pos:end])
		if !ok {
			pos += len(magic)
			continue
		}
		r.off = int64(pos)
		f(r)
		pos += int(r.size())
	}
}

// storedEnvelope is an envelope as stored: its text form, perhaps encoded.
type storedEnvelope struct {
	id   envelope.ID
	text []byte
}

// payload is the content of a message record. Its slices lie in the record.
type payload struct {
	id        envelope.MsgID
	envelopes []storedEnvelope
	body      []byte
}

var errPayload = errors.New("malformed message record")

// parsePayload reads the payload of a message record.
func parsePayload(b []byte) (p payload, err error) {
	var id, n, size uint64
	b, ok := fields(b, "message ", &id, 16, " envelopes ", &n, 10, " body ", &size, 10)
	// An envelope takes more than 32 bytes, which bounds n before memory is taken.
	if !ok || id == 0 || id > math.MaxUint32 || n == 0 || n > uint64(len(b)/32) {
		return p, errPayload
	}
	p.id = envelope.MsgID(id)
	p.envelopes = make([]storedEnvelope, 0, n)
	for range n {
		var evp, length uint64
		b, ok = fields(b, "envelope ", &evp, 16, " size ", &length, 10)
		if !ok || length > uint64(len(b)) || envelope.ID(evp).MsgID() != p.id {
			return p, errPayload
		}
		p.envelopes = append(p.envelopes, storedEnvelope{envelope.ID(evp), b[:length]})
		b = b[length:]
	}
	if uint64(len(b)) != size {
		return p, errPayload
	}
	p.body = b
	return p, nil
}

// fields reads a line made of words and numbers: each word is followed by where
// its number goes and the base it is written in. It returns what follows the line.
func fields(b []byte, spec ...any) (rest []byte, ok bool) {
	end := bytes.IndexByte(b[:min(len(b), 128)], '\n')
	if end < 0 {
		return nil, false
	}
	line := string(b[:end])
	for i := 0; i < len(spec); i += 3 {
		word := spec[i].(string)
		if len(line) < len(word) || line[:len(word)] != word {
			return nil, false
		}
		line = line[len(word):]
		n := 0
		for n < len(line) && line[n] != ' ' {
			n++
		}
		v, err := strconv.ParseUint(line[:n], spec[i+2].(int), 64)
		if err != nil {
			return nil, false
		}
		*spec[i+1].(*uint64) = v
		line = line[n:]
	}
	return b[end+1:], line == ""
}

// appendPayload appends the payload of a message record, or reports false when it
// would hold the magic word. The envelopes are written by text.
func appendPayload(dst []byte, id envelope.MsgID, n int, text func(dst []byte, i int) (envelope.ID, []byte, error), body []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, "message "...)
	dst = appendHex(dst, uint64(id), 8, ' ')
	dst = append(dst, "envelopes "...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, " body "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, '\n')
	for i := range n {
		// The size comes before the text: leave room for it in fixed width.
		dst = append(dst, "envelope 0000000000000000 size 00000\n"...)
		at := len(dst)
		id, b, err := text(dst, i)
		if err != nil {
			return nil, err
		}
		dst = b
		size := len(dst) - at
		if size > 99999 {
			return nil, fmt.Errorf("envelope %v takes %d bytes", id, size)
		}
		appendHex(dst[:at-28], uint64(id), 16, ' ')
		for k := range 5 {
			dst[at-2-k] = byte('0' + size%10)
			size /= 10
		}
	}
	dst = append(dst, body...)
	if bytes.Contains(dst[start:], []byte(magic)) {
		return nil, errJournalFull
	}
	return dst, nil
}

// numbers reads the payload of a short record: n hexadecimal numbers.
func numbers(b []byte, n int) ([]uint64, bool) {
	var list []uint64
	for f := range bytes.FieldsSeq(b) {
		v, err := strconv.ParseUint(string(f), 16, 64)
		if err != nil || len(list) == n {
			return nil, false
		}
		list = append(list, v)
	}
	return list, len(list) == n
}
