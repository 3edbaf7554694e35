package codec

import (
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"strings"
	"testing"
)

var key = []byte("0123456789abcdef0123456789abcdef")

func codec(t testing.TB, c Compression, key []byte) *Codec {
	t.Helper()
	k, err := New(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func all(t testing.TB) map[string]*Codec {
	return map[string]*Codec{
		"none": codec(t, None, nil), "gzip": codec(t, Gzip, nil), "zstd": codec(t, Zstd, nil),
		"encrypted": codec(t, None, key), "gzip, encrypted": codec(t, Gzip, key), "zstd, encrypted": codec(t, Zstd, key),
	}
}

func TestContentOfAnySizeReadsBack(t *testing.T) {
	t.Parallel()
	text := []byte(strings.Repeat("Received: by mx.example.org\n", 20000))
	for name, c := range all(t) {
		for _, size := range []int{0, 1, 100, chunkLen - 1, chunkLen, chunkLen + 1, 3 * chunkLen, len(text)} {
			b, err := c.Encode([]byte("dst"), text[:size], "1a2b3c4d")
			if err != nil {
				t.Fatal(err)
			}
			b = b[len("dst"):]
			got, err := c.Decode([]byte("dst"), b, "1a2b3c4d", size)
			if err != nil || string(got) != "dst"+string(text[:size]) {
				t.Errorf("%s: %d bytes became %d, %v", name, size, len(got)-3, err)
			}
			if len(c.key) > 0 && size > 20 && bytes.Contains(b, text[:20]) {
				t.Errorf("%s: the plain text shows", name)
			}
			if size > 0 {
				if _, err := c.Decode(nil, b, "1a2b3c4d", size-1); err == nil {
					t.Errorf("%s: %d bytes decoded into a bound of one less", name, size)
				}
			}
		}
	}
}

func TestTextThatLooksEncodedReadsBack(t *testing.T) {
	t.Parallel()
	for name, c := range all(t) {
		for _, text := range []string{"\x01text", "\x02", "\x1f\x8b", "\x1f\x8b\x08 is no gzip", "\x28\xb5\x2f\xfd and so on", "\x28\xb5"} {
			b, err := c.Encode(nil, []byte(text), "x")
			if err != nil {
				t.Fatal(err)
			}
			for other, d := range all(t) {
				if len(c.key) > 0 && len(d.key) == 0 {
					continue
				}
				if got, err := d.Decode(nil, b, "x", 100); err != nil || string(got) != text {
					t.Errorf("%q stored by %s, read by %s: %q, %v", text, name, other, got, err)
				}
			}
		}
	}
}

func TestSpoolStaysReadableWhenSettingsChange(t *testing.T) {
	t.Parallel()
	text := []byte("version: 4\ntype: mta\n")
	for from, a := range all(t) {
		b, err := a.Encode(nil, text, "x")
		if err != nil {
			t.Fatal(err)
		}
		for to, c := range all(t) {
			got, err := c.Decode(nil, b, "x", 100)
			if len(a.key) > 0 && len(c.key) == 0 {
				if !errors.Is(err, ErrNoKey) {
					t.Errorf("%s read by %s: %v, want ErrNoKey", from, to, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s read by %s: %q, %v", from, to, got, err)
			}
		}
	}
}

func TestTamperedContentIsRefused(t *testing.T) {
	t.Parallel()
	c := codec(t, None, key)
	plain := bytes.Repeat([]byte("0123456789abcdef"), 2*chunkLen/16)
	b, err := c.Encode(nil, plain, "here")
	if err != nil {
		t.Fatal(err)
	}
	const block = chunkLen + tagLen
	head := b[:1+saltLen]
	first, second := b[1+saltLen:][:block], b[1+saltLen+block:][:block]
	flipped := bytes.Clone(b)
	flipped[len(flipped)/2] ^= 1
	for name, bad := range map[string][]byte{
		"cut at a chunk":   b[:1+saltLen+block],
		"cut in a chunk":   b[:len(b)-1],
		"cut in the salt":  b[:5],
		"only a salt":      head,
		"one bit":          flipped,
		"swapped chunks":   bytes.Join([][]byte{head, second, first, b[1+saltLen+2*block:]}, nil),
		"left out a chunk": bytes.Join([][]byte{head, second, b[1+saltLen+2*block:]}, nil),
		"trailing bytes":   append(bytes.Clone(b), "more"...),
	} {
		if _, err := c.Decode(nil, bad, "here", 1<<20); !errors.Is(err, ErrDecrypt) {
			t.Errorf("%s: %v, want ErrDecrypt", name, err)
		}
	}
	if _, err := c.Decode(nil, b, "elsewhere", 1<<20); !errors.Is(err, ErrDecrypt) {
		t.Errorf("content moved to another place: %v", err)
	}
	other := codec(t, None, []byte("another key of the same 32 bytes"))
	if _, err := other.Decode(nil, b, "here", 1<<20); !errors.Is(err, ErrDecrypt) {
		t.Errorf("another key: %v", err)
	}
}

func TestOldFormIsRead(t *testing.T) {
	t.Parallel()
	text := []byte("version: 3\n")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := []byte("0123456789ab")
	for name, plain := range map[string][]byte{"encrypted": text, "compressed and encrypted": zipped.Bytes()} {
		b := aead.Seal(append([]byte{1}, iv...), iv, plain, nil)
		got, err := codec(t, None, key).Decode(nil, b, "any", 100)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		b[len(b)-1] ^= 1
		if _, err := codec(t, None, key).Decode(nil, b, "any", 100); !errors.Is(err, ErrDecrypt) {
			t.Errorf("%s, damaged: %v", name, err)
		}
	}
}

func TestKeysHave32Bytes(t *testing.T) {
	t.Parallel()
	if _, err := New(None, key[:31]); err == nil {
		t.Error("a key of 31 bytes was taken")
	}
	if _, err := New(Zstd+1, nil); err == nil {
		t.Error("an unknown compression was taken")
	}
}

// FuzzDecode: no content makes decoding panic or exceed its bound.
func FuzzDecode(f *testing.F) {
	for _, c := range all(f) {
		b, err := c.Encode(nil, []byte("version: 4\n"), "x")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	c := codec(f, None, key)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := c.Decode(nil, b, "x", 1000)
		if err == nil && len(got) > 1000 {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text := []byte(strings.Repeat("Received: by mx.example.org\n", 40))
	for name, c := range all(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Encode(nil, text, "1a2b3c4d"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
