package main

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// failConf delivers mail for example.org with a command, and reports to senders in
// example.com into the Maildir.
const failConf = prelude + `
table everybody { "@example.org" = owner, "@example.com" = owner }
action "run" mda "DIR/deliver" virtual <everybody> userbase <owner>
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any for domain "example.org" action "run"
match from any for domain "example.com" action "keep"
`

// script makes the command of failConf.
func (m *mta) script(lines string) {
	m.t.Helper()
	path := m.file("deliver", "#!/bin/sh\n"+strings.ReplaceAll(lines, "DIR", m.dir)+"\n")
	if err := chmodX(path); err != nil {
		m.t.Fatal(err)
	}
}

// envelopes returns the queue as the operator sees it.
func (m *mta) envelopes() []proto.ListEntry {
	m.t.Helper()
	return ask(m, proto.List, proto.ListRequest{Max: 1000}).Entries
}

func TestExitCodesOfACommandDecideWhatHappens(t *testing.T) {
	t.Parallel()
	m := newMTA(t, failConf)
	m.script(`echo "no thanks" >&2; case $RECIPIENT in
		perm*) exit 69;; temp*) exit 75;; kill*) kill -9 $$;; esac`)
	m.start()

	m.send("temp@example.org", "later")
	line := m.wait(`mda delivery .*to=<temp@example\.org> .*result=TempFail`)
	if !regexp.MustCompile(`stat=.*no thanks.* next=\S+`).MatchString(line) {
		t.Errorf("a temporary failure is logged as\n%s", line)
	}
	list := m.envelopes()
	if len(list) != 1 || list[0].Envelope.Retry != 1 || list[0].Status.Next.IsZero() || !strings.Contains(list[0].Envelope.ErrorLine, "no thanks") {
		t.Errorf("the queue holds %+v, want one envelope with a time for the next attempt and a reason", list)
	}
	m.send("killed@example.org", "later")
	m.wait(`mda delivery .*to=<killed@example\.org> .*result=TempFail`)

	m.sendAs("sender@example.com", "", "perm@example.org")
	m.wait(`mda delivery .*to=<perm@example\.org> .*result=PermFail`)
	m.wait(`mda delivery .*from=<> to=<sender@example\.com> .*result=Ok`)
	mails := m.mails()
	if len(mails) != 1 {
		t.Fatalf("%d reports, want 1", len(mails))
	}
	for _, want := range []string{
		`(?m)^Return-Path: <>$`, `(?m)^To: <?sender@example\.com>?$`, `(?mi)^Auto-Submitted: auto-replied$`,
		`(?mi)^Content-Type: multipart/report;\s+report-type="?delivery-status"?`,
		`(?m)^Reporting-MTA: dns; ?\S+$`, `(?m)^Final-Recipient: rfc822; ?perm@example\.org$`, `(?m)^Action: failed$`,
		`(?m)^Status: 5\.\d+\.\d+$`, `no thanks`, `(?m)^Content-Type: (text/rfc822-headers|message/rfc822)`,
	} {
		if !regexp.MustCompile(want).MatchString(mails[0]) {
			t.Errorf("the report does not match %s:\n%s", want, mails[0])
		}
	}
}

// sendAs sends a message from a sender with parameters of RCPT to each recipient.
func (m *mta) sendAs(sender, params string, rcpts ...string) {
	m.t.Helper()
	c := m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<"+sender+">", "^250")
	for _, r := range rcpts {
		m.talk(c, "RCPT TO:<"+r+">"+params, "^250")
	}
	m.talk(c, "DATA", "^354", "Subject: test\r\n\r\nhello\r\n.", "^250", "QUIT", "^221")
}

