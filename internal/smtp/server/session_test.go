package server

import (
	"strings"
	"testing"
)

// hello is how most dialogues begin.
const hello = `
S: 220 mx.test ESMTP OpenSMTPD
C: HELO c.test
S: 250 mx.test Hello c.test [local], pleased to meet you
`

// toRcpt is a transaction that waits for its text.
const toRcpt = hello + `
C: MAIL FROM:<a@b.test>
S: 250 2.0.0 Ok
C: RCPT TO:<c@d.test>
S: 250 2.1.5 Destination address valid: Recipient ok
`

const toData = toRcpt + `
C: DATA
S: 354 Enter mail, end with "." on a line by itself
`

const accepted = "S: 250 2.0.0 abcd0001 Message accepted for delivery\n"

// join joins the parts of a script.
func join(parts ...string) string { return strings.Join(parts, "\n") }

func TestReplies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		adjust func(u *setup)
		script string
	}{
		{"greeting and HELO", nil, hello},
		{"EHLO lists the extensions and may be repeated", nil, `
S: 220 mx.test ESMTP OpenSMTPD
C: EHLO c.test
S: 250-mx.test Hello c.test [local], pleased to meet you
S: 250-8BITMIME
S: 250-ENHANCEDSTATUSCODES
S: 250-SIZE 36700160
S: 250-DSN
S: 250-PIPELINING
S: 250-CHUNKING
S: 250-SMTPUTF8
S: 250-LIMITS MAILMAX=100 RCPTMAX=1000
S: 250 HELP
C: ehlo [192.0.2.1]
S: 250-mx.test Hello [192.0.2.1] [local], pleased to meet you
S: 250-8BITMIME
S: 250-ENHANCEDSTATUSCODES
S: 250-SIZE 36700160
S: 250-DSN
S: 250-PIPELINING
S: 250-CHUNKING
S: 250-SMTPUTF8
S: 250-LIMITS MAILMAX=100 RCPTMAX=1000
S: 250 HELP`},
		{"no-dsn hides DSN and its parameters", func(u *setup) { u.cfg.NoDSN = true }, hello + `
C: MAIL FROM:<a@b.test> RET=FULL
S: 503 5.5.4 Invalid command arguments: Unsupported option RET=FULL
C: MAIL FROM:<a@b.test>
S: 250 2.0.0 Ok
C: RCPT TO:<c@d.test> NOTIFY=NEVER
S: 503 5.5.4 Unsupported option NOTIFY=NEVER`},
		{"HELO again abandons the transaction", nil, toRcpt + `
C: HELO other.test
S: 250 mx.test Hello other.test [local], pleased to meet you
C: DATA
S: 503 5.5.1 Invalid command: Command not allowed at this point.`},
		{"bad names", nil, `
S: 220 mx.test ESMTP OpenSMTPD
C: HELO
S: 501 5.5.1 Invalid command: HELO requires domain name
C: EHLO
S: 501 5.5.1 Invalid command: EHLO requires domain name
C: EHLO trailing.dot.
S: 501 5.5.4 Invalid command arguments: Invalid domain name
C: EHLO a b
S: 501 5.5.4 Invalid command arguments: Invalid domain name
C: EHLO ä.test
S: 501 5.5.4 Invalid command arguments: Invalid domain name
C: HELO under_score
S: 250 mx.test Hello under_score [local], pleased to meet you`},
		{"before HELO", nil, `
S: 220 mx.test ESMTP OpenSMTPD
C: STARTTLS
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: AUTH PLAIN
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: MAIL FROM:<>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: RCPT TO:<a@b>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: DATA
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: RSET
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: NOOP whatever
S: 250 2.0.0 Ok`},
		{"commands without their place", nil, hello + `
C: STARTTLS
S: 503 5.5.1 Invalid command: Command not supported
C: AUTH PLAIN
S: 503 5.5.1 Invalid command: Command not supported
C: DATA x
S: 500 5.5.4 Invalid command arguments: command does not accept arguments.
C: RSET x
S: 500 5.5.4 Invalid command arguments: command does not accept arguments.
C: HELP x
S: 500 5.5.4 Invalid command arguments: command does not accept arguments.
C: QUIT x
S: 500 5.5.4 Invalid command arguments: command does not accept arguments.
C: WIZ
S: 500 5.5.1 Invalid command: this feature is not supported yet ;-)
C: EXPN list
S: 500 5.5.1 Invalid command: Command unrecognized
C: VRFY root
S: 252 2.0.0 Addresses are not verified, send the message to find out
C: VRFY
S: 501 5.5.4 Invalid command arguments: VRFY requires an address
C: HELP
S: 214-2.0.0 This is OpenSMTPD
S: 214 2.0.0 End of HELP info
C: RSET
S: 250 2.0.0 Reset state
C: QUIT
S: 221 2.0.0 Bye
S: EOF`},
		{"MAIL", nil, hello + `
C: MAIL FROM:a@b.test
S: 553 5.1.0 Sender address syntax error
C: MAIL FROM:<a@b.test
S: 553 5.1.0 Sender address syntax error
C: MAIL FROM:<a@b.test>SIZE=1
S: 553 5.1.0 Sender address syntax error
C: MAIL FROM:<a@b.test> FOO=bar
S: 503 5.5.4 Invalid command arguments: Unsupported option FOO=bar
C: MAIL FROM:<a@b.test> REQUIRETLS
S: 530 5.7.10 REQUIRETLS needs a session with TLS
C: MAIL FROM:<a@b.test> SIZE=x
S: 501 5.5.4 Invalid command arguments: invalid value: SIZE=x
C: MAIL FROM:<a@b.test> SIZE=36700161
S: 552 5.3.4 Message too big for system: Declared size exceeds the limit
C: MAIL FROM:<ä@b.test>
S: 550 5.6.7 Sender address needs SMTPUTF8
C: MAIL FROM:<unknown@b.test>
S: 550 5.1.1 No such user
C: MAIL FROM:<later@b.test>
S: 451 4.3.0 Temporary Error
C: mail from: <ä@b.test> SMTPUTF8 body=8bitmime size=1000 AUTH=<> RET=hdrs ENVID=x+20y
S: 250 2.0.0 Ok
C: MAIL FROM:<a@b.test>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: AUTH PLAIN
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: STARTTLS
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: DATA
S: 503 5.5.4 Invalid command arguments: No recipient specified`},
		{"RCPT", nil, hello + `
C: MAIL FROM:<>
S: 250 2.0.0 Ok
C: RCPT TO:<>
S: 501 5.1.3 Recipient address syntax error
C: RCPT TO:<a b@c>
S: 501 5.1.3 Recipient address syntax error
C: RCPT TO:<ä@c>
S: 553 5.6.7 Recipient address needs SMTPUTF8
C: RCPT TO:<a@c> NOTIFY=NEVER,DELAY
S: 553 5.5.4 NOTIFY option NEVER cannot be combined with other options
C: RCPT TO:<a@c> ORCPT=nothing
S: 553 5.5.4 ORCPT address syntax error
C: RCPT TO:<a@c> SIZE=1
S: 503 5.5.4 Unsupported option SIZE=1
C: RCPT TO:<unknown@c>
S: 550 5.1.1 No such user
C: RCPT TO:<later@c>
S: 451 4.3.0 Temporary Error
C: RCPT TO: <"quoted local"@c> NOTIFY=SUCCESS,failure ORCPT=rfc822;a+2Bb@c
S: 250 2.1.5 Destination address valid: Recipient ok
C: RCPT TO:<close@c>
S: 421 4.3.0 Temporary failure
S: EOF`},
		{"too many recipients", func(u *setup) { u.cfg.MaxRcpt = 2 }, hello + `
C: MAIL FROM:<>
S: 250 2.0.0 Ok
C: RCPT TO:<unknown@x>
C: RCPT TO:<a@x>
C: RCPT TO:<b@x>
C: RCPT TO:<c@x>
C: RCPT TO:<d@x>
S: 550 5.1.1 No such user
S: 250 2.1.5 Destination address valid: Recipient ok
S: 250 2.1.5 Destination address valid: Recipient ok
S: 452 4.5.3 Too many recipients: Too many recipients
S: 452 4.5.3 Too many recipients: Too many recipients`},
		{"too many messages", func(u *setup) { u.cfg.MaxMails = 1 }, hello + `
C: MAIL FROM:<>
S: 250 2.0.0 Ok
C: RSET
S: 250 2.0.0 Reset state
C: MAIL FROM:<>
S: 452 4.5.3 Too many recipients: Too many messages sent`},
		{"too many errors", func(u *setup) { u.cfg.MaxErrors = 2 }, hello + `
C: FOO
C: BAR
C: BAZ
S: 500 5.5.1 Invalid command: Command unrecognized
S: 500 5.5.1 Invalid command: Command unrecognized
S: 421 4.7.0 Too many errors
S: EOF`},
		{"an accepted message forgives errors", func(u *setup) { u.cfg.MaxErrors = 2 }, hello + `
C: FOO
S: 500 5.5.1 Invalid command: Command unrecognized
C: MAIL FROM:<>
S: 250 2.0.0 Ok
C: RCPT TO:<a@x>
S: 250 2.1.5 Destination address valid: Recipient ok
C: DATA
S: 354 Enter mail, end with "." on a line by itself
C: .
` + accepted + `
C: FOO
S: 500 5.5.1 Invalid command: Command unrecognized
C: NOOP
S: 250 2.0.0 Ok`},
		{"a browser is sent away", nil, `
S: 220 mx.test ESMTP OpenSMTPD
C: POST / HTTP/1.1
C: Host: mx.test
S: 500 5.5.1 Invalid command: Command unrecognized
S: EOF`},
		{"long command", nil, `
S: 220 mx.test ESMTP OpenSMTPD
C: NOOP ` + strings.Repeat("x", maxCommand-5) + `
S: 250 2.0.0 Ok
C: NOOP ` + strings.Repeat("x", maxCommand-4) + `
S: 500 5.0.0 Command line too long
S: EOF`},
		{"longest command, its end in two pieces", nil, `
S: 220 mx.test ESMTP OpenSMTPD
R: "NOOP ` + strings.Repeat("x", maxCommand-5) + `\r"
R: "\nNOOP\r\n"
S: 250 2.0.0 Ok
S: 250 2.0.0 Ok`},
		{"refusal without an enhanced code", nil, hello + `
C: MAIL FROM:<plain@x>
S: 530 5.0.0 Sender rejected`},
		{"endless command", nil, `
S: 220 mx.test ESMTP OpenSMTPD
R: "` + strings.Repeat("x", maxCommand+2) + `"
S: 500 5.0.0 Command line too long
S: EOF`},
		{"NUL and other controls in a command", nil, `
S: 220 mx.test ESMTP OpenSMTPD
R: "HELO a\x00b\r\n"
S: 500 5.5.2 Syntax error: Invalid character in command
R: "HELO a\rb\r\n"
S: 500 5.5.2 Syntax error: Invalid character in command
R: "HELO \xff\r\n"
S: 500 5.5.2 Syntax error: Invalid character in command`},
		{"a bare LF ends a lone command", nil, `
S: 220 mx.test ESMTP OpenSMTPD
R: "HELO c.test\n"
S: 250 mx.test Hello c.test [local], pleased to meet you`},
		{"a bare LF does not part pipelined commands", nil, hello + `
R: "MAIL FROM:<>\nRSET\r\n"
S: 500 5.5.2 Syntax error: Lines end with CRLF
S: 250 2.0.0 Reset state`},
		{"DATA refused by the backend", func(u *setup) { u.backend.dataErr = verdictError }, toRcpt + `
C: DATA
S: 550 5.7.1 Not today
C: RSET
S: 250 2.0.0 Reset state`},
		{"failed commit ends the session", func(u *setup) { u.backend.commit = errNoReply }, toData + `
C: .
S: 421 4.3.0 Temporary failure
S: EOF`},
		{"commit refused", func(u *setup) { u.backend.commit = verdictError }, toData + `
C: .
S: 550 5.7.1 Not today
C: MAIL FROM:<>
S: 250 2.0.0 Ok`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newSetup()
			if tt.adjust != nil {
				tt.adjust(u)
			}
			u.play(t, tt.script)
		})
	}
}

