package packaging

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tool returns the path of a program, or skips the test when there is none.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// run runs a command and returns what it says.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestDefinitionNamesTheProgram(t *testing.T) {
	t.Parallel()
	for m := Systemd; m <= FreeBSD; m++ {
		text, err := Definition(m, "/opt/mail-1.0/sbin/smtpd")
		if err != nil {
			t.Fatalf("manager %d: %v", m, err)
		}
		if !strings.Contains(text, "/opt/mail-1.0/sbin/smtpd") || strings.Contains(text, "/usr/sbin/smtpd") || strings.Contains(text, "/usr/local/sbin/smtpd") {
			t.Errorf("manager %d: another program than asked for:\n%s", m, text)
		}
	}
	for _, exe := range []string{"", "smtpd", "/a b/smtpd", "/a\nb", "/a%n", "/$HOME/smtpd", "/{{Path}}", "/a<b>", "/smtpd (deleted)", "/é"} {
		if text, err := Definition(Systemd, exe); err == nil {
			t.Errorf("program %q is taken:\n%s", exe, text)
		}
	}
	if _, err := Definition(FreeBSD+1, "/usr/sbin/smtpd"); err == nil {
		t.Error("there is a definition for a manager that there is not")
	}
}

func TestSystemdTakesTheSocketUnit(t *testing.T) {
	t.Parallel()
	analyze, dir := tool(t, "systemd-analyze"), t.TempDir()
	exe, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	service, err := Definition(Systemd, exe)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "opensmtpd.service"), service, 0o644)
	socket := filepath.Join(dir, "opensmtpd.socket")
	write(t, socket, read(t, "systemd/opensmtpd.socket"), 0o644)
	out, err := exec.Command(analyze, "verify", "--man=no", socket).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("opensmtpd")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func TestAppArmorReadsTheProfile(t *testing.T) {
	t.Parallel()
	parser := tool(t, "apparmor_parser")
	check := func(text string) error {
		profile := filepath.Join(t.TempDir(), "opensmtpd")
		write(t, profile, text, 0o644)
		out, err := exec.Command(parser, "--skip-kernel-load", "--skip-cache", profile).CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	}
	text := read(t, "apparmor/opensmtpd")
	if err := check(text); err != nil {
		t.Errorf("apparmor_parser: %v", err)
	}
	if check(strings.Replace(text, "capability kill,", "capability hunt,", 1)) == nil {
		t.Error("apparmor_parser takes a capability that there is not")
	}
	if !strings.Contains(read(t, "systemd/opensmtpd.service"), "\nAppArmorProfile=-opensmtpd\n") {
		t.Error("the unit does not ask for the profile")
	}
	// The unit and the profile leave the same capabilities.
	var profile []string
	for _, m := range regexp.MustCompile(`(?m)^  capability (\w+),$`).FindAllStringSubmatch(text, -1) {
		profile = append(profile, "CAP_"+strings.ToUpper(m[1]))
	}
	unit := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(read(t, "systemd/opensmtpd.service"))
	if unit == nil || strings.Join(profile, " ") != unit[1] {
		t.Errorf("the profile has %q, the unit %q", profile, unit)
	}
}

func TestSystemdTakesTheUnit(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze")
	exe, err := exec.LookPath("true") // verify wants a program that is there
	if err != nil {
		t.Fatal(err)
	}
	text, err := Definition(Systemd, exe)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(text string) (string, error) {
		unit := filepath.Join(t.TempDir(), "opensmtpd.service")
		write(t, unit, text, 0o644)
		out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
		var about []string // the unit; other units of the machine are not our business
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "opensmtpd") {
				about = append(about, line)
			}
		}
		return strings.Join(about, ""), err
	}
	if out, err := verify(text); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, _ := verify(text + "\n[Service]\nProtectSytem=full\n"); out == "" {
		t.Error("systemd-analyze verify takes a misspelt directive")
	}
}

