package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/fs"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// snapshot returns the files below dir with their content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = ""
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestQueueOfADaemonThatIsDownIsRead(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	if got := run(t, dir, "", "smtpctl", "show", "queue"); got.status != 1 || !strings.Contains(got.stderr, "doesn't seem to be running") {
		t.Errorf("without a spool: %+v", got)
	}
	spool := filepath.Join(dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := fs.Open(vfs.OS(spool), fs.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var ids []envelope.ID
	for i, rcpt := range []string{"fresh", "tried", "broken"} {
		id, err := store.NewID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e := &envelope.Envelope{
			ID: envelope.NewID(id, uint32(i+1)), Type: envelope.MTA, Action: "out", Created: time.Unix(1_700_000_000, 0), TTL: time.Hour,
			Sender: smtp.Path{Local: "s", Domain: "example.net"}, Rcpt: smtp.Path{Local: rcpt, Domain: "example.org"}, Dest: smtp.Path{Local: rcpt, Domain: "example.org"},
		}
		if err := store.Commit(t.Context(), queue.Message{ID: id, Envelopes: []*envelope.Envelope{e}, Body: []byte("Subject: x\n\nx\n")}); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // it leaves the journal
			e.Retry = 1
			if err := store.Update(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, e.ID)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(spool, "queue", ids[2].String()[:2], ids[2].MsgID().String(), ids[2].String())
	if err := os.WriteFile(broken, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, spool)
	got := run(t, dir, "", "smtpctl", "show", "queue")
	if got.status != 1 || strings.Count(got.stdout, "\n") != 2 || strings.Count(got.stdout, "|offline||") != 2 ||
		!strings.Contains(got.stdout, ids[0].String()+"|") || !strings.Contains(got.stdout, "|tried@example.org|") ||
		!strings.Contains(got.stderr, ids[2].String()) || !strings.Contains(got.stderr, "doesn't seem to be running; this is what "+spool+" holds") {
		t.Errorf("got %+v", got)
	}
	got = run(t, dir, "", "smtpctl", "-j", "show", "queue", ids[1].MsgID().String())
	if !strings.Contains(got.stdout, `"state":"offline"`) || strings.Count(got.stdout, "\n") != 1 {
		t.Errorf("one message in JSON: %+v", got)
	}
	after := snapshot(t, spool)
	for path, content := range before {
		if after[path] != content {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files and directories, %d before", len(after), len(before))
	}
}
