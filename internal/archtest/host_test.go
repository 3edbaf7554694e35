package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// signatures returns the methods of an interface of package platform, by name, with
// the types of arguments and results as they are written outside of it.
func signatures(t *testing.T, fset *token.FileSet, file *ast.File, name string) map[string]string {
	t.Helper()
	methods := make(map[string]string)
	spec, ok := file.Scope.Lookup(name).Decl.(*ast.TypeSpec)
	if !ok {
		t.Fatalf("platform has no %s", name)
	}
	for _, m := range spec.Type.(*ast.InterfaceType).Methods.List {
		f, ok := m.Type.(*ast.FuncType)
		if !ok {
			t.Fatalf("platform.%s embeds another interface", name)
		}
		methods[m.Names[0].Name] = signature(t, fset, f)
	}
	return methods
}

// signature prints the types of a function, without the names of arguments.
func signature(t *testing.T, fset *token.FileSet, f *ast.FuncType) string {
	t.Helper()
	types := func(list *ast.FieldList) string {
		var words []string
		if list == nil {
			return ""
		}
		for _, field := range list.List {
			var b bytes.Buffer
			if err := printer.Fprint(&b, fset, field.Type); err != nil {
				t.Fatal(err)
			}
			for range max(1, len(field.Names)) {
				words = append(words, strings.ReplaceAll(b.String(), "platform.", ""))
			}
		}
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("(%s) (%s)", types(f.Params), types(f.Results))
}

// hostOf returns the methods of the type Host that a system's folder declares, as
// signatures, the interfaces of platform it asserts to have, and the files built there.
func hostOf(t *testing.T, system string) (methods map[string]string, asserted []string, files int) {
	t.Helper()
	dir := filepath.Join("..", "..", "platform", system)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := build.Default
	at.GOOS, at.CgoEnabled = system, false
	methods = make(map[string]string)
	fset := token.NewFileSet()
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		if built := builtSomewhere(t, at, dir, e.Name()); !built {
			t.Errorf("platform/%s/%s is built nowhere", system, e.Name())
		}
		if match, err := at.MatchFile(dir, e.Name()); err != nil || !match || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		files++
		file, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil {
					if star, ok := n.Recv.List[0].Type.(*ast.StarExpr); ok && fmt.Sprint(star.X) == "Host" {
						methods[n.Name.Name] = signature(t, fset, n.Type)
					}
				}
			case *ast.ValueSpec:
				if sel, ok := n.Type.(*ast.SelectorExpr); ok && n.Names[0].Name == "_" && fmt.Sprint(sel.X) == "platform" {
					asserted = append(asserted, sel.Sel.Name)
				}
			}
			return true
		})
	}
	slices.Sort(asserted)
	return methods, asserted, files
}

// builtSomewhere tells whether a file of a system's folder is built on any processor
// there, with C or without.
func builtSomewhere(t *testing.T, at build.Context, dir, name string) bool {
	t.Helper()
	for _, goarch := range []string{"amd64", "arm64", "arm", "riscv64", "386"} {
		for _, cgo := range []bool{false, true} {
			at.GOARCH, at.CgoEnabled = goarch, cgo
			match, err := at.MatchFile(dir, name)
			if err != nil {
				t.Fatal(err)
			}
			if match {
				return true
			}
		}
	}
	return false
}

// Each system's folder has the whole Host, says so to the compiler, and nothing in it
// is left out of every build. What is offered beyond that is listed here, so that a
// system that falls behind is seen.
func TestEverySystemHasTheWholeHost(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filepath.Join("..", "..", "platform", "platform.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for system, extra := range map[string][]string{
		"linux":   {"Activator", "Authenticator", "Delegator", "Pacer", "PortSharer", "Shielder", "Watched"},
		"openbsd": {"Authenticator", "Delegator"},
		"freebsd": {"Authenticator", "Delegator"},
		"netbsd":  {"Authenticator", "Delegator"},
		"darwin":  {"Authenticator"}, // its users are asked for by a call, no program is run
	} {
		methods, asserted, files := hostOf(t, system)
		if files == 0 {
			t.Errorf("%s: no file is built", system)
		}
		want := append(slices.Clone(extra), "Host")
		slices.Sort(want)
		if !slices.Equal(asserted, want) {
			t.Errorf("%s: the Host asserts to be %q, want %q", system, asserted, want)
		}
		for _, name := range want {
			for method, shape := range signatures(t, fset, file, name) {
				if methods[method] != shape {
					t.Errorf("%s: method %s is %q, want %q of platform.%s", system, method, methods[method], shape, name)
				}
			}
		}
	}
	for _, system := range systems() {
		if _, err := os.Stat(filepath.Join("..", "..", "platform", system, "doc.go")); err != nil {
			t.Errorf("%s: %v", system, err)
		}
	}
}
