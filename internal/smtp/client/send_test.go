package client

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/report"
)

func TestTransaction(t *testing.T) {
	t.Parallel()
	pipe := greeted("PIPELINING")
	bdat := greeted("PIPELINING", "CHUNKING")
	const mail, rcptB, rcptC = "C: MAIL FROM:<a@x.test>\n", "C: RCPT TO:<b@y.test>\n", "C: RCPT TO:<c@y.test>\n"
	const hi = "C: hi\nC: .\n"
	for _, tt := range []struct {
		name   string
		cfg    Config
		script string
		want   string // results, for b@y.test and c@y.test
		usable bool
	}{
		{"one command at a time", Config{},
			greeted() + mail + "S: 250 ok\n" + rcptB + "S: 250 ok\n" + rcptC + "S: 251 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 2.0.0 taken\n",
			"EOM ok 250 2.0.0 taken|EOM ok 250 2.0.0 taken", true},
		{"one command at a time, one recipient refused", Config{},
			greeted() + mail + "S: 250 ok\n" + rcptB + "S: 550 5.1.1 who?\n" + rcptC + "S: 250 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 taken\n",
			"RCPT permanent 550 5.1.1 who?|EOM ok 250 taken", true},
		{"one command at a time, all refused", Config{},
			greeted() + mail + "S: 250 ok\n" + rcptB + "S: 550 5.1.1 who?\n" + rcptC + "S: 450 4.2.0 later\n",
			"RCPT permanent 550 5.1.1 who?|RCPT temporary 450 4.2.0 later", true},
		{"one command at a time, sender refused", Config{},
			greeted() + mail + "S: 550 5.7.1 not you\n",
			"MAIL permanent 550 5.7.1 not you|MAIL permanent 550 5.7.1 not you", true},
		{"pipelined", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|EOM ok 250 taken", true},
		{"pipelining switched off", Config{NoPipelining: true},
			bdat + mail + "S: 250 ok\n" + rcptB + "S: 250 ok\n" + rcptC + "S: 250 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|EOM ok 250 taken", true},
		{"pipelined, DATA taken with no recipient", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 550 who?\nS: 450 later\nS: 354 go\nC: .\nS: 554 nobody\n",
			"RCPT permanent 550 who?|RCPT temporary 450 later", true},
		{"pipelined, DATA refused with no recipient", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 550 who?\nS: 450 later\nS: 503 nobody\n",
			"RCPT permanent 550 who?|RCPT temporary 450 later", true},
		{"pipelined, sender refused", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 451 later\nS: 503 mail?\nS: 503 mail?\nS: 503 mail?\n",
			"MAIL temporary 451 later|MAIL temporary 451 later", true},
		{"pipelined, sender refused and the rest taken", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 550 no\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: .\nS: 250 ok\n",
			"MAIL permanent 550 no|MAIL permanent 550 no", true},
		{"DATA refused", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 550 who?\nS: 451 4.3.0 no room\n",
			"DATA temporary 451 4.3.0 no room|RCPT permanent 550 who?", true},
		{"message refused", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 550 who?\nS: 354 go\n" + hi + "S: 554 5.7.1 spam\n",
			"EOM permanent 554 5.7.1 spam|RCPT permanent 550 who?", true},
		{"all at once", Config{},
			bdat + mail + rcptB + rcptC + "C: BDAT 4 LAST\nC: hi\nS: 250 ok\nS: 550 who?\nS: 250 ok\nS: 250 taken\n",
			"RCPT permanent 550 who?|EOM ok 250 taken", true},
		{"all at once, sender refused", Config{},
			bdat + mail + rcptB + rcptC + "C: BDAT 4 LAST\nC: hi\nS: 550 no\nS: 503 no\nS: 503 no\nS: 503 no\n",
			"MAIL permanent 550 no|MAIL permanent 550 no", true},
		{"all at once, no recipient", Config{},
			bdat + mail + rcptB + rcptC + "C: BDAT 4 LAST\nC: hi\nS: 250 ok\nS: 550 no\nS: 551 no\nS: 250 taken\n",
			"RCPT permanent 550 no|RCPT permanent 551 no", true},
		{"chunking switched off", Config{NoChunking: true},
			bdat + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|EOM ok 250 taken", true},

		{"end announced at MAIL", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 421 4.3.2 bye\nclose",
			"MAIL temporary 421 4.3.2 bye|MAIL temporary 421 4.3.2 bye", false},
		{"end announced at RCPT", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 550 who?\nS: 421 bye\nclose",
			"RCPT permanent 550 who?|RCPT temporary 421 bye", false},
		{"end announced at RCPT, behind one that was taken", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 421 bye\nclose",
			"RCPT temporary 421 bye|RCPT temporary 421 bye", false},
		{"end announced at DATA", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 421 bye\nclose",
			"DATA temporary 421 bye|DATA temporary 421 bye", false},
		{"end announced behind the message", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi + "S: 421 bye\nclose",
			"EOM temporary 421 bye|EOM temporary 421 bye", false},
		{"hung up behind the message", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 550 no\nS: 354 go\n" + hi + "close",
			"EOM temporary Connection closed unexpectedly|RCPT permanent 550 no", false},
		{"a reply too many behind the message", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi + "S: 250 taken\nS: 250 taken\n",
			"EOM ok 250 taken|EOM ok 250 taken", false},
		{"a reply to the message before it is sent", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nS: 250 taken\nclose",
			"EOM temporary Remote host sent too much data|EOM temporary Remote host sent too much data", false},

		{"LMTP has a reply per recipient", Config{LMTP: true},
			hail("LHLO", "PIPELINING", "CHUNKING") + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi +
				"S: 250 2.0.0 b has it\nS: 552 5.2.2 c is full\n",
			"EOM ok 250 2.0.0 b has it|EOM permanent 552 5.2.2 c is full", true},
		{"LMTP has no reply for who was refused", Config{LMTP: true},
			hail("LHLO") + mail + "S: 250 ok\n" + rcptB + "S: 550 who?\n" + rcptC + "S: 250 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 c has it\n",
			"RCPT permanent 550 who?|EOM ok 250 c has it", true},
		{"LMTP, the end between the replies", Config{LMTP: true},
			hail("LHLO") + mail + "S: 250 ok\n" + rcptB + "S: 250 ok\n" + rcptC + "S: 250 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 b has it\nclose",
			"EOM ok 250 b has it|EOM temporary Connection closed unexpectedly", false},
		{"LMTP, DATA taken with no recipient", Config{LMTP: true},
			hail("LHLO", "PIPELINING") + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 550 b?\nS: 550 c?\nS: 354 go\n",
			"RCPT permanent 550 b?|RCPT permanent 550 c?", false},

		{"one recipient a transaction", Config{},
			greeted("PIPELINING", "LIMITS RCPTMAX=1") + mail + rcptB + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|RCPT next too many recipients for one transaction with peer", true},
		{"too many recipients, says the server", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 250 ok\nS: 452 4.5.3 too many\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|RCPT next 452 4.5.3 too many", true},
		{"452 for the first is a failure", Config{},
			pipe + mail + rcptB + rcptC + "C: DATA\nS: 250 ok\nS: 452 no room\nS: 452 no room\nS: 503 who?\n",
			"RCPT temporary 452 no room|RCPT temporary 452 no room", true},
		{"one transaction a session", Config{},
			greeted("LIMITS MAILMAX=1") + mail + "S: 250 ok\n" + rcptB + "S: 250 ok\n" + rcptC + "S: 250 ok\nC: DATA\nS: 354 go\n" + hi + "S: 250 taken\n",
			"EOM ok 250 taken|EOM ok 250 taken", false},
		{"too many refused", Config{MaxRcptFailures: 1},
			greeted() + mail + "S: 250 ok\n" + rcptB + "S: 550 who?\n",
			"RCPT permanent 550 who?|RCPT temporary Too many consecutive errors, closing connection", false},
		{"message too large", Config{}, greeted("SIZE 2"),
			"MAIL permanent message too large for peer|MAIL permanent message too large for peer", true},
		{"size declared", Config{},
			greeted("SIZE 3") + "C: MAIL FROM:<a@x.test> SIZE=3\nS: 452 4.3.1 full\n",
			"MAIL temporary 452 4.3.1 full|MAIL temporary 452 4.3.1 full", true},
		{"long replies are joined", Config{},
			greeted() + mail + "S: 550-5.7.1 not\nS: 550-5.7.1   you,\nS: 550 5.7.2 never\x01\xff\n",
			"MAIL permanent 550 5.7.1 not you, 5.7.2 never ?|MAIL permanent 550 5.7.1 not you, 5.7.2 never ?", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, tt.cfg, tt.script)
			got := s.Send(t.Context(), message(t, "hi\n", "b@y.test", "c@y.test"))
			expect(t, got, strings.Split(tt.want, "|")...)
			if s.Usable() != tt.usable {
				t.Errorf("usable %v, want %v", s.Usable(), tt.usable)
			}
			if taken := strings.Contains(tt.want, " ok "); s.Messages() > 0 != taken {
				t.Errorf("%d messages taken", s.Messages())
			}
		})
	}
}

func TestEnvelopeAndTextLeaveInFewWrites(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		writes       int64
	}{
		{"CHUNKING: one", greeted("PIPELINING", "CHUNKING") +
			"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: BDAT 4 LAST\nC: hi\nS: 250 ok\nS: 250 ok\nS: 250 taken\n", 1},
		{"PIPELINING: the envelope, then the text and its dot", greeted("PIPELINING") +
			"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n", 2},
		{"neither: one a command, the text with its dot", greeted() +
			"C: MAIL FROM:<a@x.test>\nS: 250 ok\nC: RCPT TO:<b@y.test>\nS: 250 ok\nC: DATA\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, c := open(t, Config{}, tt.script)
			before := c.writes.Load()
			expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test")), "EOM ok 250 taken")
			if n := c.writes.Load() - before; n != tt.writes {
				t.Errorf("%d writes, want %d", n, tt.writes)
			}
		})
	}
}

