//go:build system

package system

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestMboxDeliveryAppendsToTheSystemMailbox(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "deliver" mbox
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: one\n\nFrom the start\n", "alice@example.org")
	d.wait(`mda delivery .* result=Ok`)
	d.send("Subject: two\n\nsecond\n", "alice@example.org")
	d.wait(`mda delivery .* result=Ok`)
	matches(t, "mailbox", d.read("mail/alice"), `(?s)^From sender@example\.net \w.*\n\n>From the start\n\nFrom sender@example\.net .*Subject: two\n.*\n\nsecond\n\n$`)
	fi, err := os.Stat(d.path("mail/alice"))
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := ids(t, "alice")
	if fi.Mode().Perm() != 0o600 || !strings.Contains(d.run("", "", "stat", "-c", "%u", d.path("mail/alice")), fmt.Sprint(uid)) {
		t.Errorf("the mailbox has mode %v, or another owner", fi.Mode())
	}
}

// aliases is a configuration with an alias table, $dir/aliases.
const aliases = listen + `table aliases file:$dir/aliases
action "deliver" maildir "$dir/home/%{user.username}/Maildir" alias <aliases>
match from any for domain "example.org" action "deliver"
`

func TestAliasesLeadToUsersFilesCommandsAndErrors(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, aliases)
	uid, _ := ids(t, "_smtpd")
	d.mkdir("drop", "_smtpd", 0o755)
	d.write("aliases", d.expand(`team: alice, bob, postmaster
postmaster: root
root: alice
archive: "$dir/drop/archive"
script: "|id -u >$dir/drop/who; cat >$dir/drop/text"
sorry: error:550 gone fishing
later: error:451 come again
ping: pong
pong: ping
secret: "$dir/home/alice/secret"
listed: :include:$dir/list
`), "", 0o644)
	d.write("list", "bob\n# nobody else\n", "", 0o644)
	d.start()

	d.send("Subject: a\n\ntext\n", "team@example.org")
	d.mail("alice", 1) // reached twice, delivered once
	d.mail("bob", 1)
	d.send("Subject: a2\n\ntext\n", "listed@example.org")
	d.mail("bob", 2)

	d.send("Subject: b\n\ntext\n", "archive@example.org")
	d.wait(`mda delivery .*to=<archive@example\.org>.* result=Ok`)
	matches(t, "archive", d.read("drop/archive"), `(?s)^From sender@example\.net .*Subject: b\n.*\n\ntext\n\n$`)

	d.send("Subject: c\n\ntext\n", "script@example.org")
	d.wait(`mda delivery .*to=<script@example\.org>.* result=Ok`)
	if got := d.read("drop/who"); got != fmt.Sprintln(uid) {
		t.Errorf("a command out of aliases ran as uid %q, want %d", got, uid)
	}
	matches(t, "text", d.read("drop/text"), `(?s)Subject: c\n.*\n\ntext\n$`)

	d.send("Subject: d\n\ntext\n", "secret@example.org")
	d.wait(`mda delivery .*to=<secret@example\.org>.* result=(Temp|Perm)Fail`)
	if exists(d.path("home/alice/secret")) {
		t.Error("an alias wrote into the directory of a user")
	}

	d.to().talk("RCPT TO:<sorry@example.org>", "^550 5.* gone fishing", "RCPT TO:<later@example.org>", "^451 4.* come again",
		"RCPT TO:<ping@example.org>", "^5", "RCPT TO:<nobody-here@example.org>", "^550 5", "RCPT TO:<alice@example.org>", "^250")
}

