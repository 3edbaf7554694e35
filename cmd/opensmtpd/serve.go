package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/expand/forwardfile"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proc/parent"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Unprivileged users of the daemon.
const (
	smtpUser  = "_smtpd"
	queueUser = "_smtpq"
)

// paths returns what the command line says about places.
func (f *flags) paths() platform.Paths {
	p := platform.Paths{Spool: f.dirs["spool"], Run: f.dirs["run"], Mail: f.dirs["mail"], Libexec: f.dirs["libexec"]}
	if os.Geteuid() != 0 && f.role == "" {
		state := stateDir()
		if p.Spool == "" {
			p.Spool = filepath.Join(state, "spool")
		}
		if p.Run == "" {
			p.Run = filepath.Join(state, "run")
		}
	}
	return p
}

// stateDir is where the daemon of an ordinary user keeps its mail (XDG base
// directory specification, version 0.8).
func stateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "opensmtpd")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("opensmtpd-%d", os.Getuid()))
	}
	return filepath.Join(home, ".local", "state", "opensmtpd")
}

// fail prints an error, a line each, and returns the exit status.
func fail(err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(os.Stderr, line)
	}
	return 1
}

// check is smtpd -n: the configuration and what it names is read and judged. With
// -v the configuration is printed as understood.
func check(f *flags) int {
	host, err := systemHost(f.paths())
	if err != nil {
		return fail(err)
	}
	c, old, err := load(f, host.Paths())
	if err != nil {
		return fail(err)
	}
	warnings(c)
	if _, err := cut(f, c, host.Paths(), identity{}, nil); err != nil {
		return fail(err)
	}
	if f.verbose {
		if err := c.Write(os.Stdout); err != nil {
			return fail(err)
		}
	}
	if old {
		fmt.Fprintln(os.Stderr, "configuration OK (pre-6.4 syntax, translated)")
	} else {
		fmt.Fprintln(os.Stderr, "configuration OK")
	}
	return 0
}

// serve runs the daemon.
func serve(f *flags) int {
	syscall.Umask(0o022) // whatever it was where the daemon was started from
	host, err := systemHost(f.paths())
	if err != nil {
		return fail(err)
	}
	root := os.Geteuid() == 0
	exe, err := executable(host)
	if err != nil {
		return fail(err)
	}
	c, _, err := load(f, host.Paths())
	if err != nil {
		return fail(err)
	}
	if !f.foreground {
		return background(exe, &c.Queue)
	}
	if root && !strings.HasPrefix(os.Args[0], titlePrefix+": ") {
		return fail(retitle(exe))
	}
	if !f.stderr {
		warnings(c) // the log will not be seen here
	}
	runtime.GOMAXPROCS(processors(proto.Parent))
	out := newOutput(f.stderr)
	s := &service{flags: f, host: host, out: out, exe: exe, root: root}
	err = s.run(c)
	s.log.Flush()
	if err != nil {
		s.log.Critf("%v", err)
		if !f.stderr {
			fail(err)
		}
		return 1
	}
	return 0
}

// service is the daemon's parent process.
type service struct {
	flags *flags
	host  platform.Host
	out   *output
	log   *proc.Log
	exe   string
	root  bool
	id    identity
	key   []byte // of the queue's encryption
}

func (s *service) run(c *config.Config) error {
	s.log = proc.NewLog(s.out.pipe(proto.Parent), proto.Parent, true, s.flags.json)
	verbose := proto.VerboseRequest{Debug: s.flags.verbose, Trace: s.flags.trace}
	s.log.SetVerbose(verbose)
	var passed []platform.PassedSocket
	var err error
	if a, ok := s.host.(platform.Activator); ok {
		if passed, err = a.Passed(); err != nil {
			return err
		}
	}
	if s.id, err = identities(s.host, s.root); err != nil {
		return err
	}
	if s.key, err = queueKey(&c.Queue, os.Stdin); err != nil {
		return err
	}
	paths := s.host.Paths()
	if err := prepareSpool(paths, s.id); err != nil {
		return err
	}
	cfg, err := cut(s.flags, c, paths, s.id, s.key)
	if err != nil {
		return err
	}
	s.log.Infof("OpenSMTPD %s starting", version)
	for _, w := range c.Warnings {
		s.log.Warnf("%v", w)
	}
	if !s.root {
		s.log.Warnf("not started as root: all roles share one process as uid %d; no chroot, no separate users, delivery to this user only", os.Geteuid())
	}
	switch sandboxes[s.flags.sandbox] {
	case platform.SandboxOff:
		s.log.Warnf("the sandbox is switched off: the processes are kept apart by users and root directories alone")
	case platform.SandboxTrace:
		s.log.Warnf("a process that violates its sandbox reports where, before it ends")
	}
	p := parent.New(parent.Options{
		Host: s.host, Paths: paths, Log: s.log, Spawner: s.spawner(), OneProcess: !s.root,
		Load: s.reload, Forward: forwardfile.Read, SMTPUser: s.id.smtp, Version: version, Passed: passed,
		Group: groupID,
	}, cfg, verbose)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.signals(ctx, p)
	pidFile := filepath.Join(paths.Run, "smtpd.pid")
	err = p.Run(ctx, func() {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			s.log.Warnf("pid file: %v", err)
		}
		s.notify(platform.State{Ready: true, Status: "accepting mail"})
		s.tellReady()
	})
	if err == nil {
		s.notify(platform.State{Stopping: true})
		s.log.Infof("Exiting")
		_ = os.Remove(pidFile) // it may be gone already
	}
	return err
}

