package linux

import (
	"strings"
	"testing"
)

func TestPassedSocketsAreThoseForThisProcess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fds, pid, names string
		want            string
		bad             bool
	}{
		{"", "", "", "", false},
		{"2", "77", "smtp:submission", "smtp submission", false},
		{"2", "77", "", " ", false},
		{"2", "77", "smtp", "smtp ", false},
		{"1", "77", "smtp:more", "smtp", false},
		{"2", "78", "smtp:submission", "", false},
		{"2", "", "smtp:submission", "", false},
		{"-1", "77", "", "", true},
		{"1000000", "77", "", "", true},
		{"x", "77", "", "", true},
	} {
		got, err := passed(tt.fds, tt.pid, tt.names, 77)
		if strings.Join(got, " ") != tt.want || (err != nil) != tt.bad {
			t.Errorf("passed(%q, %q, %q) = %q, %v", tt.fds, tt.pid, tt.names, got, err)
		}
	}
}
