package linux

import (
	"fmt"
	"strconv"
	"strings"
)

// maxPassed bounds the descriptors a service manager passes.
const maxPassed = 1024

// passed returns the names of the sockets that were passed to the process pid, the
// first of which is descriptor 3; none when they are for another one. Names may be
// missing.
func passed(fds, forPID, names string, pid int) ([]string, error) {
	if fds == "" || forPID != strconv.Itoa(pid) {
		return nil, nil
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > maxPassed {
		return nil, fmt.Errorf("LISTEN_FDS=%.20s: not a number of sockets", fds)
	}
	out := make([]string, n)
	if names != "" {
		copy(out, strings.Split(names, ":"))
	}
	return out, nil
}
