package linux

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// machines are the processors that there is a filter for.
func machines() []string { return []string{"amd64", "arm64", "arm", "riscv64"} }

// kernelNumbers reads the numbers of system calls on a processor out of x/sys, where
// they are made of the kernel's own tables.
func kernelNumbers(t *testing.T, goarch string) map[string]string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+goarch+".go"))
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[string]string)
	for _, m := range regexp.MustCompile(`SYS_(\w+)\s*=\s*(\d+)`).FindAllStringSubmatch(string(text), -1) {
		name := strings.ToLower(m[1])
		if name == "fstatat" { // x/sys has it by the name of its function
			name = "newfstatat"
		}
		numbers[name] = m[2]
	}
	if len(numbers) < 200 {
		t.Fatalf("%s: read %d system calls", goarch, len(numbers))
	}
	return numbers
}

// tableOf reads the table of a processor out of its file: by the name of a call, the
// constant of x/sys, or the number, that it stands for.
func tableOf(t *testing.T, goarch string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "machine_linux_"+goarch+".go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	table := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, ok := pair.Key.(*ast.BasicLit)
		if !ok {
			return true
		}
		name, err := strconv.Unquote(key.Value)
		if err != nil {
			t.Fatal(err)
		}
		switch v := pair.Value.(type) {
		case *ast.SelectorExpr:
			table[name] = strings.ToLower(strings.TrimPrefix(v.Sel.Name, "SYS_"))
		case *ast.BasicLit:
			table[name] = v.Value
		default:
			t.Fatalf("%s: %s has neither a constant nor a number", goarch, name)
		}
		return true
	})
	return table
}

// A wrong number lets pass what nobody meant, or ends a process that did nothing
// wrong, on a machine that the tests do not run on.
func TestTablesHaveTheKernelsNumbers(t *testing.T) {
	t.Parallel()
	wanted := make(map[string]bool) // by a role
	for _, p := range profiles() {
		for _, c := range calls(p, 1) {
			wanted[c.name] = true
		}
	}
	anywhere := make(map[string]bool)
	for _, goarch := range machines() {
		kernel, table := kernelNumbers(t, goarch), tableOf(t, goarch)
		for name, constant := range table {
			if constant == "fstatat" {
				constant = "newfstatat"
			}
			if constant != name && constant != kernel[name] {
				t.Errorf("%s: %s is taken for %s", goarch, name, constant)
			}
			if kernel[name] == "" {
				t.Errorf("%s: the kernel has no %s", goarch, name)
			}
			if !wanted[name] {
				t.Errorf("%s: no role asks for %s", goarch, name)
			}
		}
		for name := range wanted {
			if kernel[name] == "" {
				continue
			}
			anywhere[name] = true
			if table[name] == "" {
				t.Errorf("%s: %s is missing", goarch, name)
			}
		}
	}
	for name := range wanted {
		if !anywhere[name] {
			t.Errorf("%s is a call of no machine", name)
		}
	}
}
