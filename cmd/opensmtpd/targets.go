package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// resolveTimeout bounds the lookup of a host name in a listen line.
const resolveTimeout = 10 * time.Second

// resolveTarget returns the addresses that a listen line means: all of them, those
// of the interfaces with a default route, those of an interface, an address, or
// those of a host name. family is "", inet4 or inet6.
func resolveTarget(target, family string) ([]netip.Addr, error) {
	addrs, err := targetAddresses(target)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		if family == "inet4" && !a.Is4() || family == "inet6" && a.Is4() {
			continue
		}
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no address of family %s", target, family)
	}
	return out, nil
}

func targetAddresses(target string) ([]netip.Addr, error) {
	switch target {
	case "all":
		if hasIPv6() {
			return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
		}
		return []netip.Addr{netip.IPv4Unspecified()}, nil
	case "egress":
		return egressAddresses()
	}
	if a, err := netip.ParseAddr(target); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if ifi, err := net.InterfaceByName(target); err == nil {
		return interfaceAddrs(ifi)
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", target)
	if err != nil {
		return nil, fmt.Errorf("no interface, address or host of this name")
	}
	seen := map[netip.Addr]bool{}
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out, nil
}

// hasIPv6 tells whether this host has any IPv6 address, loopback included.
func hasIPv6() bool {
	for _, a := range interfaceAddresses() {
		if a.Is6() && !a.Is4In6() {
			return true
		}
	}
	return false
}

func interfaceAddrs(ifi *net.Interface) ([]netip.Addr, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip := p.Addr().Unmap()
		if ip.IsLinkLocalUnicast() && ip.Is6() {
			ip = ip.WithZone(ifi.Name)
		}
		out = append(out, ip)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("interface %s has no address", ifi.Name)
	}
	return out, nil
}

// egressAddresses returns the addresses of the interfaces over which the default
// routes lead. The kernel is asked by connecting a UDP socket, which sends nothing;
// the addresses are from the documentation ranges (RFC 5737, RFC 3849).
func egressAddresses() ([]netip.Addr, error) {
	var out []netip.Addr
	seen := map[string]bool{}
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		ifi := interfaceOf(local)
		if ifi == nil || seen[ifi.Name] {
			continue
		}
		seen[ifi.Name] = true
		addrs, err := interfaceAddrs(ifi)
		if err != nil {
			return nil, err
		}
		out = append(out, addrs...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no interface has a default route")
	}
	return out, nil
}

// interfaceOf returns the interface that has an address.
func interfaceOf(a netip.Addr) *net.Interface {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for i := range list {
		addrs, err := interfaceAddrs(&list[i])
		if err != nil {
			continue
		}
		for _, x := range addrs {
			if x.WithZone("") == a.WithZone("") {
				return &list[i]
			}
		}
	}
	return nil
}
