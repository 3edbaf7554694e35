package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// classes are what can be paused as a whole, with their counters: 1 when paused.
var classes = []struct{ name, counter string }{{"MDA", "mda.paused"}, {"MTA", "mta.paused"}, {"SMTP", "smtp.paused"}}

// statusJSON is "show status" for programs.
type statusJSON struct {
	Server     string     `json:"server"`
	Software   string     `json:"software"`
	Generation uint32     `json:"configuration"`
	OneProcess bool       `json:"one_process"`
	Verbose    bool       `json:"verbose"`
	Trace      []string   `json:"trace"`
	Paused     []string   `json:"paused"`
	Roles      []roleJSON `json:"roles"`

	Filters []filterJSON `json:"filters,omitempty"` // with -v
}

type roleJSON struct {
	Role       string `json:"role"`
	PID        int    `json:"pid"`
	Restarts   int    `json:"restarts"`
	Guarantees string `json:"protections"`
	Missing    string `json:"missing"`
}

// showStatus tells what runs.
func showStatus(ctx context.Context, p *program, _ []string) error {
	c, st, err := p.status(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	counters, err := readCounters(ctx, c)
	if err != nil {
		return err
	}
	var filters []proto.FilterStatus
	if p.verbose {
		// When the dispatcher, which has them, is down, the rest is worth the more.
		if r, _, err := control.Call(ctx, c, proto.ListFilters, proto.Empty{}); err == nil {
			filters = r.Filters
		}
	}
	if p.json {
		out := statusOf(c.Daemon.Software, st, counters)
		for i := range filters {
			out.Filters = append(out.Filters, filterOf(&filters[i]))
		}
		return json.NewEncoder(p.stdout).Encode(out)
	}
	for _, class := range classes {
		if v, known := counters[class.counter]; known {
			fmt.Fprintf(p.stdout, "%s %s\n", class.name, map[bool]string{false: "running", true: "paused"}[v != 0])
		}
	}
	p.writeStatus(c.Daemon.Software, st)
	for i := range filters {
		p.writeFilter("filter ", &filters[i])
	}
	return nil
}

// writeStatus writes what the parent told; with -v the protections of each process.
func (p *program) writeStatus(software string, st proto.StatusReply) {
	fmt.Fprintf(p.stdout, "server %s, %s, configuration %d\n", oneLine(st.ServerName), oneLine(software), st.Generation)
	if st.OneProcess {
		fmt.Fprintln(p.stdout, "one process without privilege separation")
	}
	if st.Verbose.Debug || len(st.Verbose.Trace) > 0 {
		fmt.Fprintf(p.stdout, "log verbose %s\n", strings.Join(st.Verbose.Trace, " "))
	}
	for _, r := range st.Roles {
		pid := "down"
		if r.PID != 0 {
			pid = fmt.Sprintf("pid %d", r.PID)
		}
		fmt.Fprintf(p.stdout, "%-11s %-11s restarts %d\n", r.Role, pid, r.Restarts)
		if !p.verbose {
			continue
		}
		if r.Guarantees != "" {
			fmt.Fprintf(p.stdout, "    protections: %s\n", oneLine(r.Guarantees))
		}
		if r.Missing != "" {
			fmt.Fprintf(p.stdout, "    missing: %s\n", oneLine(r.Missing))
		}
	}
}

func statusOf(software string, st proto.StatusReply, counters map[string]int64) statusJSON {
	out := statusJSON{
		Server: st.ServerName, Software: software, Generation: st.Generation, OneProcess: st.OneProcess,
		Verbose: st.Verbose.Debug, Trace: append([]string{}, st.Verbose.Trace...), Paused: []string{}, Roles: []roleJSON{},
	}
	for _, class := range classes {
		if counters[class.counter] != 0 {
			out.Paused = append(out.Paused, strings.ToLower(class.name))
		}
	}
	for _, r := range st.Roles {
		out.Roles = append(out.Roles, roleJSON{string(r.Role), r.PID, r.Restarts, r.Guarantees, r.Missing})
	}
	return out
}

// readCounters asks for the counters of all processes.
func readCounters(ctx context.Context, c *control.Client) (map[string]int64, error) {
	r, _, err := control.Call(ctx, c, proto.Stats, proto.Empty{})
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(r.Counters))
	for _, n := range r.Counters {
		out[n.Name] = n.Value
	}
	return out, nil
}

