package expand

import (
	"os"
	"strings"
	"testing"
)

// examples returns the literal displays of a manual page as a reader sees them.
func examples(t *testing.T, page string) []string {
	t.Helper()
	b, err := os.ReadFile("../../man/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, part := range strings.Split(string(b), "\n.Bd -literal")[1:] {
		_, part, _ = strings.Cut(part, "\n")
		text, _, ok := strings.Cut(part, "\n.Ed")
		if !ok {
			t.Fatalf("%s: example without end: %q", page, part)
		}
		list = append(list, strings.ReplaceAll(text, `\e`, `\`))
	}
	if len(list) == 0 {
		t.Fatalf("%s: no examples", page)
	}
	return list
}

func TestExamplesOfTheManualPages(t *testing.T) {
	t.Parallel()
	for _, text := range examples(t, "aliases.5") {
		for line := range strings.Lines(text) {
			_, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if targets, err := ParseTargets(value, "+"); err != nil || len(targets) == 0 {
				t.Errorf("aliases.5: ParseTargets(%q) = %v, %v", value, targets, err)
			}
		}
	}
	for _, text := range examples(t, "forward.5") {
		if targets, err := ParseForward([]byte(text), "+"); err != nil || len(targets) < 2 {
			t.Errorf("forward.5: ParseForward(%q) = %v, %v", text, targets, err)
		}
	}
}
