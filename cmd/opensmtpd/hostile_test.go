package main

import (
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/smtptest"
)

// byDomain relays each domain to a host of its own; HOSTS are the entries.
const byDomain = prelude + `
table hosts { HOSTS }
action "out" relay domain <hosts>
match from any for any action "out"
`

// startRelay starts a daemon that relays each domain to its server. A URL may stand
// before a domain's address by a scheme and "|": "smtp+tls|example.com".
func startRelay(t testing.TB, peers map[string]*smtptest.Server, args ...string) *mta {
	t.Helper()
	var hosts []string
	for domain, s := range peers {
		scheme, rest, ok := strings.Cut(domain, "|")
		if !ok {
			scheme, rest = "smtp", domain
		}
		hosts = append(hosts, fmt.Sprintf("%q = %q", rest, scheme+"://"+s.Addr))
	}
	return startMTA(t, strings.ReplaceAll(byDomain, "HOSTS", strings.Join(hosts, ", ")), args...)
}

// held returns the envelope to a recipient as the operator sees it.
func (m *mta) held(rcpt string) scheduler.Entry {
	m.t.Helper()
	for _, e := range m.envelopes() {
		if e.Envelope.Dest.String() == rcpt {
			return scheduler.Describe(e.Status, &e.Envelope)
		}
	}
	m.t.Errorf("the queue has nothing for %s", rcpt)
	return scheduler.Entry{}
}

