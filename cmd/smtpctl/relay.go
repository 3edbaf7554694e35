package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// showRelaying makes a command that lists relays, routes, hosts, hoststats or what
// is paused, as text or, with -j, an object a line.
func showRelaying(what string) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, _ []string) error {
		c, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		out := bufio.NewWriter(p.stdout)
		req := proto.RelayListRequest{What: what, JSON: p.json}
		for {
			page, _, err := control.Call(ctx, c, proto.RelayList, req)
			if err != nil {
				return err
			}
			for _, line := range page.Lines {
				fmt.Fprintln(out, oneLine(line))
			}
			if page.Next == 0 {
				return out.Flush()
			}
			if page.Next <= req.From {
				return fmt.Errorf("the listing does not go on behind line %d", req.From)
			}
			req.From = page.Next
		}
	}
}

// pauseRoute makes a command that stops or restarts relaying from a source to a
// domain.
func pauseRoute(verb string) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, args []string) error {
		req := proto.RelayAdminRequest{Verb: verb, Domain: args[1]}
		if args[0] != "*" {
			a, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(args[0], "[]"), "IPv6:"))
			if err != nil {
				return &localError{fmt.Errorf("%q is no address, nor \"*\" for all", args[0])}
			}
			req.Source = a.Unmap()
		}
		if req.Domain == "*" {
			req.Domain = ""
		}
		return succeed(ctx, p, proto.RelayAdmin, req)
	}
}

// resumeRoute puts a route back into use.
func resumeRoute(ctx context.Context, p *program, args []string) error {
	n, err := strconv.ParseUint(args[0], 10, 63)
	if err != nil {
		return &localError{err}
	}
	return succeed(ctx, p, proto.RelayAdmin, proto.RelayAdminRequest{Verb: "resume-route", Route: n})
}
