package file

import (
	"os"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
)

// Every example in the manual page is a table file without mistakes.
func TestExamplesOfTheManualPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../man/table.5")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, part := range strings.Split(string(page), "\n.Bd -literal")[1:] {
		_, part, _ = strings.Cut(part, "\n")
		text, _, ok := strings.Cut(part, "\n.Ed")
		if !ok {
			t.Fatalf("example without end: %q", part)
		}
		kind, entries, err := Parse("table.5", text)
		if err != nil || len(entries) == 0 {
			t.Errorf("example %q: %v, %d entries", text, err, len(entries))
		}
		if _, err := static.New(kind, entries, static.Options{}); err != nil {
			t.Errorf("example %q: %v", text, err)
		}
		n++
	}
	if n < 5 {
		t.Errorf("%d examples found", n)
	}
}
