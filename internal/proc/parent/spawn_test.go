package parent

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// spawnScript runs a shell script as a role and returns how it ended and its log.
func spawnScript(t *testing.T, script string, files ...*os.File) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "role")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	e := Exec{Path: path, Stderr: func(proto.Role) io.Writer { return &log }, Prefix: "test"}
	p, err := e.Spawn(proto.Key, "key", nil, files...)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait()
	return log.String(), err
}

func TestViolationOfTheSandboxIsNamed(t *testing.T) {
	t.Parallel()
	if _, err := spawnScript(t, "kill -SYS $$\n"); err == nil || !strings.Contains(err.Error(), "sandbox") {
		t.Errorf("the end is told as %v, want a word about the sandbox", err)
	}
	if _, err := spawnScript(t, "exit 3\n"); err == nil || strings.Contains(err.Error(), "sandbox") {
		t.Errorf("another end is told as %v", err)
	}
}

func TestRoleStartsWithACleanEnvironmentAndItsDescriptorsOnly(t *testing.T) {
	// No other test of this package may run meanwhile: it would have files open.
	t.Setenv("OPENSMTPD_TEST_SECRET", "secret")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, err := spawnScript(t, `env >&2
for fd in 0 1 2 3 4 5 6 7 8 9; do
	if (eval ": <&$fd") 2>/dev/null; then echo "open $fd" >&2; fi
done
`, w)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log, "OPENSMTPD_TEST_SECRET") || strings.Contains(log, "HOME=") {
		t.Errorf("the environment of the role:\n%s", log)
	}
	var open []string
	for line := range strings.Lines(log) {
		if fd, ok := strings.CutPrefix(line, "open "); ok {
			open = append(open, strings.TrimSpace(fd))
		}
	}
	if got := strings.Join(open, " "); got != "0 1 2 3" {
		t.Errorf("descriptors %s are open in the role, want 0 1 2 and its link, 3", got)
	}
}
