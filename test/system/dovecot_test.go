//go:build system

package system

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dovecotConf is the configuration of a Dovecot 2.3 beside our daemon: IMAP on port
// 143 of its address, LMTP on $dir/lmtp, passwords on $dir/sasl.
const dovecotConf = `
base_dir = $dir/dovecot
state_dir = $dir/dovecot-state
log_path = /dev/stderr
protocols = imap lmtp
listen = $host
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
auth_username_format = %n
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = passwd-file
  args = $dir/dovecot-users
}
mail_location = maildir:~/Maildir
service imap-login {
  inet_listener imap {
    port = 143
  }
}
service auth {
  unix_listener $dir/sasl {
    mode = 0666
  }
}
service lmtp {
  unix_listener $dir/lmtp {
    mode = 0666
  }
}
`

// startDovecot starts a Dovecot that has alice's mail.
func (d *daemon) startDovecot() {
	t := d.t
	t.Helper()
	path := need(t, "dovecot")
	need(t, "doveadm")
	d.write("dovecot.conf", d.expand(dovecotConf), "", 0o644)
	d.write("dovecot-users", d.expand("alice::60711:60711::$dir/home/alice::\n"), "", 0o644)
	cmd := exec.Command(path, "-F", "-c", d.path("dovecot.conf"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.keep(stderr, "dovecot: ")
		_ = cmd.Wait() // the log tells why it has ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
		}
	})
	d.wait(`dovecot: .*starting up`)
	d.await("Dovecot's socket", func() bool { fi, err := os.Stat(d.path("lmtp")); return err == nil && fi.Mode()&os.ModeSocket != 0 })
}

func TestDovecotReadsOurMaildir(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	d.startDovecot()
	d.send("Subject: for Dovecot\n\n"+sample, "alice@example.org")
	d.mail("alice", 1)
	need(t, "curl")
	got := d.run("", "", "curl", "-sS", "--url", "imap://"+d.host+":143/INBOX;MAILINDEX=1", "--user", "alice:secret")
	if got = strings.ReplaceAll(got, "\r\n", "\n"); body(got) != sample {
		t.Errorf("over IMAP the text reads %q", body(got))
	}
	matches(t, "message over IMAP", got, `(?s)^Return-Path: <sender@example\.net>\n.*\nSubject: for Dovecot\n`)
	d.send("Subject: second\n\ntext\n", "alice@example.org")
	d.await("the second message", func() bool { return strings.Contains(d.fetch("hdr.subject"), "second") })
}

// fetch asks doveadm for a field of alice's messages.
func (d *daemon) fetch(field string, options ...string) string {
	d.t.Helper()
	args := append([]string{"-c", d.path("dovecot.conf")}, options...)
	return d.run("", "", "doveadm", append(args, "fetch", "-u", "alice", field, "mailbox", "INBOX")...)
}

func TestDovecotReadsOurMbox(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "deliver" mbox
match from any for domain "example.org" action "deliver"
`)
	d.startDovecot()
	for _, subject := range []string{"one", "two"} {
		d.send("Subject: "+subject+"\n\nFrom the start\n\nFrom here too\n", "alice@example.org")
		d.wait(`mda delivery .* result=Ok`)
	}
	box := []string{"-o", d.expand("mail_location=mbox:$dir/home/alice/folders:INBOX=$dir/mail/alice"), "-o", "mbox_write_locks=fcntl"}
	subjects := d.fetch("hdr.subject", box...)
	if strings.Count(subjects, "subject:") != 2 || !strings.Contains(subjects, "one") || !strings.Contains(subjects, "two") {
		t.Errorf("Dovecot sees %q, want two messages", subjects)
	}
	matches(t, "text", d.fetch("body", box...), `(?s)From the start\r?\n\r?\n>?From here too.*From the start`)
}

func TestDovecotTakesOurLMTP(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`action "deliver" lmtp "$dir/lmtp" 
action "address" lmtp "$dir/lmtp" rcpt-to
match from any for domain "example.org" action "deliver"
match from any for domain "example.com" action "address"
`)
	d.startDovecot()
	d.send("Subject: by user\n\n"+sample, "alice@example.org")
	d.wait(`mda delivery .*to=<alice@example\.org>.* result=Ok`)
	d.send("Subject: by address\n\n"+sample, "alice@example.com")
	d.wait(`mda delivery .*to=<alice@example\.com>.* result=Ok`)
	for _, m := range d.mail("alice", 2) {
		if body(m) != sample {
			t.Errorf("the text reads %q", body(m))
		}
	}
	// Dovecot knows no such user.
	d.send("Subject: x\n\ntext\n", "bob@example.org")
	d.wait(`mda delivery .*to=<bob@example\.org>.* result=PermFail .*User doesn't exist`)
}

func TestMailWaitsForTheLMTPServer(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+`queue retry mda 1s
action "deliver" lmtp "$dir/lmtp"
match from any for domain "example.org" action "deliver"
`)
	d.send("Subject: early\n\ntext\n", "alice@example.org")
	d.wait(`mda delivery .* result=TempFail`)
	d.startDovecot()
	d.wait(`mda delivery .* result=Ok`)
	d.mail("alice", 1)
}
