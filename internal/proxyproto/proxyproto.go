// Package proxyproto reads the header by which a proxy names the client it speaks
// for (the PROXY protocol of HAProxy, versions 1 and 2).
//
//	PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n        version 1, at most 107 bytes
//	\r\n\r\n\0\r\nQUIT\n VC FP LL addresses TLVs          version 2, 16 bytes and LL more
//
// Whether the sender of a header is to be believed is up to the caller.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// ErrProtocol is wrapped by the errors about what was read. Others come from the
// reader.
var ErrProtocol = errors.New("protocol error")

// maxV1 is the longest version 1 header with its line end; maxV2 bounds addresses
// and TLVs of version 2, far above what proxies send.
const (
	maxV1 = 107
	maxV2 = 4096
)

// signature opens a version 2 header.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Header is what a proxy said. Both addresses are invalid when it named no client
// (LOCAL, UNKNOWN, UNSPEC, or a Unix socket): the connection's own count then.
type Header struct {
	Source      netip.AddrPort // the client
	Destination netip.AddrPort // what it connected to
}

// Read reads one header, and not a byte behind it, from r.
func Read(r io.Reader) (Header, error) { return read(r, true) }

// ReadV2 is Read for those who do not take version 1.
func ReadV2(r io.Reader) (Header, error) { return read(r, false) }

func read(r io.Reader, v1 bool) (Header, error) {
	// The shortest header of version 1 has 15 bytes, that of version 2 has 16.
	var b [maxV1]byte
	const least = len("PROXY UNKNOWN\r\n")
	if _, err := io.ReadFull(r, b[:least]); err != nil {
		return Header{}, err
	}
	switch {
	case v1 && bytes.HasPrefix(b[:], []byte("PROXY ")):
		n := least
		for ; !bytes.HasSuffix(b[:n], []byte("\r\n")); n++ {
			if n == maxV1 {
				return Header{}, fault("header too long")
			}
			if _, err := io.ReadFull(r, b[n:n+1]); err != nil {
				return Header{}, err
			}
		}
		return parseV1(string(b[:n-2]))
	case bytes.HasPrefix(b[:], []byte(signature)):
		if _, err := io.ReadFull(r, b[least:16]); err != nil {
			return Header{}, err
		}
		n := binary.BigEndian.Uint16(b[14:16])
		if n > maxV2 {
			return Header{}, fault("header too long")
		}
		rest := make([]byte, n)
		if _, err := io.ReadFull(r, rest); err != nil {
			return Header{}, err
		}
		return parseV2(b[12], b[13], rest)
	}
	return Header{}, fault("invalid signature")
}

// parseV1 parses a line of version 1 without its end.
func parseV1(line string) (Header, error) {
	f := strings.Split(line, " ")
	if len(f) >= 2 && f[1] == "UNKNOWN" {
		return Header{}, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return Header{}, fault("invalid line")
	}
	src, ok1 := addrPort(f[2], f[4], f[1] == "TCP6")
	dst, ok2 := addrPort(f[3], f[5], f[1] == "TCP6")
	if !ok1 || !ok2 {
		return Header{}, fault("invalid address")
	}
	return Header{src, dst}, nil
}

// addrPort parses an address and a port as version 1 writes them.
func addrPort(addr, port string, v6 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || a.Is6() != v6 || a.Zone() != "" || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// parseV2 takes version 2 apart: version and command, family and protocol,
// addresses and TLVs. TLVs are skipped.
func parseV2(version, family byte, b []byte) (Header, error) {
	switch version {
	case 0x20: // LOCAL: the proxy speaks for itself
		return Header{}, nil
	case 0x21:
	default:
		return Header{}, fault("invalid version or command")
	}
	size := 0
	switch family {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	case 0x00, 0x31: // UNSPEC, Unix stream
		return Header{}, nil
	default:
		return Header{}, fault("unsupported family")
	}
	if len(b) < 2*size+4 {
		return Header{}, fault("addresses cut short")
	}
	src, _ := netip.AddrFromSlice(b[:size])
	dst, _ := netip.AddrFromSlice(b[size : 2*size])
	ports := b[2*size:]
	return Header{
		netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(ports[2:])),
	}, nil
}

// fault returns an error about the header.
func fault(what string) error { return fmt.Errorf("%w (%s)", ErrProtocol, what) }
