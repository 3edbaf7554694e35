package main

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/scheduler"
)

// hostOf returns the address of a mail server that answers each command as reply
// says; an empty answer means that the connection is closed.
func hostOf(t *testing.T, reply func(line string) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := io.WriteString(c, "220 far.example ESMTP\r\n"); err != nil {
					return
				}
				data := false
				for {
					line, err := r.ReadString('\n')
					line = strings.TrimRight(line, "\r\n")
					if err != nil {
						return
					}
					if data && line != "." {
						continue
					}
					answer := reply(line)
					data = strings.HasPrefix(answer, "354")
					if answer == "" {
						return
					}
					if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// friendly is what a server answers that takes everything.
func friendly(line string) string {
	verb, _, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		return "250-far.example\r\n250-PIPELINING\r\n250 8BITMIME"
	case "DATA":
		return "354 go on"
	case "QUIT":
		return "221 bye"
	}
	return "250 ok"
}

// deliveryStatus returns the fields of a report: those of the message, and those of
// each recipient.
func deliveryStatus(t *testing.T, text string) (report *mail.Message, perMessage textproto.MIMEHeader, recipients []textproto.MIMEHeader) {
	t.Helper()
	report, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	typ, params, err := mime.ParseMediaType(report.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("Content-Type %q: %v", report.Header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(report.Body, params["boundary"])
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			t.Fatal("no part for programs")
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Header.Get("Content-Type") != "message/delivery-status" {
			continue
		}
		fields := textproto.NewReader(bufio.NewReader(p))
		if perMessage, err = fields.ReadMIMEHeader(); err != nil {
			t.Fatal(err)
		}
		for {
			h, err := fields.ReadMIMEHeader()
			if len(h) > 0 {
				recipients = append(recipients, h)
			}
			if err == io.EOF {
				return report, perMessage, recipients
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestThousandRefusedRecipientsMakeOneReport(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer func(line string) string
		status string
	}{
		{"each by itself", func(line string) string {
			if addr, ok := strings.CutPrefix(line, "RCPT TO:"); ok {
				return "550 5.1.1 no such user " + strings.Fields(addr)[0]
			}
			if line == "DATA" {
				return "503 no recipients"
			}
			return friendly(line)
		}, "5.1.1"},
		{"after the text", func(line string) string {
			if line == "." {
				return "554 5.7.1 not this message"
			}
			return friendly(line)
		}, "5.7.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			far := hostOf(t, tt.answer)
			m := startMTA(t, keepAll+`
action "out" relay host "smtp://`+far+`"
match from any for any action "out"
`)
			steps := []string{"^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.org> ENVID=the-envelope RET=HDRS", "^250"}
			const n = 1000
			for i := range n {
				steps = append(steps, fmt.Sprintf("RCPT TO:<u%d@d%d.example> ORCPT=rfc822;o%d@list.example", i, i%10, i), "^250")
			}
			m.dialogue(append(steps, "DATA", "^354", "Subject: many\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")...)
			m.wait(`mda delivery .*from=<> to=<sender@example\.org> .*result=Ok`)
			mails := m.mails()
			if len(mails) != 1 {
				t.Fatalf("%d reports, want one", len(mails))
			}
			report, message, rcpts := deliveryStatus(t, mails[0])
			if report.Header.Get("Auto-Submitted") == "" || message.Get("Original-Envelope-Id") != "the-envelope" ||
				!strings.HasPrefix(message.Get("Reporting-Mta"), "dns; ") || message.Get("Arrival-Date") == "" {
				t.Errorf("report %v\nmessage %v", report.Header, message)
			}
			seen := map[string]bool{}
			for _, h := range rcpts {
				final := strings.TrimPrefix(h.Get("Final-Recipient"), "rfc822; ")
				var i, domain int
				if _, err := fmt.Sscanf(final, "u%d@d%d.example", &i, &domain); err != nil || seen[final] {
					t.Fatalf("Final-Recipient %q, seen before %t: %v", final, seen[final], err)
				}
				seen[final] = true
				if h.Get("Action") != "failed" || h.Get("Status") != tt.status || h.Get("Original-Recipient") != fmt.Sprintf("rfc822; o%d@list.example", i) ||
					h.Get("Remote-Mta") != "dns; [127.0.0.1]" || !strings.HasPrefix(h.Get("Diagnostic-Code"), "smtp; 55") {
					t.Fatalf("recipient %v", h)
				}
			}
			if len(seen) != n {
				t.Errorf("%d recipients reported, want %d", len(seen), n)
			}
		})
	}
}

func TestReportsToForgedSendersAreSpread(t *testing.T) {
	t.Parallel()
	var wanted atomic.Int64
	far := hostOf(t, func(line string) string {
		if line == "." {
			wanted.Add(1)
			return "554 5.7.1 spam"
		}
		return friendly(line)
	})
	m := startMTA(t, keepAll+`
bounce limit max-messages-per-minute 1
action "out" relay host "smtp://`+far+`"
match from any for any action "out"
`)
	for range 2 {
		m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<victim@example.org>", "^250", "RCPT TO:<x@far.example>", "^250",
			"DATA", "^354", "Subject: spam\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	}
	m.wait(`mda delivery .*from=<> to=<victim@example\.org> .*result=Ok`)
	m.wait(`report on message [0-9a-f]{8} to <victim@example\.org> for 1 envelopes waits until .*: limit of 1 reports a minute to example\.org`)
	list := m.envelopes()
	if len(list) != 1 {
		t.Fatalf("the queue holds %+v", list)
	}
	d := scheduler.Describe(list[0].Status, &list[0].Envelope)
	if d.Type != "bounce" || d.Reason != "limit of 1 reports a minute to example.org" || d.NextTry == nil || d.ErrorLine != "554 5.7.1 spam" {
		t.Errorf("the queue tells %+v", d)
	}
	if n := wanted.Load(); n != 2 || len(m.mails()) != 1 {
		t.Errorf("%d messages refused, %d reports", n, len(m.mails()))
	}
}

func TestPostmasterHearsOfMailWithoutSender(t *testing.T) {
	t.Parallel()
	far := hostOf(t, func(line string) string {
		if strings.HasPrefix(line, "RCPT TO:") {
			return "550 5.1.1 no such user"
		}
		return friendly(line)
	})
	m := startMTA(t, keepAll+`
bounce postmaster "postmaster@example.org"
action "out" relay host "smtp://`+far+`"
match from any for any action "out"
`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<>", "^250", "RCPT TO:<gone@far.example>", "^250",
		"DATA", "^354", "Subject: a report\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .*from=<> to=<postmaster@example\.org> .*result=Ok`)
	mails := m.mails()
	if len(mails) != 1 || !strings.Contains(mails[0], "\nTo: <postmaster@example.org>\n") || !strings.Contains(mails[0], "Final-Recipient: rfc822; gone@far.example") {
		t.Errorf("mails %q", mails)
	}
}
