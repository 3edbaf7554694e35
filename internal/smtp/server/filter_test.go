package server

import (
	"context"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// fakeFilter has verdicts by phase, each for the next time that it is asked, and text
// that it gives out instead of a message's; "" lets it pass beside.
type fakeFilter struct {
	verdicts map[wire.Phase][]Verdict
	text     string
}

func (*fakeFilter) Wants(wire.Event) bool { return false }
func (*fakeFilter) Report(wire.Report)    {}
func (*fakeFilter) Close()                {}

func (f *fakeFilter) Decide(_ context.Context, p wire.Phase, _ string) Verdict {
	if next := f.verdicts[p]; len(next) > 0 {
		f.verdicts[p] = next[1:]
		return next[0]
	}
	return Verdict{Kind: wire.VerdictProceed}
}

func (f *fakeFilter) Text(out func([]byte) error) Text {
	if f.text == "" {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- out([]byte(f.text)) }()
	return fakeText(done)
}

// fakeText waits for what a fakeFilter gives out.
type fakeText <-chan error

func (fakeText) Write(p []byte) (int, error)   { return len(p), nil }
func (t fakeText) Close(context.Context) error { return <-t }
func (t fakeText) Abort()                      { <-t }

// withFilter returns a session with a filter.
func withFilter(f *fakeFilter) *setup {
	u := newSetup()
	u.cfg.Filter = func(context.Context, *Session) Filter { return f }
	return u
}

const greetings = `
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
`

// sent is how a message is sent, the n-th that MAIL began.
func sent(n int) string { return mailOnly + sentBehind(n) }

const mailOnly = `
C: MAIL FROM:<a@b.test>
S: 250 2.0.0 Ok
`

func sentBehind(n int) string {
	return `
C: RCPT TO:<c@d.test>
S: 250 2.1.5 Destination address valid: Recipient ok
C: DATA
S: 354 Enter mail, end with "." on a line by itself
C: Subject: x
C:
C: .
S: 250 2.0.0 abcd000` + itoa(n) + " Message accepted for delivery\n"
}

func TestDisconnectOfFilterEndsTheSessionAtBDAT(t *testing.T) {
	t.Parallel()
	no := Verdict{Kind: wire.VerdictDisconnect, Refusal: &smtp.Error{Code: 554, Enhanced: smtp.EnhancedCode{5, 7, 1}, Text: "Go away"}}
	u := withFilter(&fakeFilter{verdicts: map[wire.Phase][]Verdict{wire.PhaseData: {no}}})
	u.play(t, toRcpt+`
R: "BDAT 3 LAST\r\nx\r\n"
S: 554 5.7.1 Go away
S: EOF`)
}

// Junk concerns the messages that are meant: those of the session when it is said before
// MAIL, or of a command that ends the transaction, and else the one.
func TestJunkMarksWhatIsMeant(t *testing.T) {
	t.Parallel()
	junk := Verdict{Kind: wire.VerdictProceed, Junk: true}
	proceed := Verdict{Kind: wire.VerdictProceed}
	bad := Verdict{Kind: wire.VerdictRewrite, Argument: "<a@b", Junk: true}
	for _, tt := range []struct {
		name     string
		verdicts map[wire.Phase][]Verdict
		script   string
		want     []bool
	}{
		{"MAIL", map[wire.Phase][]Verdict{wire.PhaseMailFrom: {junk}}, sent(1) + sent(2), []bool{true, false}},
		{"EHLO within a transaction", map[wire.Phase][]Verdict{wire.PhaseEhlo: {proceed, junk}}, greetings + mailOnly + greetings + sent(2) + sent(3), []bool{true, true}},
		{"RSET within a transaction", map[wire.Phase][]Verdict{wire.PhaseRset: {junk}}, mailOnly + "C: RSET\nS: 250 2.0.0 Reset state\n" + sent(2), []bool{true}},
		{"NOOP within a transaction", map[wire.Phase][]Verdict{wire.PhaseNoop: {junk}},
			mailOnly + "C: NOOP\nS: 250 2.0.0 Ok\n" + sentBehind(1) + sent(2), []bool{true, false}},
		{"MAIL that is rewritten to nothing sound", map[wire.Phase][]Verdict{wire.PhaseMailFrom: {bad}},
			"C: MAIL FROM:<a@b.test>\nS: 553 5.1.0 Sender address syntax error\n" + sent(1), []bool{false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := withFilter(&fakeFilter{verdicts: tt.verdicts})
			u.play(t, hello+tt.script)
			bodies := u.backend.stored
			if len(bodies) != len(tt.want) {
				t.Fatalf("%d messages were taken, want %d", len(bodies), len(tt.want))
			}
			for i, body := range bodies {
				if got := strings.HasPrefix(body, spamField); got != tt.want[i] {
					t.Errorf("message %d is marked: %v, want %v", i+1, got, tt.want[i])
				}
			}
		})
	}
}

// What filters give out may come before they were given anything.
func TestFiltersMayGiveOutTextAtOnce(t *testing.T) {
	t.Parallel()
	u := withFilter(&fakeFilter{text: "Subject: other\n\n"})
	u.play(t, hello+sent(1))
	if got := u.backend.stored; len(got) != 1 || got[0] != "Subject: other\n\n" {
		t.Errorf("taken: %q", got)
	}
}
