package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	services "github.com/kardianos/service"

	"github.com/opensmtpd/opensmtpd/packaging"
	"github.com/opensmtpd/opensmtpd/platform"
)

const serviceUsage = "usage: smtpd service install|uninstall|start|stop|status"

// installedMark ends a service definition that "smtpd service install" has written,
// by which uninstall knows it from a package's.
const installedMark = "made by smtpd service install"

// Exit statuses of "smtpd service status", as for status actions of init scripts in
// the Linux Standard Base.
const (
	statusRunning = 0
	statusStopped = 3
	statusUnknown = 4
)

// serviceManager says how the daemon is known to a service manager.
type serviceManager struct {
	name     string // of the service
	option   string // of the services library, that takes the definition
	kind     packaging.Manager
	path     string   // where the library writes the definition
	packaged []string // where packages have it
	mark     string   // installedMark as a comment of the definition
	enable   []string // commands that the library does not run after installing, nil: none
	disable  []string
}

// serviceManagerFor returns how to talk to the service manager that the library has
// found on a system. Where there is none, or where the library's own way is not fit
// for a mail server, the error says what to do instead.
func serviceManagerFor(system, manager string) (*serviceManager, error) {
	const mark = "\n# " + installedMark + "\n"
	switch {
	case manager == "linux-systemd":
		return &serviceManager{
			name: "opensmtpd", option: "SystemdScript", kind: packaging.Systemd, mark: mark,
			path:     "/etc/systemd/system/opensmtpd.service",
			packaged: []string{"/usr/lib/systemd/system/opensmtpd.service", "/lib/systemd/system/opensmtpd.service"},
		}, nil
	case manager == "linux-openrc":
		return &serviceManager{
			name: "opensmtpd", option: "OpenRCScript", kind: packaging.OpenRC, mark: mark,
			path: "/etc/init.d/opensmtpd",
		}, nil
	case manager == "darwin-launchd":
		return &serviceManager{
			name: "org.opensmtpd.smtpd", option: "LaunchdConfig", kind: packaging.Launchd,
			mark: "<!-- " + installedMark + " -->\n",
			path: "/Library/LaunchDaemons/org.opensmtpd.smtpd.plist",
		}, nil
	case system == "freebsd":
		return &serviceManager{
			name: "opensmtpd", option: "SysvScript", kind: packaging.FreeBSD, mark: mark,
			path:    "/usr/local/etc/rc.d/opensmtpd",
			enable:  []string{"sysrc", "opensmtpd_enable=YES"},
			disable: []string{"sysrc", "-x", "opensmtpd_enable"},
		}, nil
	case system == "openbsd":
		return nil, errors.New("smtpd service: OpenBSD's services are managed by rcctl(8). As root:\n" +
			"\tinstall -m 555 packaging/rc.d/openbsd/opensmtpd /etc/rc.d/opensmtpd\n" +
			"\trcctl disable smtpd && rcctl stop smtpd      # that of the base system\n" +
			"\trcctl enable opensmtpd && rcctl start opensmtpd\n" +
			"\trcctl check opensmtpd")
	case system == "netbsd":
		return nil, errors.New("smtpd service: NetBSD's services are managed by rc.d(8). As root:\n" +
			"\tinstall -m 555 packaging/rc.d/netbsd/opensmtpd /etc/rc.d/opensmtpd\n" +
			"\techo postfix=NO >> /etc/rc.conf && service postfix onestop\n" +
			"\techo opensmtpd=YES >> /etc/rc.conf && service opensmtpd start\n" +
			"\tservice opensmtpd status")
	}
	return nil, fmt.Errorf("smtpd service: no service manager that it knows (systemd, OpenRC) runs here, but %q.\n"+
		"Let it run \"smtpd -F\", which stays in the foreground, or \"smtpd\", which returns when mail is accepted; SIGTERM ends it, SIGHUP reloads", manager)
}

// manageService is the command "smtpd service". The services library is not used
// anywhere else: no process of the running daemon touches it.
func manageService(args []string) int {
	if len(args) != 1 {
		return fail(errors.New(serviceUsage))
	}
	host, err := systemHost(platform.Paths{})
	if err != nil {
		return fail(err)
	}
	m, err := serviceManagerFor(host.Name(), services.Platform())
	if err != nil {
		return fail(err)
	}
	exe, err := executable(host)
	if err != nil {
		return fail(err)
	}
	text, err := packaging.Definition(m.kind, exe)
	if err != nil {
		return fail(err)
	}
	s, err := services.New(unmanaged{}, &services.Config{
		Name: m.name, DisplayName: "OpenSMTPD", Description: "OpenSMTPD mail transfer agent",
		Executable: exe, Option: services.KeyValue{m.option: text + m.mark},
	})
	if err != nil {
		return fail(err)
	}
	c := &serviceControl{
		manager: m, service: s, exe: exe, root: os.Geteuid() == 0,
		read: os.ReadFile, resolve: filepath.EvalSymlinks, owner: fileOwner, command: runCommand, out: os.Stdout,
	}
	status, err := c.run(args[0])
	if err != nil {
		fail(err)
	}
	return status
}

