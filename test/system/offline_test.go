//go:build system

package system

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// drop leaves a message in the drop directory, as sendmail does.
func (d *daemon) drop(n, uid int, line, text string) string {
	d.t.Helper()
	path := d.path(fmt.Sprintf("spool/offline/%d.system%04d", 1_700_000_000+n/1000, n))
	if err := os.WriteFile(path, []byte(line+"\n"+text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// dropped returns what lies in the drop directory.
func (d *daemon) dropped() []string {
	d.t.Helper()
	names, err := filepath.Glob(d.path("spool/offline/*"))
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

func TestMailOfASleepingDaemonIsSentAtItsStart(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	d.stop()
	for _, who := range people {
		d.run(who, "To: "+who+"@example.org\nSubject: kept for "+who+"\n\n"+sample, "sendmail", "-t")
	}
	if n := len(d.dropped()); n != len(people) {
		t.Fatalf("%d files are in the drop directory, want %d", n, len(people))
	}
	if out, err := d.command("alice", "ls", d.path("spool/offline")).CombinedOutput(); err == nil {
		t.Errorf("a user may list the drop directory: %s", out)
	}
	d.start()
	for _, who := range people {
		m := d.mail(who, 1)[0]
		matches(t, "message", m, `(?s)^Return-Path: <`+who+`@.*Subject: kept for `+who+`\n`)
		if body(m) != sample {
			t.Errorf("the text reads %q", body(m))
		}
	}
	d.await("an empty drop directory", func() bool { return len(d.dropped()) == 0 })
}

func TestTenThousandKeptMessagesAreSentWithoutCrowd(t *testing.T) {
	t.Parallel()
	const messages, owners = 10_000, 8
	d := startDaemon(t, listen+toMaildir)
	d.stop()
	for n := range messages {
		d.drop(n, 60711+n%owners, "-f|sender@example.net|--|alice@example.org", fmt.Sprintf("Subject: kept %d\n\ntext\n", n))
	}
	d.start()
	enqueuers, most := 0, 0
	var watch sync.WaitGroup
	stop := make(chan struct{})
	watch.Go(func() {
		for {
			n, all := 0, d.family()
			for title := range all {
				if strings.HasPrefix(title, "opensmtpd: enqueue") {
					n++
				}
			}
			enqueuers, most = max(enqueuers, n), max(most, len(all))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	for n := int64(0); n < messages; { // patience is for each part
		before := n
		d.await("kept mail to go on", func() bool { n = d.delivered.Load(); return n > before+200 || n >= messages })
	}
	close(stop)
	watch.Wait()
	d.await("an empty drop directory", func() bool { return len(d.dropped()) == 0 })
	if n := d.arrived("alice"); n != messages {
		t.Errorf("%d messages were delivered, want %d", n, messages)
	}
	t.Logf("at most %d processes at a time, %d of them injecting", most, enqueuers)
	if enqueuers > 5 || most > 20 {
		t.Errorf("%d processes at a time, %d of them injecting; want at most 20 and 5", most, enqueuers)
	}
	for title, p := range d.family() {
		kB := atoi(t, strings.TrimSuffix(p.status["VmHWM"], " kB"))
		t.Logf("%s took %d kB at most", title, kB)
		if kB > 150_000 {
			t.Errorf("%s took %d kB", title, kB)
		}
	}
}

func TestKeptMailSurvivesTheDeathOfAllProcesses(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	d.stop()
	const messages = 300
	for n := range messages {
		d.drop(n, 60711, "-f|sender@example.net|--|alice@example.org", fmt.Sprintf("Subject: kept\nX-Kept: %d\n\ntext\n", n))
	}
	d.start()
	d.await("some kept mail to be sent", func() bool { return len(d.dropped()) < messages*2/3 })
	d.killAll()
	d.start()
	d.await("all kept mail to be delivered", func() bool {
		seen := map[string]bool{}
		for _, m := range d.mails("alice") {
			_, rest, _ := strings.Cut(m, "\nX-Kept: ")
			number, _, _ := strings.Cut(rest, "\n")
			seen[number] = true
		}
		return len(seen) == messages
	})
}

func TestKeptMessageThatCannotGoDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, aliases)
	d.write("aliases", "later: error:451 not yet\nnever: error:550 no\n", "", 0o644)
	d.start()
	d.stop()
	uid, _ := ids(t, "alice")
	for n := range 30 {
		d.drop(n, uid, "-f|sender@example.net|--|later@example.org", "Subject: later\n\ntext\n")
	}
	for n := range 5 {
		d.drop(100+n, uid, "-f|sender@example.net|--|alice@example.org", fmt.Sprintf("Subject: kept %d\n\ntext\n", n))
	}
	bad := d.drop(200, uid, "no arguments \x00", "\x00")
	never := d.drop(201, uid, "-f||--|never@example.org", "Subject: never\n\ntext\n")
	if err := os.Symlink("/etc/shadow", d.path("spool/offline/1700000000.linked0000")); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.mail("alice", 5)
	d.await("hopeless messages to be taken away", func() bool { return !exists(bad) && !exists(never) })
	d.await("only the 30 messages that may go later, and the link, to be left", func() bool { return len(d.dropped()) == 31 })
}
