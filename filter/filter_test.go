package filter_test

import (
	"errors"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// everything returns a filter that is asked and told everything and changes nothing.
func everything() *filter.Filter {
	f := new(filter.Filter)
	for v := range reflect.ValueOf(f).Elem().Fields() {
		if v.Name == "Start" || v.Name == "DataLine" || v.Name == "DataEnd" || v.Name == "Message" || v.Type.Kind() != reflect.Func {
			continue
		}
		field := reflect.ValueOf(f).Elem().FieldByName(v.Name)
		field.Set(reflect.MakeFunc(v.Type, func([]reflect.Value) []reflect.Value {
			if v.Type.NumOut() == 0 {
				return nil
			}
			return []reflect.Value{reflect.ValueOf(filter.Proceed())}
		}))
	}
	return f
}

func TestSessionOfTheOriginalIsAnsweredAsRecorded(t *testing.T) {
	t.Parallel()
	stream := everything()
	stream.DataLine = func(_ *filter.Session, line []byte, out *filter.Lines) { out.Line(line) }
	whole := everything()
	whole.Message = func(*filter.Session, *filter.Message) filter.Verdict { return filter.Proceed() }
	for name, f := range map[string]*filter.Filter{"lines": stream, "whole message": whole, "by default": {DataEnd: func(*filter.Session, *filter.Lines) {}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := os.Open("wire/testdata/session.txt")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			diff, err := filtertest.Replay(t.Context(), f, file)
			if err != nil || len(diff) > 0 {
				t.Errorf("%v\n%s", err, strings.Join(diff, "\n"))
			}
		})
	}
}

func TestOnlyWhatIsSetIsRegistered(t *testing.T) {
	t.Parallel()
	d := filtertest.Start(t, &filter.Filter{
		RcptTo:         func(*filter.Session, string) filter.Verdict { return filter.Proceed() },
		OnTxCommit:     func(*filter.Session, int64) {},
		OnFilterReport: nil,
	}, filtertest.Current())
	got := d.Registered()
	for _, what := range []string{"filter|smtp-in|rcpt-to", "report|smtp-in|tx-commit", "report|smtp-in|link-connect", "report|smtp-in|link-disconnect"} {
		if !slices.Contains(got, what) {
			t.Errorf("%s is not registered", what)
		}
	}
	for _, what := range got {
		if strings.Contains(what, "smtp-out") || strings.Contains(what, "protocol-") || strings.HasPrefix(what, "filter|") && what != "filter|smtp-in|rcpt-to" {
			t.Errorf("%s is registered", what)
		}
	}
}

func TestSessionKnowsWhatHappened(t *testing.T) {
	t.Parallel()
	done := make(chan []string, 2)
	note := func(s *filter.Session, what string) {
		line := what + ":"
		if s.RDNS != "" {
			line += " " + s.RDNS + " " + string(s.FCrDNS)
		}
		if s.Source.IsValid() {
			line += " " + s.Source.String()
		}
		line += " " + strings.Join([]string{s.Hostname, s.Method, s.Identity, s.TLS, s.User}, ",")
		if s.Tx != nil {
			line += " " + s.Tx.Sender + ">" + strings.Join(s.Tx.Recipients, "+")
		}
		at, _ := s.Data.([]string)
		s.Data = append(at, line)
	}
	f := &filter.Filter{
		OnLinkConnect: func(s *filter.Session) { note(s, "connect") },
		MailFrom:      func(s *filter.Session, a string) filter.Verdict { note(s, "mail "+a); return filter.Proceed() },
		RcptTo:        func(s *filter.Session, a string) filter.Verdict { note(s, "rcpt "+a); return filter.Proceed() },
		Data:          func(s *filter.Session) filter.Verdict { note(s, "data"); return filter.Proceed() },
		OnTxReset:     func(s *filter.Session) { note(s, "reset") },
		OnLinkDisconnect: func(s *filter.Session) {
			note(s, "disconnect")
			done <- s.Data.([]string)
		},
	}
	d := filtertest.Start(t, f, filtertest.Current())
	s := d.Open("[2001:db8::1]:1234", "client.example")
	s.Report(wire.LinkGreeting{Hostname: "mx.example.org"})
	s.Report(wire.LinkIdentify{Method: "EHLO", Identity: "me"})
	s.Report(wire.LinkTLS{Text: "TLSv1.3:X:256"})
	s.Report(wire.LinkAuth{Result: wire.Fail, User: "mallory"})
	s.Report(wire.LinkAuth{Result: wire.Pass, User: "a|b"})
	s.Send(filtertest.Mail{From: "a@x", To: []string{"b@y", "c@z"}, Text: "\nhi\n"})
	s.Close()
	const who = "client.example pass [2001:db8::1]:1234 "
	const what = "mx.example.org,EHLO,me,TLSv1.3:X:256,a|b"
	want := []string{
		"connect: " + who + ",,,,",
		"mail a@x: " + who + what + " a@x>",
		"rcpt b@y: " + who + what + " a@x>",
		"rcpt c@z: " + who + what + " a@x>b@y",
		"data: " + who + what + " a@x>b@y+c@z",
		"reset: " + who + what + " a@x>b@y+c@z",
		"disconnect: " + who + what,
	}
	if at := <-done; !slices.Equal(at, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(at, "\n"), strings.Join(want, "\n"))
	}
	s = d.Open("unix:/var/run/smtpd.sock", "<unknown>")
	s.Close()
	if at := <-done; !slices.Equal(at, []string{"connect: ,,,,", "disconnect: ,,,,"}) {
		t.Errorf("local session: %q", at)
	}
}

