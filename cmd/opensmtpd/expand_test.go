package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Mail for example.org in these tests goes through an aliases file, that for
// example.net through virtual users, that for example.com to a user with a .forward.
const expandConf = prelude + `
table aliases file:DIR/aliases
table virtuals { "one@example.net" = "two@example.net", "two@example.net" = owner, "@example.net" = owner }
action "alias" maildir $maildir alias <aliases> userbase <owner>
action "virtual" maildir $maildir virtual <virtuals> userbase <owner>
action "plain" maildir $maildir userbase <owner>
match from any for domain "example.org" action "alias"
match from any for domain "example.net" action "virtual"
match from any for domain "example.com" action "plain"
`

func TestAliasesVirtualUsersAndForward(t *testing.T) {
	t.Parallel()
	m := newMTA(t, expandConf)
	m.file("list", "# members\nowner\n")
	m.file("aliases", strings.NewReplacer("DIR", m.dir).Replace(`
postmaster: owner
cmd: "|cat > DIR/by-command; echo $SENDER $RECIPIENT $LOCAL >> DIR/by-command"
filed: DIR/by-file
listed: :include:DIR/list
gone: error:550 moved away
later: error:451 come back
loop: loop
a: b
b: a
`))
	m.start()

	// What becomes of a recipient is decided at RCPT.
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250",
		"RCPT TO:<gone@example.org>", "^550 moved away|^550 5",
		"RCPT TO:<later@example.org>", "^451",
		"RCPT TO:<nobody@example.org>", "^550",
		"RCPT TO:<a@example.org>", "^524",
		"RCPT TO:<nobody@example.com>", "^550",
		"RCPT TO:<POSTMASTER@example.org>", "^250", "QUIT", "^221")

	for _, tt := range []struct{ rcpt, log string }{
		{"postmaster@example.org", `to=<\S+> .*user=owner .*result=Ok`},
		{"listed@example.org", `to=<listed@example\.org> user=owner .*result=Ok`},
		{"one@example.net", `rcpt=<one@example\.net> .*result=Ok|to=<one@example\.net> .*result=Ok`},
		{"other@example.net", `to=<other@example\.net> .*result=Ok|rcpt=<other@example\.net> .*result=Ok`},
		{"owner+tag@example.com", `to=<owner\+tag@example\.com> .*result=Ok`},
	} {
		before := len(m.mails())
		m.send(tt.rcpt, "for "+tt.rcpt)
		m.wait(`mda delivery .*` + tt.log)
		mails := m.mails()
		if len(mails) != before+1 || !strings.Contains(strings.Join(mails, "\n"), "for "+tt.rcpt) {
			t.Errorf("%s: %d messages in the Maildir, want %d", tt.rcpt, len(mails), before+1)
		}
	}

	m.send("cmd@example.org", "to a command")
	m.wait(`mda delivery .*result=Ok`)
	if got := m.read("by-command"); !regexp.MustCompile(`(?s)to a command.*sender@example\.net cmd@example\.org`).MatchString(got) {
		t.Errorf("the command wrote\n%s", got)
	}
	m.send("filed@example.org", "to a file\r\nFrom here on")
	m.wait(`mda delivery .*result=Ok`)
	if got := m.read("by-file"); !regexp.MustCompile(`(?s)^From sender@example\.net .*to a file\n>From here on\n\n$`).MatchString(got) {
		t.Errorf("the file holds\n%s", got)
	}

	// A .forward is read with the rights and from the home of its user.
	m.file(".forward", "\\owner, \"|cat > forwarded\"\n")
	before := len(m.mails())
	m.send("owner@example.com", "through a .forward")
	m.wait(`mda delivery .*result=Ok`)
	m.wait(`mda delivery .*result=Ok`)
	if got := m.read("forwarded"); !strings.Contains(got, "through a .forward") || len(m.mails()) != before+1 {
		t.Errorf("the command of .forward wrote %q, the Maildir has %d messages more", got, len(m.mails())-before)
	}
}

// read returns the content of a file in the daemon's directory.
func (m *mta) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func TestSpamGoesToTheJunkFolder(t *testing.T) {
	t.Parallel()
	m := startMTA(t, strings.Replace(keepAll, "maildir $maildir", "maildir $maildir junk", 1))
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250", "RCPT TO:<x@example.org>", "^250",
		"DATA", "^354", "X-Spam: Yes\r\nSubject: buy\r\n\r\nthis\r\n.", "^250", "QUIT", "^221")
	m.wait(`mda delivery .*result=Ok`)
	if junk := mailsIn(t, filepath.Join(m.maildir(), ".Junk")); len(junk) != 1 || len(m.mails()) != 0 {
		t.Errorf("%d messages in Junk, %d in the inbox", len(junk), len(m.mails()))
	}
}
