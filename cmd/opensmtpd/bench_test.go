package main

import (
	"fmt"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// BenchmarkAccept measures how fast messages of 4 KiB become durable, over 1, 10 and
// 100 sessions at a time, with one daemon in one process and deliveries paused. Each
// session has one message on its way, as servers of others do. Beside the time of a
// message it reports messages a second, waits for the disk a message, and the CPU
// time of the daemon a message.
func BenchmarkAccept(b *testing.B) {
	for _, sessions := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("%d-sessions", sessions), func(b *testing.B) { benchmarkAccept(b, sessions) })
	}
}

func benchmarkAccept(b *testing.B, sessions int) { benchmarkAcceptBy(b, sessions, keepAll) }

func benchmarkAcceptBy(b *testing.B, sessions int, conf string) {
	m := startMTA(b, "smtp limit max-mails 100000000\n"+conf, "-P", "mda")
	conns := make([]*textproto.Conn, sessions)
	for i := range conns {
		conns[i] = m.dialogue("^220", "EHLO client.example.net", "^250")
	}
	text := "Subject: benchmark\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 52) + ".\r\n"
	syncs, cpu := m.counter("queue.sync"), cpuTime(b, m.cmd.Process.Pid)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := sendFast(c, text); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64(m.counter("queue.sync")-syncs)/n, "syncs/msg")
	b.ReportMetric((cpuTime(b, m.cmd.Process.Pid)-cpu)*1e6/n, "cpu-µs/msg")
}

// sendFast sends a message with MAIL, RCPT and DATA in one packet (RFC 2920).
func sendFast(c *textproto.Conn, text string) error {
	if err := c.PrintfLine("MAIL FROM:<a@example.net>\r\nRCPT TO:<x@example.org>\r\nDATA"); err != nil {
		return err
	}
	for _, code := range []int{250, 250, 354} {
		if _, _, err := c.ReadResponse(code); err != nil {
			return err
		}
	}
	if _, err := c.W.WriteString(text); err != nil {
		return err
	}
	if err := c.W.Flush(); err != nil {
		return err
	}
	_, _, err := c.ReadResponse(250)
	return err
}

// counter returns one of the daemon's counters.
func (m *mta) counter(name string) int64 {
	m.t.Helper()
	r, _, err := control.Call(m.t.Context(), m.control(), proto.Stats, proto.Empty{})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range r.Counters {
		if c.Name == name {
			return c.Value
		}
	}
	return 0
}

// cpuTime returns the CPU time of a process in seconds, 0 where /proc does not tell.
func cpuTime(b *testing.B, pid int) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	const ticks = 100 // a second, on Linux
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticks
}

// BenchmarkAcceptWithFilter is BenchmarkAccept with 100 sessions, without a filter and
// with one that lets everything pass: registered for all phases but data-line, for all
// of them, and for all events as well.
func BenchmarkAcceptWithFilter(b *testing.B) {
	verdicts := strings.Replace(allPhases, "data-line ", "", 1)
	for _, tt := range []struct{ name, conf string }{
		{"none", keepAll},
		{"verdicts", filtered(`filter "f" proc-exec `+filterCommand(b, verdicts), `"f"`)},
		{"all-phases", filtered(`filter "f" proc-exec `+filterCommand(b, allPhases), `"f"`)},
		{"all-phases-and-events", filtered(`filter "f" proc-exec `+filterCommand(b, allPhases, "events"), `"f"`)},
	} {
		b.Run(tt.name, func(b *testing.B) { benchmarkAcceptBy(b, 100, tt.conf) })
	}
}
