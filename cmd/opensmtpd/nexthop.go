package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/nexthop/finder"
	"github.com/opensmtpd/opensmtpd/internal/proc/lookup"
)

// newFinder returns what makes finders of next hops: by the DNS, with DANE where
// the resolver is trusted to validate, and policies of MTA-STS. This host is known by
// its server name and its addresses.
func newFinder(resolver *dns.Resolver, policies *mtasts.Policies, net network) func(serverName string) lookup.Finder {
	own := &ownAddresses{}
	return func(serverName string) lookup.Finder {
		return finder.New(finder.Config{
			DNS: resolver, DANE: true, STS: policies, Families: own.families, Port: net.smtp, Loopback: net.smtp != 0,
			Own: finder.Own{Names: []string{serverName}, Has: own.has},
		})
	}
}

// ownAddresses are the addresses of this host, looked up again now and then.
type ownAddresses struct {
	mu    sync.Mutex
	read  time.Time    // guarded by mu
	addrs []netip.Addr // guarded by mu
}

// ownAddressesAge is for how long they are believed.
const ownAddressesAge = 5 * time.Second

func (o *ownAddresses) get() []netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); now.Sub(o.read) >= ownAddressesAge {
		o.addrs, o.read = interfaceAddresses(), now
	}
	return o.addrs
}

func (o *ownAddresses) has(a netip.Addr) bool { return slices.Contains(o.get(), a.WithZone("")) }

// families tells whether there are addresses of each family that others can answer.
func (o *ownAddresses) families() (four, six bool) {
	for _, a := range o.get() {
		if a = a.Unmap(); !a.IsGlobalUnicast() {
			continue
		}
		four, six = four || a.Is4(), six || a.Is6()
	}
	return four, six
}
