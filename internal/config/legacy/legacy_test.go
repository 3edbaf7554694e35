package legacy

import (
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// options describe a host with the given files. Tables named *.map are maps, those
// named *.db are dynamic, all others lists.
func options(files map[string]string) config.Options {
	return config.Options{
		Path: "smtpd.conf",
		ReadFile: func(path string) ([]byte, error) {
			text, ok := files[path]
			if !ok {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return []byte(text), nil
		},
		ServerName: "mx.example.org",
		Addresses:  []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		TableKind: func(backend, path string) (config.TableKind, error) {
			switch {
			case backend == "db" || filepath.Ext(path) == ".db":
				return config.Dynamic, nil
			case filepath.Ext(path) == ".map":
				return config.Map, nil
			}
			return config.List, nil
		},
	}
}

// translate returns the translation of text with its notes in front, or the errors.
func translate(t *testing.T, files map[string]string) string {
	t.Helper()
	opts := options(files)
	tr, errs := Translate(opts)
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintln(&b, "error:", e)
	}
	if tr == nil {
		return b.String()
	}
	for _, n := range tr.Notes {
		fmt.Fprintln(&b, "note:", n)
	}
	b.WriteString(tr.Text)
	if n := strings.Count(tr.Text, "\n"); n != len(tr.Origins) {
		t.Errorf("%d lines and %d origins", n, len(tr.Origins))
	}
	if _, errs := config.Parse(tr.Options(opts)); len(errs) > 0 {
		t.Errorf("the translation is refused: %v\n%s", errs, tr.Text)
	}
	return b.String()
}

func TestTranslations(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			included, _ := os.ReadFile(strings.TrimSuffix(path, ".conf") + ".included")
			got := translate(t, map[string]string{"smtpd.conf": string(text), "included.conf": string(included)})
			wanted := strings.TrimSuffix(path, ".conf") + ".new"
			if *update {
				if err := os.WriteFile(wanted, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestWhatIsOfBefore64(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		old        bool
	}{
		{"accept", "accept for any relay\n", true},
		{"reject", "reject from any for any\n", true},
		{"map", "map a source db \"/x\"\n", true},
		{"a setting of old", "listen on lo0\nexpire 2d\n", true},
		{"behind comments and tables", "# x\ntable t { a,\nb }\n\naccept for any relay\n", true},
		{"included", "include \"included.conf\"\n", true},
		{"today", "action a relay\nmatch for any action a\n", false},
		{"both", "action a relay\nmatch for any action a\naccept for any relay\n", false},
		{"only in braces", "table t {\naccept\n}\n", false},
		{"a macro", "accept = \"x\"\n", false},
		{"in quotes", "\"accept\" for any relay\n", false},
		{"nothing", "", false},
		{"no rules", "listen on lo0\n", false},
		{"missing include", "include \"nowhere\"\n", false},
	} {
		tr, errs := Translate(options(map[string]string{"smtpd.conf": tt.text, "included.conf": "accept for any relay\n"}))
		if (tr != nil) != tt.old || len(errs) > 0 {
			t.Errorf("%s: translated %v, errors %v, want %v", tt.name, tr != nil, errs, tt.old)
		}
	}
	if tr, errs := Translate(options(nil)); tr != nil || len(errs) > 0 {
		t.Errorf("a file that is missing: %v, %v", tr, errs)
	}
}

// Mistakes that the reader of the translation finds are reported by the lines of
// the original, and so is where rules stand.
func TestPositionsAreThoseOfTheOriginal(t *testing.T) {
	t.Parallel()
	opts := options(map[string]string{"smtpd.conf": `# comment
listen on lo0 tls pki a auth-optional
pki a certificate "/a" key "/b"
include "included.conf"
table t {
  "a",
  "b"
}
accept from any \
  for domain <t> deliver to mbox
`, "included.conf": "\naccept for local alias <t> deliver to mbox\n"})
	tr, errs := Translate(opts)
	if tr == nil {
		t.Fatal(errs)
	}
	_, errs = config.Parse(tr.Options(opts))
	if len(errs) != 1 || errs[0].Pos != (policy.Position{File: "included.conf", Line: 2}) || !strings.Contains(errs[0].Message, "unknown table <t>") {
		t.Fatalf("errors %v of\n%s", errs, tr.Text)
	}
	opts = options(map[string]string{"smtpd.conf": "\n\naccept for local deliver to mbox\n\nreject from any for any\n"})
	tr, _ = Translate(opts)
	c, errs := config.Parse(tr.Options(opts))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if c.Rules[0].Pos.Line != 3 || c.Rules[1].Pos.Line != 5 || c.Actions[0].Pos.Line != 3 {
		t.Errorf("rules stand at %v and %v, the action at %v", c.Rules[0].Pos, c.Rules[1].Pos, c.Actions[0].Pos)
	}
}

// A translation is read, or what is wrong has a place in the original.
func FuzzTranslate(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.conf")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		opts := options(map[string]string{"smtpd.conf": text, "included.conf": "table inc { a }\n"})
		lines := strings.Count(text, "\n") + 1
		tr, errs := Translate(opts)
		if tr != nil {
			if tr.Text == "" || strings.Count(tr.Text, "\n") != len(tr.Origins) {
				t.Fatalf("%d origins of\n%s", len(tr.Origins), tr.Text)
			}
			var c *config.Config
			if c, errs = config.Parse(tr.Options(opts)); c == nil && len(errs) == 0 {
				t.Fatal("neither a configuration nor errors")
			}
			for _, e := range errs {
				if strings.Contains(e.Message, "syntax error") {
					t.Fatalf("%v in the translation of %q:\n%s", e, text, tr.Text)
				}
			}
		}
		for _, e := range errs {
			if e.Pos.File == "smtpd.conf" && (e.Pos.Line < 1 || e.Pos.Line > lines) {
				t.Fatalf("%v: the file has %d lines", e, lines)
			}
		}
	})
}
