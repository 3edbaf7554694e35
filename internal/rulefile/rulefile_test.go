package rulefile

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRulesOfAFileComeBeforeArguments(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("# title\n\na  b # c\nbad\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	add := func(words []string) error {
		got = append(got, strings.Join(words, " "))
		return nil
	}
	if err := Read(file, []string{" d\te", "#"}, add); err != nil || !slices.Equal(got, []string{"a b", "bad", "d e"}) {
		t.Errorf("%q, %v", got, err)
	}
	refuse := func(words []string) error {
		if words[0] == "bad" {
			return errors.New("no")
		}
		return nil
	}
	if err := Read(file, nil, refuse); err == nil || err.Error() != file+":4: no" {
		t.Errorf("in a file: %v", err)
	}
	if err := Read("", []string{"bad x"}, refuse); err == nil || err.Error() != `"bad x": no` {
		t.Errorf("in an argument: %v", err)
	}
	if err := os.WriteFile(file, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Read(file, nil, add); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long file: %v", err)
	}
}

func TestPeriods(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{
		"s": time.Second, "30minutes": 30 * time.Minute, "2h": 2 * time.Hour, "day": 24 * time.Hour, "366d": MaxPeriod,
		"": 0, "5": 0, "0s": 0, "367d": 0, "1week": 0, "-1s": 0, "99999999999999999999s": 0,
	} {
		if got, err := Period(s); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestNetworksContainAddresses(t *testing.T) {
	t.Parallel()
	var n Networks
	for _, s := range []string{"192.0.2.77/24", "::1", "2001:db8::/32"} {
		if err := n.Add(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := n.Add("joe"); err == nil {
		t.Error("a name is a network")
	}
	for s, want := range map[string]bool{"192.0.2.1": true, "::ffff:192.0.2.1": true, "192.0.3.1": false, "::1": true, "2001:db8::2": true} {
		if got := n.Contain(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}