func TestVerdictsAsTheDaemonWantsThem(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		phase          wire.Phase
		v              filter.Verdict
		ours, original string
	}{
		{"zero", wire.PhaseData, filter.Verdict{}, "proceed", "proceed"},
		{"reject", wire.PhaseRcptTo, filter.Reject(550, "5.1.1", "no"), "reject|550 5.1.1 no", "reject|550 5.1.1 no"},
		{"reject without enhanced code", wire.PhaseRcptTo, filter.Reject(450, "", "no"), "reject|450 no", "reject|450 no"},
		{"codes that disagree", wire.PhaseRcptTo, filter.Reject(450, "5.1.1", "no"), "reject|450 no", "reject|450 no"},
		{"no refusal by its code", wire.PhaseRcptTo, filter.Reject(250, "", "no"), "reject|451 no", "reject|451 no"},
		{"reply in lines", wire.PhaseRcptTo, filter.Reject(550, "", "a\r\n250 b"), "reject|550 a  250 b", "reject|550 a  250 b"},
		{"disconnect", wire.PhaseMailFrom, filter.Disconnect(421, "4.7.0", "bye"), "disconnect|421 4.7.0 bye", "disconnect|421 4.7.0 bye"},
		{"junk", wire.PhaseData, filter.Junk(), "junk", "junk"},
		{"junk at commit", wire.PhaseCommit, filter.Junk(), "junk", "proceed"},
		{"bypass", wire.PhaseMailFrom, filter.Bypass(), "bypass", "proceed"},
		{"report", wire.PhaseMailFrom, filter.Report("seen"), "report|seen", "proceed"},
		{"rewrite of an address", wire.PhaseMailFrom, filter.Rewrite("a@b"), "rewrite|<a@b>", "rewrite|<a@b>"},
		{"rewrite with parameters", wire.PhaseRcptTo, filter.Rewrite("<a@b> NOTIFY=NEVER"), "rewrite|<a@b> NOTIFY=NEVER", "rewrite|<a@b> NOTIFY=NEVER"},
		{"rewrite of another", wire.PhaseEhlo, filter.Rewrite("x"), "rewrite|x", "rewrite|x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answer := func(*filter.Session) filter.Verdict { return tt.v }
			about := func(*filter.Session, string) filter.Verdict { return tt.v }
			f := &filter.Filter{Ehlo: about, MailFrom: about, RcptTo: about, Data: answer, Commit: answer}
			for config, want := range map[string]string{"ours": tt.ours, "original": tt.original} {
				start := filtertest.Current()
				if config == "original" {
					start = filtertest.OpenSMTPD()
				}
				if got := filtertest.Start(t, f, start).Open("192.0.2.1:2", "x").Ask(tt.phase, "x"); got != want {
					t.Errorf("%s: %s, want %s", config, got, want)
				}
			}
		})
	}
}

func TestLinesPassUnchangedAndInOrder(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{
		DataLine: func(s *filter.Session, line []byte, out *filter.Lines) {
			if string(line) == "drop" {
				return
			}
			out.Line(line)
		},
		DataEnd: func(s *filter.Session, out *filter.Lines) { out.String("the\n.end\r\n") },
	}
	d := filtertest.Start(t, f, filtertest.Current())
	long := strings.Repeat("y", wire.MaxText-1)
	text := "Subject: x\n\n.\n..\n.a\na|b\n\xff\x00\rz\ndrop\n" + long + "\n"
	got := d.Open("192.0.2.1:2", "x").Content(text)
	if want := strings.Replace(text, "drop\n", "", 1) + "the\n.end\n\n"; got != want {
		t.Errorf("%d bytes, want %d: %.100q", len(got), len(want), got)
	}
}

