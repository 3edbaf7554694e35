package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
)

// network is what the command line says about the world outside. The zero value is
// the world as it is.
type network struct {
	server string // name server, host:port; empty: those of resolv.conf(5)
	// smtp and https are the ports of mail and policy servers, which may be on this
	// machine. 0: 25 and 443, and they may not. For tests.
	smtp, https uint16
}

// set reads the value of an option.
func (n *network) set(name, value string) error {
	if name == "resolver" {
		if _, err := netip.ParseAddrPort(value); err != nil {
			return errors.New("want an address and a port, such as 127.0.0.1:53")
		}
		n.server = value
		return nil
	}
	smtp, https, ok := strings.Cut(value, ":")
	a, err := strconv.ParseUint(smtp, 10, 16)
	b, err2 := strconv.ParseUint(https, 10, 16)
	if !ok || err != nil || err2 != nil || a == 0 || b == 0 {
		return errors.New("want the ports of SMTP and HTTPS, such as 25:443")
	}
	n.smtp, n.https = uint16(a), uint16(b)
	return nil
}

// options returns what set has read, for another process.
func (n network) options() []string {
	var out []string
	if n.server != "" {
		out = append(out, "resolver="+n.server)
	}
	if n.smtp != 0 {
		out = append(out, fmt.Sprintf("loopback=%d:%d", n.smtp, n.https))
	}
	return out
}

// resolver makes what asks the DNS.
func (n network) resolver() (*dns.Resolver, error) {
	var c dns.Config
	if n.server != "" {
		c.Servers = []string{n.server}
	}
	return dns.New(c)
}

// fetcher makes what fetches policies of MTA-STS.
func (n network) fetcher(names *dns.Resolver) mtasts.Fetcher {
	return mtasts.NewFetcher(mtasts.Web{Names: names, Port: n.https, Loopback: n.https != 0})
}
