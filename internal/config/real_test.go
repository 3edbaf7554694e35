package config

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// realDirs are where configurations of real servers may lie, with a verdict on
// each: beside the checkout or beside the folder that holds it.
var realDirs = []string{"../../../shared/conf", "../../../../shared/conf"}

// realDiffers names the files whose verdict differs on purpose, and why.
var realDiffers = map[string]string{}

// plausibleTarget stands for a host on which the names that look like interfaces
// or hosts exist.
func plausibleTarget(target string) error {
	if _, err := netip.ParseAddr(target); err == nil {
		return nil
	}
	if regexp.MustCompile(`^[0-9]+(\.[0-9a-z]+){3}$`).MatchString(target) {
		return errors.New("neither an address, an interface nor a host")
	}
	if regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`).MatchString(target) {
		return nil
	}
	return errors.New("no such host")
}

func realOptions(path string) Options {
	return Options{
		Path:          path,
		ReadFile:      os.ReadFile,
		ServerName:    "mx.example.org",
		Addresses:     []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		TableKind:     func(string, string) (TableKind, error) { return Empty, nil },
		ResolveTarget: plausibleTarget,
	}
}

// realVerdict is one line of the list: file, accept or reject, messages.
type realVerdict struct {
	file, verdict string
}

func realVerdicts(t *testing.T) (dir string, list []realVerdict) {
	t.Helper()
	for _, d := range realDirs {
		f, err := os.Open(filepath.Join(d, "VERDICTS.tsv"))
		if err != nil {
			continue
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			fields := strings.Split(sc.Text(), "\t")
			if len(fields) < 2 {
				t.Fatalf("malformed verdict %q", sc.Text())
			}
			list = append(list, realVerdict{fields[0], fields[1]})
		}
		return d, list
	}
	t.Skip("no directory of real configurations beside the checkout")
	return "", nil
}

func TestRealConfigurationsGetTheKnownVerdict(t *testing.T) {
	t.Parallel()
	dir, list := realVerdicts(t)
	for _, v := range list {
		t.Run(v.file, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, v.file)
			c, errs := Parse(realOptions(path))
			got := "accept"
			if c == nil {
				got = "reject"
			}
			if got != v.verdict && realDiffers[v.file] == "" {
				t.Errorf("%s: got %s, want %s: %v", v.file, got, v.verdict, errs)
			}
			for _, e := range errs {
				if e.Pos.File != path || e.Pos.Line < 1 {
					t.Errorf("error without its place: %+v", e)
				}
				t.Log(e)
			}
			if c != nil {
				for _, w := range c.Warnings {
					t.Log("warning:", w)
				}
				roundTrip(t, c, realOptions(path))
			}
		})
	}
}