func TestReportsAreSentAsTheSenderAskedFor(t *testing.T) {
	t.Parallel()
	m := newMTA(t, failConf)
	m.script(`case $RECIPIENT in ok*) exit 0;; esac; exit 69`)
	m.start()

	// Neither the null sender nor NOTIFY=NEVER gets a report; those that follow do,
	// so nothing of the first two can be on its way any more.
	m.sendAs("", "", "null@example.org")
	m.wait(`to=<null@example\.org> .*result=PermFail`)
	m.wait(`no return path for [0-9a-f]{16}`)
	m.sendAs("never@example.com", " NOTIFY=NEVER", "never@example.org")
	m.wait(`to=<never@example\.org> .*result=PermFail`)
	m.sendAs("ok@example.com", " NOTIFY=FAILURE", "ok@example.org")
	m.wait(`to=<ok@example\.org> .*result=Ok`)

	m.sendAs("success@example.com", " NOTIFY=SUCCESS", "ok2@example.org")
	m.wait(`to=<success@example\.com> .*result=Ok`)
	mails := m.mails()
	if len(mails) != 1 || !strings.Contains(mails[0], "\nAction: delivered\n") {
		t.Fatalf("reports: %q, want one of a delivery", mails)
	}

	// A hundred failures of one message are one report.
	var rcpts []string
	for i := range 100 {
		rcpts = append(rcpts, fmt.Sprintf("r%d@example.org", i))
	}
	m.sendAs("many@example.com", "", rcpts...)
	m.wait(`to=<many@example\.com> .*result=Ok`)
	mails = m.mails()
	if len(mails) != 2 {
		t.Fatalf("%d reports, want 2", len(mails))
	}
	if n := strings.Count(strings.Join(mails, ""), "\nAction: failed\n"); n != 100 {
		t.Errorf("the report speaks of %d recipients, want 100", n)
	}
	if list := m.envelopes(); len(list) != 0 {
		t.Errorf("the queue holds %d envelopes, want none", len(list))
	}
}

func TestMailOfAnActionThatIsGoneGoesThroughTheRulesAgain(t *testing.T) {
	t.Parallel()
	m := newMTA(t, failConf)
	m.script("exit 75")
	m.start()
	m.send("x@example.org", "take another way")
	m.wait(`to=<x@example\.org> .*result=TempFail`)
	// Rules that take none of it are no reason to give up what was accepted.
	m.writeConf(strings.ReplaceAll(keepAll, "example.org\"", "example.com\""))
	m.hangUp()
	m.wait(`configuration reloaded`)
	ask(m, proto.Manage, proto.ManageRequest{Verb: "schedule"})
	m.wait(`for <x@example\.org>: action "run" is not in the configuration any more, and by its rules: .*Invalid recipient.*; it waits`)
	m.wait(`to=<x@example\.org> .*result=TempFail`)
	m.writeConf(keepAll)
	m.hangUp()
	m.wait(`configuration reloaded`)
	ask(m, proto.Manage, proto.ManageRequest{Verb: "schedule"})
	m.wait(`action "run" is gone, sent through the rules again`)
	m.wait(`to=<x@example\.org> .*result=Ok`)
	if mails := m.mails(); len(mails) != 1 || !strings.Contains(mails[0], "take another way") {
		t.Errorf("the Maildir holds %q", mails)
	}
}

func TestExpiredMailGoesBackToItsSender(t *testing.T) {
	t.Parallel()
	m := newMTA(t, strings.Replace(failConf, `"DIR/deliver"`, `"DIR/deliver" ttl 3s`, 1))
	m.script("echo not today; exit 75")
	m.start()
	m.sendAs("sender@example.com", "", "x@example.org")
	m.wait(`to=<x@example\.org> .*result=TempFail`)
	m.wait(`Expire for [0-9a-f]{16}`)
	m.wait(`from=<> to=<sender@example\.com> .*result=Ok`)
	mails := m.mails()
	if len(mails) != 1 || !strings.Contains(mails[0], "\nStatus: 5.4.7\n") || !strings.Contains(mails[0], "not today") {
		t.Errorf("the report is %q, want one with status 5.4.7 and the last failure", mails)
	}
}

func TestMailForAnAbsentSmarthostIsKeptAndSaysWhy(t *testing.T) {
	t.Parallel()
	host, port := freePort(t)
	m := startMTA(t, prelude+`
action "out" relay host "smtp://`+net.JoinHostPort(host, port)+`"
match from any for any action "out"
`)
	m.send("x@example.com", "far away")
	m.wait(`mta delivery .*to=<x@example\.com> .*result="TempFail" stat="Network error on destination MXs: Connection failed.*" next=`)
	list := m.envelopes()
	if len(list) != 1 || list[0].Envelope.Type != envelope.MTA || !strings.Contains(list[0].Envelope.ErrorLine, "Connection failed") {
		t.Errorf("the queue holds %+v", list)
	}
}

