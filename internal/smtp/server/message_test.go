package server

import (
	"fmt"
	"strings"
	"testing"
)

// end is a refusal or acceptance of a message, and a proof that the server is
// still in step.
func end(reply string) string {
	return "S: " + reply + "\nC: NOOP\nS: 250 2.0.0 Ok\n"
}

const (
	bareReply = "550 5.5.2 Syntax error: Message holds a bare CR or LF"
	nulReply  = "550 5.5.2 Syntax error: Message holds a NUL"
	okReply   = "250 2.0.0 abcd0001 Message accepted for delivery"
)

// TestOnlyCRLFDotCRLFEndsAMessage sends each look-alike of the end followed by a
// second transaction, as a smuggler does, and then the true end. All of it must
// be one message.
func TestOnlyCRLFDotCRLFEndsAMessage(t *testing.T) {
	t.Parallel()
	const smuggled = `MAIL FROM:<x@y>\r\nRCPT TO:<victim@d.test>\r\nDATA\r\nA: b\r\n`
	const stored = "MAIL FROM:<x@y>\nRCPT TO:<victim@d.test>\nDATA\nA: b\n"
	for _, tt := range []struct {
		seq        string // behind "S: x CRLF CRLF text", quoted
		reply      string
		normalized string // what is stored for seq where bare newlines are repaired; "-": refused there too
	}{
		{`\n.\n`, bareReply, "\n.\n"},
		{`\n.\r\n`, bareReply, "\n.\n"},
		{`\r\n.\n`, bareReply, "\n\n"},
		{`\r.\r`, bareReply, " . "},
		{`\r.\r\n`, bareReply, " .\n"},
		{`\r\n.\r`, bareReply, "\n "},
		{`\r\n.\r\r\n`, bareReply, "\n\n"},
		{`\r\r\n.\r\r\n`, bareReply, "\n\n"},
		{`\n\r.\r\n`, bareReply, "\n .\n"},
		{`\r\n.\x00\r\n`, nulReply, "-"},
		{`\x00\r\n.\n\r\n`, nulReply, "-"},
		{`\r\n.\r\x00\n`, nulReply, "-"},
		{`\r\n. \r\n`, okReply, "\n \n"},
		{`\r\n..\r\n`, okReply, "\n.\n"},
		{`\r\n.\t\r\n`, okReply, "\n\t\n"},
	} {
		for _, mode := range []BareNewline{RefuseBare, NormalizeBare} {
			t.Run(fmt.Sprint(tt.seq, mode), func(t *testing.T) {
				t.Parallel()
				u := newSetup()
				u.cfg.BareNewline = mode
				reply := tt.reply
				if mode == NormalizeBare && tt.normalized != "-" {
					reply = okReply
				}
				u.play(t, join(toData, `R: "S: x\r\n\r\ntext`+tt.seq+smuggled+`\r\n.\r\n"`, end(reply)))
				if reply != okReply {
					if len(u.backend.stored) != 0 {
						t.Fatalf("stored %q", u.backend.stored)
					}
					return
				}
				if got, want := u.backend.bodies(), "S: x\n\ntext"+tt.normalized+stored+"\n"; len(got) != 1 || got[0] != want {
					t.Errorf("stored %q, want %q", got, want)
				}
			})
		}
	}
}

func TestMessagesAreRefusedAtTheirEnd(t *testing.T) {
	t.Parallel()
	received := strings.Repeat("C: Received: x\n", 99)
	for _, tt := range []struct {
		name   string
		adjust func(c *Config)
		text   string
		reply  string
	}{
		{"no header", nil, "C: hello\nC: .", "550 5.7.1 Delivery not authorized, message refused: Message is not RFC 2822 compliant"},
		{"header only", nil, "C: A: b\nC: .", okReply},
		{"empty", nil, "C: .", okReply},
		{"99 hops", nil, received + "C: .", okReply},
		{"100 hops", nil, received + "C: Received: x\nC: .", "500 5.4.6 Routing loop detected: Loop detected"},
		{"one byte too big", func(c *Config) { c.MaxSize = 11 }, "C: A: b\nC: \nC: 12345\nC: .", "554 5.3.4 Message too big for system: Transaction failed, message too big"},
		{"as big as allowed", func(c *Config) { c.MaxSize = 11 }, "C: A: b\nC: \nC: 1234\nC: .", okReply},
		{"long line", nil, "C: A: " + strings.Repeat("x", maxTextLine-3) + "\nC: .", okReply},
		{"longer line", nil, "C: A: " + strings.Repeat("x", maxTextLine-2) + "\nC: .", "500 5.5.2 Syntax error: Message line too long"},
		{"long header", nil, strings.Repeat("C: A: "+strings.Repeat("x", 60000)+"\n", 18) + "C: .", "552 5.3.4 Message too big for system: Message header too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newSetup()
			if tt.adjust != nil {
				tt.adjust(u.cfg)
			}
			u.play(t, join(toData, tt.text, end(tt.reply)))
			calls := u.backend.calls[len(u.backend.calls)-1]
			if want := map[bool]string{true: "commit", false: "reset"}[tt.reply == okReply]; calls != want {
				t.Errorf("transaction ended with %s, want %s", calls, want)
			}
		})
	}
}

func TestEndOfAnEndlessMessageIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.cfg.MaxSize = 100
	u.play(t, join(toData, "C: A: "+strings.Repeat("x", 2000), `
S: 554 5.3.4 Message too big for system: Transaction failed, message too big
S: EOF`))
	if last := u.backend.calls[len(u.backend.calls)-1]; last != "reset" {
		t.Errorf("the transaction ended with %s, want reset", last)
	}
}

func TestLargeBodyIsSpilled(t *testing.T) {
	t.Parallel()
	const lines = 400
	text := "A: b\n\n" + strings.Repeat(strings.Repeat("y", 70)+"\n", lines)
	script := join(toData, "R: \"A: b\\r\\n\\r\\n"+strings.Repeat(strings.Repeat("y", 70)+"\\r\\n", lines)+".\\r\\n\"")
	u := newSetup()
	u.cfg.InlineMax = 10000
	u.play(t, join(script, end(okReply)))
	if u.backend.spill == nil || u.backend.bodies()[0] != text {
		t.Errorf("spilled %v, stored %q", u.backend.spill != nil, u.backend.stored)
	}
	u = newSetup()
	u.cfg.InlineMax, u.backend.noFile = 10000, true
	u.play(t, join(script, "S: 421 4.3.0 Temporary Error\nS: EOF"))
	if len(u.backend.stored) != 0 || u.backend.calls[len(u.backend.calls)-1] != "reset" {
		t.Errorf("stored %q, calls %q", u.backend.stored, u.backend.calls)
	}
}

func TestBodyThatOutgrowsAtItsEndIsSpilled(t *testing.T) {
	t.Parallel()
	// The stamps added to a submission come last when there is no body.
	u := newSetup()
	u.cfg.Submission, u.cfg.InlineMax = true, 150
	u.play(t, join(toData, "C: A: b\nC: .", end(okReply)))
	if u.backend.spill == nil {
		t.Errorf("body of %d bytes was not spilled", len(u.backend.stored[0]))
	}
}

