package main

import (
	"regexp"
	"strings"
	"testing"
)

// Mail that an alias sends on goes out under an address of this server, and what comes
// back to that address reaches the first sender.
func TestForwardedMailComesBackToItsSender(t *testing.T) {
	t.Parallel()
	commands := make(chan string, 100)
	far := hostOf(t, func(line string) string {
		if strings.HasPrefix(line, "MAIL FROM:") || strings.HasPrefix(line, "RCPT TO:") {
			commands <- line
		}
		return friendly(line)
	})
	m := startMTA(t, prelude+`
srs key "a secret of sixteen or more"
table lists { "list@example.test" = joe@far.example }
action "in" expand-only virtual <lists>
action "out" relay host "smtp://`+far+`" srs
match from any for domain "example.test" rcpt-to "list@example.test" action "in"
match from any for any action "out"
`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<ann@sender.example>", "^250", "RCPT TO:<list@example.test>", "^250",
		"DATA", "^354", "Subject: x\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	sender := <-commands
	found := regexp.MustCompile(`^MAIL FROM:<(SRS0=[^>=]+=[^>=]+=sender\.example=ann@example\.test)>`).FindStringSubmatch(sender)
	if found == nil {
		t.Fatalf("forwarded as %q", sender)
	}
	if rcpt := <-commands; !strings.HasPrefix(rcpt, "RCPT TO:<joe@far.example>") {
		t.Errorf("forwarded to %q", rcpt)
	}
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<>", "^250", "RCPT TO:<"+found[1]+">", "^250",
		"DATA", "^354", "Subject: report\r\n\r\ntext\r\n.", "^250", "QUIT", "^221")
	if sender := <-commands; !strings.HasPrefix(sender, "MAIL FROM:<>") {
		t.Errorf("a report comes from %q", sender)
	}
	if rcpt := <-commands; !strings.HasPrefix(rcpt, "RCPT TO:<ann@sender.example>") {
		t.Errorf("a report goes to %q", rcpt)
	}
}
