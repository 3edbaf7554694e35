package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// showTLSReport lists sessions with other hosts by day, domain and policy, as text
// or, with -j, an object for each day and domain.
func showTLSReport(ctx context.Context, p *program, _ []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	out := bufio.NewWriter(p.stdout)
	var req proto.ListTLSRequest
	for {
		page, _, err := control.Call(ctx, c, proto.ListTLS, req)
		if err != nil {
			return err
		}
		for i := range page.Summaries {
			if err := p.writeTLSSummary(out, &page.Summaries[i]); err != nil {
				return err
			}
		}
		if len(page.Summaries) == 0 {
			return out.Flush()
		}
		last := &page.Summaries[len(page.Summaries)-1]
		req.After = tlsrpt.Summary{Domain: last.Domain, Day: last.Day}
	}
}

// writeTLSSummary writes what was counted for a domain on a day: a line a policy, and
// behind it one for each kind of failure.
//
//	2026-01-02 example.org sts success=12 failure=1
//		certificate-expired 1 mx1.example.org 192.0.2.1 "certificate has expired"
func (p *program) writeTLSSummary(out io.Writer, s *tlsrpt.Summary) error {
	if p.json {
		return json.NewEncoder(out).Encode(s)
	}
	for i := range s.Policies {
		n := &s.Policies[i]
		fmt.Fprintf(out, "%s %s %s success=%d failure=%d\n", s.Day.UTC().Format(time.DateOnly), oneLine(s.Domain), oneLine(n.Policy.Type), n.Success, n.Failure)
		for _, d := range n.Failures {
			addr := "-"
			if d.Addr.IsValid() {
				addr = d.Addr.String()
			}
			fmt.Fprintf(out, "\t%s %d %s %s %q\n", oneLine(string(d.Result)), d.Count, cmp.Or(oneLine(d.MX), "-"), addr, d.Reason)
		}
	}
	return nil
}
