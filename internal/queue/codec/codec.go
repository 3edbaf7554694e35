// Package codec compresses and encrypts what a mail store keeps: bodies and
// envelopes, each on its own. queue/fs takes a Codec as its Options.Codec.
//
// Compression is gzip or Zstandard. Encryption is AES-256-GCM. With both, what is
// compressed is then encrypted. What is stored says by its first bytes how it is
// to be read, so that a spool keeps being readable when either is turned on, or
// compression off again; text written before is passed through:
//
//	1f 8b          gzip
//	28 b5 2f fd    Zstandard
//	01             AES-256-GCM as OpenSMTPD 7 has it: 12 bytes nonce, ciphertext, tag
//	02             AES-256-GCM of this package, below
//	else           plain text
//
// Plain text that begins with one of these is stored as gzip, whatever the
// settings, so that it is never taken for something else.
//
// Form 02 is the byte 02, a random salt of 16 bytes, and chunks of 64 KiB of
// plain text, the last one shorter (perhaps empty), each followed by a tag of 16
// bytes. The key of the content is HKDF-SHA-256 (RFC 5869) of the configured key,
// the salt, and the info "smtpd queue 02" followed by a NUL and the name of the
// content, its MSGID or EVPID: content does not decrypt in another place. The
// nonce of a chunk is its number in 11 bytes, big-endian, and a byte that is 1 for
// the last one: chunks can be neither reordered nor left out.
package codec

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Compression is how content is compressed before it is stored.
type Compression uint8

// The ways to compress.
const (
	None Compression = iota
	Gzip
	Zstd
)

const (
	oldForm  = 0x01
	form     = 0x02
	saltLen  = 16
	nonceLen = 12
	tagLen   = 16
	chunkLen = 64 << 10
	info     = "smtpd queue 02\x00"

	// maxOld bounds content in the old form, which can only be decrypted whole.
	maxOld = 64 << 20
)

// Errors of decoding. Neither says that the content is damaged beyond doubt: a
// wrong key looks the same.
var (
	ErrNoKey   = errors.New("the content is encrypted and no key is configured")
	ErrDecrypt = errors.New("the content does not decrypt: another key, or damage")
)

// Codec encodes and decodes. It may be used by many goroutines at a time.
type Codec struct {
	compression Compression
	key         []byte
	gzips       sync.Pool // *gzip.Writer: either kind takes a megabyte to make
	zstds       sync.Pool // *zstd.Encoder
	unzstds     sync.Pool // *zstd.Decoder
}

// New returns a codec. key is 32 bytes, or empty for no encryption. A Codec that
// neither compresses nor encrypts still reads compressed content.
func New(c Compression, key []byte) (*Codec, error) {
	if c > Zstd {
		return nil, fmt.Errorf("codec: compression %d is unknown", c)
	}
	if len(key) != 0 && len(key) != 32 {
		return nil, fmt.Errorf("codec: the key has %d bytes, not 32", len(key))
	}
	return &Codec{compression: c, key: bytes.Clone(key)}, nil
}

// Idle tells that the codec neither compresses nor encrypts.
func (c *Codec) Idle() bool { return c.compression == None && len(c.key) == 0 }

// Encode appends src, encoded for the place name, to dst.
func (c *Codec) Encode(dst, src []byte, name string) ([]byte, error) {
	if c.Idle() && !c.Encoded(src) {
		return append(dst, src...), nil
	}
	b := bytes.NewBuffer(dst)
	if err := c.EncodeStream(b, bytes.NewReader(src), name); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode appends src, decoded, to dst. It fails when that is more than max bytes.
func (c *Codec) Decode(dst, src []byte, name string, max int) ([]byte, error) {
	if !c.Encoded(src) {
		if len(src) > max {
			return nil, tooLong(max)
		}
		return append(dst, src...), nil
	}
	w := &limited{b: dst, left: max, max: max}
	if err := c.DecodeStream(w, bytes.NewReader(src), name); err != nil {
		return nil, err
	}
	return w.b, nil
}

func tooLong(max int) error { return fmt.Errorf("the decoded content exceeds %d bytes", max) }

// limited gathers up to max bytes.
type limited struct {
	b         []byte
	left, max int
}

func (w *limited) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, tooLong(w.max)
	}
	w.left -= len(p)
	w.b = append(w.b, p...)
	return len(p), nil
}

// Encoded tells whether content that begins with b is encoded. 4 bytes suffice.
func (c *Codec) Encoded(b []byte) bool {
	return len(b) > 0 && (b[0] == form || b[0] == oldForm) || compressed(b) != None
}

func compressed(b []byte) Compression {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	}
	return None
}

// EncodeStream writes r, encoded for the place name, to w.
func (c *Codec) EncodeStream(w io.Writer, r io.Reader, name string) error {
	compression := c.compression
	if compression == None {
		in := bufio.NewReaderSize(r, 4096)
		head, err := in.Peek(4)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if c.Encoded(head) {
			compression = Gzip
		}
		r = in
	}
	closers := []io.Closer{}
	if len(c.key) > 0 {
		s, err := c.newSealer(w, name)
		if err != nil {
			return err
		}
		w = s
		closers = append(closers, s)
	}
	switch compression {
	case Gzip:
		z, _ := c.gzips.Get().(*gzip.Writer)
		if z == nil {
			z = gzip.NewWriter(w)
		}
		z.Reset(w)
		defer c.gzips.Put(z)
		w = z
		closers = append(closers, z)
	case Zstd:
		z, _ := c.zstds.Get().(*zstd.Encoder)
		if z == nil {
			var err error
			if z, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20)); err != nil {
				return err
			}
		}
		z.Reset(w)
		defer c.zstds.Put(z)
		w = z
		closers = append(closers, z)
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	for i := len(closers) - 1; i >= 0; i-- {
		if err := closers[i].Close(); err != nil {
			return err
		}
	}
	return nil
}

