//go:build system

package system

import (
	"fmt"
	"strings"
	"testing"
)

func TestOnlyCRLFDotCRLFEndsAMessage(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	const smuggled = "MAIL FROM:<smuggler@example.net>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nyou have been had\r\n.\r\n"
	for _, tt := range []struct {
		name, end string
		refused   bool // for a line that does not end in CRLF, or a NUL
	}{
		{"LF . LF", "\n.\n", true},
		{"LF . CRLF", "\n.\r\n", true},
		{"CRLF . LF", "\r\n.\n", true},
		{"CR . CR", "\r.\r", true},
		{"CR . CRLF", "\r.\r\n", true},
		{"CRLF . CR", "\r\n.\r", true},
		{"CRLF . CR CRLF", "\r\n.\r\r\n", true},
		{"CRLF . CR LF after CR", "\r\n.\r\rX\r\n", true},
		{"CRLF . NUL CRLF", "\r\n.\x00\r\n", true},
		{"CRLF . blank CRLF", "\r\n. \r\n", false},
		{"CRLF NUL . CRLF", "\r\n\x00.\r\n", true},
		{"CR LF . without LF", "\r\n.\rMAIL\r\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := d.to("alice@example.org").talk("DATA", "^354")
			c.t = t
			c.raw("Subject: " + tt.name + "\r\n\r\nfirst" + tt.end + smuggled)
			want := "^250 2.0.0"
			if tt.refused {
				want = "^5[05]0 5"
			}
			c.expect(tt.end, want)
			c.talk("NOOP", "^250", "QUIT", "^221")
			c.closed()
		})
	}
	d.send("Subject: last\n\nlast", "alice@example.org", "bob@example.org")
	d.await("the last message", func() bool {
		mails := strings.Join(d.mails("alice"), "\n")
		return strings.Contains(mails, "Subject: last\n")
	})
	d.mail("bob", 1) // and nothing that was smuggled
	for _, m := range d.mails("alice") {
		if strings.Contains(m, "Subject: last\n") {
			continue
		}
		if !strings.Contains(m, "RCPT TO:<bob@example.org>") {
			t.Errorf("the text behind the false end is not in the message: %q", m)
		}
	}
}

func TestBareLinesAreMendedWhereTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "smtp bare-newline normalize\n"+listen+toMaildir)
	c := d.to("alice@example.org").talk("DATA", "^354")
	c.raw("Subject: bare\r\n\r\none\n.\ntwo\r\n.\nthree\r\n.\r\n")
	c.expect("the end", "^250 2.0.0")
	got := body(d.mail("alice", 1)[0])
	// A dot is transparent only where a line begins on the wire (RFC 5321 section 4.5.2).
	if got != "one\n.\ntwo\n\nthree\n" {
		t.Errorf("the text arrived as %q", got)
	}
}