// serviceControl carries out one command. What it does to the system can be
// replaced.
type serviceControl struct {
	manager *serviceManager
	service interface {
		Install() error
		Uninstall() error
		Start() error
		Stop() error
		Status() (services.Status, error)
	}
	exe     string
	root    bool
	read    func(path string) ([]byte, error)
	resolve func(path string) (string, error) // symbolic links
	owner   func(path string) (uid int, mode fs.FileMode, err error)
	command func(args []string) error
	out     io.Writer
}

// run returns the exit status.
func (c *serviceControl) run(verb string) (int, error) {
	var do func() error
	switch verb {
	case "status":
		return c.status()
	case "install":
		do = c.install
	case "uninstall":
		do = c.uninstall
	case "start":
		do = c.service.Start
	case "stop":
		do = c.service.Stop
	default:
		return 1, errors.New(serviceUsage)
	}
	if !c.root {
		return 1, fmt.Errorf("smtpd service %s: only root may", verb)
	}
	if err := do(); err != nil {
		return 1, fmt.Errorf("smtpd service %s: %w", verb, err)
	}
	return 0, nil
}

// status prints how the service is.
func (c *serviceControl) status() (int, error) {
	st, err := c.service.Status()
	switch {
	case errors.Is(err, services.ErrNotInstalled):
		// The library says so of a service between two states, too.
		for _, path := range append([]string{c.manager.path}, c.manager.packaged...) {
			if _, err := c.read(path); err == nil {
				return statusUnknown, fmt.Errorf("%s: installed, neither running nor stopped", c.manager.name)
			}
		}
		return statusUnknown, fmt.Errorf("%s: not installed", c.manager.name)
	case err != nil:
		return statusUnknown, fmt.Errorf("%s: %w", c.manager.name, err)
	case st == services.StatusRunning:
		fmt.Fprintf(c.out, "%s: running\n", c.manager.name)
		return statusRunning, nil
	case st == services.StatusStopped:
		fmt.Fprintf(c.out, "%s: stopped\n", c.manager.name)
		return statusStopped, nil
	}
	return statusUnknown, fmt.Errorf("%s: state unknown", c.manager.name)
}

// install writes and enables the service definition; it starts nothing.
func (c *serviceControl) install() error {
	for _, path := range append([]string{c.manager.path}, c.manager.packaged...) {
		if _, err := c.read(path); err == nil {
			return fmt.Errorf("%s is there already", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := c.trusted(); err != nil {
		return err
	}
	if err := c.service.Install(); err != nil {
		return err
	}
	if c.manager.enable != nil {
		if err := c.command(c.manager.enable); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.out, "wrote %s; check /etc with \"smtpd -n\", then: smtpd service start\n", c.manager.path)
	return nil
}

// trusted returns an error if others than root could replace the program that root
// is to run at every start.
func (c *serviceControl) trusted() error {
	target, err := c.resolve(c.exe)
	if err != nil {
		return err
	}
	for _, start := range []string{c.exe, target} {
		for path := start; ; path = filepath.Dir(path) {
			uid, mode, err := c.owner(path)
			if err != nil {
				return err
			}
			if uid != 0 || mode.Perm()&0o022 != 0 {
				return fmt.Errorf("%s will not do: %s can be changed by others than root (owner %d, mode %#o); copy the program to /usr/local/sbin, and run it from there",
					c.exe, path, uid, mode.Perm())
			}
			if path == filepath.Dir(path) {
				break
			}
		}
	}
	return nil
}

// uninstall stops the service and removes its definition.
func (c *serviceControl) uninstall() error {
	b, err := c.read(c.manager.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s", c.manager.path)
	}
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), installedMark) {
		return fmt.Errorf("%s was not made by \"smtpd service install\"; remove it the way it came", c.manager.path)
	}
	if st, err := c.service.Status(); err == nil && st == services.StatusRunning {
		if err := c.service.Stop(); err != nil {
			return err
		}
	}
	if err := c.service.Uninstall(); err != nil {
		return err
	}
	if c.manager.disable != nil {
		return c.command(c.manager.disable)
	}
	return nil
}

// fileOwner returns who owns what is at path, and its mode.
func fileOwner(path string) (int, fs.FileMode, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("%s: owner unknown", path)
	}
	return int(st.Uid), fi.Mode(), nil
}

func runCommand(args []string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmanaged is what the library would run; the daemon does not run under it.
type unmanaged struct{}

func (unmanaged) Start(services.Service) error { return errors.ErrUnsupported }
func (unmanaged) Stop(services.Service) error  { return errors.ErrUnsupported }
