package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/table"
)

// tableVariable makes the test binary a table program that answers from a file:
// lines of service, key and value.
const tableVariable = "OPENSMTPD_TEST_TABLE"

// tableProgramMain is that program. Keys that begin with "die", "hang", "flood" and
// "mumble" make it do that: end, answer when there is a file of the name with ".go"
// added, write lines without end, and much to its standard error. An update hangs when
// there is a line "update slowly".
func tableProgramMain(path string) {
	await := func(what string) {
		fmt.Fprintln(os.Stderr, "waits with", what)
		for _, err := os.Stat(path + ".go"); err != nil; _, err = os.Stat(path + ".go") {
			time.Sleep(10 * time.Millisecond)
		}
	}
	table.Main(table.Funcs{
		OnUpdate: func(context.Context) error {
			b, err := os.ReadFile(path)
			if strings.Contains(string(b), "update slowly") {
				await("an update")
			}
			return err
		},
		OnLookup: func(_ context.Context, s table.Service, key string) (string, error) {
			switch {
			case strings.HasPrefix(key, "die"):
				os.Exit(3)
			case strings.HasPrefix(key, "hang"):
				await("an answer")
			case strings.HasPrefix(key, "flood"):
				for err := error(nil); err == nil; _, err = os.Stdout.WriteString("lookup-result|x|found|x\n") {
				}
			case strings.HasPrefix(key, "mumble"):
				for range 10_000 {
					fmt.Fprintln(os.Stderr, "mumbles")
				}
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			for line := range strings.SplitSeq(string(b), "\n") {
				if f := strings.SplitN(line, " ", 3); len(f) == 3 && f[0] == string(s) && f[1] == key {
					return f[2], nil
				}
			}
			return "", table.ErrNotFound
		},
		OnFetch: func(context.Context, table.Service) (string, error) { return "", errors.New("nothing to fetch") },
	}, table.Alias, table.UserInfo, table.Domain, table.MailAddr, table.Credentials)
}

// tableCommand is the value of a proc-exec for the daemon's test program.
func tableCommand(t testing.TB, path string) string {
	return fmt.Sprintf("env %s=%s %s", tableVariable, path, program(t))
}

const programConf = prelude + `
table domains proc-exec "COMMAND"
table virtuals proc-exec "COMMAND"
action "keep" maildir $maildir virtual <virtuals> userbase <owner>
match from any for domain <domains> action "keep"
`

func TestProgramAnswersTables(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	rows := m.file("rows", "domain example.org x\nalias joe@example.org owner\n")
	m.writeConf(strings.ReplaceAll(programConf, "COMMAND", tableCommand(t, rows)))
	m.start()
	m.send("Joe@Example.org", "through a program")
	m.wait(`mda delivery .*to=<Joe@Example\.org>.* result=Ok`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250",
		"RCPT TO:<jim@example.org>", "^550 5.1.1 ", "RCPT TO:<joe@example.com>", "^550",
		// A program that dies costs the question that it was asked, no more.
		"RCPT TO:<die@example.org>", "^4[25][14]", "RCPT TO:<joe@example.org>", "^250", "QUIT", "^221")
	m.wait(`table virtuals: its program ended while in use; starting its program again in 0s`)
}

// installRows installs the test binary as the program of the backend "rows".
func (m *mta) installRows() {
	m.t.Helper()
	libexec := filepath.Join(m.dir, "libexec")
	if err := os.Mkdir(libexec, 0o755); err != nil {
		m.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexport %s=\"$1\"\nexec %s\n", tableVariable, program(m.t))
	if err := os.WriteFile(filepath.Join(libexec, "table-rows"), []byte(script), 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.args = []string{"-o", "libexec=" + libexec}
}

func TestProgramThatIsSlowHoldsUpNothingElse(t *testing.T) {
	t.Parallel()
	m := newMTA(t, prelude+`
table slow rows:DIR/slow
table quick rows:DIR/quick
table names file:DIR/names
action "slow" maildir $maildir virtual <slow> userbase <owner>
action "quick" maildir $maildir virtual <quick> userbase <owner>
action "names" maildir $maildir virtual <names> userbase <owner>
match from any for domain "slow.example" action "slow"
match from any for domain "quick.example" action "quick"
match from any for domain "names.example" action "names"
`)
	m.file("slow", "alias joe@slow.example owner\nalias hang@slow.example owner\n")
	m.file("quick", "alias joe@quick.example owner\n")
	m.file("names", "joe@names.example: owner\n")
	m.installRows()
	m.start()
	c := m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250")
	if err := c.PrintfLine("RCPT TO:<hang@slow.example>"); err != nil {
		t.Fatal(err)
	}
	m.wait(`table slow: waits with an answer`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250", "RCPT TO:<joe@quick.example>", "^250",
		"RCPT TO:<joe@names.example>", "^250", "RCPT TO:<joe@slow.example>", "^250", "RCPT TO:<jim@slow.example>", "^550")

	// Nor does a program that is told to read its file again and takes its time.
	m.file("slow", "alias joe@slow.example owner\nalias hang@slow.example owner\nupdate slowly\n")
	m.wait(`table slow: waits with an update`)
	m.file("names", "joe@names.example: owner\njim@names.example: owner\n")
	m.wait(`table "names": .* has changed and was read again`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250", "RCPT TO:<jim@names.example>", "^250")

	m.file("slow.go", "")
	m.expect(c, "RCPT TO:<hang@slow.example>", "^250")
	m.wait(`table "slow": .* has changed and was read again`)
}

func TestProgramThatFloodsIsStartedAgain(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	rows := m.file("rows", "domain example.org x\nalias joe@example.org owner\nalias mumble@example.org owner\n")
	m.writeConf(strings.ReplaceAll(programConf, "COMMAND", tableCommand(t, rows)))
	m.start()
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250",
		"RCPT TO:<flood@example.org>", "^4[25][14]", "RCPT TO:<joe@example.org>", "^250",
		"RCPT TO:<mumble@example.org>", "^250", "QUIT", "^221")
	m.wait(`table virtuals: its program answers what it was not asked: .*; starting its program again in 0s`)
	m.wait(`table virtuals: more than 1000 lines within 10s; the next ones are left out`)
	said := 0
	for _, line := range m.lines() {
		if strings.Contains(line, "table virtuals: mumbles") {
			said++
		}
	}
	if said == 0 || said > 1000 {
		t.Errorf("%d lines of the program's standard error were logged", said)
	}
}

func TestTableFilesAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	m := newMTA(t, prelude+`
table virtuals file:DIR/virtuals
table users passwd:DIR/users
action "keep" maildir $maildir virtual <virtuals> userbase <owner>
action "mail" maildir $maildir userbase <users>
match from any for domain "example.org" action "keep"
match from any for domain "example.net" action "mail"
`)
	path := m.file("virtuals", "joe@example.org: owner\n")
	m.file("users", "amy:x:1:1::/a:\n")
	m.start()
	rcpt := func(address, want string) {
		t.Helper()
		m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250", "RCPT TO:<"+address+">", want, "QUIT", "^221")
	}
	rcpt("joe@example.org", "^250")
	rcpt("jim@example.org", "^550 5.1.1 ")
	rcpt("bea@example.net", "^550")
	m.file("virtuals", "joe@example.org: owner\njim@example.org: owner\n")
	m.file("users", "amy:x:1:1::/a:\nbea:x:1:1::/b:\n")
	m.wait(`table "virtuals": ` + path + ` has changed and was read again`)
	m.wait(`table "users": .* has changed and was read again`)
	rcpt("jim@example.org", "^250")
	rcpt("bea@example.net", "^250")

	m.file("virtuals", "joe@example.org: owner\nrubbish\n")
	m.wait(`table "virtuals" stays as it was: ` + path + `:2: invalid map entry`)
	rcpt("jim@example.org", "^250")

	// A file put in its place, and a table that somebody says to read.
	next := m.file("next", "joe@example.org: owner\n")
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	ask(m, proto.UpdateTable, proto.TableRequest{Name: "virtuals"})
	rcpt("jim@example.org", "^550 5.1.1 ")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m.wait(`table "virtuals" stays as it was: .*no such file`)
	rcpt("joe@example.org", "^250")
}

// A program that is not there, or speaks something else, concerns its own table
// only; the configuration is refused when there is no such program.
func TestBrokenProgramConcernsItsTableOnly(t *testing.T) {
	t.Parallel()
	m := startMTA(t, prelude+`
table broken proc-exec "echo hello"
table everybody { "@example.org" = owner, "@example.net" = owner }
action "keep" maildir $maildir virtual <everybody> userbase <owner>
match from any for domain "example.org" action "keep"
match from any for domain <broken> action "keep"
`)
	m.wait(`table broken: its program writes "hello" where it should name its services`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250",
		"RCPT TO:<a@example.net>", "^451", "RCPT TO:<a@example.org>", "^250", "QUIT", "^221")

	m.writeConf(keepAll + "table nothere nosuchbackend:/etc/x\n")
	m.hangUp()
	m.wait(`reload: configuration unchanged: .*table backend "nosuchbackend" does not exist`)
}

func TestAnswersAreKept(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	rows := m.file("rows", "domain example.org x\nalias joe@example.org owner\n")
	m.writeConf(strings.ReplaceAll(strings.ReplaceAll(programConf, "COMMAND\"", "COMMAND\" ttl 1h"), "COMMAND", tableCommand(t, rows)))
	m.start()
	m.send("joe@example.org", "asked for")
	m.file("rows", "")
	m.send("joe@example.org", "known")
	ask(m, proto.UpdateTable, proto.TableRequest{Name: "virtuals"})
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250", "RCPT TO:<joe@example.org>", "^550 5.1.1 ")
}

// Programs in the directory of helper programs are table backends.
func TestProgramIsFoundByTheNameOfTheBackend(t *testing.T) {
	t.Parallel()
	m := newMTA(t, "")
	rows := m.file("rows", "domain example.org x\nalias joe@example.org owner\n")
	m.writeConf(strings.ReplaceAll(programConf, `proc-exec "COMMAND"`, "rows:"+rows))
	m.installRows()
	m.start()
	m.send("joe@example.org", "by name")
	m.wait(`mda delivery .*to=<joe@example\.org>.* result=Ok`)
}

// Who may send, whom they mean, where that goes, from which address and under which
// name: each is a table, and each follows its file.
func TestClientVirtualRelayAndSourceMapsInOneConfiguration(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Skip("this system has one loopback address only")
	} else {
		l.Close()
	}
	far, other := startMTA(t, keepAll), startMTA(t, strings.ReplaceAll(keepAll, "example.org", "example.com"))
	m := newMTA(t, prelude+`
table clients file:DIR/clients
table ours file:DIR/ours
table virtuals file:DIR/virtuals
table hosts file:DIR/hosts
table sources file:DIR/sources
table names file:DIR/names
action "meant" maildir $maildir virtual <virtuals> userbase <owner>
action "out" relay domain <hosts> src <sources> helo-src <names>
match from src <clients> for domain <ours> action "meant"
match from local for domain { "example.org", "example.com" } action "out"
`)
	m.file("clients", "# @list\n192.0.2.1\n127.0.0.0/8\n")
	m.file("ours", "*.example.net\nexample.net\n")
	m.file("virtuals", "joe@example.net: joe@example.org\nbob@example.net: bob@example.com\n@example.net: owner\n")
	m.file("hosts", "example.org: smtp://"+far.addr+"\n")
	m.file("sources", "127.0.0.2\n")
	m.file("names", "127.0.0.2: out.example.net\n")
	m.start()
	m.send("joe@example.net", "to another host")
	m.wait(`mta delivery .*to=<joe@example\.org> .*source="127\.0\.0\.2".*result="Ok"`)
	far.wait(`smtp connected address=127\.0\.0\.2 `)
	far.wait(`mda delivery .*to=<joe@example\.org>.* result=Ok`)
	if mails := far.mails(); len(mails) != 1 || !strings.Contains(mails[0], "Received: from out.example.net ") {
		t.Errorf("the other host has %q", mails)
	}
	m.send("jim@example.net", "to the owner")
	m.wait(`mda delivery .*to=<jim@example\.net>.* result=Ok`)

	m.file("hosts", "example.com: smtp://"+other.addr+"\n")
	m.wait(`table "hosts": .* was read again`)
	m.send("bob@example.net", "to the next host")
	other.wait(`mda delivery .*to=<bob@example\.com>.* result=Ok`)
	m.file("clients", "# @list\n192.0.2.1\n")
	m.wait(`table "clients": .* was read again`)
	m.dialogue("^220", "EHLO client.example.net", "^250", "MAIL FROM:<s@example.net>", "^250", "RCPT TO:<joe@example.net>", "^550")
}

func TestCheckTellsOfLabelsWithoutCredentials(t *testing.T) {
	t.Parallel()
	m := newMTA(t, prelude+`
table secrets file:DIR/secrets
table program proc-exec "/bin/false"
action "out" relay host { "smtps://isp@a.example", "smtps://other@b.example" } auth <secrets>
action "asked" relay host "smtps://isp@a.example" auth <program>
match from local for any action "out"
match auth from any for any action "asked"
`)
	m.file("secrets", "isp user:password\n")
	_, stderr, status := outputOf(t, m.command("-n"))
	want := regexp.MustCompile(`warn: .*relay host "smtps://other@b\.example:465": table "secrets" has no credentials for its label`)
	if status != 0 || !want.MatchString(stderr) || strings.Count(stderr, "no credentials") != 1 {
		t.Errorf("smtpd -n: status %d, %q, want %q", status, stderr, want)
	}
}