func TestHostileCommandsAreAnswered(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	for _, tt := range []struct {
		name, sent string
		replies    []string // of this and of a NOOP behind it; none: the session ends
		ends       bool
	}{
		{"command that ends in LF alone", "NOOP\n", []string{"^250"}, false},
		{"NUL in a command", "NOOP\x00\r\n", []string{"^500 5.5.2"}, false},
		{"NUL in an address", "EHLO x\r\nMAIL FROM:<a\x00b@example.net>\r\n", []string{"^250", "^50[01] 5"}, false},
		{"CR in a command", "MAIL FROM:<a@example.net>\rRCPT TO:<b@example.org>\r\n", []string{"^500 5.5.2"}, false},
		{"control character", "EHLO x\x07\r\n", []string{"^50[01] 5"}, false},
		{"long command", "NOOP " + strings.Repeat("x", 20_000) + "\r\n", []string{"^500 5"}, true},
		{"200 KB without an end of line", strings.Repeat("x", 200_000), []string{"^500 5"}, true},
		{"address of 2 KB", "EHLO x\r\nMAIL FROM:<" + strings.Repeat("a", 2000) + "@example.net>\r\n", []string{"^250", "^5(00|01|53) 5"}, false},
		{"source route is ignored", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<@a.example,@b.example:alice@example.org>\r\n", []string{"^250", "^250", "^250"}, false},
		{"shell in the sender", "EHLO x\r\nMAIL FROM:<;for i in 0 1;do id>/tmp/x;done;>\r\n", []string{"^250", "^5(01|53) 5"}, false},
		{"recipient without domain elsewhere", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<|id@example.com>\r\n", []string{"^250", "^250", "^550 5"}, false},
		{"browser", "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", []string{"^500 5.5.1"}, true},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", []string{"^500 5"}, false},
		{"DATA without recipients", "EHLO x\r\nMAIL FROM:<>\r\nDATA\r\n", []string{"^250", "^250", "^503 5"}, false},
		{"BDAT of a size that is no number", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nBDAT 99999999999999999999 LAST\r\n", []string{"^250", "^250", "^250", "^501 5.5.4"}, true},
		{"BDAT of more than may be sent", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\nBDAT 4000000000 LAST\r\n", []string{"^250", "^250", "^250", "^55[24] 5.3.4"}, true},
		{"declared size beyond the limit", "EHLO x\r\nMAIL FROM:<> SIZE=99999999999\r\n", []string{"^250", "^552 5.3.4"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := d.connect()
			c.t = t
			_ = c.write(tt.sent) // the server may end the session before it has all
			for _, want := range tt.replies {
				c.expect(tt.sent, want)
			}
			if tt.ends {
				c.closed()
				return
			}
			c.talk("NOOP", "^250")
		})
	}
}

func TestCommandFloodEndsTheSession(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "smtp limit max-errors 20\n"+listen+toMaildir)
	c := d.connect()
	_ = c.write(strings.Repeat("BOGUS\r\n", 1000)) // cut off by the server
	for range 20 {
		c.expect("BOGUS", "^500 5.5.1")
	}
	c.expect("BOGUS", "^421 4.7.0 Too many errors")
	c.closed()
	d.wait(`smtp bad-input .*Too many errors`)
}

func TestRecipientHarvestEndsTheSession(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	c := d.to()
	var flood strings.Builder
	for i := range 100 {
		fmt.Fprintf(&flood, "RCPT TO:<guess%d@example.org>\r\n", i)
	}
	_ = c.write(flood.String()) // cut off by the server
	n := 0
	for ; n < 100; n++ {
		reply, err := c.reply()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(reply, "421 ") {
			break
		}
		matches(t, "reply", reply, "^550 5")
	}
	if n != 20 {
		t.Errorf("%d guesses were answered, want 20", n)
	}
}

func TestLongLinesAndManyFieldsHaveBounds(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	for _, tt := range []struct{ name, text, reply string }{
		{"line of 60 KB", "Subject: x\r\n\r\n" + strings.Repeat("y", 60_000), "^250"},
		{"line of 200 KB", "Subject: x\r\n\r\n" + strings.Repeat("y", 200_000), "^5(00|50|52|54) 5"},
		{"header of 1.2 MB", strings.Repeat("X-Flood: "+strings.Repeat("z", 90)+"\r\n", 12_000) + "\r\nbody", "^5(50|52|54) 5"},
		{"one field of 1.2 MB", "Subject: x\r\n" + strings.Repeat(" "+strings.Repeat("z", 90)+"\r\n", 12_000) + "\r\nbody", "^5(50|52|54) 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := d.to("alice@example.org")
			c.t = t
			c.talk("DATA", "^354", tt.text+"\r\n.", tt.reply)
		})
	}
}

func TestMessageThatHasTravelledTooFarIsRefused(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	hop := "Received: from a.example by b.example; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
	d.to("alice@example.org").talk("DATA", "^354", strings.Repeat(hop, 101)+"Subject: x\r\n\r\ntext\r\n.", "^5(00|50|54) 5.4.6")
	d.to("alice@example.org").talk("DATA", "^354", strings.Repeat(hop, 20)+"Subject: x\r\n\r\ntext\r\n.", "^250")
}
