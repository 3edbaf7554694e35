package main

import (
	"os"
	"syscall"
	"testing"
)

const sigTerm = syscall.SIGTERM

// chmodX makes a file a program.
func chmodX(path string) error { return os.Chmod(path, 0o755) }

// chmodAll lets everybody use a file or a socket.
func chmodAll(path string) error { return os.Chmod(path, 0o777) }

// makeFIFO makes a named pipe for everybody.
func makeFIFO(path string) error {
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		return err
	}
	return os.Chmod(path, 0o666)
}

// openFIFO opens a named pipe for writing and waits for its reader.
func openFIFO(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
