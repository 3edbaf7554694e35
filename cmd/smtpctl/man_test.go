package main

import (
	"os"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
)

func TestManualPageNamesEveryCommand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../man/smtpctl.8")
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for word := range strings.FieldsSeq(string(page)) {
		words[word] = true
	}
	for _, c := range commands() {
		for word := range strings.FieldsSeq(c.form) {
			if kinds[word] == nil && !words[word] {
				t.Errorf("smtpctl(8) does not have %q of %q", word, c.form)
			}
		}
	}
	for _, word := range proto.Subsystems {
		if !words[word] {
			t.Errorf("smtpctl(8) does not have subsystem %q", word)
		}
	}
}

func TestHelpShowsCommands(t *testing.T) {
	t.Parallel()
	got := run(t, t.TempDir(), "", "smtpctl", "help")
	if got.status != 0 || !strings.Contains(got.stdout, "  show queue               list the queue\n") || !strings.HasPrefix(got.stdout, usageText) {
		t.Errorf("got %+v", got)
	}
	for _, want := range []string{"resume mda", "resume mta", "resume mta from", "resume smtp", "untrace"} {
		if !strings.Contains(got.stdout, "\n  "+want+" ") {
			t.Errorf("help does not have %q", want)
		}
	}
}