func TestNextTransaction(t *testing.T) {
	t.Parallel()
	const refused = "C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 250 ok\nS: 550 who?\nS: 503 who?\n"
	const taken = "C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n"
	s, _ := open(t, Config{}, greeted("PIPELINING")+taken+refused+
		"C: RSET\nC: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n"+
		taken+refused+"C: RSET\nC: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 500 no\n")
	for _, want := range []string{"EOM ok 250 taken", "RCPT permanent 550 who?", "EOM ok 250 taken", "EOM ok 250 taken",
		"RCPT permanent 550 who?", "RSET temporary 500 no", "MAIL temporary Session has ended"} {
		expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test")), want)
	}
	if s.Messages() != 3 {
		t.Errorf("%d messages", s.Messages())
	}
}

func TestResetBetweenTransactionsWithoutPipelining(t *testing.T) {
	t.Parallel()
	const refused = "C: MAIL FROM:<a@x.test>\nS: 250 ok\nC: RCPT TO:<b@y.test>\nS: 550 who?\n"
	s, _ := open(t, Config{}, greeted()+refused+"C: RSET\nS: 250 ok\n"+refused)
	for range 2 {
		expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test")), "RCPT permanent 550 who?")
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	all := []string{"SIZE", "8BITMIME", "SMTPUTF8", "DSN"}
	for _, tt := range []struct {
		name  string
		offer []string
		tx    func(*Transaction)
		mail  string // what is sent; empty: nothing
		rcpt  string
		want  string // result when nothing is sent
	}{
		{"DSN", all, func(tx *Transaction) {
			tx.Ret, tx.EnvID = "HDRS", "q+2B1"
			tx.Rcpts[0].Notify = envelope.NotifySuccess | envelope.NotifyDelay
			tx.Rcpts[0].OrigRcpt = "rfc822;o@z.test"
		}, "MAIL FROM:<a@x.test> SIZE=3 RET=HDRS ENVID=q+2B1", "RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@z.test", ""},
		{"no DSN for a server that knows none", all[:3], func(tx *Transaction) {
			tx.Ret, tx.EnvID = "HDRS", "q"
			tx.Rcpts[0].Notify = envelope.NotifyNever
			tx.Rcpts[0].OrigRcpt = "rfc822;o@z.test"
		}, "MAIL FROM:<a@x.test> SIZE=3", "RCPT TO:<b@y.test>", ""},
		{"NEVER stands alone", all, func(tx *Transaction) {
			tx.Rcpts[0].Notify = envelope.NotifyNever | envelope.NotifyFailure
		}, "MAIL FROM:<a@x.test> SIZE=3", "RCPT TO:<b@y.test> NOTIFY=NEVER", ""},
		{"parameters that would be more than that are dropped", all, func(tx *Transaction) {
			tx.EnvID = "q BODY=8BITMIME"
			tx.Rcpts[0].OrigRcpt = "rfc822;o\r\nRCPT TO:<c@y.test>"
		}, "MAIL FROM:<a@x.test> SIZE=3", "RCPT TO:<b@y.test>", ""},
		{"8BITMIME", all, func(tx *Transaction) { tx.EightBit = true },
			"MAIL FROM:<a@x.test> SIZE=3 BODY=8BITMIME", "RCPT TO:<b@y.test>", ""},
		{"8-bit declared, not there, and not offered", nil, func(tx *Transaction) { tx.EightBit = true },
			"MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", ""},
		{"SMTPUTF8 for a header", all, func(tx *Transaction) { tx.UTF8 = true },
			"MAIL FROM:<a@x.test> SIZE=3 BODY=8BITMIME SMTPUTF8", "RCPT TO:<b@y.test>", ""},
		{"SMTPUTF8 for a recipient", all, func(tx *Transaction) { tx.Rcpts[0].Path.Local = "bé" },
			"MAIL FROM:<a@x.test> SIZE=3 BODY=8BITMIME SMTPUTF8", "RCPT TO:<bé@y.test>", ""},
		{"SMTPUTF8 asked for, not needed, and not offered", nil, func(tx *Transaction) { tx.UTF8 = true },
			"MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", ""},
		{"SMTPUTF8 needed by the sender", all[:2], func(tx *Transaction) { tx.Sender.Local = "é" },
			"", "", "MAIL permanent SMTPUTF8 needed but not offered by peer"},
		{"SMTPUTF8 needed by the recipient", all[:2], func(tx *Transaction) { tx.Rcpts[0].Path.Local = "é" },
			"", "", "RCPT permanent SMTPUTF8 needed but not offered by peer"},
		{"SMTPUTF8 needed by the header", all[:2], func(tx *Transaction) {
			tx.UTF8, tx.Body = true, strings.NewReader("Subject: é\n\nhi\n")
		}, "", "", "MAIL permanent SMTPUTF8 needed but not offered by peer"},
		{"REQUIRETLS without TLS", all, func(tx *Transaction) { tx.RequireTLS = true },
			"", "", "MAIL permanent REQUIRETLS needed but not offered by peer"},
		{"null sender", all, func(tx *Transaction) { tx.Sender = path(t, "") }, "MAIL FROM:<> SIZE=3", "RCPT TO:<b@y.test>", ""},
		{"a line break in the sender", all, func(tx *Transaction) { tx.Sender.Local = "a\r\nDATA" },
			"", "", "MAIL permanent sender address cannot be sent"},
		{"a bracket in the recipient", all, func(tx *Transaction) { tx.Rcpts[0].Path.Domain = "y> x=<y" },
			"", "", "RCPT permanent recipient address cannot be sent"},
		{"quoted local part", all, func(tx *Transaction) { tx.Rcpts[0].Path.Local = "b> c" },
			"MAIL FROM:<a@x.test> SIZE=3", `RCPT TO:<"b> c"@y.test>`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := greeted(tt.offer...)
			if tt.mail != "" {
				script += "C: " + tt.mail + "\nS: 250 ok\nC: " + tt.rcpt + "\nS: 550 no\n"
				tt.want = "RCPT permanent 550 no"
			}
			s, _ := open(t, Config{}, script)
			tx := message(t, "hi\n", "b@y.test")
			tt.tx(tx)
			expect(t, s.Send(t.Context(), tx), tt.want)
			if !s.Usable() {
				t.Error("session is not usable")
			}
		})
	}
}

