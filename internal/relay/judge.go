package relay

import (
	"fmt"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// verdict is what a transaction came to.
type verdict struct {
	results   []Result // outcome 0: to be tried again at once
	refusals  []bool   // per recipient: refused by the host
	taken     int      // recipients the message was taken for
	accepted  int      // recipients that RCPT was taken for
	putOff    bool     // nobody was taken, nobody refused for good
	throttled bool     // the host complains about the rate
	closing   bool     // the connection is over
	rcptMax   int      // recipients the host takes at a time, learned
	lost      string   // how the connection was ended before anything was taken
	atOnce    bool     // it ended without taking so much as a sender or recipient
	words     string   // the last refusal
	enhanced  smtp.EnhancedCode
	stage     Stage
}

// refusedRun continues to count the recipients refused in a row.
func (v *verdict) refusedRun(n int) int {
	for _, refused := range v.refusals {
		if refused {
			n++
		} else {
			n = 0
		}
	}
	return n
}

// judge turns answers into results.
func (c *conn) judge(as []*Attempt, answers []Answer, err error) *verdict {
	v := &verdict{results: make([]Result, len(as)), refusals: make([]bool, len(as)), putOff: true}
	for i := range as {
		ok := answers[i].Code/100 == 2
		if ok {
			v.taken++
		}
		if ok || answers[i].Stage > Rcpt {
			v.accepted++
		}
	}
	for i, a := range as {
		v.results[i] = c.result(v, i, a, &answers[i], err)
	}
	v.putOff = v.putOff && v.taken == 0
	return v
}

// result judges one answer.
func (c *conn) result(v *verdict, i int, a *Attempt, ans *Answer, err error) Result {
	res := Result{
		Outcome: TempFail, Code: ans.Code, Enhanced: ans.Enhanced, Text: ans.reply(), Host: c.hop.Name, Addr: c.link.key.dst.Addr(),
		Source: c.local, Session: c.id, Stage: ans.Stage, DSN: c.caps.DSN,
	}
	again := false
	switch {
	case ans.Code == 0:
		res.Text, res.Enhanced = "Connection closed unexpectedly", smtp.EnhancedCode{4, 4, 2}
		if err != nil {
			res.Text = err.Error()
		}
		v.closing, v.putOff = true, false
		// After the final dot the host may have the message: it is not sent again at once.
		if again = ans.Stage < Dot; again && v.taken == 0 {
			v.lost, v.atOnce = res.Text, v.accepted == 0 && ans.Stage <= Mail
		}
	case ans.Code/100 == 2:
		res.Outcome = OK
		return res
	case ans.Again:
		again = true
	case ans.Local:
		v.putOff = false
	case ans.tooMany() && v.accepted > 0:
		v.rcptMax, again = v.accepted, true
	case ans.Code == 421:
		v.closing, v.throttled = true, v.throttled || ans.throttled()
		if again = ans.Stage <= Rcpt; again && v.accepted == 0 {
			v.lost, v.atOnce = res.Text, true
		}
	default:
		v.refusals[i] = ans.Stage == Rcpt
		v.throttled = v.throttled || ans.throttled()
	}
	v.words, v.enhanced, v.stage = res.Text, res.Enhanced, res.Stage
	if again {
		if v.accepted > 0 && ans.Code != 0 {
			return Result{} // the others got somewhere
		}
		if a.tries++; a.tries <= maxTries {
			return Result{}
		}
	}
	if ans.Code/100 == 5 && !ans.tooMany() && !ans.Again {
		res.Outcome = PermFail
		v.putOff = false
	}
	if class := uint8(4); res.Enhanced == (smtp.EnhancedCode{}) {
		if res.Outcome == PermFail {
			class = 5
		}
		res.Enhanced = smtp.EnhancedCode{class, 0, 0}
	}
	return res
}

// reply returns the answer as the host gave it, code included.
func (a *Answer) reply() string {
	switch {
	case a.Code == 0 || a.Local:
		return a.Text
	case a.Enhanced == (smtp.EnhancedCode{}):
		return fmt.Sprintf("%d %s", a.Code, a.Text)
	}
	return fmt.Sprintf("%d %v %s", a.Code, a.Enhanced, a.Text)
}

// tooMany tells whether a recipient was refused because the transaction has enough
// of them: 452, and 552 of old (RFC 5321 section 4.5.3.1.10).
func (a *Answer) tooMany() bool {
	if a.Stage != Rcpt || a.Code != 452 && a.Code != 552 {
		return false
	}
	if a.Enhanced[1] == 5 && a.Enhanced[2] == 3 {
		return true
	}
	text := strings.ToLower(a.Text)
	return strings.Contains(text, "too many recipients") || strings.Contains(text, "too many rcpt")
}

// throttled tells whether the host says that mail comes too fast. There is no code
// that says just this, so words count too.
func (a *Answer) throttled() bool {
	switch {
	case a.Local || a.Code/100 != 4:
		return false
	case a.Enhanced == smtp.EnhancedCode{4, 7, 28}:
		return true
	}
	text := strings.ToLower(a.Text)
	for _, words := range []string{
		"rate limit", "ratelimit", "rate-limit", "throttl", "too fast", "slow down", "too many connections", "too many messages",
		"too many concurrent", "sending rate", "rate exceeded", "unusual rate",
	} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}
