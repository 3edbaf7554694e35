package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// keepEverything delivers mail for every domain to one Maildir.
const keepEverything = prelude + `
table everybody { "@" = owner }
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any for any action "keep"
`

// relaying returns one of the listings of relaying.
func (m *mta) relaying(what string) string {
	m.t.Helper()
	return strings.Join(ask(m, proto.RelayList, proto.RelayListRequest{What: what}).Lines, "\n")
}

func TestDeferralTellsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	host, port := freePort(t)
	m := startMTA(t, prelude+`
action "out" relay host "smtp://`+net.JoinHostPort(host, port)+`"
match from any for any action "out"
`)
	m.send("x@example.com", "far away")
	m.wait(`smtp-out: Disabling route - <-> 127\.0\.0\.1 for 15s: Connection failed: connection refused`)
	line := m.wait(`mta delivery .*to=<x@example\.com> .*result="TempFail" `)
	list := m.envelopes()
	if len(list) != 1 {
		t.Fatalf("the queue holds %+v", list)
	}
	d := scheduler.Describe(list[0].Status, &list[0].Envelope)
	if d.ErrorLine != "Network error on destination MXs: Connection failed: connection refused" || d.Relay != "127.0.0.1" ||
		!strings.HasPrefix(d.Reason, "route - <-> 127.0.0.1 disabled until ") || d.NextTry == nil {
		t.Errorf("the queue tells %+v", d)
	}
	for _, want := range []string{`stat="` + d.ErrorLine + `"`, `relay="` + d.Relay + `"`, `held="` + d.Reason + `"`, "next=" + d.NextTry.Format("2006-01-02T15:04:05Z")} {
		if !strings.Contains(line, want) {
			t.Errorf("the log does not tell %s:\n%s", want, line)
		}
	}
	if got, want := scheduler.Line(list[0].Status, &list[0].Envelope, d.Created), "|"+d.ErrorLine+" ["+d.Relay+"; "+d.Reason+"]"; !strings.HasSuffix(got, want) {
		t.Errorf("show queue: %s\nwant at its end: %s", got, want)
	}
	if got := m.relaying("routes"); !strings.Contains(got, " ND-- nconn=0 nerror=1 penalty=1 timeout=1") || !strings.Contains(got, " port="+port+" ") {
		t.Errorf("routes: %s", got)
	}
	if got := m.relaying("hoststats"); !strings.HasPrefix(got, "example.com|") || !strings.HasSuffix(got, "|"+d.ErrorLine) {
		t.Errorf("hoststats: %s", got)
	}
	ask(m, proto.RelayAdmin, proto.RelayAdminRequest{Verb: "resume-route", Route: 1})
	m.wait(`smtp-out: Enabling route - <-> 127\.0\.0\.1 per admin request`)
}

func TestMailToAPausedDomainStaysUntilItIsResumed(t *testing.T) {
	t.Parallel()
	far := startMTA(t, keepAll)
	m := startMTA(t, prelude+`
action "out" relay host "smtp://`+far.addr+`"
match from any for any action "out"
`)
	ask(m, proto.RelayAdmin, proto.RelayAdminRequest{Verb: "pause", Domain: "example.org"})
	if got := m.relaying("paused"); got != "* -> example.org" {
		t.Errorf("paused: %s", got)
	}
	m.send("x@example.org", "not now")
	m.wait(`mta delivery .*result="TempFail" stat="All routes to destination blocked" .*held="paused by the operator for example\.org"`)
	ask(m, proto.RelayAdmin, proto.RelayAdminRequest{Verb: "resume", Domain: "example.org"})
	ask(m, proto.Manage, proto.ManageRequest{Verb: "schedule"})
	m.wait(`mta delivery .*result="Ok"`)
	if got := m.relaying("relays"); !strings.Contains(got, "[relay:127.0.0.1,port=") || !strings.Contains(got, "\n  connector - nconn=1 ") {
		t.Errorf("relays: %s", got)
	}
}

