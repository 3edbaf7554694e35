package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// programs are the folders of cmd that every system has a program of.
func programs(t *testing.T) (names []string) {
	t.Helper()
	dirs, err := filepath.Glob("../cmd/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		if name := filepath.Base(dir); name != "auth-pam" { // C, and for those who ask for it
			names = append(names, name)
		}
	}
	return names
}

// installed runs the script install for a system, with files that stand for the
// programs, and returns what is then below the prefix.
func installed(t *testing.T, system, prefix string) (root string, files []string) {
	t.Helper()
	built, root := t.TempDir(), t.TempDir()
	for _, name := range programs(t) {
		write(t, filepath.Join(built, name), "program "+name, 0o700)
	}
	run(t, exec.Command("sh", "install", "-s", system, "-d", root, built))
	root = filepath.Join(root, prefix)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		want := fs.FileMode(0o644)
		if regexp.MustCompile(`^(s?bin|libexec)/`).MatchString(rel) {
			want = 0o755
		}
		if fi.Mode() != want {
			t.Errorf("%s: %s has mode %v, want %v", system, rel, fi.Mode(), want)
		}
		files = append(files, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return root, files
}

func TestFileListsOfPortsAreWhatIsInstalled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		system, prefix, list string
		decoration           string   // what the list says about a file, before or behind it
		more                 []string // what the port installs itself
	}{
		{"freebsd", "/usr/local", "freebsd/pkg-plist", `^@sample |\.gz$`, []string{"etc/rc.d/opensmtpd", "etc/mail/smtpd.conf.sample"}},
		{"openbsd", "/usr/local", "openbsd/pkg/PLIST", `^@(bin|man|rcscript) `, []string{"${RCDIR}/opensmtpd", "share/doc/pkg-readmes/${PKGSTEM}"}},
		{"netbsd", "/usr/pkg", "pkgsrc/PLIST", `^\$\{PLIST\.sqlite\}`, nil},
	} {
		_, want := installed(t, tt.system, tt.prefix)
		want = append(want, tt.more...)
		var listed []string
		for line := range strings.Lines(read(t, tt.list)) {
			line = strings.TrimSuffix(line, "\n")
			if !strings.HasPrefix(line, "@comment") && !strings.HasSuffix(line, "/") {
				listed = append(listed, regexp.MustCompile(tt.decoration).ReplaceAllString(line, ""))
			}
		}
		slices.Sort(want)
		slices.Sort(listed)
		for _, f := range want {
			if !slices.Contains(listed, f) {
				t.Errorf("%s lacks %s", tt.list, f)
			}
		}
		for _, f := range listed {
			if !slices.Contains(want, f) {
				t.Errorf("%s has %s, which nothing installs", tt.list, f)
			}
		}
	}
}

// Each program has its page, wherever it goes.
func TestInstalledProgramsHaveTheirPages(t *testing.T) {
	t.Parallel()
	root, files := installed(t, "linux", "/usr/local")
	for _, name := range programs(t) {
		page := "share/man/man8/" + name + ".8"
		switch name {
		case "opensmtpd":
			page = "share/man/man8/smtpd.8"
		case "smtp":
			page = "share/man/man1/smtp.1"
		}
		if !slices.Contains(files, page) {
			t.Errorf("%s is not installed with %s", name, page)
		}
	}
	if got := read(t, filepath.Join(root, "sbin/smtpd")); got != "program opensmtpd" {
		t.Errorf("sbin/smtpd is %q", got)
	}
}

func TestInstalledExampleNamesTheLoopbackInterface(t *testing.T) {
	t.Parallel()
	for system, want := range map[string]string{"linux": "listen on lo\n", "freebsd": "listen on lo0\n", "darwin": "listen on lo0\n"} {
		root, _ := installed(t, system, "/usr/local")
		if text := read(t, filepath.Join(root, "share/examples/opensmtpd/smtpd.conf")); !strings.Contains(text, "\n"+want) {
			t.Errorf("%s: the example lacks %q", system, want)
		}
	}
	if out, err := exec.Command("sh", "install", "-s", "plan9", "-d", t.TempDir(), t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(out), "packaging/install [-d destdir]") {
		t.Errorf("a system that there is not: %v, %s", err, out)
	}
}

// The make of the BSDs reads the makefiles of the ports, with stand-ins for those of
// the ports trees, and says what it understood.
func TestMakefilesOfPortsAreRead(t *testing.T) {
	t.Parallel()
	make := tool(t, "bmake")
	for _, tt := range []struct{ port, arch, variable, want string }{
		{"freebsd", "amd64", "PORTNAME", "opensmtpd"},
		{"freebsd", "amd64", "USERS", "_smtpd _smtpq"},
		{"openbsd", "amd64", "PKGNAME", "opensmtpd-8.0.0"},
		{"openbsd", "amd64", "MODULES", "lang/go"},
		{"pkgsrc", "x86_64", "RCD_SCRIPTS", "opensmtpd"},
		{"pkgsrc", "x86_64", "PLIST.sqlite", "yes"},
		{"pkgsrc", "aarch64", "PLIST.sqlite", ""},
	} {
		// pkgsrc includes files two folders above its own.
		dir := t.TempDir()
		port := filepath.Join(dir, "mail", "opensmtpd")
		write(t, filepath.Join(port, "Makefile"), read(t, tt.port+"/Makefile"), 0o644)
		for _, stub := range []string{
			"mk/bsd.prefs.mk", "mk/bsd.pkg.mk", "lang/go/go-module.mk", "share/mk/bsd.port.mk",
			"mail/opensmtpd/go-modules.mk", "mail/opensmtpd/modules.inc",
		} {
			write(t, filepath.Join(dir, stub), "", 0o644)
		}
		cmd := exec.Command(make, "-r", "-m", filepath.Join(dir, "share/mk"), "-V", "${"+tt.variable+"}", "OPSYS=NetBSD", "MACHINE_ARCH="+tt.arch)
		cmd.Dir = port
		if got := strings.TrimSpace(run(t, cmd)); got != tt.want {
			t.Errorf("%s on %s: %s is %q, want %q", tt.port, tt.arch, tt.variable, got, tt.want)
		}
	}
}

// The lists of programs in makefiles that cannot use a pattern are whole.
func TestPortsBuildEveryProgram(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"freebsd", "openbsd", "pkgsrc"} {
		text := read(t, port+"/Makefile")
		for _, name := range programs(t) {
			found := false
			for _, word := range regexp.MustCompile(`[\w.*\[\]/-]+`).FindAllString(text, -1) {
				ok, err := filepath.Match(strings.TrimPrefix(strings.TrimPrefix(word, "./"), "cmd/"), name)
				found = found || err == nil && ok
			}
			if !found {
				t.Errorf("%s/Makefile does not build %s", port, name)
			}
		}
	}
	if _, err := os.Stat("../cmd/auth-pam"); err != nil {
		t.Error("programs leaves out what is not there")
	}
}
