package filtertest_test

import (
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
)

const recorded = `<< config|ready
>> register|filter|smtp-in|ehlo
>> register|ready
<< filter|0.7|1.000001|smtp-in|ehlo|0000000000000001|0000000000000002|x
>> filter-result|0000000000000001|0000000000000002|proceed
`

func TestReplayFindsDifferences(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, session string
		v             filter.Verdict
		want          int
	}{
		{"none", recorded, filter.Proceed(), 0},
		{"another answer", recorded, filter.Junk(), 1},
		{"an answer more", strings.Replace(recorded, ">> filter-result", "## ", 1), filter.Proceed(), 1},
		{"an answer less", recorded + ">> filter-result|0000000000000001|0000000000000002|proceed\n", filter.Proceed(), 1},
		{"a session less", recorded + ">> filter-result|0000000000000009|0000000000000002|proceed\n", filter.Proceed(), 1},
	} {
		f := &filter.Filter{Ehlo: func(*filter.Session, string) filter.Verdict { return tt.v }}
		diff, err := filtertest.Replay(t.Context(), f, strings.NewReader(tt.session))
		if err != nil || len(diff) != tt.want {
			t.Errorf("%s: %q, %v", tt.name, diff, err)
		}
	}
}

func TestSendGoesThroughAllPhases(t *testing.T) {
	t.Parallel()
	var refuse string
	at := func(phase string) filter.Verdict {
		if phase == refuse {
			return filter.Reject(550, "", phase)
		}
		return filter.Proceed()
	}
	f := &filter.Filter{
		MailFrom: func(*filter.Session, string) filter.Verdict { return at("mail-from") },
		RcptTo:   func(_ *filter.Session, address string) filter.Verdict { return at("rcpt-to " + address) },
		Data:     func(*filter.Session) filter.Verdict { return at("data") },
		Commit:   func(*filter.Session) filter.Verdict { return at("commit") },
	}
	s := filtertest.Start(t, f, filtertest.OpenSMTPD()).Open("192.0.2.1:2", "x")
	mail := filtertest.Mail{From: "a@x", To: []string{"b", "c"}, Text: "text\n"}
	for _, phase := range []string{"mail-from", "data", "commit"} {
		refuse = phase
		if o := s.Send(mail); o.Refused != phase+": reject|550 "+phase {
			t.Errorf("%s: %+v", phase, o)
		}
	}
	refuse = "rcpt-to b"
	if o := s.Send(mail); o.Refused != "" || len(o.Rcpts) != 1 || o.Rcpts["b"] != "reject|550 rcpt-to b" || o.Text != "text\n" {
		t.Errorf("%+v", o)
	}
	mail.To = mail.To[:1]
	if o := s.Send(mail); o.Refused == "" {
		t.Errorf("%+v", o)
	}
}
