package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// outputOf runs a command line to its end.
func outputOf(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the status says it
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	m := newMTA(t, keepAll+`match from any for domain $more action "keep"`+"\n")
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		stderr string
	}{
		{"check", []string{"-n", "-D", "more=\"a.example\""}, 0, `^configuration OK\n$`},
		{"macro that is missing", []string{"-n"}, 1, `smtpd\.conf:\d+: `},
		{"macro without a value", []string{"-n", "-D", "more"}, 1, `-D more: want macro=value`},
		{"help", []string{"-h"}, 1, `(?s)^version: OpenSMTPD .*usage: smtpd`},
		{"unknown flag", []string{"-z"}, 1, `(?s)unknown option -- z.*usage: smtpd`},
		{"unknown system", []string{"-n", "-P", "all"}, 1, `-P all: want mda, mta or smtp`},
		{"subsystems", []string{"-n", "-T", "smtp,rules", "-T", "all", "-D", "more=\"a.example\""}, 0, `^configuration OK\n$`},
		{"unknown subsystem", []string{"-n", "-T", "smtp,bogus"}, 1, `-T bogus: want bounce, expand, lookup, mda, queue, scheduler, smtp, all\n$`},
		{"unknown option", []string{"-o", "colour"}, 1, `-o colour: want json`},
		{"relative place", []string{"-o", "spool=x"}, 1, `want an absolute path`},
	} {
		stdout, stderr, status := outputOf(t, m.command(tt.args...))
		if status != tt.status || !regexp.MustCompile(tt.stderr).MatchString(stderr) || stdout != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want %d and %s", tt.name, status, stdout, stderr, tt.status, tt.stderr)
		}
	}
	if _, stderr, status := outputOf(t, m.command("-n", "surplus")); status != 1 || !strings.Contains(stderr, `unexpected argument "surplus"`) {
		t.Errorf("surplus argument: status %d, %s", status, stderr)
	}

	// What -nv prints is a configuration that means the same.
	first, _, status := outputOf(t, m.command("-n", "-v", "-D", "more=\"a.example\""))
	if status != 0 || !strings.Contains(first, "a.example") {
		t.Fatalf("-nv: status %d, %s", status, first)
	}
	m.writeConf(first)
	second, stderr, status := outputOf(t, m.command("-n", "-v"))
	if status != 0 || withoutPlaces(second) != withoutPlaces(first) {
		t.Errorf("its output, checked again: status %d\n%s%s\nwant\n%s", status, stderr, second, first)
	}
}

// withoutPlaces drops the comments that say where a statement stands.
func withoutPlaces(conf string) string {
	return regexp.MustCompile(`(?m) # \S+:\d+$`).ReplaceAllString(conf, "")
}

func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll)
	_, stderr, status := outputOf(t, m.command("-d"))
	if status != 1 || !strings.Contains(stderr, "another daemon listens on the control socket") {
		t.Errorf("status %d, %s", status, stderr)
	}
	m.send("x@example.org", "the first one is unharmed")
	m.wait(`mda delivery .*result=Ok`)

	// Nor is one that would take the same address.
	other := newMTA(t, keepAll)
	other.addr = m.addr
	_, stderr, status = outputOf(t, other.command("-d"))
	if status != 1 || !strings.Contains(stderr, "the address is in use") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

func TestQuickstartDeliversAnything(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	_, port, err := splitPort(m.addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.dir, "quick")
	cmd := m.command()
	cmd.Args = []string{cmd.Args[0], "quickstart", "-p", port, dir}
	m.run(cmd)
	m.send("whoever@anywhere.example", "hello")
	m.wait(`mda delivery .*result=Ok`)
	if mails := mailsIn(t, filepath.Join(dir, "Maildir")); len(mails) != 1 || !strings.Contains(mails[0], "hello") {
		t.Errorf("the Maildir holds %q", mails)
	}
}

// In a directory that others may write to, they could have what quickstart writes go
// anywhere.
func TestQuickstartTrustsNoDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	dir := filepath.Join(m.dir, "quick")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := m.command()
	cmd.Args = []string{cmd.Args[0], "quickstart", dir}
	if _, stderr, status := outputOf(t, cmd); status != 1 || !strings.Contains(stderr, "name another one") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

func TestDaemonInTheBackgroundTellsWhenItIsReady(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "queue encryption stdin\n"+keepAll)
	cmd := m.command()
	cmd.Stdin = strings.NewReader("0123456789abcdef0123456789abcdef\n")
	var stderr bytes.Buffer
	file, err := os.Create(filepath.Join(m.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stderr = file
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(file.Name())
		t.Fatalf("%v\n%s%s", err, stderr.String(), b)
	}
	pid := strings.TrimSpace(m.read("run/smtpd.pid"))
	if !regexp.MustCompile(`^\d+$`).MatchString(pid) {
		t.Fatalf("the pid file holds %q", pid)
	}
	m.send("x@example.org", "hello")
	stopByPID(t, pid)

	cmd = m.command()
	cmd.Stdin = strings.NewReader("too short\n")
	if _, stderr, status := outputOf(t, cmd); status != 1 || !strings.Contains(stderr, "the key has 9 bytes, want 32") {
		t.Errorf("with a bad key: status %d, %s", status, stderr)
	}
}

// stopByPID ends a daemon that is no child of ours and waits until it is gone.
func stopByPID(t *testing.T, pid string) {
	t.Helper()
	n := 0
	for _, c := range pid {
		n = 10*n + int(c-'0')
	}
	p, err := os.FindProcess(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitGone(t, p)
}