func TestRecipientsThatCannotBeSentStopNoOthers(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, greeted("PIPELINING")+
		"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<c@y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n")
	expect(t, s.Send(t.Context(), message(t, "hi\n", "é@y.test", "c@y.test", "ü@y.test")),
		"RCPT permanent SMTPUTF8 needed but not offered by peer", "EOM ok 250 taken", "RCPT permanent SMTPUTF8 needed but not offered by peer")
}

func TestDomainsOfATransactionAreLimited(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, greeted("PIPELINING", "LIMITS RCPTDOMAINMAX=1")+
		"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: RCPT TO:<c@Y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\nS: 250 taken\n")
	expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test", "c@Y.test", "d@z.test", "e@y.test")), "EOM ok 250 taken", "EOM ok 250 taken",
		"RCPT next too many recipients for one transaction with peer", "RCPT next too many recipients for one transaction with peer")
}

func TestManyRecipientsAreSentInBatches(t *testing.T) {
	t.Parallel()
	const n = 2*maxBatch + 1
	script, rcpts := greeted("PIPELINING")+"C: MAIL FROM:<a@x.test>\n", []string(nil)
	replies := "S: 250 ok\n"
	for i := range n {
		rcpts = append(rcpts, fmt.Sprintf("r%d@y.test", i))
		script += "C: RCPT TO:<" + rcpts[i] + ">\n"
		replies += "S: 250 ok\n"
		if i == n-1 {
			script += "C: DATA\n"
		}
		if i%maxBatch == maxBatch-1 || i == n-1 {
			script += replies
			replies = ""
		}
	}
	s, _ := open(t, Config{}, script+"S: 354 go\nC: hi\nC: .\nS: 250 taken\n")
	for i, r := range s.Send(t.Context(), message(t, "hi\n", rcpts...)) {
		if r.Err != nil {
			t.Errorf("recipient %d: %v", i, r.Err)
		}
	}
}

