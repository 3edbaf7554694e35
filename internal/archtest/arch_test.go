package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/opensmtpd/opensmtpd"

// systems are those the daemon is built for.
func systems() []string { return []string{"linux", "openbsd", "freebsd", "netbsd", "darwin"} }

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Dir        string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
	Module     *struct{ Path string }
}

// name returns the path of p within the module, or "" when p is of another.
func (p pkg) name() string { return within(p.ImportPath) }

func within(path string) string {
	if path == module {
		return "."
	}
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	return rest
}

// list returns the packages of the module as built for goos, and by import path
// all that they need.
func list(t *testing.T, goos string) (own []pkg, all map[string]pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Dir,Doc,Imports,Deps,GoFiles,Module", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	all = make(map[string]pkg)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
		if p.name() != "" {
			own = append(own, p)
		}
	}
	if len(own) == 0 {
		t.Fatal("go list names no package of the module")
	}
	return own, all
}

// is tells whether name is the package base or one below it.
func is(name, base string) bool { return name == base || strings.HasPrefix(name, base+"/") }

func isAny(name string, bases ...string) bool {
	return slices.ContainsFunc(bases, func(b string) bool { return is(name, b) })
}

// The layers, lowest first.
const (
	words = iota
	mechanism
	concept
	calls // between processes: data of the concepts
	process
	command
	test // may import anything
)

// layer returns where a package stands.
func layer(name string) int {
	switch {
	case isAny(name, "internal/archtest", "internal/dnstest", "platform/fake", "platform/platformtest",
		"table/tabletest", "test", "bench"), strings.HasSuffix(name, "test"):
		return test
	case is(name, "cmd"):
		return command
	case isAny(name, "internal/proc", "internal/control"):
		return process
	case name == "internal/proto":
		return calls
	case name == "internal/smtp", isAny(name, "internal/envelope", "internal/header", "internal/sevenbit", "internal/report", "internal/policy"):
		return words
	case isAny(name, "internal/smtp/server", "internal/smtp/client", "internal/imsg", "internal/vfs", "internal/dns", "internal/keep",
		"internal/dsn", "internal/maillog", "internal/rulefile", "internal/stats", "internal/srs", "internal/proxyproto", "internal/tlsconf",
		"platform", "filter", "table"):
		return mechanism
	}
	return concept
}

// sibling tells whether name is the Host of one system.
func sibling(name string) bool {
	for _, s := range systems() {
		if is(name, "platform/"+s) {
			return true
		}
	}
	return false
}

func TestImportsPointDownward(t *testing.T) {
	t.Parallel()
	for _, goos := range systems() {
		own, _ := list(t, goos)
		for _, p := range own {
			if layer(p.name()) == test {
				continue
			}
			for _, path := range p.Imports {
				if name := within(path); name != "" {
					if why := forbidden(p.name(), name); why != "" {
						t.Errorf("%s: %s imports %s: %s", goos, p.name(), name, why)
					}
				}
			}
		}
	}
}

// forbidden returns why one package must not import another, or "".
func forbidden(from, to string) string {
	a, b := layer(from), layer(to)
	switch {
	case b == test:
		return "a package for tests"
	case b > a:
		return "imports point downward"
	case b == command && a == command && !is(to, from):
		return "a command imports no command"
	case a == process && b == process && to != "internal/proc" && !is(to, from):
		return "a process imports no other process"
	case sibling(to) && a != command:
		return "a system is chosen by the command only"
	case is(to, "internal/config") && a != command && !is(from, "internal/config"):
		return "the configuration is parsed by the command only"
	case a == process && isAny(to, "internal/queue/fs", "internal/queue/mem", "internal/scheduler/ram", "internal/tables"):
		return "a process is given its backends"
	}
	return ""
}

func TestProcessesDoNotLinkWhatTheyMustNotDo(t *testing.T) {
	t.Parallel()
	unlinked := map[string][]string{
		"dispatcher": {"table", "internal/tables", "internal/queue", "internal/expand", "internal/ruleset", "internal/auth",
			"internal/dns", "internal/config", "mda"},
		"parent": {"internal/smtp/server", "internal/smtp/client", "internal/dns", "internal/queue", "internal/header", "mda"},
		"queue":  {"table", "internal/dns", "internal/smtp/server", "internal/smtp/client", "internal/expand"},
		"key":    {"table", "internal/dns", "internal/smtp/server", "internal/queue", "internal/header"},
		"lookup": {"internal/queue", "internal/smtp/server", "internal/smtp/client", "mda", "internal/tables"},
	}
	own, _ := list(t, "linux")
	for _, p := range own {
		role, ok := strings.CutPrefix(p.name(), "internal/proc/")
		if !ok {
			continue
		}
		for _, path := range p.Deps {
			name := within(path)
			if name != "" && (isAny(name, unlinked[role]...) || sibling(name)) {
				t.Errorf("process %s links %s", role, name)
			}
		}
	}
}

