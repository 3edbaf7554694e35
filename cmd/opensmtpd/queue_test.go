package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

func TestQueueIsReadWhateverItsEncodingWasWhenMailCame(t *testing.T) {
	t.Parallel()
	const words = "a very secret sentence that is in every message "
	key := `queue encryption "0123456789abcdef0123456789abcdef"` + "\n"
	m := newMTA(t, "")
	for _, c := range []struct{ name, conf string }{
		{"plain", ""}, {"compressed", "queue compression\n"}, {"encrypted", key},
		{"both", "queue compression zstd\n" + key}, {"encrypted again", key},
	} {
		m.writeConf("queue retry mda 1s\n" + c.conf + failConf)
		m.script("exit 75")
		m.start()
		m.send("x@example.org", c.name+": "+strings.Repeat(words, 20))
		m.wait(`to=<x@example\.org> .*result=TempFail`)
		m.stop()
		if plain := m.spoolHolds(c.name + ": " + words); plain != (c.name == "plain") {
			t.Errorf("%s: the spool shows the text: %v", c.name, plain)
		}
	}
	m.script("cat >> DIR/got")
	m.start()
	for range 5 {
		ask(m, proto.Manage, proto.ManageRequest{Verb: "schedule"})
		m.wait(`mda delivery .*result=Ok`)
	}
	if n := strings.Count(m.read("got"), words); n != 100 {
		t.Errorf("the sentence came %d times, want 100", n)
	}
}

// spoolHolds tells whether a file of the spool contains the text.
func (m *mta) spoolHolds(text string) bool {
	m.t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(m.dir, "spool"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte(text))
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return found
}

func TestMailIsRefusedBelowTheReserveOfSpace(t *testing.T) {
	t.Parallel()
	m := startMTA(t, "queue reserve space 99 inodes 99\n"+keepAll)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<a@example.net>", "^452 4.3.1")
}

func TestOperatorRulesTheQueue(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll, "-P", "mda")
	m.send("one@example.org", "first")
	m.send("two@example.org", "second")
	list := m.envelopes()
	if len(list) != 2 {
		t.Fatalf("the queue holds %d envelopes, want 2: deliveries are paused", len(list))
	}
	var one, two envelope.ID
	for _, e := range list {
		if e.Envelope.Rcpt.Local == "one" {
			one = e.Envelope.ID
		} else {
			two = e.Envelope.ID
		}
	}
	if r := ask(m, proto.Show, proto.ShowRequest{ID: one}); !strings.Contains(string(r.Text), "one@example.org") {
		t.Errorf("the envelope reads %q", r.Text)
	}
	if r := ask(m, proto.Show, proto.ShowRequest{ID: one, Body: true}); !strings.Contains(string(r.Text), "\nfirst\n") {
		t.Errorf("the message reads %q", r.Text)
	}
	if n := ask(m, proto.Manage, proto.ManageRequest{Verb: "remove", ID: two}).Count; n != 1 {
		t.Errorf("%d envelopes removed, want 1", n)
	}
	m.wait(`delivery: Remove for ` + two.String())
	if n := ask(m, proto.Manage, proto.ManageRequest{Verb: "pause", ID: one}).Count; n != 1 {
		t.Errorf("%d envelopes paused, want 1", n)
	}
	ask(m, proto.Hold, proto.HoldRequest{Class: "mda"})
	m.wait(`info: mda resumed`)
	// Somebody else's mail passes the one that is paused.
	m.send("three@example.org", "third")
	m.wait(`to=<three@example\.org> .*result=Ok`)
	if list := m.envelopes(); len(list) != 1 || list[0].Envelope.ID != one || !list[0].Status.Suspended {
		t.Errorf("the queue holds %+v, want the paused envelope", list)
	}
	ask(m, proto.Manage, proto.ManageRequest{Verb: "resume", ID: one})
	m.wait(`to=<one@example\.org> .*result=Ok`)

	// Without SMTP connections wait; local ones do not.
	ask(m, proto.HoldSMTP, proto.HoldRequest{Class: "smtp", Pause: true})
	m.wait(`info: smtp paused`)
	conn, err := m.control().Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 4)
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "220 " {
		t.Errorf("the local session begins with %q (%v)", greeting, err)
	}
	conn.Close()
	ask(m, proto.HoldSMTP, proto.HoldRequest{Class: "smtp"})
	m.send("four@example.org", "fourth")

	if _, _, err := control.Call(t.Context(), m.control(), proto.Manage, proto.ManageRequest{Verb: "explode"}); err == nil {
		t.Error("an unknown request was taken")
	}
	counters := map[string]int64{}
	for _, c := range ask(m, proto.Stats, proto.Empty{}).Counters {
		counters[c.Name] = c.Value
	}
	if counters["smtp.message"] != 4 || counters["queue.sync"] < 1 || counters["queue.sync"] > 16 {
		t.Errorf("counters: %v", counters)
	}
	if r := ask(m, proto.Status, proto.Empty{}); !r.OneProcess || len(r.Roles) != 6 {
		t.Errorf("status: %+v", r)
	}
}

func TestOfflineMailIsTakenAtTheStart(t *testing.T) {
	t.Parallel()
	m := startMTA(t, keepAll+`match from local for domain "example.org" action "keep"`+"\n")
	m.stop()
	m.file("spool/offline/1700000000.abcdefghij", "-f|me@example.org|--|x@example.org\nSubject: offline\n\nwritten while the daemon was down\n")
	m.file("spool/offline/.1700000000.abcdefghij", "-f|me@example.org|--|x@example.org\nSubject: offline\n\nnot yet comp")
	m.start()
	m.wait(`to=<x@example\.org> .*result=Ok`)
	if mails := m.mails(); len(mails) != 1 || !strings.Contains(mails[0], "while the daemon was down") {
		t.Errorf("the Maildir holds %q", mails)
	}
	m.stop()
	if left, err := os.ReadDir(filepath.Join(m.dir, "spool", "offline")); err != nil || len(left) != 1 {
		t.Errorf("%d files are left (%v), want the one that is not complete", len(left), err)
	}
}