func TestBdat(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		stored       string // "" nothing
	}{
		{"one chunk", toRcpt + `
C: BDAT 10 LAST
R: "A: b\r\n\r\n.\n"
S: 550 5.5.2 Syntax error: Message holds a bare CR or LF
C: NOOP
S: 250 2.0.0 Ok`, ""},
		{"dots are text", toRcpt + `
C: BDAT 18 LAST
R: "A: b\r\n\r\n.\r\n..\r\nend"
` + end(okReply), "A: b\n\n.\n..\nend\n"},
		{"chunks part CRLF, pipelined", toRcpt + `
C: BDAT 7
R: "A: b\r\n\r"
R: "BDAT 5\r\n\ntextRSET"
S: 250 2.0.0 7 octets received
S: 250 2.0.0 5 octets received
R: "\r\n"
S: 250 2.0.0 Reset state`, ""},
		{"chunks with nothing in the last", toRcpt + `
C: BDAT 7
R: "A: b\r\n\r"
R: "BDAT 7\r\n\ntext\r\n"
R: "BDAT 0 LAST\r\n"
S: 250 2.0.0 7 octets received
S: 250 2.0.0 7 octets received
` + end(okReply), "A: b\n\ntext\n"},
		{"DATA after BDAT, and what else has no place", toRcpt + `
C: BDAT 0
S: 250 2.0.0 0 octets received
C: DATA
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: RCPT TO:<a@b>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: MAIL FROM:<>
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: BDAT 2 LAST
R: "\r\n"
` + end(okReply), "\n"},
		{"chunks are swallowed without a transaction", hello + `
C: BDAT 6
R: "NOOP\r\nBDAT 6 LAST\r\nQUIT\r\n"
S: 503 5.5.1 Invalid command: Command not allowed at this point.
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: NOOP
S: 250 2.0.0 Ok`, ""},
		{"and without a recipient", hello + `
C: MAIL FROM:<>
C: RCPT TO:<unknown@x>
C: BDAT 6
R: "NOOP\r\nBDAT 6 LAST\r\nQUIT\r\n"
S: 250 2.0.0 Ok
S: 550 5.1.1 No such user
S: 503 5.5.4 Invalid command arguments: No recipient specified
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: NOOP
S: 250 2.0.0 Ok`, ""},
		{"refused chunk ends the transaction", toRcpt + `
C: BDAT 6
R: "A\nb: c"
C: BDAT 6 LAST
R: "A\nb: c"
S: 550 5.5.2 Syntax error: Message holds a bare CR or LF
S: 503 5.5.1 Invalid command: Command not allowed at this point.
C: NOOP
S: 250 2.0.0 Ok`, ""},
		{"bare CR at the very end", toRcpt + `
C: BDAT 5 LAST
R: "A: b\r"
` + end(bareReply), ""},
		{"bad size", toRcpt + `
C: BDAT x LAST
S: 501 5.5.4 Invalid command arguments: BDAT needs a size
S: EOF`, ""},
		{"other word than LAST", toRcpt + `
C: BDAT 1 FIRST
S: 501 5.5.4 Invalid command arguments: BDAT needs a size
S: EOF`, ""},
		{"immense chunk", toRcpt + `
C: BDAT 36700161
S: 554 5.3.4 Message too big for system: Transaction failed, message too big
S: EOF`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newSetup()
			u.play(t, tt.script)
			if got := strings.Join(u.backend.bodies(), "|"); got != tt.stored {
				t.Errorf("stored %q, want %q", got, tt.stored)
			}
		})
	}
}

func TestChunksTogetherAreBounded(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.cfg.MaxSize = 20
	u.play(t, join(toRcpt, `
C: BDAT 15
R: "A: b\r\n\r\n1234567"
C: BDAT 15 LAST
R: "123456789012345"
S: 250 2.0.0 15 octets received
S: 554 5.3.4 Message too big for system: Transaction failed, message too big
C: NOOP
S: 250 2.0.0 Ok`))
}

func TestSubmissionsAreCompletedOthersAreNot(t *testing.T) {
	t.Parallel()
	const text = "C: To: ann\nC: Bcc: bob\nC: Date: x\nC: Message-ID: y\nC: \nC: text\nC: ."
	for _, tt := range []struct {
		name       string
		submission bool
		want       string
	}{
		{"foreign", false, "To: ann\nBcc: bob\nDate: x\nMessage-ID: y\n\ntext\n"},
		{"submitted", true, "To: ann@mx.test\nDate: x\nMessage-ID: y\n\ntext\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newSetup()
			u.cfg.Submission = tt.submission
			u.play(t, join(toData, text, end(okReply)))
			if got := u.backend.bodies()[0]; got != tt.want {
				t.Errorf("stored %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMasqueradeOfAuthenticatedSender(t *testing.T) {
	t.Parallel()
	u := authSetup()
	u.cfg.Masquerade = true
	u.play(t, join(remoteHello, `
C: AUTH PLAIN AGFubgBzZWNyZXQ=
S: 235 2.0.0 Authentication succeeded
C: MAIL FROM:<ann@mx.test>
S: 250 2.0.0 Ok
C: RCPT TO:<c@d.test>
S: 250 2.1.5 Destination address valid: Recipient ok
C: DATA
S: 354 Enter mail, end with "." on a line by itself
C: From: The Boss <boss@bank.test>
C: .
`, end(okReply)))
	if got := u.backend.bodies()[0]; !strings.HasPrefix(got, "From: The Boss <ann@mx.test>\nDate: ") {
		t.Errorf("stored %q", got)
	}
}

func TestInsertFront(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 11, 12, 13, 64<<10 - 1, 64 << 10, 64<<10 + 5, 200_000} {
		text := strings.Repeat("0123456789\n", size/11+1)[:size]
		f := &spillFile{data: []byte(text)}
		if err := insertFront(f, int64(size), spamField); err != nil || f.String() != spamField+text {
			t.Errorf("%d bytes: %v, now %d bytes, or others", size, err, len(f.data))
		}
	}
}