// owners are the only packages that may import a module of others.
func owners() map[string][]string {
	return map[string][]string{
		"blitiri.com.ar/go/spf":          {}, // a second opinion in tests
		"github.com/miekg/dns":           {"internal/dns", "internal/dnstest"},
		"github.com/go-crypt/crypt":      {"platform/password"},
		"github.com/emersion/go-maildir": {"mda/maildir"},
		"github.com/emersion/go-msgauth": {"cmd/filter-dkimsign", "cmd/filter-auth"},
		"github.com/kardianos/service":   {"cmd/opensmtpd"},
		"golang.org/x/net":               {"cmd/filter-auth", "cmd/filter-dnsbl"}, // public suffixes
		"golang.org/x/sys":               {"platform", "internal/imsg"},
	}
}

func TestEachModuleOfOthersHasItsOwner(t *testing.T) {
	t.Parallel()
	seen := make(map[string]map[string]bool) // who imports a module that has no owner
	for _, goos := range systems() {
		own, all := list(t, goos)
		for _, p := range own {
			for _, path := range p.Imports {
				dep := all[path]
				if dep.Standard || dep.Module == nil || dep.Module.Path == module {
					continue
				}
				if own, ok := owners()[dep.Module.Path]; ok {
					if !isAny(p.name(), own...) {
						t.Errorf("%s: %s imports %s, which is for %v", goos, p.name(), path, own)
					}
					continue
				}
				if seen[dep.Module.Path] == nil {
					seen[dep.Module.Path] = make(map[string]bool)
				}
				seen[dep.Module.Path][p.name()] = true
			}
		}
	}
	for mod, users := range seen {
		if len(users) > 1 {
			t.Errorf("module %s has several users and no owner: %v", mod, users)
		}
	}
}

func TestPublicProtocolsNeedTheStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	own, all := list(t, "linux")
	for _, p := range own {
		if !isAny(p.name(), "filter", "table") {
			continue
		}
		for _, path := range p.Imports {
			if !all[path].Standard && !is(within(path), strings.SplitN(p.name(), "/", 2)[0]) {
				t.Errorf("%s imports %s", p.name(), path)
			}
		}
	}
}

func TestPackagesAreDescribedAndStartNothing(t *testing.T) {
	t.Parallel()
	for _, goos := range systems() {
		own, _ := list(t, goos)
		for _, p := range own {
			if p.Doc == "" {
				t.Errorf("%s: package %s has no comment", goos, p.name())
			}
			if last := filepath.Base(p.name()); slices.Contains([]string{"util", "common", "helpers", "types", "base", "misc"}, last) {
				t.Errorf("package %s says nothing by its name", p.name())
			}
			for _, file := range p.GoFiles {
				f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range f.Decls {
					if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
						t.Errorf("%s/%s has an init function", p.name(), file)
					}
				}
			}
		}
	}
}

func TestRulesCatchWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"internal/smtp", "internal/envelope", true},
		{"internal/envelope", "internal/imsg", false},
		{"internal/smtp/server", "internal/smtp", true},
		{"internal/smtp", "internal/smtp/server", false},
		{"internal/relay", "internal/smtp/client", true},
		{"internal/dns", "internal/relay", false},
		{"internal/config", "internal/ruleset", true},
		{"internal/relay", "internal/config", false},
		{"internal/config/legacy", "internal/config", true},
		{"internal/proc/queue", "internal/proc", true},
		{"internal/proc/queue", "internal/proc/key", false},
		{"internal/proc/queue", "internal/queue", true},
		{"internal/proc/queue", "internal/queue/fs", false},
		{"internal/proc/key", "platform/linux", false},
		{"internal/proc/key", "platform", true},
		{"cmd/opensmtpd", "platform/linux", true},
		{"cmd/opensmtpd", "internal/config", true},
		{"cmd/opensmtpd", "internal/mtatest", false},
		{"internal/proc", "cmd/opensmtpd", false},
		{"platform/linux", "platform/userdb", true},
	} {
		if why := forbidden(tt.from, tt.to); (why == "") != tt.ok {
			t.Errorf("%s imports %s: allowed %v (%s), want %v", tt.from, tt.to, why == "", why, tt.ok)
		}
	}
}