func TestEightBitTextForASevenBitServer(t *testing.T) {
	t.Parallel()
	const text = "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n.é\n"
	s, _ := open(t, Config{}, greeted("PIPELINING")+
		"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\n"+
		"C: Subject: x\nC: MIME-Version: 1.0\nC: Content-Type: text/plain; charset=utf-8\nC: Content-Transfer-Encoding: quoted-printable\n"+
		"C:\nC: ..=C3=A9\nC: .\nS: 250 taken\n")
	tx := message(t, text, "b@y.test")
	tx.EightBit = true
	expect(t, s.Send(t.Context(), tx), "EOM ok 250 taken")
	tx = message(t, "DKIM-Signature: v=1\n"+text, "b@y.test")
	tx.EightBit = true
	expect(t, s.Send(t.Context(), tx),
		"MAIL permanent 8BITMIME needed but not offered by peer, and conversion would break a signature")
}

func TestUndeclaredEightBitTextIsDeclared(t *testing.T) {
	t.Parallel()
	s, _ := open(t, Config{}, greeted("PIPELINING", "CHUNKING", "8BITMIME")+
		"C: MAIL FROM:<a@x.test> BODY=8BITMIME\nC: RCPT TO:<b@y.test>\nC: BDAT 5 LAST\nC: \x80\xe9.\nS: 250 ok\nS: 250 ok\nS: 250 taken\n")
	expect(t, s.Send(t.Context(), message(t, "\x80\xe9.", "b@y.test")), "EOM ok 250 taken")
}

