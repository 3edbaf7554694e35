package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/spfwalk"
)

// spfWalk prints the networks that may send mail of the domains on standard input.
func spfWalk(ctx context.Context, p *program, _ []string) error {
	resolver, err := dns.New(dns.Config{})
	if err != nil {
		return &localError{err}
	}
	defer resolver.Close()
	out := bufio.NewWriter(p.stdout)
	failed := false
	printed := make(map[netip.Prefix]bool)
	lines := bufio.NewScanner(p.stdin)
	for lines.Scan() {
		domain := strings.TrimSpace(lines.Text())
		if domain == "" || domain[0] == '#' {
			continue
		}
		spfwalk.Walk(ctx, resolver, domain, func(n netip.Prefix) {
			if !printed[n] && (p.family == 0 || (p.family == '4') == n.Addr().Is4()) {
				printed[n] = true
				fmt.Fprintln(out, networkText(n)) // Flush returns the error
			}
		}, func(err error) {
			failed = true
			fmt.Fprintf(p.stderr, "smtpctl: %s: %s\n", oneLine(domain), oneLine(err.Error()))
		})
	}
	if err := lines.Err(); err != nil {
		return &localError{err}
	}
	if err := out.Flush(); err != nil {
		return &localError{err}
	}
	if failed {
		return errSilent
	}
	return nil
}

// networkText returns a network as tables and firewalls take it: one address
// without a length.
func networkText(n netip.Prefix) string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.String()
}