// Whatever a host does, only its own mail waits, and the operator is told why.
func TestHostsThatMisbehaveCostOnlyTheirOwnMail(t *testing.T) {
	t.Parallel()
	var flooded atomic.Int64
	tests := []struct {
		name, scheme, stage string
		fault               smtptest.Fault
		want                string // the reason, as a pattern; empty: the mail is taken
		permanent           bool
	}{
		{name: "close-greeting", stage: smtptest.Greeting, fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "close-ehlo", stage: "EHLO", fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "close-mail", stage: "MAIL", fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "close-rcpt", stage: "RCPT", fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "close-data", stage: "DATA", fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "close-text", stage: smtptest.Text, fault: smtptest.Close, want: `closed unexpectedly`},
		{name: "reset-greeting", stage: smtptest.Greeting, fault: smtptest.Reset, want: `reset by peer|closed unexpectedly`},
		{name: "reset-mail", stage: "MAIL", fault: smtptest.Reset, want: `reset by peer|closed unexpectedly`},
		{name: "reset-text", stage: smtptest.Text, fault: smtptest.Reset, want: `reset by peer|closed unexpectedly`},
		{name: "later-greeting", stage: smtptest.Greeting, fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "later-ehlo", stage: "EHLO", fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "later-mail", stage: "MAIL", fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "later-rcpt", stage: "RCPT", fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "later-data", stage: "DATA", fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "later-text", stage: smtptest.Text, fault: smtptest.Say("421 4.3.2 not now\r\n"), want: `421 4\.3\.2 not now`},
		{name: "refused-text", stage: smtptest.Text, fault: smtptest.Say("554 5.7.1 bad words\r\n"), want: `554 5\.7\.1 bad words`, permanent: true},
		{name: "flood-greeting", stage: smtptest.Greeting, fault: smtptest.Flood("220-more\r\n", &flooded), want: `too long|too many`},
		{name: "flood-ehlo", stage: "EHLO", fault: smtptest.Flood("250-MORE\r\n", &flooded), want: `too long|too many`},
		{name: "flood-text", stage: smtptest.Text, fault: smtptest.Flood("250-more\r\n", &flooded), want: `too long|too many`},
		{name: "huge-greeting", stage: smtptest.Greeting, fault: smtptest.Flood(strings.Repeat("2", 1000), &flooded), want: `too long`},
		{name: "huge-rcpt", stage: "RCPT", fault: smtptest.Flood(strings.Repeat("2", 1000), &flooded), want: `too long`},
		{name: "nonsense-ehlo", stage: "EHLO", fault: smtptest.Say("hello dear\r\n"), want: `Bad response`},
		// What was slipped in before TLS is not taken for said within; whether TLS works
		// is another matter: where it is not demanded, mail goes without when it fails.
		{name: "garbage-tls", stage: "STARTTLS", fault: smtptest.SayThen("220 go\r\n", smtptest.Say("garbage, garbage, garbage\r\n"))},
		{name: "extra-tls", stage: "STARTTLS", fault: smtptest.Say("220 go\r\n250 injected\r\n250 injected\r\n"), want: `too much data`},
		{name: "garbage-tls-demanded", scheme: "smtp+tls|", stage: "STARTTLS", fault: smtptest.SayThen("220 go\r\n", smtptest.Say("garbage, garbage, garbage\r\n")), want: `TLS`},
		{name: "extra-tls-demanded", scheme: "smtp+tls|", stage: "STARTTLS", fault: smtptest.Say("220 go\r\n250 injected\r\n250 injected\r\n"), want: `too much data`},
		{name: "closed-tls-demanded", scheme: "smtp+tls|", stage: "STARTTLS", fault: smtptest.Close, want: `TLS|closed`},
	}
	good := smtptest.Start(t, smtptest.Options{})
	peers := map[string]*smtptest.Server{"good.example.com": good, "example.net": good}
	for _, tt := range tests {
		o := smtptest.Options{Faults: map[string]smtptest.Fault{tt.stage: tt.fault}}
		if tt.stage == "STARTTLS" {
			o.Extensions = []string{"STARTTLS"}
		}
		peers[tt.scheme+tt.name+".example.com"] = smtptest.Start(t, o)
	}
	stuck := map[string]smtptest.Fault{
		"silent-greeting.example.com":  smtptest.Hang,
		"silent-text.example.com":      smtptest.Hang,
		"trickle-greeting.example.com": smtptest.Trickle(100 * time.Millisecond),
	}
	for domain, f := range stuck {
		stage := smtptest.Greeting
		if strings.Contains(domain, "text") {
			stage = smtptest.Text
		}
		peers[domain] = smtptest.Start(t, smtptest.Options{Faults: map[string]smtptest.Fault{stage: f}})
	}
	m := startRelay(t, peers)

	for domain := range stuck {
		m.send("x@"+domain, "for a host that does not answer")
	}
	for _, tt := range tests {
		m.send("x@"+tt.name+".example.com", "for a host that misbehaves")
	}
	m.send("x@good.example.com", "for a good host")
	m.wait(`mta delivery .*to=<x@good\.example\.com> .*result="Ok"`)
	for _, tt := range tests {
		result := "TempFail"
		switch {
		case tt.permanent:
			result = "PermFail"
		case tt.want == "":
			result = "Ok"
		}
		line := m.wait(`mta delivery .*to=<x@` + tt.name + `\.example\.com> .*result=`)
		if !regexp.MustCompile(`result="` + result + `" stat="[^"]*(` + tt.want + `)`).MatchString(line) {
			t.Errorf("%s: want %s because of %q, got\n%s", tt.name, result, tt.want, line)
		}
		if result == "TempFail" {
			if got := m.held("x@" + tt.name + ".example.com"); !regexp.MustCompile(tt.want).MatchString(got.ErrorLine) || got.NextTry == nil {
				t.Errorf("%s: the queue tells %+v", tt.name, got)
			}
		}
	}
	if n := flooded.Load(); n > 64<<20 {
		t.Errorf("hosts could send %d bytes of replies", n)
	}
	for domain := range stuck {
		if got := m.held("x@" + domain); got.State != "inflight" {
			t.Errorf("%s: the queue tells %+v", domain, got)
		}
		peers[domain].Stop()
		m.wait(`mta delivery .*to=<x@` + regexp.QuoteMeta(domain) + `> .*result="TempFail"`)
		if got := m.held("x@" + domain); !regexp.MustCompile("closed unexpectedly|reset by peer").MatchString(got.ErrorLine) {
			t.Errorf("%s: the queue tells %+v", domain, got)
		}
	}
	m.send("y@good.example.com", "for a good host again")
	m.wait(`mta delivery .*to=<y@good\.example\.com> .*result="Ok"`)
}