// failing is a body that cannot be read to its end.
type failing struct {
	io.ReadSeeker
	left int
}

func (f *failing) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, errors.New("disk is gone")
	}
	f.left--
	return f.ReadSeeker.Read(p[:1])
}

func TestUnreadableBody(t *testing.T) {
	t.Parallel()
	t.Run("before anything was sent", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, Config{}, greeted("PIPELINING", "CHUNKING", "8BITMIME")+"C: QUIT\nS: 221 bye\n")
		tx := message(t, "hi\n", "b@y.test")
		tx.Body = &failing{tx.Body, 1}
		expect(t, s.Send(t.Context(), tx), "DATA temporary Error reading content file")
		quit(t, s)
	})
	t.Run("within the message", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, Config{}, greeted("8BITMIME")+
			"C: MAIL FROM:<a@x.test>\nS: 250 ok\nC: RCPT TO:<b@y.test>\nS: 250 ok\nC: DATA\nS: 354 go\n")
		tx := message(t, "hi\n", "b@y.test")
		tx.Body = &failing{tx.Body, 1}
		expect(t, s.Send(t.Context(), tx), "DATA temporary Error reading content file")
		if s.Usable() {
			t.Error("session goes on within a message that has no end")
		}
	})
}

// events collects reports and what a trace is told.
type events struct{ lines []string }