// DecodeStream writes r, decoded, to w. What was written before an error must not
// be used.
func (c *Codec) DecodeStream(w io.Writer, r io.Reader, name string) error {
	in := bufio.NewReader(r)
	head, err := in.Peek(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(head) > 0 && head[0] == form {
		if in, err = c.unseal(in, name); err != nil {
			return err
		}
	} else if len(head) > 0 && head[0] == oldForm {
		if in, err = c.unsealOld(in); err != nil {
			return err
		}
	}
	head, err = in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch compressed(head) {
	case Gzip:
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, z)
		return errors.Join(err, z.Close())
	case Zstd:
		z, _ := c.unzstds.Get().(*zstd.Decoder)
		if z == nil {
			// One goroutine: it needs no Close. The window bounds the memory.
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
				return err
			}
		}
		defer c.unzstds.Put(z)
		if err := z.Reset(in); err != nil {
			return err
		}
		_, err = io.Copy(w, z)
		return err
	}
	_, err = io.Copy(w, in)
	return err
}

// aead returns the cipher of one content.
func (c *Codec) aead(salt []byte, name string) (cipher.AEAD, error) {
	if len(c.key) == 0 {
		return nil, ErrNoKey
	}
	key, err := hkdf.Key(sha256.New, c.key, salt, info+name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonce returns the nonce of chunk n.
func nonce(n uint64, last bool) []byte {
	var b [nonceLen]byte
	binary.BigEndian.PutUint64(b[nonceLen-1-8:], n)
	if last {
		b[nonceLen-1] = 1
	}
	return b[:]
}

// sealer encrypts what is written to it. Close writes the last chunk.
type sealer struct {
	w    io.Writer
	aead cipher.AEAD
	buf  []byte // plain text of the chunk at hand
	out  []byte
	n    uint64
}

func (c *Codec) newSealer(w io.Writer, name string) (*sealer, error) {
	head := make([]byte, 1+saltLen)
	head[0] = form
	if _, err := rand.Read(head[1:]); err != nil {
		return nil, err
	}
	aead, err := c.aead(head[1:], name)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	return &sealer{w: w, aead: aead}, nil
}

func (s *sealer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(s.buf) == chunkLen {
			if err := s.chunk(false); err != nil {
				return 0, err
			}
		}
		k := min(len(p), chunkLen-len(s.buf))
		s.buf = append(s.buf, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

// Close writes what is left as the last chunk, which is shorter than a whole one.
func (s *sealer) Close() error {
	if len(s.buf) == chunkLen {
		if err := s.chunk(false); err != nil {
			return err
		}
	}
	return s.chunk(true)
}

func (s *sealer) chunk(last bool) error {
	s.out = s.aead.Seal(s.out[:0], nonce(s.n, last), s.buf, nil)
	s.n++
	s.buf = s.buf[:0]
	_, err := s.w.Write(s.out)
	return err
}

// unsealer decrypts the form of this package as it is read.
type unsealer struct {
	r     io.Reader
	aead  cipher.AEAD
	chunk []byte // ciphertext
	plain []byte // decrypted and not yet read
	n     uint64
	last  bool
}

func (c *Codec) unseal(r io.Reader, name string) (*bufio.Reader, error) {
	head := make([]byte, 1+saltLen)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	aead, err := c.aead(head[1:], name)
	if err != nil {
		return nil, err
	}
	return bufio.NewReader(&unsealer{r: r, aead: aead}), nil
}

func (u *unsealer) Read(p []byte) (int, error) {
	for len(u.plain) == 0 {
		if u.last {
			return 0, io.EOF
		}
		if err := u.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, u.plain)
	u.plain = u.plain[n:]
	return n, nil
}

func (u *unsealer) next() error {
	if u.chunk == nil {
		u.chunk = make([]byte, chunkLen+tagLen)
	}
	n, err := io.ReadFull(u.r, u.chunk[:chunkLen+tagLen])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		u.last = true
	case err != nil:
		return err
	}
	u.plain, err = u.aead.Open(u.chunk[:0], nonce(u.n, u.last), u.chunk[:n], nil)
	if err != nil {
		return ErrDecrypt
	}
	u.n++
	return nil
}

// unsealOld decrypts the form of OpenSMTPD 7.
func (c *Codec) unsealOld(r io.Reader) (*bufio.Reader, error) {
	if len(c.key) == 0 {
		return nil, ErrNoKey
	}
	b, err := io.ReadAll(io.LimitReader(r, maxOld+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxOld || len(b) < 1+nonceLen+tagLen {
		return nil, ErrDecrypt
	}
	block, err := aes.NewCipher(c.key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(b[1+nonceLen:1+nonceLen], b[1:1+nonceLen], b[1+nonceLen:], nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return bufio.NewReader(bytes.NewReader(plain)), nil
}
