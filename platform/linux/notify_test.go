package linux

import (
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

func TestMessageToTheServiceManager(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   platform.State
		want string
	}{
		{"nothing", platform.State{}, ""},
		{"ready", platform.State{Ready: true}, "READY=1"},
		{"reloading comes with its time", platform.State{Reloading: true}, "RELOADING=1\nMONOTONIC_USEC=1500000"},
		{"stopping", platform.State{Stopping: true, Status: "bye"}, "STOPPING=1\nSTATUS=bye"},
		{"watchdog", platform.State{Watchdog: true}, "WATCHDOG=1"},
		{"a status cannot hold an assignment", platform.State{Status: "a\nMAINPID=1\x00"}, "STATUS=a MAINPID=1 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := message(tt.in, 1500*time.Millisecond); got != tt.want {
				t.Errorf("message(%+v) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestWatchdogIsForTheProcessNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"30000000", "", 30 * time.Second}, {"30000000", "7", 30 * time.Second},
		{"30000000", "8", 0}, {"-1", "", 0}, {"x", "7", 0}, {"9223372036854775807", "7", 0},
	} {
		if got := watchdogInterval(tt.usec, tt.pid, 7); got != tt.want {
			t.Errorf("watchdogInterval(%q, %q, 7) = %v, want %v", tt.usec, tt.pid, got, tt.want)
		}
	}
}
