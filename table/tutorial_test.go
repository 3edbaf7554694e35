package table_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestProgramsOfTheTutorialCompile(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/writing-a-table.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := strings.Split(string(page), "```go\n")[1:]
	if len(programs) < 3 {
		t.Fatalf("%d programs", len(programs))
	}
	for _, p := range programs {
		source, _, _ := strings.Cut(p, "```\n")
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "vet", file)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, source)
		}
	}
}