// What a server with local delivery cannot carry must not slip in.
func TestUnitHasNothingThatBreaksLocalDelivery(t *testing.T) {
	t.Parallel()
	unit := read(t, "systemd/opensmtpd.service")
	for _, line := range []string{
		"User=", "DynamicUser=", "PrivateUsers=", "SecureBits=", "NoNewPrivileges=", "ProtectHome=", "PrivateTmp=",
		"ProcSubset=", "MemoryDenyWriteExecute=", "ProtectSystem=strict",
	} {
		if strings.Contains(unit, "\n"+line) {
			t.Errorf("the unit sets %s", line)
		}
		if !strings.Contains(unit, "\n# "+line) {
			t.Errorf("the unit does not say why it has no %s", line)
		}
	}
	for _, line := range []string{"Type=notify", "ExecStart=/usr/sbin/smtpd -F", "KillMode=mixed"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
	filter := regexp.MustCompile(`(?m)^SystemCallFilter=(.*)$`).FindStringSubmatch(unit)
	if filter == nil || !slices.Contains(strings.Fields(filter[1]), "chroot") {
		t.Errorf("the filter of system calls forbids chroot: %q", filter)
	}
}

func TestSystemdMakesUsersAndDirectories(t *testing.T) {
	t.Parallel()
	sysusers, tmpfiles := tool(t, "systemd-sysusers"), tool(t, "systemd-tmpfiles")
	if os.Geteuid() != 0 {
		t.Skip("only root can make users, even below a directory of its own")
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n", 0o644)
	write(t, filepath.Join(root, "usr/lib/sysusers.d/opensmtpd.conf"), read(t, "systemd/sysusers.conf"), 0o644)
	write(t, filepath.Join(root, "usr/lib/tmpfiles.d/opensmtpd.conf"), read(t, "systemd/tmpfiles.conf"), 0o644)
	run(t, exec.Command(sysusers, "--root="+root, "opensmtpd.conf"))
	passwd := read(t, filepath.Join(root, "etc/passwd"))
	for _, user := range []string{"_smtpd", "_smtpq"} {
		if !regexp.MustCompile(`(?m)^` + user + `:[^:]*:[1-9]\d*:[1-9]\d*:[^:]*:/var/empty:/usr/sbin/nologin$`).MatchString(passwd) {
			t.Errorf("user %s: passwd is\n%s", user, passwd)
		}
	}
	if out, err := exec.Command(tmpfiles, "--root="+root, "--create", "opensmtpd.conf").CombinedOutput(); err != nil {
		t.Fatalf("systemd-tmpfiles: %v\n%s", err, out)
	}
	for path, want := range map[string]fs.FileMode{
		"var/empty": 0o755, "var/spool/smtpd": 0o711, "var/spool/smtpd/offline": 0o733 | fs.ModeSticky,
	} {
		fi, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
		} else if got := fi.Mode() &^ fs.ModeDir; got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
}

// keys are those that launchd.plist(5) knows and the definition uses.
func keys() []string {
	return []string{
		"ExitTimeOut", "KeepAlive", "Label", "ProgramArguments", "RunAtLoad", "StandardErrorPath", "SuccessfulExit",
		"ThrottleInterval", "Umask", "WorkingDirectory",
	}
}

func TestLaunchdDefinitionIsAPropertyList(t *testing.T) {
	t.Parallel()
	text, err := Definition(Launchd, "/usr/local/sbin/smtpd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for dec := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "key" {
			var key string
			if err := dec.DecodeElement(&key, &start); err != nil {
				t.Fatal(err)
			}
			found = append(found, key)
		}
	}
	if slices.Sort(found); !slices.Equal(found, keys()) {
		t.Errorf("keys %q, want %q", found, keys())
	}
}

func TestLaunchdDefinitionIsReadByAPropertyListReader(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(tool(t, "python3"), "-c", `
import plistlib, sys
p = plistlib.loads(sys.stdin.buffer.read())
print(p["ProgramArguments"], p["KeepAlive"], oct(p["Umask"]), p["Label"] + ".plist")`)
	cmd.Stdin = strings.NewReader(launchd + "<!-- made by smtpd service install -->\n")
	want := "['/usr/local/sbin/smtpd', '-F'] {'SuccessfulExit': False} 0o22 org.opensmtpd.smtpd.plist\n"
	if got := run(t, cmd); got != want {
		t.Errorf("property list has %q, want %q", got, want)
	}
}

func TestFormulaIsRuby(t *testing.T) {
	t.Parallel()
	if out := run(t, exec.Command(tool(t, "ruby"), "-wc", "brew/opensmtpd.rb")); out != "Syntax OK\n" {
		t.Error(out)
	}
}

// scripts are all shell scripts, and for which shell they are.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"packages": "sh", "sbom": "sh", "install": "sh", "openrc/opensmtpd": "sh", "openrc/opensmtpd.confd": "sh"}
	for _, pattern := range []string{"deb/*", "rpm/*", "apk/*", "arch/*", "rc.d/*/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			out[path] = "sh"
		}
	}
	out["rc.d/openbsd/opensmtpd"] = "ksh"
	return out
}

func TestShellsCanReadTheScripts(t *testing.T) {
	t.Parallel()
	for path, kind := range scripts(t) {
		shells := []string{"sh", "dash"}
		if kind == "ksh" {
			shells = []string{"ksh", "mksh"}
		}
		for _, shell := range shells {
			t.Run(path+" "+shell, func(t *testing.T) {
				t.Parallel()
				run(t, exec.Command(tool(t, shell), "-n", path))
			})
		}
	}
}

