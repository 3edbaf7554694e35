//go:build system

package system

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// everywhere takes mail for users and addresses, relays some of it to itself as one that
// logs in, and asks one table about all of it.
const everywhere = `pki site cert "$dir/mx.crt"
pki site key "$dir/mx.key"
ca site cert "$dir/mx.crt"
queue retry mta 1s
queue retry mda 1s
table rows BACKEND:$dir/table.conf
listen on $host tls pki site auth-optional <rows> hostname mx.example.org tag "entry"
listen on $host port 587 tls-require pki site auth <rows> hostname mx.example.org tag "inner"
listen on socket
action "users" maildir "$dir/home/%{user.username}/Maildir" alias <rows>
action "addresses" maildir "$dir/home/%{user.username}/Maildir" virtual <rows> userbase <rows>
action "by domain" relay domain <rows> src <rows> auth <rows> ca site
action "by host" relay host <rows> src <rows> auth <rows> ca site
match tag "entry" from any for domain "example.org" action "users"
match tag "entry" from any for rcpt-to "else@example.com" action "by host"
match tag "entry" from any for domain "example.com" action "by domain"
match tag "entry" from any for domain <rows> action "addresses"
match tag "inner" auth from src "$source" for domain "example.com" action "users"
`

// Aliases, virtual users, users, domains, passwords, relay hosts, their credentials
// and source addresses come from a server, which goes away and comes back under
// load, and hangs: what needs it fails for the moment, and all mail arrives.
func TestServersAnswerTablesAndMayGoAway(t *testing.T) {
	t.Parallel()
	for name, db := range databases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db.program(t) // skips when it is not installed
			d := newDaemon(t, "")
			d.mkdir("db", "carol", 0o755)
			d.mkdir("db/data", "carol", 0o700)
			if db.prepare != nil {
				db.prepare(d)
			}
			server := db.run(d)
			if db.fill != nil {
				db.fill(d)
			}
			// The file holds a password: it is the table program's to read, and nobody's else.
			_, gid := ids(t, "_smtpd")
			d.write("table.conf", d.expandData(db.conf), "", 0o640)
			if err := os.Chown(d.path("table.conf"), 0, gid); err != nil {
				t.Fatal(err)
			}
			d.certify()
			d.configure(d.expandData(strings.ReplaceAll(everywhere, "BACKEND", db.table)))
			d.start()
			d.tablesAnswer()

			rcpts := []string{"team@example.org", "list@example.net", "someone@example.com", "else@example.com"}
			loads := make([]*load, len(rcpts))
			for i, rcpt := range rcpts {
				loads[i] = d.startLoad(1, 10, rcpt)
				loads[i].more(10)
			}
			server.end()
			for _, l := range loads[:2] { // which ask the table at RCPT
				d.await("mail to be refused", func() bool { return len(l.refusals()) > 0 })
			}
			for range 2 {
				d.wait(`mta delivery .* result="TempFail"`)
			}
			if err := d.logIn("relay", "secret"); err == nil || !strings.HasPrefix(err.Error(), "4") {
				t.Errorf("while the server is away a login is answered by %v, want a temporary failure", err)
			}
			server = db.run(d)
			for _, l := range loads {
				l.more(10)
			}
			// One that hangs is no better.
			server.signal(syscall.SIGSTOP)
			t.Cleanup(func() { _ = server.cmd.Process.Signal(syscall.SIGCONT) }) // so that it can end
			if err := d.logIn("relay", "secret"); err == nil || !strings.HasPrefix(err.Error(), "4") {
				t.Errorf("while the server hangs a login is answered by %v, want a temporary failure", err)
			}
			server.signal(syscall.SIGCONT)
			for _, l := range loads {
				l.more(10)
			}
			for _, l := range loads {
				l.end()
			}
			// Hosts that failed are left alone for a while; who has mended them says so.
			d.run("", "", "smtpctl", "schedule", "all")
			messages := 0
			for i, l := range loads {
				l.verify("alice")
				messages += l.count()
				for _, reply := range l.refusals() {
					if !strings.HasPrefix(reply, "4") {
						t.Errorf("mail for %s was refused by %q", rcpts[i], reply)
					}
				}
				if l.broken > 0 || l.unheard > 0 {
					t.Errorf("%d sessions broken, %d connections refused", l.broken, l.unheard)
				}
			}
			d.await("an empty queue", func() bool { return d.run("", "", "smtpctl", "show", "queue") == "" })
			for _, line := range d.lines() {
				if strings.Contains(line, `"PermFail"`) || strings.Contains(line, "result=PermFail") {
					t.Errorf("failed for good: %s", line)
				}
			}
			t.Logf("%d messages", messages)
		})
	}
}

// tablesAnswer looks at each thing that the table of everywhere is asked for.
func (d *daemon) tablesAnswer() {
	d.t.Helper()
	for _, rcpt := range []string{"team@example.org", "list@example.net", "someone@example.com", "else@example.com"} {
		d.send(fmt.Sprintf("Subject: for %s\n\ntext\n", rcpt), rcpt)
	}
	d.mail("alice", 4)
	source := d.expandData("$source")
	for _, rcpt := range []string{"someone@example.com", "else@example.com"} {
		d.wait(`mta delivery .*to=<` + rcpt + `> .*source="` + source + `".* result="Ok"`)
	}
	d.connect().talk("EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250",
		"RCPT TO:<none@example.net>", "^550 5.1.1 ", "RCPT TO:<none@example.org>", "^550 5.1.1 ", "RCPT TO:<list@elsewhere.example.net>", "^550 5.7.1 ")
	if err := d.logIn("relay", "secret"); err != nil {
		d.t.Errorf("the right password is answered by %v", err)
	}
	for _, user := range []string{"relay", "nobody"} {
		if err := d.logIn(user, "wrong"); err == nil || !strings.HasPrefix(err.Error(), "535 ") {
			d.t.Errorf("a wrong password of %s is answered by %v, want 535", user, err)
		}
	}
}