func TestLookupsGoThroughTheDaemon(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Connect: func(s *filter.Session) filter.Verdict {
		ctx := s.Context()
		txt, err := s.LookupTXT(ctx, "example.org")
		if err != nil || !slices.Equal(txt, []string{"a\nb|c", "d"}) {
			return filter.Report("txt")
		}
		mx, err := s.LookupMX(ctx, "example.org")
		if err != nil || len(mx) != 2 || *mx[1] != (net.MX{Host: "b.example", Pref: 20}) {
			return filter.Report("mx")
		}
		ips, err := s.LookupIPAddr(ctx, "example.org")
		if err != nil || len(ips) != 1 || !ips[0].IP.Equal(net.IPv4(192, 0, 2, 7)) {
			return filter.Report("host")
		}
		_, err = s.LookupAddr(ctx, "192.0.2.9")
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
			return filter.Report("addr")
		}
		_, err = s.LookupHost(ctx, "slow.example")
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsTemporary || dns.IsNotFound {
			return filter.Report("tempfail")
		}
		return filter.Proceed()
	}}
	d := filtertest.Start(t, f, filtertest.Current())
	d.Lookup(func(q wire.Query, name string) ([]string, wire.Status) {
		switch {
		case q == wire.QueryTXT && name == "example.org":
			return []string{"a\nb|c", "d"}, wire.StatusOK
		case q == wire.QueryMX:
			return []string{"10 a.example", "20 b.example"}, wire.StatusOK
		case q == wire.QueryHost && name == "example.org":
			return []string{"192.0.2.7"}, wire.StatusOK
		case q == wire.QueryAddr:
			return nil, wire.StatusNotFound
		}
		return nil, wire.StatusTempFail
	})
	if got := d.Open("192.0.2.1:2", "x").Ask(wire.PhaseConnect, "x|192.0.2.1"); got != "proceed" {
		t.Error(got)
	}
}

func TestLookupsUseTheSystemUnderAnOldDaemon(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Connect: func(s *filter.Session) filter.Verdict {
		addrs, err := s.LookupHost(s.Context(), "127.0.0.1")
		if err != nil || !slices.Equal(addrs, []string{"127.0.0.1"}) {
			return filter.Reject(550, "", "lookup")
		}
		return filter.Proceed()
	}}
	if got := filtertest.Start(t, f, filtertest.OpenSMTPD()).Open("192.0.2.1:2", "x").Ask(wire.PhaseConnect, "x|192.0.2.1"); got != "proceed" {
		t.Error(got)
	}
}

func TestSlowSessionDelaysNoOther(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	f := &filter.Filter{
		Ehlo: func(s *filter.Session, name string) filter.Verdict {
			if name == "slow" {
				<-release
			}
			return filter.Proceed()
		},
	}
	d := filtertest.Start(t, f, filtertest.Current())
	slow, quick := d.Open("192.0.2.1:2", "x"), d.Open("192.0.2.2:2", "y")
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := slow.Ask(wire.PhaseEhlo, "slow"); got != "proceed" {
			t.Error(got)
		}
	})
	if got := quick.Ask(wire.PhaseEhlo, "quick"); got != "proceed" {
		t.Error(got)
	}
	close(release)
	wg.Wait()
}

func TestVerdictsCanBeMadeLater(t *testing.T) {
	t.Parallel()
	decide := make(chan func(filter.Verdict), 1)
	seen := make(chan string, 1)
	f := &filter.Filter{
		MailFrom: func(*filter.Session, string) filter.Verdict {
			v, f := filter.Later()
			decide <- f
			return v
		},
		RcptTo: func(*filter.Session, string) filter.Verdict { // decided before it is returned
			v, f := filter.Later()
			f(filter.Reject(550, "", "now"))
			f(filter.Proceed())
			return v
		},
		OnLinkIdentify: func(s *filter.Session) { seen <- s.Identity },
	}
	d := filtertest.Start(t, f, filtertest.Current())
	s := d.Open("192.0.2.1:2", "x")
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := s.Ask(wire.PhaseMailFrom, "a@b"); got != "reject|450 later" {
			t.Error(got)
		}
	})
	f2 := <-decide
	s.Report(wire.LinkIdentify{Method: "EHLO", Identity: "me"}) // the session goes on meanwhile
	if got := <-seen; got != "me" {
		t.Error(got)
	}
	f2(filter.Reject(450, "", "later"))
	wg.Wait()
	if got := s.Ask(wire.PhaseRcptTo, "a@b"); got != "reject|550 now" {
		t.Error(got)
	}
}
