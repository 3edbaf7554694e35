package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	services "github.com/kardianos/service"

	"github.com/opensmtpd/opensmtpd/packaging"
)

func TestServiceManagersThatAreKnown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ system, manager, want, refusal string }{
		{"linux", "linux-systemd", "/etc/systemd/system/opensmtpd.service", ""},
		{"linux", "linux-openrc", "/etc/init.d/opensmtpd", ""},
		{"darwin", "darwin-launchd", "/Library/LaunchDaemons/org.opensmtpd.smtpd.plist", ""},
		{"freebsd", "freebsd", "/usr/local/etc/rc.d/opensmtpd", ""},
		{"openbsd", "", "", "rcctl enable opensmtpd"},
		{"netbsd", "", "", "service opensmtpd start"},
		{"linux", "unix-systemv", "", `"smtpd -F"`},
		{"linux", "linux-upstart", "", "linux-upstart"},
	} {
		m, err := serviceManagerFor(tt.system, tt.manager)
		if tt.refusal != "" {
			if err == nil || !strings.Contains(err.Error(), tt.refusal) {
				t.Errorf("%s, %q: error %v, want one with %q", tt.system, tt.manager, err, tt.refusal)
			}
			continue
		}
		if err != nil || m.path != tt.want {
			t.Errorf("%s, %q: %+v, %v; want path %s", tt.system, tt.manager, m, err, tt.want)
			continue
		}
		if !strings.Contains(m.mark, installedMark) {
			t.Errorf("%s: the mark %q does not say who made the definition", tt.system, m.mark)
		}
	}
}

// fakeManager is a service manager and the files it has.
type fakeManager struct {
	files  map[string]string
	state  services.Status
	err    error // of Status
	calls  []string
	text   string // what Install writes
	path   string
	failed string // this call fails
}

func (f *fakeManager) call(name string) error {
	f.calls = append(f.calls, name)
	if f.failed == name {
		return errors.New("it failed")
	}
	return nil
}

func (f *fakeManager) Install() error {
	f.files[f.path] = f.text
	return f.call("install")
}

func (f *fakeManager) Uninstall() error {
	delete(f.files, f.path)
	return f.call("uninstall")
}
func (f *fakeManager) Start() error                     { return f.call("start") }
func (f *fakeManager) Stop() error                      { return f.call("stop") }
func (f *fakeManager) Status() (services.Status, error) { return f.state, f.err }

func (f *fakeManager) read(path string) ([]byte, error) {
	if text, ok := f.files[path]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

// fakeControl returns a control over a fake of FreeBSD's or systemd's manager, run
// by root from a place that only root can change.
func fakeControl(t *testing.T, system, manager string) (*serviceControl, *fakeManager, *bytes.Buffer) {
	t.Helper()
	m, err := serviceManagerFor(system, manager)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeManager{files: map[string]string{}, path: m.path, text: "text" + m.mark}
	out := new(bytes.Buffer)
	return &serviceControl{
		manager: m, service: f, exe: "/usr/local/sbin/smtpd", root: true, out: out, read: f.read,
		resolve: func(path string) (string, error) { return path, nil },
		owner:   func(string) (int, fs.FileMode, error) { return 0, 0o755, nil },
		command: func(args []string) error { return f.call(strings.Join(args, " ")) },
	}, f, out
}

func TestServiceIsInstalledStartedStoppedAndRemoved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		system, manager string
		want            []string
	}{
		{"linux", "linux-systemd", []string{"install", "start", "stop", "start", "stop", "uninstall"}},
		{"freebsd", "freebsd", []string{
			"install", "sysrc opensmtpd_enable=YES", "start", "stop", "start", "stop", "uninstall", "sysrc -x opensmtpd_enable",
		}},
	} {
		c, f, _ := fakeControl(t, tt.system, tt.manager)
		for _, verb := range []string{"install", "start", "stop", "start", "uninstall"} {
			f.state = services.StatusRunning
			if status, err := c.run(verb); status != 0 || err != nil {
				t.Errorf("%s: %s: status %d, %v", tt.manager, verb, status, err)
			}
		}
		if !slices.Equal(f.calls, tt.want) {
			t.Errorf("%s: calls %q, want %q", tt.manager, f.calls, tt.want)
		}
	}
}

func TestServiceCommandsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, verb string
		prepare    func(*serviceControl, *fakeManager)
		want       string
	}{
		{"not root", "install", func(c *serviceControl, _ *fakeManager) { c.root = false }, "only root"},
		{"unknown", "restart", func(*serviceControl, *fakeManager) {}, "usage"},
		{"a package has the unit", "install", func(_ *serviceControl, f *fakeManager) {
			f.files["/usr/lib/systemd/system/opensmtpd.service"] = "unit"
		}, "there already"},
		{"installed twice", "install", func(_ *serviceControl, f *fakeManager) { f.files[f.path] = f.text }, "there already"},
		{"a user's program", "install", func(c *serviceControl, _ *fakeManager) {
			c.owner = func(path string) (int, fs.FileMode, error) {
				if path == "/usr/local/sbin/smtpd" {
					return 1000, 0o755, nil
				}
				return 0, 0o755, nil
			}
		}, "/usr/local/sbin/smtpd can be changed"},
		{"a program below a directory of a group", "install", func(c *serviceControl, _ *fakeManager) {
			c.owner = func(path string) (int, fs.FileMode, error) {
				if path == "/usr/local" {
					return 0, 0o775, nil
				}
				return 0, 0o755, nil
			}
		}, "/usr/local can be changed"},
		{"a link to a program in /tmp", "install", func(c *serviceControl, _ *fakeManager) {
			c.resolve = func(string) (string, error) { return "/tmp/smtpd", nil }
			c.owner = func(path string) (int, fs.FileMode, error) {
				if path == "/tmp" {
					return 0, 0o777 | fs.ModeSticky, nil
				}
				return 0, 0o755, nil
			}
		}, "/tmp can be changed"},
		{"not installed", "uninstall", func(*serviceControl, *fakeManager) {}, "there is no"},
		{"made by somebody else", "uninstall", func(_ *serviceControl, f *fakeManager) { f.files[f.path] = "unit" }, "was not made"},
	} {
		c, f, _ := fakeControl(t, "linux", "linux-systemd")
		tt.prepare(c, f)
		status, err := c.run(tt.verb)
		if status == 0 || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: status %d, error %v; want one with %q", tt.name, status, err, tt.want)
		}
		if len(f.calls) > 0 {
			t.Errorf("%s: refused, and yet called %q", tt.name, f.calls)
		}
	}
}