func TestForwardFilesAreObeyed(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "")
	var users strings.Builder
	home := func(name, forward string, mode os.FileMode) {
		uid, gid := ids(t, "carol")
		d.mkdir("forward/"+name, "carol", 0o755)
		fmt.Fprintf(&users, "%s %d:%d:%s\n", name, uid, gid, d.path("forward/"+name))
		if forward != "" {
			d.write("forward/"+name+"/.forward", d.expand(forward), "carol", mode)
		}
	}
	home("plain", "", 0)
	home("other", "plain\n", 0o644)
	home("both", "\\both, plain\n", 0o644)
	home("command", "|id -u >who\n", 0o644)
	home("file", "$dir/forward/file/box\n", 0o644)
	home("insecure", "plain\n", 0o666)
	home("tick", "tock\n", 0o644)
	home("tock", "tick\n", 0o644)
	home("self", "self\n", 0o644)
	home("big", strings.Repeat("# filler\n", 20_000)+"plain\n", 0o644)
	home("linked", "", 0)
	home("foreign", "", 0)
	d.write("users", users.String(), "", 0o644)
	if err := os.Symlink("/etc/shadow", d.path("forward/linked/.forward")); err != nil {
		t.Fatal(err)
	}
	d.write("forward/foreign/.forward", "plain\n", "bob", 0o644)
	d.configure(listen + `table users file:$dir/users
action "deliver" maildir "~/Maildir" userbase <users>
match from any for domain "example.org" action "deliver"
`)
	d.start()

	for _, tt := range []struct{ rcpt, into string }{
		{"plain", "plain"}, {"other", "plain"}, {"self", "self"}, {"plain+tag", "plain"},
	} {
		d.send("Subject: for "+tt.rcpt+"\n\ntext\n", tt.rcpt+"@example.org")
		d.await("the message for "+tt.rcpt, func() bool {
			return strings.Contains(strings.Join(d.maildir("forward/"+tt.into+"/Maildir"), "\n"), "Subject: for "+tt.rcpt+"\n")
		})
	}
	d.send("Subject: for both\n\ntext\n", "both@example.org")
	for _, into := range []string{"both", "plain"} {
		d.await("the message for both in "+into, func() bool {
			return strings.Contains(strings.Join(d.maildir("forward/"+into+"/Maildir"), "\n"), "Subject: for both\n")
		})
	}
	d.send("Subject: x\n\ntext\n", "command@example.org")
	d.wait(`mda delivery .*to=<command@example\.org>.* result=Ok`)
	uid, _ := ids(t, "carol")
	if got := d.read("forward/command/who"); got != fmt.Sprintln(uid) {
		t.Errorf("the command of a .forward ran as uid %q, want %d", got, uid)
	}
	d.send("Subject: boxed\n\ntext\n", "file@example.org")
	d.wait(`mda delivery .*to=<file@example\.org>.* result=Ok`)
	matches(t, "file", d.read("forward/file/box"), "^From .*\n(?s).*Subject: boxed\n")

	for _, rcpt := range []string{"insecure", "linked", "foreign", "tick", "big"} {
		c := d.to().talk("RCPT TO:<"+rcpt+"@example.org>", `^[45]\d\d [45]`)
		c.Close()
	}
	for _, who := range []string{"insecure", "linked", "foreign", "tick", "tock", "big"} {
		if exists(d.path("forward/" + who + "/Maildir")) {
			t.Errorf("mail was delivered to %s", who)
		}
	}
}

// Virtual users are many and have one uid: one process delivers for all of them, each
// to his own home. A user of another uid has another process.
func TestVirtualUsersShareAWorker(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "")
	var users strings.Builder
	for i, owner := range []string{"carol", "carol", "carol", "bob"} {
		uid, gid := ids(t, owner)
		d.mkdir(fmt.Sprintf("virtual/u%d", i), owner, 0o700)
		fmt.Fprintf(&users, "u%d %d:%d:%s\n", i, uid, gid, d.path(fmt.Sprintf("virtual/u%d", i)))
	}
	d.write("users", users.String(), "", 0o644)
	d.configure(listen + `table users file:$dir/users
action "deliver" maildir "~/Mail" userbase <users>
match from any for domain "example.org" action "deliver"
`)
	d.start()
	for i := range 4 {
		u := fmt.Sprintf("u%d", i)
		d.send("Subject: for "+u+"\n\ntext\n", u+"@example.org")
		d.wait(`mda delivery .*to=<` + u + `@example\.org>.* result=Ok`)
		if got := d.maildir("virtual/" + u + "/Mail"); len(got) != 1 || !strings.Contains(got[0], "Subject: for "+u+"\n") {
			t.Errorf("%s has %q", u, got)
		}
	}
	var workers []string
	for title := range d.family() {
		if strings.Contains(title, "delivery ") {
			workers = append(workers, title)
		}
	}
	carol, _ := ids(t, "carol")
	bob, _ := ids(t, "bob")
	slices.Sort(workers)
	want := []string{fmt.Sprintf("opensmtpd: delivery uid %d", carol), fmt.Sprintf("opensmtpd: delivery uid %d", bob)}
	slices.Sort(want)
	if !slices.Equal(workers, want) {
		t.Errorf("workers %q, want %q", workers, want)
	}
}

