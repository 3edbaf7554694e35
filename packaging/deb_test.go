package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// debian runs one maintainer script for a system below a directory. The commands it
// calls are stubs that write down how they were called; answers are theirs.
type debian struct {
	t       *testing.T
	root    string
	answers map[string]string // command: shell code
}

func (d *debian) script(name string, args ...string) (calls, output string) {
	d.t.Helper()
	bin := filepath.Join(d.t.TempDir(), "bin")
	log := filepath.Join(filepath.Dir(bin), "log")
	write(d.t, log, "", 0o644)
	for _, stub := range []string{
		"getent", "useradd", "dpkg-statoverride", "deb-systemd-helper", "deb-systemd-invoke", "systemctl", "systemd-tmpfiles",
		"chown", "update-rc.d",
	} {
		text := "#!/bin/sh\necho \"" + stub + " $*\" >>'" + log + "'\n" + d.answers[stub] + "\n"
		write(d.t, filepath.Join(bin, stub), text, 0o755)
	}
	script, err := filepath.Abs("deb/" + name)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "DPKG_ROOT=" + d.root}
	output = run(d.t, cmd)
	return read(d.t, log), output
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	d := &debian{t: t, root: t.TempDir(), answers: map[string]string{
		"getent": "exit 2", "deb-systemd-helper": `[ "$1" != debian-installed ]`,
	}}
	write(t, filepath.Join(d.root, "usr/share/opensmtpd/aliases"), "postmaster: root\n", 0o644)
	if err := os.MkdirAll(filepath.Join(d.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPackageMakesUsersAndAliases(t *testing.T) {
	t.Parallel()
	d := newDebian(t)
	calls, _ := d.script("postinst", "configure", "")
	for _, user := range []string{"_smtpd", "_smtpq"} {
		if !strings.Contains(calls, "useradd --system --user-group --home-dir /var/empty") || !strings.Contains(calls, " "+user+"\n") {
			t.Errorf("user %s is not made: %s", user, calls)
		}
	}
	if !strings.Contains(calls, "deb-systemd-helper enable opensmtpd.service") {
		t.Errorf("the service is not enabled: %s", calls)
	}
	if got := read(t, filepath.Join(d.root, "etc/aliases")); got != "postmaster: root\n" {
		t.Errorf("aliases: %q", got)
	}
}

func TestPackageKeepsUsersAndAliasesThatAreThere(t *testing.T) {
	t.Parallel()
	d := newDebian(t)
	d.answers["getent"] = `case $2 in _smtp?) exit 0 ;; *) exit 2 ;; esac`
	write(t, filepath.Join(d.root, "etc/aliases"), "root: alice\n", 0o600)
	calls, _ := d.script("postinst", "configure", "8.0.0")
	if strings.Contains(calls, "useradd") || strings.Contains(calls, "chown") {
		t.Errorf("what is there is changed: %s", calls)
	}
	if got := read(t, filepath.Join(d.root, "etc/aliases")); got != "root: alice\n" {
		t.Errorf("aliases: %q", got)
	}
}

func TestPackageLeavesDisabledServiceDisabled(t *testing.T) {
	t.Parallel()
	d := newDebian(t)
	d.answers["deb-systemd-helper"] = `case "$*" in *was-enabled*) exit 1 ;; esac`
	if calls, _ := d.script("postinst", "configure", "8.0.0"); strings.Contains(calls, "helper enable") {
		t.Errorf("a service that was disabled is enabled: %s", calls)
	}
}

// What Debian's own package is configured to do goes on, whether the administrator has
// ever changed it or not.
func TestPackageKeepsTheConfigurationOfItsPredecessor(t *testing.T) {
	t.Parallel()
	const theirs, ours, edited = "action relay\n", "# ours\n", "# the administrator's\n"
	for _, tt := range []struct{ old, before, unpacked, want string }{
		{"6.8.0p2-4", theirs, ours, theirs}, // never changed: dpkg takes ours
		{"6.8.0p2-4", edited, edited, edited},
		{"6.8.0p2-4", theirs, edited, edited}, // merged at dpkg's question
		{"6.8.0p2-4", ours, ours, ours},
		{"8.0.0-1", theirs, ours, ours},
		{"", "", ours, ours},
	} {
		d := newDebian(t)
		conf := filepath.Join(d.root, "etc/smtpd.conf")
		write(t, filepath.Join(d.root, "usr/share/opensmtpd/smtpd.conf"), ours, 0o644)
		how := []string{"install"}
		if tt.old != "" {
			how = []string{"upgrade", tt.old, "8.0.1-1"}
		}
		if tt.before != "" {
			write(t, conf, tt.before, 0o644)
		}
		d.script("preinst", how...)
		write(t, conf, tt.unpacked, 0o644)
		d.script("postinst", "configure", tt.old)
		if got := read(t, conf); got != tt.want {
			t.Errorf("%+v: the configuration is %q", tt, got)
		}
		if left, _ := filepath.Glob(conf + ".*"); len(left) > 0 {
			t.Errorf("%+v: %q is left", tt, left)
		}
	}
}

func TestPackageUndoesSetIDOfItsPredecessor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		override string
		removed  bool
	}{
		{"root opensmtpq 2755 /usr/sbin/smtpctl", true},
		{"root mail 750 /usr/sbin/smtpctl", false}, // the administrator's
		{"", false},
	} {
		d := newDebian(t)
		d.answers["dpkg-statoverride"] = `[ "$1" != --list ] || { [ -n '` + tt.override + `' ] && echo '` + tt.override + `'; }`
		smtpctl := filepath.Join(d.root, "usr/sbin/smtpctl")
		write(t, smtpctl, "", 0o755)
		if err := os.Chmod(smtpctl, 0o755|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		calls, _ := d.script("postinst", "configure", "6.8.0")
		fi, err := os.Stat(smtpctl)
		if err != nil {
			t.Fatal(err)
		}
		if setgid := fi.Mode()&os.ModeSetgid != 0; setgid == tt.removed {
			t.Errorf("override %q: set-group-id %v after it", tt.override, setgid)
		}
		if got := strings.Contains(calls, "--remove /usr/sbin/smtpctl"); got != tt.removed {
			t.Errorf("override %q removed: %v, want %v", tt.override, got, tt.removed)
		}
	}
}

func TestPurgeKeepsMailAndWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	d := newDebian(t)
	spool := filepath.Join(d.root, "var/spool/smtpd")
	message := filepath.Join(spool, "queue/ab/ab123456/message")
	write(t, message, "mail\n", 0o600)
	for _, dir := range []string{"temporary", "incoming"} {
		if err := os.MkdirAll(filepath.Join(spool, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(d.root, "etc/aliases"), "root: alice\n", 0o644)
	calls, output := d.script("postrm", "purge")
	if got := read(t, message); got != "mail\n" {
		t.Errorf("the message is %q", got)
	}
	if _, err := os.Stat(filepath.Join(spool, "temporary")); err == nil {
		t.Error("an empty directory is left")
	}
	if !strings.Contains(output, "is kept") {
		t.Errorf("nobody is told that the spool is kept: %q", output)
	}
	if got := read(t, filepath.Join(d.root, "etc/aliases")); got != "root: alice\n" {
		t.Errorf("aliases: %q", got)
	}
	if strings.Contains(calls, "userdel") || !strings.Contains(calls, "deb-systemd-helper purge") {
		t.Errorf("calls: %s", calls)
	}
}

func TestPurgeRemovesAnEmptySpool(t *testing.T) {
	t.Parallel()
	d := newDebian(t)
	spool := filepath.Join(d.root, "var/spool/smtpd")
	if err := os.MkdirAll(filepath.Join(spool, "queue", "ab"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, output := d.script("postrm", "purge"); output != "" {
		t.Errorf("purge says %q", output)
	}
	if _, err := os.Stat(spool); err == nil {
		t.Error("the empty spool is left")
	}
	if _, err := os.Stat(filepath.Dir(spool)); err != nil {
		t.Errorf("the directory of all spools: %v", err)
	}
}
