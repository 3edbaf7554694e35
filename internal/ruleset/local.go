package ruleset

import (
	"net/netip"
	"strings"
)

// LocalNames returns the entries of the built-in table <localnames>, asked by
// "for local": localhost, the server name, its first label, and the literals of
// the host's addresses.
func LocalNames(serverName string, addrs []netip.Addr) []string {
	names := []string{"localhost"}
	add := func(s string) {
		for _, n := range names {
			if strings.EqualFold(n, s) {
				return
			}
		}
		names = append(names, s)
	}
	if serverName = trimDot(serverName); serverName != "" {
		add(serverName)
		if short, _, ok := strings.Cut(serverName, "."); ok && short != "" {
			add(short)
		}
	}
	for _, a := range addrs {
		a = a.WithZone("").Unmap()
		if !a.IsValid() {
			continue
		}
		add("[" + a.String() + "]")
		if a.Is6() {
			add("[IPv6:" + a.String() + "]") // RFC 5321 section 4.1.3
		} else {
			add(a.String())
		}
	}
	return names
}

// LocalHost returns the entries of the built-in table <localhost>, asked by
// "from local": the local socket and every address of the host.
func LocalHost(addrs []netip.Addr) []string {
	names := []string{"local"}
	for _, a := range addrs {
		if a = a.WithZone("").Unmap(); !a.IsValid() {
			continue
		}
		if a.Is6() {
			names = append(names, "["+a.String()+"]")
		} else {
			names = append(names, a.String())
		}
	}
	return names
}