func TestSubaddressPicksAFolder(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "deliver" maildir "$dir/home/%{user.username}/Maildir-%{dest.user:raw}"
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: x\n\ntext\n", "alice+lists@example.org")
	d.wait(`mda delivery .* result=Ok`)
	if n := len(d.maildir("home/alice/Maildir-alice+lists")); n != 1 {
		t.Errorf("%d messages in the folder, want 1; there is: %s", n, d.run("", "", "ls", d.path("home/alice")))
	}
}

func TestJunkGoesToItsFolder(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "deliver" maildir "$dir/home/%{user.username}/Maildir" junk
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: spam\nX-Spam: yes\n\ntext\n", "alice@example.org")
	d.wait(`mda delivery .* result=Ok`)
	d.send("Subject: ham\nX-Spam: no\n\ntext\n", "alice@example.org")
	matches(t, "inbox", d.mail("alice", 1)[0], "\nSubject: ham\n")
	matches(t, "junk", strings.Join(d.maildir("home/alice/Maildir/.Junk"), ""), "\nSubject: spam\n")
}

func TestExitCodeOfACommandDecidesAboutTheMessage(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`queue retry mda 1s
action "ok" mda "cat >$dir/home/alice/ok" virtual { "@" = alice }
action "later" mda "cat >/dev/null; test -e $dir/home/alice/again && exit 0; touch $dir/home/alice/again; echo not now; exit 75" virtual { "@" = alice }
action "never" mda "cat >/dev/null; echo no such luck; exit 67" virtual { "@" = alice }
action "returned" maildir "$dir/home/bob/Maildir" virtual { "@" = bob }
match from any for rcpt-to "ok@example.org" action "ok"
match from any for rcpt-to "later@example.org" action "later"
match from any for rcpt-to "never@example.org" action "never"
match from any for domain "example.net" action "returned"
`)
	d.send("Subject: x\n\ntext\n", "ok@example.org", "later@example.org", "never@example.org")
	d.wait(`mda delivery .*to=<ok@example\.org>.* result=Ok`)
	matches(t, "delivered", d.read("home/alice/ok"), `(?s)Subject: x\n.*\n\ntext\n$`)
	matches(t, "log", d.wait(`mda delivery .*to=<later@example\.org>.* result=TempFail`), `not now`)
	matches(t, "log", d.wait(`mda delivery .*to=<never@example\.org>.* result=PermFail`), `no such luck`)
	d.wait(`mda delivery .*to=<later@example\.org>.* result=Ok`)
	report := d.mail("bob", 1)[0]
	matches(t, "report", report, `(?s)never@example\.org.*no such luck`)
	if strings.Contains(report, "later@example.org") || strings.Contains(report, "ok@example.org") {
		t.Errorf("the report speaks of other recipients: %s", report)
	}
}

func TestWrapperRunsAroundTheDelivery(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`mda wrapper "mark" "echo wrapped >>$dir/home/%{user.username}/mark; %{mda}"
action "deliver" maildir "$dir/home/%{user.username}/Maildir" wrapper "mark"
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: x\n\ntext\n", "alice@example.org")
	d.mail("alice", 1)
	if got := d.read("home/alice/mark"); got != "wrapped\n" {
		t.Errorf("the wrapper left %q", got)
	}
}

func TestUserOptionDeliversAsThatUser(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`table vmail { carol = carol }
action "deliver" mda "id -un >$dir/home/carol/%{user.username}" virtual { "@" = "box" } userbase { box = "60713:60713:$dir/home/carol" } user carol
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: x\n\ntext\n", "anybody@example.org")
	d.wait(`mda delivery .* result=Ok`)
	if got := d.read("home/carol/box"); got != "carol\n" {
		t.Errorf("the command ran as %q, want carol", got)
	}
}

func TestRootGetsNoCommandsAndNoMaildir(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "run" mda "touch $dir/owned" virtual { "@" = root }
match from any for domain "example.org" action "run"
`)
	d.send("Subject: x\n\ntext\n", "x@example.org")
	d.wait(`mda delivery .* result=PermFail .*MDA not allowed`)
	if exists(d.path("owned")) {
		t.Error("a command ran as root")
	}
}
