package program

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opensmtpd/opensmtpd/table"
)

// example returns the first example of the manual page: a program in shell.
func example(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "man", "smtpd-tables.7"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), ".Bd -literal -offset indent\n#!/bin/sh\n")
	text, _, ends := strings.Cut(text, ".Ed\n")
	if !ok || !ends {
		t.Fatal("the manual page has no example in shell")
	}
	return strings.ReplaceAll(text, `\e`, `\`)
}

func TestExampleOfTheManualPageIsATable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	aliases := filepath.Join(dir, "aliases")
	if err := os.WriteFile(aliases, []byte("root: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "table")
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(example(t), "/etc/aliases", aliases)), 0o600); err != nil {
		t.Fatal(err)
	}
	tab := Open(Options{Name: "t", Warn: func(err error) { t.Error(err) }, Start: func(ctx context.Context) (io.ReadWriteCloser, error) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			return nil, err
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		defer ours.Close()
		defer theirs.Close()
		syscall.CloseOnExec(fds[0])
		cmd := exec.CommandContext(ctx, "sh", script)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		t.Cleanup(func() {
			if err := cmd.Wait(); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
		return net.FileConn(ours)
	}})
	if got, err := tab.Lookup(t.Context(), table.Alias, "Root"); err != nil || got != "alice" {
		t.Errorf("Lookup = %q, %v, want alice", got, err)
	}
	if got, err := tab.Lookup(t.Context(), table.Alias, "nosuch"); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("Lookup = %q, %v, want ErrNotFound", got, err)
	}
	if err := tab.Update(t.Context()); err != nil {
		t.Errorf("Update: %v", err)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}

// A program that finds its configuration bad ends without having read what the daemon
// says, which systems report as a reset connection.
func TestProgramThatEndsUnheardHasEnded(t *testing.T) {
	t.Parallel()
	warnings := make(chan error, 100)
	tab := Open(Options{Name: "t", Warn: func(err error) { warnings <- err }, Start: func(context.Context) (io.ReadWriteCloser, error) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			return nil, err
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		defer ours.Close()
		conn, err := net.FileConn(ours)
		if err != nil {
			return nil, err
		}
		return closeAfterWrite{conn, theirs}, nil
	}})
	if err := <-warnings; !strings.Contains(err.Error(), "its program ended before it named its services") {
		t.Errorf("warning: %v", err)
	}
	if err := tab.Close(); err != nil {
		t.Error(err)
	}
}

// closeAfterWrite closes the other end of a connection once something was written.
type closeAfterWrite struct {
	net.Conn
	other *os.File
}

func (c closeAfterWrite) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, errors.Join(err, c.other.Close())
}