func TestServiceThatDoesNotStopIsNotRemoved(t *testing.T) {
	t.Parallel()
	c, f, _ := fakeControl(t, "linux", "linux-systemd")
	f.files[f.path], f.state, f.failed = f.text, services.StatusRunning, "stop"
	if status, err := c.run("uninstall"); status == 0 || err == nil {
		t.Errorf("uninstall: status %d, %v; want a failure", status, err)
	}
	if _, ok := f.files[f.path]; !ok {
		t.Error("the definition is gone, the service runs on")
	}
}

func TestServiceStatus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		state     services.Status
		err       error
		installed bool
		status    int
		out       string // printed, or in the error
	}{
		{"running", services.StatusRunning, nil, true, 0, "running"},
		{"stopped", services.StatusStopped, nil, true, 3, "stopped"},
		{"absent", services.StatusUnknown, services.ErrNotInstalled, false, 4, "not installed"},
		{"reloading", services.StatusUnknown, services.ErrNotInstalled, true, 4, "neither"},
		{"failed", services.StatusUnknown, errors.New("failed state"), true, 4, "failed state"},
	} {
		c, f, out := fakeControl(t, "linux", "linux-systemd")
		c.root = false // everybody may ask
		f.state, f.err = tt.state, tt.err
		if tt.installed {
			f.files["/lib/systemd/system/opensmtpd.service"] = "unit"
		}
		status, err := c.run("status")
		text := out.String()
		if err != nil {
			text += err.Error()
		}
		if status != tt.status || !strings.Contains(text, tt.out) {
			t.Errorf("%s: status %d, %q; want %d, %q", tt.name, status, text, tt.status, tt.out)
		}
	}
}

// smtpdCheck runs smtpd -n over a configuration.
func smtpdCheck(t *testing.T, text string) (string, error) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "smtpd.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-n", "-f", conf)
	cmd.Env = append(os.Environ(), runVariable+"=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// packagedConfiguration returns the configuration that packages install, with
// tables in dir, and the loopback interface as this system calls it.
func packagedConfiguration(t *testing.T, dir string) string {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "..", "packaging", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := os.WriteFile(filepath.Join(dir, "aliases"), []byte(read("aliases")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "smtpd.secrets"), []byte("provider user:password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(read("smtpd.conf"), "file:/etc/", "file:"+dir+"/")
	if _, err := net.InterfaceByName("lo"); err != nil {
		text = strings.Replace(text, "\nlisten on lo\n", "\nlisten on lo0\n", 1)
	}
	return text
}

func TestPackagedConfigurationIsRight(t *testing.T) {
	t.Parallel()
	text := packagedConfiguration(t, t.TempDir())
	out, err := smtpdCheck(t, text)
	if err != nil || out != "configuration OK\n" {
		t.Errorf("smtpd -n: %v\n%s", err, out)
	}
	if out, err := smtpdCheck(t, text+"action \"x\" nonsense\n"); err == nil {
		t.Errorf("smtpd -n finds nothing wrong with nonsense: %s", out)
	}
}

// Each of the examples in the comments is a run of commented lines of code.
func TestExamplesOfPackagedConfigurationAreRight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := packagedConfiguration(t, dir)
	examples := regexp.MustCompile(`(?m)(?:^# (?:table|action|match|pki|listen) .*\n)+`).FindAllString(text, -1)
	if len(examples) != 3 {
		t.Fatalf("%d examples, want 3: %q", len(examples), examples)
	}
	for _, example := range examples {
		if strings.Contains(example, "# pki") {
			continue // names certificates that are not there
		}
		lines := strings.ReplaceAll("\n"+example, "\n# ", "\n")
		if out, err := smtpdCheck(t, text+lines); err != nil {
			t.Errorf("%s\nsmtpd -n: %v\n%s", lines, err, out)
		}
	}
}

// The definition that is handed to the library goes through its template engine.
func TestServiceDefinitionsAreNoTemplates(t *testing.T) {
	t.Parallel()
	for _, kind := range []packaging.Manager{packaging.Systemd, packaging.OpenRC, packaging.Launchd, packaging.FreeBSD} {
		text, err := packaging.Definition(kind, "/opt/mail/smtpd")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "{{") {
			t.Errorf("definition %d contains a template action:\n%s", kind, text)
		}
	}
}