// showStats prints the counters that have changed since the start, by name.
func showStats(ctx context.Context, p *program, _ []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	counters, err := readCounters(ctx, c)
	if err != nil {
		return err
	}
	if p.json {
		return json.NewEncoder(p.stdout).Encode(counters)
	}
	lines := make([]string, 0, len(counters)+1)
	for name, v := range counters {
		lines = append(lines, fmt.Sprintf("%s=%d", oneLine(name), v))
	}
	if up, ok := counters["uptime"]; ok {
		lines = append(lines, "uptime.human="+humanTime(up))
	}
	slices.SortFunc(lines, func(a, b string) int {
		x, _, _ := strings.Cut(a, "=")
		y, _, _ := strings.Cut(b, "=")
		return strings.Compare(x, y)
	})
	for _, line := range lines {
		fmt.Fprintln(p.stdout, line)
	}
	return nil
}

// humanTime returns seconds as 3d4h5m6s.
func humanTime(seconds int64) string {
	var b strings.Builder
	for _, u := range []struct {
		length int64
		name   string
	}{{86400, "d"}, {3600, "h"}, {60, "m"}} {
		if seconds >= u.length || b.Len() > 0 {
			fmt.Fprintf(&b, "%d%s", seconds/u.length, u.name)
			seconds %= u.length
		}
	}
	return fmt.Sprintf("%s%ds", b.String(), seconds)
}

// column is one number of monitor: a counter as it is, or what it changed by.
type column struct {
	title   string
	counter string
	change  bool
}

var columns = []column{
	{"curr", "smtp.session", false}, {"conn", "smtp.connected", true}, {"disc", "smtp.disconnected", true},
	{"curr", "scheduler.envelope", false}, {"enq", "scheduler.envelope.incoming", true}, {"deq", "scheduler.envelope.removed", true},
	{"ok", "scheduler.delivery.ok", true}, {"tmpfail", "scheduler.delivery.tempfail", true},
	{"prmfail", "scheduler.delivery.permfail", true}, {"loop", "scheduler.delivery.loop", true},
	{"expire", "scheduler.envelope.expired", true}, {"bounce", "bounce.message", true},
}

const (
	monitorInterval = time.Second
	monitorHeader   = 25 // lines between headers
)

// monitorTitles returns the two lines of the header.
func monitorTitles() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-27s%-27s%-36s%s\n", "    --- clients ---", "   --- envelopes ---", "    --- deliveries ---", "  --- other ---")
	for _, c := range columns {
		fmt.Fprintf(&b, "%9s", c.title)
	}
	return b.String() + "\n"
}

// monitorLine returns the line of one second.
func monitorLine(old, now map[string]int64) string {
	var b strings.Builder
	for _, c := range columns {
		v := now[c.counter]
		if c.change {
			v -= old[c.counter]
		}
		fmt.Fprintf(&b, "%9d", v)
	}
	return b.String() + "\n"
}

// monitor shows a line each second until it is interrupted.
func monitor(ctx context.Context, p *program, _ []string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	old, err := readCounters(ctx, c)
	if err != nil {
		return err
	}
	tick := time.NewTicker(monitorInterval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := readCounters(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if n%monitorHeader == 0 {
			fmt.Fprint(p.stdout, monitorTitles())
		}
		if _, err := fmt.Fprint(p.stdout, monitorLine(old, now)); err != nil {
			return errSilent
		}
		old = now
	}
}
