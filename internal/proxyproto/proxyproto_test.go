package proxyproto

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// v2 builds a version 2 header.
func v2(version, family byte, addresses string) string {
	return signature + string([]byte{version, family, byte(len(addresses) >> 8), byte(len(addresses))}) + addresses
}

func TestHeaderIsRead(t *testing.T) {
	t.Parallel()
	client, server := netip.MustParseAddrPort("192.0.2.1:56324"), netip.MustParseAddrPort("198.51.100.2:25")
	client6, server6 := netip.MustParseAddrPort("[2001:db8::1]:56324"), netip.MustParseAddrPort("[2001:db8::2]:25")
	const a4 = "\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x00\x19"
	const a6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdc\x04\x00\x19"
	longest := "PROXY UNKNOWN " + strings.Repeat("f", maxV1-16) + "\r\n"
	for _, tt := range []struct {
		name, in string
		want     Header
		err      error
	}{
		{"v1 IPv4", "PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", Header{client, server}, nil},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 25\r\n", Header{client6, server6}, nil},
		{"v1 unknown", "PROXY UNKNOWN\r\n", Header{}, nil},
		{"v1 unknown, rest is ignored", "PROXY UNKNOWN ffff::1 whatever 1 2\r\n", Header{}, nil},
		{"v1 as long as may be", longest, Header{}, nil},
		{"v1 too long", longest[:maxV1-2] + "f\r\n", Header{}, ErrProtocol},
		{"v1 wrong family", "PROXY TCP6 192.0.2.1 198.51.100.2 56324 25\r\n", Header{}, ErrProtocol},
		{"v1 port out of range", "PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n", Header{}, ErrProtocol},
		{"v1 padded port", "PROXY TCP4 192.0.2.1 198.51.100.2 056 25\r\n", Header{}, ErrProtocol},
		{"v1 zone", "PROXY TCP6 fe80::1%eth0 2001:db8::2 56324 25\r\n", Header{}, ErrProtocol},
		{"v1 field missing", "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", Header{}, ErrProtocol},
		{"v1 cut short", "PROXY TCP4 192.0.2.1", Header{}, io.EOF},
		{"v2 IPv4", v2(0x21, 0x11, a4), Header{client, server}, nil},
		{"v2 IPv6 and TLVs", v2(0x21, 0x21, a6+"\x03\x00\x04crc!"), Header{client6, server6}, nil},
		{"v2 local", v2(0x20, 0x11, a4), Header{}, nil},
		{"v2 unspecified", v2(0x21, 0x00, ""), Header{}, nil},
		{"v2 Unix socket", v2(0x21, 0x31, strings.Repeat("x", 216)), Header{}, nil},
		{"v2 datagrams", v2(0x21, 0x12, a4), Header{}, ErrProtocol},
		{"v2 other command", v2(0x22, 0x11, a4), Header{}, ErrProtocol},
		{"v2 version 1", v2(0x11, 0x11, a4), Header{}, ErrProtocol},
		{"v2 addresses cut short", v2(0x21, 0x21, a4), Header{}, ErrProtocol},
		{"v2 too long", v2(0x21, 0x11, strings.Repeat("x", maxV2+1)), Header{}, ErrProtocol},
		{"v2 body cut short", v2(0x21, 0x11, a4)[:20], Header{}, io.ErrUnexpectedEOF},
		{"no header", "EHLO client.example.org\r\n", Header{}, ErrProtocol},
		{"nothing", "", Header{}, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := strings.NewReader(tt.in + "EHLO x\r\n")
			if tt.err == io.EOF || tt.err == io.ErrUnexpectedEOF {
				r = strings.NewReader(tt.in)
			}
			got, err := Read(r)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("%q: got %v, %v; want %v, %v", tt.in, got, err, tt.want, tt.err)
			}
			if rest, _ := io.ReadAll(r); err == nil && string(rest) != "EHLO x\r\n" {
				t.Errorf("%q: left %q unread", tt.in, rest)
			}
		})
	}
}

// FuzzRead: no input panics, what is read is either a client and a destination or
// neither, and the same bytes before other ones read the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2(0x21, 0x11, "\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x00\x19")))
	f.Add([]byte(v2(0x20, 0x00, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Read(strings.NewReader(string(b)))
		if err == nil && h.Source.IsValid() != h.Destination.IsValid() {
			t.Errorf("%q: half a header: %v", b, h)
		}
		again, err2 := Read(strings.NewReader(string(b) + "\r\n"))
		if err == nil && (err2 != nil || again != h) {
			t.Errorf("%q: %v, then %v, %v", b, h, again, err2)
		}
	})
}
