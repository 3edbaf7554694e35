package config

import (
	"fmt"
	"strings"
	"testing"
)

// oneError expects a single mistake at a place, with a text in its message.
func oneError(t *testing.T, errs []*Error, file string, line int, text string) {
	t.Helper()
	if len(errs) != 1 {
		t.Fatalf("got %d errors, want 1: %v", len(errs), errs)
	}
	e := errs[0]
	if e.Pos.File != file || e.Pos.Line != line || !strings.Contains(e.Message, text) {
		t.Errorf("got %v, want %s:%d: ...%s...", e, file, line, text)
	}
}

const rule = "match for local reject\n"

func TestTokenIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"longest unquoted", "admd " + strings.Repeat("a", maxToken), true},
		{"unquoted", "admd " + strings.Repeat("a", maxToken+1), false},
		{"longest quoted", `admd "` + strings.Repeat("a", maxToken) + `"`, true},
		{"quoted", `admd "` + strings.Repeat("a", maxToken+1) + `"`, false},
		{"number", "mta max-deferred " + strings.Repeat("1", maxToken+1), false},
		{"macro name", "admd $" + strings.Repeat("a", maxToken+1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, errs := parse(rule + tt.text + "\n")
			if tt.ok && len(errs) != 0 {
				t.Errorf("refused: %v", errs)
			}
			if !tt.ok {
				oneError(t, errs, "smtpd.conf", 2, "string too long")
			}
		})
	}
}

func TestIncludesNestUpToALimit(t *testing.T) {
	t.Parallel()
	all := make(map[string]string)
	for i := range 20 {
		all[fmt.Sprintf("%d.conf", i)] = fmt.Sprintf("include \"%d.conf\"\n", i+1)
	}
	all["16.conf"] = rule
	if _, errs := Parse(testOptions("include \"1.conf\"\n", all)); len(errs) != 0 {
		t.Errorf("%d nested includes are refused: %v", maxIncludeDepth, errs)
	}
	all["16.conf"], all["17.conf"] = "include \"17.conf\"\n"+rule, ""
	_, errs := Parse(testOptions("include \"1.conf\"\n", all))
	oneError(t, errs, "16.conf", 1, "nested more than 16 deep")
}

func TestIncludeCycleIsShownWhole(t *testing.T) {
	t.Parallel()
	_, errs := Parse(testOptions(rule+"include \"a.conf\"\n", map[string]string{
		"a.conf": "\ninclude \"b.conf\"\n",
		"b.conf": "include \"./a.conf\"\n",
	}))
	oneError(t, errs, "b.conf", 1, "include cycle: a.conf includes b.conf includes ./a.conf")
}

func TestOneFileMayBeIncludedTwice(t *testing.T) {
	t.Parallel()
	c, errs := Parse(testOptions("include \"r.conf\"\ninclude \"r.conf\"\n", map[string]string{"r.conf": rule}))
	if len(errs) != 0 || len(c.Rules) != 2 {
		t.Errorf("got %v", errs)
	}
}

func TestTotalSizeIsBounded(t *testing.T) {
	t.Parallel()
	// Small enough alone, too large with the file that includes it.
	whole := strings.Repeat("\n", MaxSize)
	_, errs := Parse(testOptions(rule+"include \"a\"\n", map[string]string{"a": whole}))
	oneError(t, errs, "smtpd.conf", 2, "16 MiB")

	// A few bytes that stand for 8 KiB each may not stand for more than the limit.
	var b strings.Builder
	fmt.Fprintf(&b, "x = \"%s\"\n%s", strings.Repeat(" ", 8000), rule)
	for range 2200 {
		b.WriteString("$x\n")
	}
	_, errs = parse(b.String())
	if len(errs) != 1 || !strings.Contains(errs[0].Message, "16 MiB") {
		t.Errorf("macros grow without bound: %v", errs)
	}
}

func TestReadingStopsAfterManyErrors(t *testing.T) {
	t.Parallel()
	_, errs := parse(strings.Repeat("table\n", 1000))
	if len(errs) != maxErrors+1 || !strings.Contains(errs[maxErrors].Message, "too many errors") {
		t.Errorf("got %d errors, the last: %v", len(errs), errs[len(errs)-1])
	}
}

func TestUnreadableConfigurationIsOneError(t *testing.T) {
	t.Parallel()
	opts := testOptions(rule, nil)
	opts.Path = "nosuch.conf"
	_, errs := Parse(opts)
	oneError(t, errs, "nosuch.conf", 1, "cannot read the configuration")
	_, errs = Parse(Options{Path: "x"})
	oneError(t, errs, "x", 1, "no way to read files")
}
