package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// completed returns the words that complete prints for a command line, of which the
// last word may be empty.
func completed(t *testing.T, dir, line string) (words []string, status int) {
	t.Helper()
	r := run(t, dir, "", "smtpctl", append([]string{"complete"}, strings.Split(line, " ")...)...)
	if r.stderr != "" {
		t.Errorf("complete %q complains: %s", line, r.stderr)
	}
	for line := range strings.Lines(r.stdout) {
		word, _, found := strings.Cut(line, "\t")
		if !found {
			t.Errorf("no tab in %q", line)
		}
		words = append(words, word)
	}
	return words, r.status
}

func TestCompleteTellsWhatCouldStand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line, want string
		status     int
	}{
		{"mon", "monitor", 0},
		{"pause ", "envelope mda mta smtp", 0},
		{"pau m", "mda mta", 0},
		{"pause mta ", "from", 0},
		{"pause mta from ", "", 0},
		{"pause mta from * ", "for", 0},
		{"-v show rel", "relays", 0},
		{"trace s", "scheduler smtp", 0},
		{"-", "-4 -6 -j -s -v", 0},
		{"-s ", "", exitFile},
		{"config convert ", "", exitFile},
		{"config convert smt", "", exitFile},
		{"nonsense ", "", 0},
		{"monitor ", "", 0},
		{"remove ", "all", 0}, // and no ids: there is no daemon
	} {
		if words, status := completed(t, t.TempDir(), tt.line); strings.Join(words, " ") != tt.want || status != tt.status {
			t.Errorf("%q: %q, status %d; want %q, %d", tt.line, words, status, tt.want, tt.status)
		}
	}
	if words, _ := completed(t, t.TempDir(), ""); len(words) < 10 || !slices.Contains(words, "show") {
		t.Errorf("commands: %q", words)
	}
}

func TestCompleteHasTheIDsOfTheQueue(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := newDaemon(t, dir)
	answer(d, proto.List, func(proto.ListRequest) (proto.ListReply, error) {
		var r proto.ListReply
		for i, user := range []string{"alice", "bob\x1b[2J"} {
			id := envelope.NewID(0xdeadbeef, uint32(i+1))
			r.Entries = append(r.Entries, proto.ListEntry{
				Envelope: envelope.Envelope{ID: id, Dest: smtp.Path{Local: user, Domain: "d.test"}}, Status: scheduler.Status{},
			})
		}
		return r, nil
	})
	for _, tt := range []struct{ line, want string }{
		{"remove ", "deadbeef deadbeef00000001 deadbeef00000002 all"},
		{"show queue ", "deadbeef"},
		{"show envelope deadbeef00", "deadbeef00000001 deadbeef00000002"},
		{"-s " + dir + "/run/smtpd.sock show envelope deadbeef00", "deadbeef00000001 deadbeef00000002"},
	} {
		if words, status := completed(t, dir, tt.line); strings.Join(words, " ") != tt.want || status != 0 {
			t.Errorf("%q: %q, status %d; want %q", tt.line, words, status, tt.want)
		}
	}
	if r := run(t, dir, "", "smtpctl", "complete", "show", "envelope", ""); strings.Contains(r.stdout, "\x1b") {
		t.Errorf("an address steers the terminal: %q", r.stdout)
	}
}
