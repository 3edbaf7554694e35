package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtptest"
)

// viaSmarthost relays everything through one host.
const viaSmarthost = prelude + `
action "out" relay host "smtp://SMARTHOST"
match from any for any action "out"
`

// sendMany sends n messages over one connection, to rcpt with its number for a "%d".
func (m *mta) sendMany(n int, rcpt string) {
	m.t.Helper()
	for n > 0 {
		c := m.dialogue("^220", "EHLO client.example.net", "^250")
		for range min(n, 100) { // the limit of a session
			to := rcpt
			if strings.Contains(rcpt, "%d") {
				to = fmt.Sprintf(rcpt, n)
			}
			m.talk(c, "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<"+to+">", "^250", "DATA", "^354", "Subject: many\r\n\r\ntext\r\n.", "^250")
			n--
		}
		m.talk(c, "QUIT", "^221")
	}
}

func TestRecipientsOfManyDomainsShareTransactionsBehindASmarthost(t *testing.T) {
	t.Parallel()
	smarthost := smtptest.Start(t, smtptest.Options{})
	m := startMTA(t, strings.ReplaceAll(viaSmarthost, "SMARTHOST", smarthost.Addr))
	const rcpts, domains = 1000, 500
	c := m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250")
	want := map[string]bool{}
	for i := range rcpts {
		rcpt := fmt.Sprintf("user%d@domain%d.example.com", i, i%domains)
		want[rcpt] = true
		m.talk(c, "RCPT TO:<"+rcpt+">", "^250")
	}
	m.talk(c, "DATA", "^354", "Subject: to many\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	for range rcpts {
		m.wait(`mta delivery .*result="Ok"`)
	}
	mails := smarthost.Mails()
	for _, mail := range mails {
		for _, rcpt := range mail.Rcpts {
			if !want[rcpt] {
				t.Errorf("%s was given twice, or never asked for", rcpt)
			}
			delete(want, rcpt)
		}
	}
	if len(want) > 0 {
		t.Errorf("the smarthost did not get %d recipients", len(want))
	}
	sessions, _ := smarthost.Sessions()
	t.Logf("%d transactions over %d connections", len(mails), sessions)
	if len(mails) > 20 {
		t.Errorf("%d transactions, want at most 20", len(mails))
	}
}

func TestManyMessagesShareFewConnectionsToASmarthost(t *testing.T) {
	t.Parallel()
	smarthost := smtptest.Start(t, smtptest.Options{})
	m := startMTA(t, strings.ReplaceAll(viaSmarthost, "SMARTHOST", smarthost.Addr))
	const messages = 150
	m.sendMany(messages, "user%d@example.com")
	if !smarthost.Wait(messages, patience) {
		t.Fatalf("the smarthost got %d messages", len(smarthost.Mails()))
	}
	sessions, most := smarthost.Sessions()
	t.Logf("%d connections, %d at a time", sessions, most)
	if sessions > 10 {
		t.Errorf("%d connections, want at most 10", sessions)
	}
}

// Mail for a host that does not answer, more of it than the dispatcher takes, holds
// up none for others.
func TestStalledHostHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	stalled, fast := smtptest.Start(t, smtptest.Options{Gate: gate}), smtptest.Start(t, smtptest.Options{})
	m := startRelay(t, map[string]*smtptest.Server{"stalled.example.com": stalled, "fast.example.com": fast})
	const messages = 150
	m.sendMany(messages, "user%d@stalled.example.com")
	m.sendMany(messages, "user%d@fast.example.com")
	if !fast.Wait(messages, patience) {
		t.Fatalf("the fast host got %d messages while another one was stalled", len(fast.Mails()))
	}
	if n := len(stalled.Mails()); n > 0 {
		t.Fatalf("the stalled host has taken %d messages", n)
	}
	close(gate)
	if !stalled.Wait(messages, patience) {
		t.Errorf("the stalled host got %d messages when it answered again", len(stalled.Mails()))
	}
}

func TestMissingCredentialsAreNamed(t *testing.T) {
	t.Parallel()
	m := startMTA(t, prelude+`
table secrets { home = "bob:secret" }
action "out" relay host "smtp+tls://work@127.0.0.1:1" auth <secrets>
match from any for any action "out"
`)
	m.send("x@example.com", "for a smarthost that wants a password")
	m.wait(`mta delivery .*result="TempFail" stat="Could not retrieve credentials" .*held="credentials of .*work`)
	if got := m.held("x@example.com"); !strings.Contains(got.Reason, `"work"`) {
		t.Errorf("the queue tells %+v", got)
	}
}

// BenchmarkFastBesideSlow tells how long 500 messages take to a fast host, alone and
// while 200 go to one that delays each reply by 100 ms.
func BenchmarkFastBesideSlow(b *testing.B) {
	for _, slow := range []int{0, 200} {
		b.Run(fmt.Sprintf("slow-%d", slow), func(b *testing.B) {
			late := smtptest.Start(b, smtptest.Options{Delay: 100 * time.Millisecond})
			for b.Loop() {
				fast := smtptest.Start(b, smtptest.Options{})
				m := startRelay(b, map[string]*smtptest.Server{"slow.example.com": late, "fast.example.com": fast})
				m.sendMany(slow, "user%d@slow.example.com")
				began, before := time.Now(), len(late.Mails())
				m.sendMany(500, "user%d@fast.example.com")
				if !fast.Wait(500, patience) {
					b.Fatalf("the fast host got %d messages", len(fast.Mails()))
				}
				b.ReportMetric(500/time.Since(began).Seconds(), "messages/s")
				b.ReportMetric(float64(len(late.Mails())-before), "slow-messages")
				m.stop()
			}
		})
	}
}
