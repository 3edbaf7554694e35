package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// filterJSON is a filter process of "show filters" for programs; durations in seconds.
type filterJSON struct {
	Name      string   `json:"name"`
	State     string   `json:"state"`
	PID       int      `json:"pid"`
	Since     float64  `json:"since"`
	Restarts  int64    `json:"restarts"`
	Sessions  int      `json:"sessions"`
	Phases    []string `json:"phases"`
	Events    int      `json:"events"`
	Asked     int64    `json:"asked"`
	Failed    int64    `json:"failed"`
	Nonsense  int64    `json:"nonsense"`
	Mean      float64  `json:"latency_mean"`
	Slowest   float64  `json:"latency_max"`
	LastError string   `json:"last_error,omitempty"`
}

// showFilters tells how filter processes are doing; with -v what they registered for.
func showFilters(ctx context.Context, p *program, _ []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	r, _, err := control.Call(ctx, c, proto.ListFilters, proto.Empty{})
	if err != nil {
		return err
	}
	for i := range r.Filters {
		f := &r.Filters[i]
		if !p.json {
			p.writeFilter("", f)
			continue
		}
		if err := json.NewEncoder(p.stdout).Encode(filterOf(f)); err != nil {
			return err
		}
	}
	return nil
}

func filterOf(f *proto.FilterStatus) filterJSON {
	return filterJSON{
		f.Name, f.State, f.PID, f.Since.Seconds(), f.Restarts, f.Sessions, append([]string{}, f.Phases...), f.Events,
		f.Asked, f.Failed, f.Nonsense, f.Mean.Seconds(), f.Slowest.Seconds(), f.LastError,
	}
}

// writeFilter writes the lines of one filter process, what stands before its name first.
func (p *program) writeFilter(before string, f *proto.FilterStatus) {
	state := fmt.Sprintf("%s since %v", f.State, f.Since.Round(time.Second))
	if f.PID != 0 {
		state += fmt.Sprintf(", pid %d", f.PID)
	}
	fmt.Fprintf(p.stdout, "%s%s %s, restarts %d, sessions %d, asked %d, failed %d, nonsense %d, mean %v, slowest %v\n",
		before, oneLine(f.Name), oneLine(state), f.Restarts, f.Sessions, f.Asked, f.Failed, f.Nonsense,
		f.Mean.Round(time.Microsecond), f.Slowest.Round(time.Microsecond))
	if f.LastError != "" {
		fmt.Fprintf(p.stdout, "    last failure: %s\n", oneLine(f.LastError))
	}
	if p.verbose {
		fmt.Fprintf(p.stdout, "    decides: %s\n    reports: %d\n", oneLine(strings.Join(f.Phases, ", ")), f.Events)
	}
}
