package config

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// files is a ReadFile over a map.
func files(m map[string]string) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		s, ok := m[path]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return []byte(s), nil
	}
}

// testOptions describe one imaginary host. Table files named *.list and *.map
// are what they say.
func testOptions(text string, more map[string]string) Options {
	all := map[string]string{"smtpd.conf": text}
	for k, v := range more {
		all[k] = v
	}
	return Options{
		Path:       "smtpd.conf",
		ReadFile:   files(all),
		ServerName: "mx.example.org",
		Addresses:  []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.25")},
		TableKind: func(backend, path string) (TableKind, error) {
			switch filepath.Ext(path) {
			case ".list":
				return List, nil
			case ".map":
				return Map, nil
			case ".empty":
				return Empty, nil
			case ".bad":
				return 0, fmt.Errorf("%s:3: invalid map entry", path)
			}
			return Dynamic, nil
		},
		BackendExists: func(name string) bool { return name != "nosuch" },
		ResolveTarget: func(target string) error {
			if target == "nosuch0" {
				return fmt.Errorf("no such interface or host")
			}
			return nil
		},
		LookupService: func(name string) (uint16, error) {
			if name == "altsmtp" {
				return 2525, nil
			}
			return 0, fmt.Errorf("unknown service")
		},
	}
}

func parse(text string) (*Config, []*Error) { return Parse(testOptions(text, nil)) }

// mustParse parses what has no mistakes. A rule is added so that text may be
// about something else.
func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, errs := parse(text + "\nmatch for local reject\n")
	if len(errs) > 0 {
		t.Fatalf("unexpected errors: %v", errs)
	}
	return c
}

// strip removes what does not survive printing: places and warnings.
func strip(c *Config) {
	none := policy.Position{}
	c.Warnings = nil
	c.Socket.Pos = none
	for _, x := range c.Tables {
		x.Pos = none
	}
	for _, x := range c.PKIs {
		x.Pos = none
	}
	for _, x := range c.CAs {
		x.Pos = none
	}
	for _, x := range c.Listeners {
		x.Pos = none
	}
	for _, x := range c.Actions {
		x.Pos = none
	}
	for _, x := range c.Rules {
		x.Pos = none
	}
	for _, x := range c.Filters {
		x.Pos = none
	}
	for _, x := range c.Procs {
		x.Pos = none
	}
}

func write(t testing.TB, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// roundTrip prints c, reads that and expects the same configuration. It strips c.
func roundTrip(t testing.TB, c *Config, opts Options) {
	t.Helper()
	printed := write(t, c)
	opts.Path, opts.Macros = "printed", nil
	opts.ReadFile = files(map[string]string{"printed": printed})
	again, errs := Parse(opts)
	if len(errs) > 0 {
		t.Fatalf("the printed form has mistakes: %v\n%s", errs, printed)
	}
	second := write(t, again)
	strip(c)
	strip(again)
	if !reflect.DeepEqual(c, again) {
		t.Fatalf("reading the printed form gives another configuration\nprinted:\n%s\nprinted again:\n%s", printed, second)
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			opts := testOptions(string(text), map[string]string{
				"more.conf": "table more { one, two }\n",
				"bad.conf":  "\ntable worse {\n",
				"loop.conf": "include \"smtpd.conf\"\n",
			})
			c, errs := Parse(opts)
			var got strings.Builder
			for _, e := range errs {
				fmt.Fprintln(&got, "error:", e)
			}
			if c != nil {
				for _, w := range c.Warnings {
					fmt.Fprintln(&got, "warning:", w)
				}
				got.WriteString(write(t, c))
				roundTrip(t, c, opts)
			}
			want := strings.TrimSuffix(path, ".conf") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got.String()), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			expected, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(expected) {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), expected)
			}
		})
	}
}