func TestRecipientsOfManyDomainsShareTransactionsToOneSmarthost(t *testing.T) {
	t.Parallel()
	far := startMTA(t, keepEverything)
	near := startMTA(t, prelude+`
action "out" relay host "smtp://`+far.addr+`"
match from any for any action "out"
`)
	steps := []string{"^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250"}
	const domains, each = 500, 2
	for i := range domains * each {
		steps = append(steps, fmt.Sprintf("RCPT TO:<u%d@d%d.example>", i, i%domains), "^250")
	}
	near.dialogue(append(steps, "DATA", "^354", "Subject: many\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")...)
	for range domains * each {
		near.wait(`mta delivery .*result="Ok"`)
	}
	messages := 0
	for _, line := range far.lines() {
		if strings.Contains(line, " smtp message ") {
			messages++
		}
	}
	if messages > 20 {
		t.Errorf("%d recipients took %d transactions, want at most 20", domains*each, messages)
	}
}

func TestLimitsOfASmarthostHoldForAllDomainsBehindIt(t *testing.T) {
	t.Parallel()
	far := startMTA(t, keepEverything)
	near := startMTA(t, prelude+`
action "out" relay host "smtp://`+far.addr+`"
mta limit for domain "one.example" max-rcpt-per-transaction 3
mta limit for domain "127.0.0.1" max-rcpt-per-transaction 2
match from any for any action "out"
`)
	near.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<a@one.example>", "^250", "RCPT TO:<b@one.example>", "^250", "RCPT TO:<c@two.example>", "^250", "RCPT TO:<d@two.example>", "^250",
		"DATA", "^354", "Subject: test\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	for range 4 {
		near.wait(`mta delivery .*result="Ok"`)
	}
	far.wait(` smtp message .* nrcpt=2 `)
	far.wait(` smtp message .* nrcpt=2 `)
}

func TestMailThatWaitsIsTriedWhenItsDestinationIsBack(t *testing.T) {
	t.Parallel()
	host, port := freePort(t)
	m := startMTA(t, prelude+`
action "out" relay host "smtp://`+net.JoinHostPort(host, port)+`"
match from any for any action "out"
`)
	m.send("one@example.org", "while it is away")
	m.wait(`mta delivery .*to=<one@example\.org> .*result="TempFail"`)
	far := newMTA(t, keepAll)
	far.addr = net.JoinHostPort(host, port)
	far.start()
	ask(m, proto.RelayAdmin, proto.RelayAdminRequest{Verb: "resume-route", Route: 1})
	m.send("two@example.org", "when it is back")
	m.wait(`mta delivery .*to=<two@example\.org> .*result="Ok"`)
	m.wait(`mta delivery .*to=<one@example\.org> .*result="Ok"`)
}

func TestSlowDestinationIsNoConcernOfAFastOne(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	slow := hostOf(t, func(line string) string {
		if strings.HasPrefix(line, "MAIL") {
			<-gate
		}
		return friendly(line)
	})
	fast := hostOf(t, friendly)
	m := startMTA(t, prelude+`
smtp limit max-mails 1000
table ways { "slow.example" = "smtp://`+slow+`", "fast.example" = "smtp://`+fast+`" }
action "out" relay domain <ways>
match from any for any action "out"
`)
	const n = 250 // more than a relay has at a time
	send := func(domain string) {
		steps := []string{"^220", "EHLO client.example.net", "^250"}
		for range n {
			steps = append(steps, "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<x@"+domain+">", "^250", "DATA", "^354", "Subject: x\r\n\r\ntext\r\n.", "^250")
		}
		m.dialogue(append(steps, "QUIT", "^221")...)
	}
	send("slow.example")
	send("fast.example")
	for range n {
		m.wait(`mta delivery .*to=<x@fast\.example> .*result="Ok"`)
	}
	for _, line := range m.lines() {
		if strings.Contains(line, "mta delivery") && strings.Contains(line, "slow.example") {
			t.Fatalf("the slow host has answered: %s", line)
		}
	}
	if got := m.relaying("relays"); !strings.Contains(got, " hold=yes ") {
		t.Errorf("nothing is held for the slow host:\n%s", got)
	}
	close(gate)
	for range n {
		m.wait(`mta delivery .*to=<x@slow\.example> .*result="Ok"`)
	}
}
