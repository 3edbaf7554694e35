package filter_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// examples returns what is between .Bd and .Ed in the manual page.
func examples(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../man/smtpd-filters.7")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, part := range strings.Split(string(page), ".Bd -literal -offset indent\n")[1:] {
		text, _, _ := strings.Cut(part, ".Ed\n")
		out = append(out, strings.ReplaceAll(text, `\e`, `\`))
	}
	return out
}

// command runs a program as a filter.
func command(t *testing.T, name string, args ...string) *filtertest.Daemon {
	t.Helper()
	return filtertest.Run(t, filtertest.Current(), func(r io.Reader, w io.Writer) error {
		// The program gets pipes of the system: a copy that waits for r would keep Wait
		// waiting when the program ends first.
		cmd := exec.Command(name, args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(in, r)
			_ = in.Close()
		}()
		return cmd.Wait()
	})
}

// refusesNoreply tries the example filter.
func refusesNoreply(t *testing.T, d *filtertest.Daemon) {
	t.Helper()
	s := d.Open("192.0.2.1:2", "x")
	if got := s.Ask(wire.PhaseRcptTo, "noreply@example.org"); got != "reject|550 5.1.1 Nobody reads this" {
		t.Error(got)
	}
	if got := s.Ask(wire.PhaseRcptTo, "joe@example.org"); got != "proceed" {
		t.Error(got)
	}
}

func TestExamplesOfTheManualPageWork(t *testing.T) {
	t.Parallel()
	programs := examples(t)
	if len(programs) != 2 {
		t.Fatalf("%d examples", len(programs))
	}
	t.Run("awk", func(t *testing.T) {
		t.Parallel()
		awk, err := exec.LookPath("awk")
		if err != nil {
			t.Skip(err)
		}
		refusesNoreply(t, command(t, awk, strings.Replace(programs[0], "#!/usr/bin/awk -f\n", "", 1)))
	})
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		refusesNoreply(t, command(t, build(t, programs[1])))
	})
}

// build makes a program that uses this module.
func build(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	file, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "filter")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", program, file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return program
}

func TestProgramsOfTheTutorialWork(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/writing-a-filter.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := strings.Split(string(page), "```go\n")[1:]
	if len(programs) < 5 {
		t.Fatalf("%d programs", len(programs))
	}
	first := filepath.Join(t.TempDir(), "main.go")
	for i, p := range programs {
		source, _, _ := strings.Cut(p, "```\n")
		file := filepath.Join(t.TempDir(), "main.go")
		if i == 0 {
			file = first
		}
		cmd := exec.Command("go", "vet", file)
		if strings.Contains(source, "testing.T") { // it is about the first program
			file = filepath.Join(filepath.Dir(first), "main_test.go")
			cmd = exec.Command("go", "test", first, file)
		}
		if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, source)
		}
	}
}