func TestShellcheckHasNothingToSay(t *testing.T) {
	t.Parallel()
	check := tool(t, "shellcheck")
	for path, kind := range scripts(t) {
		// What service managers read, and what only they call, looks unused; what
		// they include is theirs.
		run(t, exec.Command(check, "-s", kind, "-e", "SC1091,SC2034,SC2317", path))
	}
}

// entry is one line of contents of nfpm.yaml.
var entry = regexp.MustCompile(`(?m)^  - \{(.*)\}$`)

func TestPackagedFilesAreThereAndHaveNoSetIDBit(t *testing.T) {
	t.Parallel()
	text := read(t, "nfpm.yaml")
	made := regexp.MustCompile(`^(bin|libexec|man|doc)/`) // by the script packages
	entries := entry.FindAllStringSubmatch(text, -1)
	if len(entries) < 40 {
		t.Fatalf("only %d entries", len(entries))
	}
	for _, e := range entries {
		src := regexp.MustCompile(`src: ([^,]+)`).FindStringSubmatch(e[1])
		link := strings.Contains(e[1], "type: symlink")
		if mode := regexp.MustCompile(`mode: (\d+)`).FindStringSubmatch(e[1]); mode != nil {
			n, err := strconv.ParseUint(mode[1], 8, 32)
			if err != nil || n > 0o777 || n&0o022 != 0 {
				t.Errorf("mode %s: %s", mode[1], e[1])
			}
		} else if !link {
			t.Errorf("no mode: %s", e[1])
		}
		if strings.Contains(e[1], "owner") || strings.Contains(e[1], "group") {
			t.Errorf("belongs to a user that may not be there: %s", e[1])
		}
		if strings.Contains(e[1], "type: tree") {
			t.Errorf("gives directories the mode of files: %s", e[1])
		}
		if src == nil || link || made.MatchString(src[1]) {
			continue
		}
		if _, err := os.Stat(strings.TrimPrefix(src[1], "packaging/")); err != nil {
			t.Error(err)
		}
	}
	for _, script := range regexp.MustCompile(`(?:install|remove): packaging/(\S+)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(script[1]); err != nil {
			t.Error(err)
		}
	}
}

// A program that is not in every list would be missing from some package.
func TestEveryProgramIsReleased(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("../cmd/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	release, script := read(t, "../goreleaser.yaml"), read(t, "packages")
	for _, dir := range dirs {
		name := filepath.Base(dir)
		if name == "auth-pam" {
			continue // needs cgo and the system's libpam: for those who build for one system
		}
		if !strings.Contains(release, "main: ./cmd/"+name+"\n") {
			t.Errorf("goreleaser.yaml does not build %s", name)
		}
		word := name
		for _, prefix := range []string{"mail.", "filter-", "table-"} {
			if strings.HasPrefix(name, prefix) {
				word = prefix + "*"
			}
		}
		if !regexp.MustCompile(`(?m)^\t\t(\S+ \| )*` + regexp.QuoteMeta(word) + `( \| \S+)*\) to=`).MatchString(script) {
			t.Errorf("packages does not build %s", name)
		}
	}
}

func TestReleaseConfigurationIsYAML(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	if err := exec.Command(python, "-c", "import yaml").Run(); err != nil {
		t.Skip("python3 has no yaml module")
	}
	for _, path := range []string{"../goreleaser.yaml", "nfpm.yaml", "nfpm-filters.yaml", "nfpm-tables.yaml", "nfpm-pam.yaml"} {
		cmd := exec.Command(python, "-c", "import sys, yaml; print(len(yaml.safe_load(sys.stdin)))")
		cmd.Stdin = bytes.NewReader([]byte(read(t, path)))
		if out := run(t, cmd); out == "0\n" {
			t.Errorf("%s is empty", path)
		}
	}
}

// A document in the package that sends its reader to another has that one beside it.
func TestPackagedDocumentsNameOnlyEachOther(t *testing.T) {
	t.Parallel()
	list := read(t, "nfpm.yaml")
	packaged := regexp.MustCompile(`src: doc/(\S+\.md),`).FindAllStringSubmatch(list, -1)
	if len(packaged) == 0 {
		t.Fatal("nfpm.yaml has no documents")
	}
	for _, doc := range packaged {
		text := read(t, filepath.Join("..", "docs", doc[1]))
		for _, named := range regexp.MustCompile(`[\w.-]+\.md\b`).FindAllString(text, -1) {
			if !strings.Contains(list, "src: doc/"+named+",") {
				t.Errorf("%s names %s, which is not packaged", doc[1], named)
			}
		}
	}
}
