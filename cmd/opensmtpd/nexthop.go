package main

import (
	"context"
	"net/netip"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/nexthop/finder"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc/lookup"
	"github.com/opensmtpd/opensmtpd/table"
)

// newFinder returns what makes finders of next hops: by the DNS, with DANE where
// the resolver is trusted to validate. This host is known by its server name and its
// addresses.
func newFinder(resolver *dns.Resolver) func(serverName string) lookup.Finder {
	return func(serverName string) lookup.Finder {
		return hops{finder.New(finder.Config{
			DNS: resolver, DANE: true,
			Own: finder.Own{
				Names: []string{serverName},
				Has:   func(a netip.Addr) bool { return slices.Contains(interfaceAddresses(), a.WithZone("")) },
			},
		})}
	}
}

// hops adapts a Finder to the lookup process.
type hops struct{ *finder.Finder }

// Resolve implements lookup.Finder.
func (h hops) Resolve(ctx context.Context, o *policy.RelayOptions, family nexthop.Family, domain string, tables func(string) table.Table) (*nexthop.Hops, error) {
	return h.Finder.Resolve(ctx, o, family, domain, tables)
}
