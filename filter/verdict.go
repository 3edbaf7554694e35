package filter

import (
	"fmt"
	"strings"
	"sync"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Verdict is an answer. The zero Verdict is that of Proceed.
type Verdict struct {
	kind  wire.Verdict // zero is Proceed
	text  string
	later *later
}

// Proceed lets things go on; the next filter is asked.
func Proceed() Verdict { return Verdict{} }

// Junk lets things go on and has the message marked as spam: by X-Spam: Yes, which
// users' delivery rules look for. Given before MAIL it is for all messages of the
// session. At commit it needs this project's daemon, elsewhere it is Proceed; in
// Message it works everywhere.
func Junk() Verdict { return Verdict{kind: wire.VerdictJunk} }

// Reject refuses the command with an SMTP reply: a code of 400 to 599, an enhanced code
// (RFC 3463) or "", and one line of text. Any other code becomes 451. A 421 closes the
// connection as well, and so does any code at Connect.
func Reject(code int, enhanced, text string) Verdict {
	return Verdict{kind: wire.VerdictReject, text: reply(code, enhanced, text)}
}

// Disconnect refuses the command as Reject does and closes the connection.
func Disconnect(code int, enhanced, text string) Verdict {
	return Verdict{kind: wire.VerdictDisconnect, text: reply(code, enhanced, text)}
}

// Rewrite runs the command with another argument. For MailFrom and RcptTo it may be a
// bare address, or "<address> PARAMETERS" to set the parameters too.
func Rewrite(argument string) Verdict {
	return Verdict{kind: wire.VerdictRewrite, text: argument}
}

// Report lets things go on and tells text to whoever asked for filter reports. Where
// the daemon cannot do that, text is logged.
func Report(text string) Verdict { return Verdict{kind: wire.VerdictReport, text: text} }

// Bypass lets things go on without asking the filters that come later in the chain.
// Where the daemon cannot do that, it is Proceed.
func Bypass() Verdict { return Verdict{kind: wire.VerdictBypass} }

// Later returns a verdict that is not made yet, to be returned at once, and the
// function that makes it. That may be called from any goroutine, before or after the
// verdict was returned; only its first call counts. Meanwhile the session waits, and
// reports of it are still delivered. A verdict that is never made ends with the
// daemon's patience.
func Later() (Verdict, func(Verdict)) {
	l := new(later)
	return Verdict{later: l}, l.make
}

// later is a verdict to be made.
type later struct {
	mu      sync.Mutex
	made    bool
	verdict Verdict
	deliver func(Verdict) // set once the verdict was returned to the daemon's question
}

func (l *later) make(v Verdict) {
	l.mu.Lock()
	if l.made {
		l.mu.Unlock()
		return
	}
	l.made, l.verdict = true, v
	deliver := l.deliver
	l.mu.Unlock()
	if deliver != nil {
		deliver(v)
	}
}

// to hands the verdict to deliver when it is made, or at once.
func (l *later) to(deliver func(Verdict)) {
	l.mu.Lock()
	l.deliver = deliver
	made := l.made
	l.mu.Unlock()
	if made {
		deliver(l.verdict)
	}
}

// maxReply bounds the text of a reply, in bytes: RFC 5321 section 4.5.3.1.5 has 512
// for the line.
const maxReply = 480

// reply makes one line of an SMTP reply.
func reply(code int, enhanced, text string) string {
	if code < 400 || code > 599 {
		code = 451
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxReply {
		text = strings.ToValidUTF8(text[:maxReply], "")
	}
	if len(enhanced) == 0 || enhanced[0] != byte('0'+code/100) {
		return fmt.Sprintf("%d %s", code, text)
	}
	return fmt.Sprintf("%d %s %s", code, enhanced, text)
}

// argument returns the parameter of a rewrite as the daemon wants it.
func argument(p wire.Phase, text string) string {
	if (p == wire.PhaseMailFrom || p == wire.PhaseRcptTo) && !strings.HasPrefix(text, "<") {
		return "<" + text + ">"
	}
	return text
}
