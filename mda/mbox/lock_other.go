//go:build !linux

package mbox

import "syscall"

// setLock is the fcntl command that takes a lock for the process.
const setLock = syscall.F_SETLK