func (e *events) Report(r report.Event) { e.lines = append(e.lines, fmt.Sprintf("%T %+v", r, r)) }
func (e *events) Sent(line string)      { e.lines = append(e.lines, "> "+line) }
func (e *events) Received(line string)  { e.lines = append(e.lines, "< "+line) }
func (e *events) Done(stage Stage, about string, err error) {
	e.lines = append(e.lines, fmt.Sprintf("= %v %s %v", stage, about, err))
}

func TestTraceFollowsTheDialogue(t *testing.T) {
	t.Parallel()
	var seen events
	s, _ := open(t, Config{Trace: &seen, Events: &seen, ID: 7}, greeted("PIPELINING")+
		"C: MAIL FROM:<a@x.test>\nC: RCPT TO:<b@y.test>\nC: RCPT TO:<c@y.test>\nC: DATA\nS: 250 ok\nS: 550-no\nS: 550 way\nS: 250 ok\nS: 354 go\n"+
		"C: hi\nC: .\nS: 250 taken\nC: QUIT\nS: 221 bye\n")
	s.Send(t.Context(), message(t, "hi\n", "b@y.test", "c@y.test"))
	quit(t, s)
	want := `< 220 mx.test ESMTP
report.RelayConnected {Session:7}
= BANNER mx.test <nil>
> EHLO me.test
< 250-mx.test
< 250 PIPELINING
= EHLO EHLO|me.test <nil>
> MAIL FROM:<a@x.test>
> RCPT TO:<b@y.test>
> RCPT TO:<c@y.test>
> DATA
< 250 ok
= MAIL a@x.test <nil>
< 550-no
< 550 way
= RCPT b@y.test 550 no way
< 250 ok
= RCPT c@y.test <nil>
< 354 go
= DATA  <nil>
> .
< 250 taken
= EOM  <nil>
> QUIT
< 221 bye
= QUIT  <nil>
report.RelayDisconnected {Session:7 Reason:quit Messages:1}`
	if got := strings.Join(seen.lines, "\n"); got != want {
		t.Errorf("trace\n%s\nwant\n%s", got, want)
	}
}