func TestPipelinedTransactionsInOneWrite(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.play(t, join(hello, `
C: MAIL FROM:<a@b.test>
C: RCPT TO:<c@d.test>
C: RCPT TO:<unknown@d.test>
C: RCPT TO:<e@d.test>
C: DATA
S: 250 2.0.0 Ok
S: 250 2.1.5 Destination address valid: Recipient ok
S: 550 5.1.1 No such user
S: 250 2.1.5 Destination address valid: Recipient ok
S: 354 Enter mail, end with "." on a line by itself
C: Subject: one
C: 
C: ..dot
C: .
C: RSET
C: MAIL FROM:<>
C: RCPT TO:<f@d.test>
C: DATA
S: 250 2.0.0 abcd0001 Message accepted for delivery
S: 250 2.0.0 Reset state
S: 250 2.0.0 Ok
S: 250 2.1.5 Destination address valid: Recipient ok
S: 354 Enter mail, end with "." on a line by itself
C: Subject: two
C: .
C: QUIT
S: 250 2.0.0 abcd0002 Message accepted for delivery
S: 221 2.0.0 Bye
S: EOF`))
	want := []string{"Subject: one\n\n.dot\n", "Subject: two\n"}
	got := u.backend.bodies()
	for i := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("stored %q, want %q", got, want)
		}
	}
	calls := strings.Join(u.backend.calls, ", ")
	if want := "mail a@b.test, rcpt 3, commit, mail , rcpt 1, commit"; calls != want {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestEventsOfASession(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.play(t, join(toData, `
C: A: b
C: .
`+accepted+`
C: MAIL FROM:<>
S: 250 2.0.0 Ok
C: RCPT TO:<unknown@x>
S: 550 5.1.1 No such user
C: QUIT
S: 221 2.0.0 Bye
S: EOF`))
	u.events.mu.Lock()
	size := len(u.backend.stored[0])
	u.events.mu.Unlock()
	want := `Connected {Address:local Host:mx.test}
Envelope {ID:abcd000100000001 From:a@b.test To:c@d.test}
Message {MsgID:abcd0001 Size:` + itoa(size) + ` Rcpts:1 Proto:SMTP}
FailedCommand {Command:RCPT TO:<unknown@x> Result:550 5.1.1 No such user Rule:smtpd.conf:7 Cause:no such user}
Disconnected {Reason:quit}
`
	if got := u.events.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	calls := strings.Join(u.backend.calls, ", ")
	if want := "mail a@b.test, rcpt 1, commit, mail , rcpt 1, reset"; calls != want {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestParametersReachTheBackendPerRecipient(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.play(t, join(hello, `
C: MAIL FROM:<ä> SMTPUTF8 BODY=8BITMIME SIZE=10 RET=FULL ENVID=x+20y
S: 250 2.0.0 Ok
C: RCPT TO:<@hop.test,@[192.0.2.1]:a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;z@b
S: 501 5.1.3 Recipient address syntax error
C: RCPT TO:<@hop.test,@hop2.test:a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;z@b
C: RCPT TO:<root>
S: 250 2.1.5 Destination address valid: Recipient ok
S: 250 2.1.5 Destination address valid: Recipient ok
C: DATA
S: 354 Enter mail, end with "." on a line by itself
C: .
`+accepted))
	m := u.backend.mails[0]
	if m.Sender.String() != "ä@mx.test" || !m.UTF8 || !m.EightBit || m.Size != 10 || m.Ret != "FULL" || m.EnvID != "x+20y" {
		t.Errorf("transaction %+v", m)
	}
	a, b := m.Rcpts[0], m.Rcpts[1]
	if a.Path.String() != "a@b.test" || a.Notify != notifySuccessDelay || a.OrigRcpt != "rfc822;z@b" {
		t.Errorf("first recipient %+v", a)
	}
	if b.Path.String() != "root@mx.test" || b.Notify != 0 || b.OrigRcpt != "" {
		t.Errorf("second recipient %+v: parameters of the first leak", b)
	}
	if !strings.Contains(u.backend.stored[0], "with UTF8SMTPA id") {
		t.Errorf("trace of %q", u.backend.stored[0])
	}
}