func TestMailIsRelayedToASmarthost(t *testing.T) {
	t.Parallel()
	far := startMTA(t, keepAll)
	near := startMTA(t, prelude+`
action "out" relay host "smtp://`+far.addr+`" helo "near.example.org"
match from any for any action "out"
`)
	near.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<one@example.org>", "^250", "RCPT TO:<two@example.org>", "^250", "RCPT TO:<three@example.com>", "^250",
		"DATA", "^354", "Subject: test\r\n\r\n..a dot\r\n.", "^250", "QUIT", "^221")
	near.wait(`mta delivery .*to=<one@example\.org> .*result="Ok" stat="250 2\.0\.0 [0-9a-f]{8} Message accepted for delivery"`)
	near.wait(`mta delivery .*to=<two@example\.org> .*result="Ok"`)
	// What the smarthost refuses is returned, in its words, by way of the rules.
	near.wait(`mta delivery .*to=<three@example\.com> .*result="PermFail" stat="550 5\.7\.1 Invalid recipient: <three@example\.com>"`)
	near.wait(`mta delivery .*from=<> to=<sender@example\.net> `)
	far.wait(`to=<one@example\.org> .*result=Ok`)
	far.wait(`to=<two@example\.org> .*result=Ok`)
	for _, mail := range far.mails() {
		if !strings.Contains(mail, "\nReceived: from near.example.org (") || !strings.HasSuffix(mail, "\n.a dot") {
			t.Errorf("the relayed message reads\n%s", mail)
		}
	}
	far.mu.Lock()
	defer far.mu.Unlock()
	n := 0
	for _, line := range far.log {
		if strings.Contains(line, " smtp message ") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d transactions for two recipients of one message, want 1", n)
	}
}

func TestDeliveryToAnLMTPServer(t *testing.T) {
	t.Parallel()
	m := newMTA(t, prelude+`
table everybody { "@example.org" = owner }
action "lmtp" lmtp "DIR/lmtp.sock" rcpt-to virtual <everybody> userbase <owner>
match from any for domain "example.org" action "lmtp"
`)
	ln, err := net.Listen("unix", filepath.Join(m.dir, "lmtp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := chmodAll(filepath.Join(m.dir, "lmtp.sock")); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 16)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serveLMTP(conn, got)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-served
	})
	m.start()
	m.send("refused@example.org", "no")
	m.wait(`to=<refused@example\.org> .*result=PermFail stat=.*550 5\.2\.2 full`)
	m.send("x@example.org", "over LMTP")
	m.wait(`to=<x@example\.org> .*result=Ok`)
	if text := <-got; !strings.Contains(text, "RCPT TO:<x@example.org>") || !strings.Contains(text, "over LMTP") {
		t.Errorf("the LMTP server got\n%s", text)
	}
}

// serveLMTP holds one LMTP session (RFC 2033) and sends on what it took of each message.
func serveLMTP(conn net.Conn, got chan<- string) {
	defer conn.Close()
	say := func(s string) { fmt.Fprintf(conn, "%s\r\n", s) }
	say("220 lmtp.example.org")
	var text strings.Builder
	data := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line := lines.Text()
		fmt.Fprintln(&text, line)
		switch word, _, _ := strings.Cut(strings.ToUpper(line), " "); {
		case data && line == ".":
			data = false
			say("250 2.0.0 kept")
			got <- text.String()
			text.Reset()
		case data:
		case word == "DATA":
			data = true
			say("354 go on")
		case word == "RCPT" && strings.Contains(line, "refused"):
			say("550 5.2.2 full")
		case word == "QUIT":
			say("221 bye")
			return
		case word == "LHLO":
			say("250 lmtp.example.org")
		default:
			say("250 2.0.0 fine")
		}
	}
}

func TestEndDuringASlowDeliveryLosesNothing(t *testing.T) {
	t.Parallel()
	m := newMTA(t, failConf)
	// The first delivery ends when the daemon has been told to end.
	m.script(`if [ -e DIR/go ]; then cat >> DIR/got; exit 0; fi
		touch DIR/go; echo started >> DIR/steps; read x < DIR/fifo; cat >> DIR/got`)
	fifo := filepath.Join(m.dir, "fifo")
	if err := makeFIFO(fifo); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.send("x@example.org", "slow one")
	release := openFIFO(t, fifo) // waits until the command reads
	if err := m.cmd.Process.Signal(sigTerm); err != nil {
		t.Fatal(err)
	}
	if _, err := release.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	release.Close()
	<-m.done
	if m.err != nil {
		t.Errorf("the daemon ended with %v", m.err)
	}
	m.start()
	// Either it was delivered before the end, or it is tried again now.
	for len(m.envelopes()) > 0 {
		ask(m, proto.Manage, proto.ManageRequest{Verb: "schedule"})
		m.wait(`mda delivery .*result=Ok`)
	}
	if got := m.read("got"); strings.Count(got, "slow one") != 1 {
		t.Errorf("the message was delivered %d times", strings.Count(got, "slow one"))
	}
}