func (s *service) notify(st platform.State) {
	if err := s.host.Notify(st); err != nil {
		s.log.Warnf("%v", err)
	}
}

// spawner starts roles as processes of their own, or as goroutines without root.
func (s *service) spawner() parent.Spawner {
	if !s.root {
		return goroutines{net: s.flags.net, env: func(role proto.Role) proc.Env {
			log := proc.NewLog(s.out.pipe(role), role, true, s.flags.json)
			log.SetVerbose(proto.VerboseRequest{Debug: s.flags.verbose, Trace: s.flags.trace})
			return proc.Env{Role: role, Host: s.host, Log: log}
		}}
	}
	var args []string
	if s.flags.json {
		args = append(args, "-o", "json")
	}
	if s.flags.sandbox != "" {
		args = append(args, "-o", "sandbox="+s.flags.sandbox)
	}
	for name, dir := range s.flags.dirs {
		args = append(args, "-o", name+"="+dir)
	}
	for _, o := range s.flags.net.options() {
		args = append(args, "-o", o)
	}
	return parent.Exec{Path: s.exe, Args: args, Stderr: s.out.pipe, Prefix: titlePrefix}
}

// reload reads the configuration again, for the parent.
func (s *service) reload() (*parent.Config, error) {
	s.notify(platform.State{Reloading: true})
	defer s.notify(platform.State{Ready: true, Status: "accepting mail"})
	c, _, err := load(s.flags, s.host.Paths())
	if err != nil {
		return nil, err
	}
	for _, w := range c.Warnings {
		s.log.Warnf("%v", w)
	}
	key := s.key
	if c.Queue.Encryption == config.NoKey {
		key = nil
	} else if key == nil {
		return nil, errors.New("queue encryption changes with a restart only")
	}
	return cut(s.flags, c, s.host.Paths(), s.id, key)
}

// signals makes INT and TERM end the service, and HUP reload it.
func (s *service) signals(ctx context.Context, p *parent.Parent) {
	// A channel each: no number of HUPs gets in the way of the end.
	end, again := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(again, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		select {
		case <-ctx.Done():
		case <-end:
			p.Stop()
		}
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-again:
				_ = p.Reload(ctx) // it logs what is wrong
			}
		}
	}()
}

// groupID looks a group up, by its name or number.
func groupID(name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// identities finds the users that the processes run as.
func identities(host platform.Host, root bool) (identity, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !root {
		u, err := user.Current()
		if err != nil {
			return identity{}, fmt.Errorf("who am I: %w", err)
		}
		self := platform.User{Name: u.Username, UID: os.Geteuid(), GID: os.Getegid(), Groups: []int{os.Getegid()}, Home: u.HomeDir}
		return identity{smtp: self, queue: self}, nil
	}
	id := identity{confine: true}
	for _, want := range []struct {
		name string
		into *platform.User
	}{{smtpUser, &id.smtp}, {queueUser, &id.queue}} {
		u, err := host.User(ctx, want.name)
		if errors.Is(err, platform.ErrNoUser) {
			return id, fmt.Errorf("user %s does not exist; create it as a system user without shell, such as: useradd --system --home-dir /var/empty --shell /usr/sbin/nologin %s", want.name, want.name)
		}
		if err != nil {
			return id, fmt.Errorf("user %s: %w", want.name, err)
		}
		if u.UID == 0 {
			return id, fmt.Errorf("user %s must not be root", want.name)
		}
		*want.into = u
	}
	return id, nil
}

// readKey reads the key of the queue from standard input, with ask after a prompt
// and without an echo, if that is a terminal.
func readKey(ask bool, stdin *os.File) (string, error) {
	if ask {
		fmt.Fprint(os.Stderr, "queue key: ")
		if echo(stdin, false) == nil {
			defer func() {
				_ = echo(stdin, true) // it could be turned off
				fmt.Fprintln(os.Stderr)
			}()
		}
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, 4096)).ReadString('\n')
	if err != nil && line == "" {
		return "", fmt.Errorf("queue encryption: no key on standard input: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// echo turns the echo of a terminal on or off.
func echo(terminal *os.File, on bool) error {
	cmd := exec.Command("stty", map[bool]string{false: "-echo", true: "echo"}[on])
	cmd.Stdin = terminal
	return cmd.Run()
}

// queueKey returns the key that the queue is encrypted with, nil for none.
func queueKey(q *config.QueueConfig, stdin *os.File) ([]byte, error) {
	var key string
	switch q.Encryption {
	case config.NoKey:
		return nil, nil
	case config.KeyInline:
		key = q.Key
	case config.KeyInFile:
		b, err := config.ReadFile(q.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("queue encryption: %w", err)
		}
		key, _, _ = strings.Cut(string(b), "\n")
	case config.KeyAsk, config.KeyStdin:
		line, err := readKey(q.Encryption == config.KeyAsk && os.Getenv(readyVariable) == "", stdin)
		if err != nil {
			return nil, err
		}
		key = line
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("queue encryption: the key has %d bytes, want 32", len(key))
	}
	return []byte(key), nil
}
