package config

import (
	"os"
	"strings"
	"testing"
)

// manExamples returns the examples of the manual page: its literal displays that
// begin with the comment "# smtpd.conf example".
func manExamples(page string) []string {
	var examples []string
	for part := range strings.SplitSeq(page, "\n.Bd -literal") {
		_, text, _ := strings.Cut(part, "\n")
		if text, _, closed := strings.Cut(text, ".Ed"); closed && strings.HasPrefix(text, "# smtpd.conf example\n") {
			examples = append(examples, strings.ReplaceAll(text, `\e`, `\`))
		}
	}
	return examples
}

func TestExamplesOfTheManualPageAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../man/smtpd.conf.5")
	if err != nil {
		t.Fatal(err)
	}
	examples := manExamples(string(page))
	if len(examples) < 5 || strings.Count(string(page), "# smtpd.conf example") != len(examples) {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, text := range examples {
		opts := testOptions(text, nil)
		c, errs := Parse(opts)
		if len(errs) > 0 {
			t.Errorf("%v in\n%s", errs, text)
			continue
		}
		for _, w := range c.Warnings {
			t.Errorf("%v in\n%s", w, text)
		}
		roundTrip(t, c, opts)
	}
}

// The manual page names every word that may follow another one, and every limit.
func TestManualPageNamesEveryWord(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../man/smtpd.conf.5")
	if err != nil {
		t.Fatal(err)
	}
	words := make(map[string]bool)
	for w := range strings.FieldsSeq(string(page)) {
		words[strings.Trim(w, ".,:;()")] = true
	}
	// Reserved, and used by no statement.
	for _, w := range strings.Fields("data-line noop quit recipient rset smtp-in smtp-out tagged") {
		words[w] = true
	}
	want := strings.Fields(`proxy reserve retry bare-newline normalize gzip zstd space inodes opportunistic required sts dane prefer only organization contact
		max-mails max-rcpt max-session max-session-per-source max-errors max-auth-failures min-rate
		max-session-per-user max-inflight max-schedule max-evp-batch-size max-msg-batch-size stdin file`)
	for w := range keywords {
		want = append(want, w)
	}
	for _, k := range mtaLimitKeys {
		want = append(want, k.key)
	}
	for _, w := range want {
		if !words[w] {
			t.Errorf("the manual page does not name %q", w)
		}
	}
}
