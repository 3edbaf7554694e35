package linux

import (
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// maxStatus bounds the status text told to the service manager, in bytes.
const maxStatus = 512

// message is what sd_notify(3) wants to hear of s, "" for nothing. monotonic is
// the reading of CLOCK_MONOTONIC that a manager needs to match a reload with its
// request.
func message(s platform.State, monotonic time.Duration) string {
	var b strings.Builder
	line := func(text string) {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(text)
	}
	if s.Reloading {
		line("RELOADING=1")
		line("MONOTONIC_USEC=" + strconv.FormatInt(monotonic.Microseconds(), 10))
	}
	if s.Ready {
		line("READY=1")
	}
	if s.Stopping {
		line("STOPPING=1")
	}
	if s.Watchdog {
		line("WATCHDOG=1")
	}
	if s.Status != "" {
		line("STATUS=" + oneLine(s.Status, maxStatus))
	}
	return b.String()
}

// oneLine returns s cut to at most n bytes, with control characters replaced: a
// line break would begin another assignment.
func oneLine(s string, n int) string {
	s = strings.ToValidUTF8(s[:min(len(s), n)], "")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// watchdogInterval reads WATCHDOG_USEC and WATCHDOG_PID of sd_watchdog_enabled(3);
// zero when no sign of life is expected of the process pid.
func watchdogInterval(usec, forPID string, pid int) time.Duration {
	if forPID != "" && forPID != strconv.Itoa(pid) {
		return 0
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(time.Hour/time.Microsecond)*24*365 {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}
