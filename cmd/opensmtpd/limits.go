package main

import "syscall"

// defaultSessions derives how many SMTP sessions are served at a time from the
// limit of descriptors: a session needs one, and another for a large message.
func defaultSessions() int {
	var rl syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rl); err != nil {
		return 512
	}
	return int(min(max(int64(rl.Cur)/2-50, 50), 20_000))
}
