//go:build system

package system

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtptest"
)

// relayAll relays everything to a smarthost.
func relayAll(s *smtptest.Server) string {
	return listen + `action "out" relay host "smtp://` + s.Addr + "\"\nmatch from any for any action \"out\"\n"
}

// loadName finds the name that a load gives a message.
var loadName = regexp.MustCompile(`(?m)^X-Load: (\S+)\r$`)

// relayed waits until a server has all messages of a load, and returns how many it has
// more than once.
func (l *load) relayed(s *smtptest.Server) (duplicates int) {
	l.d.t.Helper()
	l.end()
	taken := map[string]int{}
	next := 0
	l.d.await("all acknowledged mail to be relayed", func() bool {
		mails := s.Mails()
		for _, m := range mails[next:] {
			name := loadName.FindStringSubmatch(m.Text)
			if name == nil || strings.Count(m.Text, "some text of a message\r\n") != 40 {
				l.d.t.Errorf("a message was relayed that is not whole: %q", m.Text)
				continue
			}
			taken[name[1]]++
		}
		next = len(mails)
		for name := range l.acked {
			if taken[name] == 0 {
				return false
			}
		}
		return true
	})
	for _, n := range taken {
		duplicates += n - 1
	}
	return duplicates
}

func TestProcessKilledWhileRelayingLosesNoMail(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"dispatcher", "lookup", "queue"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			smarthost := smtptest.Start(t, smtptest.Options{})
			d := startDaemon(t, relayAll(smarthost))
			l := d.startLoad(8, 20, "someone@example.com")
			l.more(100)
			d.wait(`mta delivery .* result="Ok"`)
			for range 2 {
				victim := d.role(role)
				if err := syscall.Kill(victim.pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				d.await("a new process", func() bool { p, ok := d.family()[victim.title]; return ok && p.pid != victim.pid })
				l.more(100)
			}
			duplicates := l.relayed(smarthost)
			t.Logf("%d messages acknowledged, %d relayed twice", l.count(), duplicates)
			d.await("an empty queue", func() bool { return d.run("", "", "smtpctl", "show", "queue") == "" })
		})
	}
}

// What the operator asks for holds while mail waits for a host that is down.
func TestOperatorSteersMailThatWaitsForAHost(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	smarthost := smtptest.Start(t, smtptest.Options{Gate: gate})
	d := startDaemon(t, relayAll(smarthost))
	ctl := func(args ...string) string { t.Helper(); return d.run("", "", "smtpctl", args...) }
	ctl("pause", "mta")
	var ids []string
	for i := range 4 {
		d.send("Subject: steered\n\ntext\n", fmt.Sprintf("user%d@example.com", i))
		line := d.wait(fmt.Sprintf(`smtp envelope evpid=\S+ from=<sender@example\.net> to=<user%d@example\.com>`, i))
		ids = append(ids, regexp.MustCompile(`evpid=(\S+)`).FindStringSubmatch(line)[1])
	}
	if got := ctl("show", "queue"); strings.Count(got, "\n") != 4 || strings.Count(got, "|pending|") != 4 {
		t.Errorf("relaying is paused, and the queue holds\n%s", got)
	}
	ctl("remove", ids[0])
	ctl("pause", "envelope", ids[1])
	ctl("resume", "mta")
	d.await("mail to be on its way", func() bool { return strings.Count(ctl("show", "queue"), "|inflight|") == 2 })
	close(gate)
	if !smarthost.Wait(2, patience) {
		t.Fatalf("the smarthost has %d messages", len(smarthost.Mails()))
	}
	d.await("mail to leave the queue", func() bool { return strings.Count(ctl("show", "queue"), "\n") == 1 })
	if got := ctl("show", "queue"); !strings.HasPrefix(got, ids[1]+"|") {
		t.Errorf("one envelope is paused, and the queue holds\n%s", got)
	}
	ctl("resume", "envelope", ids[1])
	if !smarthost.Wait(3, patience) {
		t.Fatalf("the smarthost has %d messages", len(smarthost.Mails()))
	}

	smarthost.Stop()
	d.send("Subject: steered\n\ntext\n", "late@example.com")
	d.wait(`mta delivery .*to=<late@example\.com> .*result="TempFail"`)
	if got := ctl("show", "queue"); !regexp.MustCompile(`\|1\|pending\|\d+\|.*(refused|closed)`).MatchString(got) {
		t.Errorf("the host is down, and the queue holds\n%s", got)
	}
	ctl("schedule", "all")
	d.wait(`mta delivery .*to=<late@example\.com> .*result="TempFail"`)
	ctl("remove", "all")
	d.await("an empty queue", func() bool { return ctl("show", "queue") == "" })
	for _, m := range smarthost.Mails() {
		if m.Rcpts[0] == "user0@example.com" {
			t.Error("mail that was removed was sent")
		}
	}
}

func TestOrderlyEndWhileRelayingLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	smarthost := smtptest.Start(t, smtptest.Options{})
	d := startDaemon(t, relayAll(smarthost))
	for range 2 {
		l := d.startLoad(8, 20, "someone@example.com")
		l.more(100)
		d.stop()
		l.end()
		d.start()
		if duplicates := l.relayed(smarthost); duplicates > 0 {
			t.Errorf("%d of %d messages were relayed twice", duplicates, l.count())
		}
	}
}
