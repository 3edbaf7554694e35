package filter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// serve runs f over input and returns what it writes behind register|ready.
func serve(t *testing.T, f *filter.Filter, input string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := f.Serve(t.Context(), strings.NewReader(input), &out)
	_, answers, _ := strings.Cut(out.String(), "register|ready\n")
	return answers, err
}

func TestFilterRunsUnderOlderVersions(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{RcptTo: func(s *filter.Session, address string) filter.Verdict {
		return filter.Reject(550, "", s.User+" "+s.Tx.Sender+" "+address)
	}, DataLine: func(_ *filter.Session, line []byte, out *filter.Lines) { out.Line(line) }}
	const sid, token = "00000000000000ab", "00000000000000cd"
	for _, tt := range []struct{ version, auth, mail, ids string }{
		{"0.7", "pass|joe", "0000000a|ok|a@b", sid + "|" + token},
		{"0.6", "joe|pass", "0000000a|ok|a@b", sid + "|" + token},
		{"0.5", "joe|pass", "0000000a|a@b|ok", sid + "|" + token},
		{"0.4", "joe|pass", "0000000a|a@b|ok", token + "|" + sid},
	} {
		t.Run(tt.version, func(t *testing.T) {
			t.Parallel()
			head := "|" + tt.version + "|1.000001|smtp-in|"
			got, err := serve(t, f, "config|smtpd-version|x\nconfig|ready\n"+
				"report"+head+"link-auth|"+sid+"|"+tt.auth+"\n"+
				"report"+head+"tx-begin|"+sid+"|0000000a\n"+
				"report"+head+"tx-mail|"+sid+"|"+tt.mail+"\n"+
				"filter"+head+"rcpt-to|"+sid+"|"+token+"|c@d\n"+
				"filter"+head+"data-line|"+sid+"|"+token+"|x\n")
			want := "filter-result|" + tt.ids + "|reject|550 joe a@b c@d\nfilter-dataline|" + tt.ids + "|x\n"
			if err != nil || got != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestWhatIsNewIsAnsweredOrSkipped(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Ehlo: func(*filter.Session, string) filter.Verdict { return filter.Junk() }}
	got, err := serve(t, f, "config|color|blue\nweather|fine\nconfig|ready\n"+
		"weather|rainy\n"+
		"report|0.9|1.1|smtp-in|link-smell|1|bad\n"+
		"report|0.7|1.1|smtp-in|tx-begin|1|what\n"+
		"filter|0.9|1.1|smtp-in|bdat|1|2|x\n"+
		"filter|0.7|1.1|smtp-in|helo|1|3|x\n"+
		"filter|0.7|1.1|smtp-in|data-line|1|4|.x\n"+
		"filter|0.7|1.1|smtp-in|ehlo|1|5|x\n")
	const sid = "0000000000000001|000000000000000"
	want := "filter-result|" + sid + "2|proceed\nfilter-result|" + sid + "3|proceed\n" +
		"filter-dataline|" + sid + "4|x\nfilter-result|" + sid + "5|junk\n"
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestBrokenDaemonEndsTheFilter(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Ehlo: func(*filter.Session, string) filter.Verdict { return filter.Junk() }}
	for _, in := range []string{
		"filter|0.7|1.1|smtp-in|ehlo|1|2|x\n",
		"config|ready\nfilter|0.7|1.1|smtp-in|ehlo|nobody|2|x\n",
		"config|ready\nfilter|0.7|1.1|smtp-in|eh",
		"config|ready\n" + strings.Repeat("x", 1<<20),
	} {
		if _, err := serve(t, f, in); err == nil {
			t.Errorf("%.100q is no error", in)
		}
	}
}

// deaf fails to take answers.
type deaf struct{ n int }

func (d *deaf) Write(p []byte) (int, error) {
	if d.n++; d.n > 1 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil // the registrations
}

func TestDaemonThatDoesNotListenEndsTheFilter(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Ehlo: func(*filter.Session, string) filter.Verdict { return filter.Junk() }}
	r, w := io.Pipe()
	defer w.Close()
	done := make(chan error, 1)
	go func() { done <- f.Serve(t.Context(), r, new(deaf)) }()
	go func() { // until the filter is gone
		_, err := io.WriteString(w, "config|ready\n")
		for err == nil {
			_, err = io.WriteString(w, "filter|0.7|1.1|smtp-in|ehlo|1|2|x\n")
		}
	}()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	_ = r.Close()
}

func TestFiltersThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	answer := func(*filter.Session) filter.Verdict { return filter.Proceed() }
	for name, f := range map[string]*filter.Filter{
		"message twice": {Message: func(*filter.Session, *filter.Message) filter.Verdict { return filter.Proceed() },
			DataEnd: func(*filter.Session, *filter.Lines) {}},
		"no such phase of outgoing mail": {Out: &filter.Filter{Data: answer}},
		"out of out":                     {Out: &filter.Filter{Out: &filter.Filter{}}},
		"start fails":                    {Start: func(*filter.Daemon) error { return errors.New("no") }},
	} {
		if _, err := serve(t, f, "config|ready\n"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOutgoingMailIsDecidedWhereTheDaemonAsks(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Out: &filter.Filter{
		RcptTo: func(s *filter.Session, address string) filter.Verdict {
			if s.Outgoing && s.Destination.Port() == 25 && address == "b@y" {
				return filter.Reject(550, "5.7.1", "not there")
			}
			return filter.Proceed()
		},
		Message: func(_ *filter.Session, m *filter.Message) filter.Verdict {
			m.Prepend("X-Out", "1")
			return filter.Proceed()
		},
	}}
	d := filtertest.Start(t, f, filtertest.Current())
	out := d.OpenOut("192.0.2.77:25", "mx.example").Send(filtertest.Mail{From: "a@x", To: []string{"b@y", "c@z"}, Text: "\nhi\n"})
	if out.Refused != "" || out.Rcpts["b@y"] != "reject|550 5.7.1 not there" || len(out.Rcpts) != 1 || out.Text != "X-Out: 1\n\nhi\n" {
		t.Errorf("%+v", out)
	}

	old := filtertest.Start(t, f, filtertest.OpenSMTPD())
	for _, what := range old.Registered() {
		if strings.HasPrefix(what, "filter|") {
			t.Errorf("an old daemon is told %s", what)
		}
	}
	if !strings.Contains(old.Log(), "rcpt-to is ignored") {
		t.Errorf("log: %q", old.Log())
	}
	incoming := slices.DeleteFunc(filtertest.OpenSMTPD(), func(l string) bool { return l == "config|subsystem|smtp-out" })
	if got := filtertest.Start(t, f, incoming).Log(); got != "" {
		t.Errorf("a filter of listeners only logs %q", got)
	}
	if !slices.Contains(old.Registered(), "report|smtp-out|link-connect") {
		t.Error("no reports of outgoing mail")
	}
}

func TestRemarksAreReportedOrLogged(t *testing.T) {
	t.Parallel()
	f := &filter.Filter{Ehlo: func(s *filter.Session, name string) filter.Verdict {
		s.Report("who is " + name)
		return filter.Proceed()
	}}
	s := filtertest.Start(t, f, filtertest.Current()).Open("192.0.2.1:2", "x")
	s.Ask(wire.PhaseEhlo, "joe")
	if !slices.Equal(s.Remarks, []string{"who is joe"}) {
		t.Errorf("remarks %q", s.Remarks)
	}
	d := filtertest.Start(t, f, filtertest.OpenSMTPD())
	d.Open("192.0.2.1:2", "x").Ask(wire.PhaseEhlo, "joe")
	if got := d.Log(); got != "0000000000000001 report: who is joe\n" {
		t.Errorf("log %q", got)
	}
}

func TestEndOfSessionEndsItsContext(t *testing.T) {
	t.Parallel()
	ended, asked := make(chan error, 1), make(chan struct{})
	f := &filter.Filter{Ehlo: func(s *filter.Session, _ string) filter.Verdict {
		v, decide := filter.Later()
		ctx := s.Context()
		close(asked)
		go func() {
			<-ctx.Done()
			ended <- ctx.Err()
			decide(filter.Proceed())
		}()
		return v
	}}
	d := filtertest.Start(t, f, filtertest.Current())
	s := d.Open("192.0.2.1:2", "x")
	var wg sync.WaitGroup
	wg.Go(func() { s.Ask(wire.PhaseEhlo, "x") })
	<-asked
	s.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wg.Wait()
}

func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	asked := make(chan struct{})
	f := &filter.Filter{Ehlo: func(s *filter.Session, _ string) filter.Verdict {
		close(asked)
		_, err := s.LookupTXT(context.WithoutCancel(s.Context()), "never.example") // is not answered
		if err == nil {
			t.Error("an answer")
		}
		return filter.Proceed()
	}}
	done := make(chan error)
	go func() { done <- f.Serve(ctx, r, io.Discard) }()
	_, _ = io.WriteString(w, "config|extension|dns\nconfig|ready\nfilter|0.7|1.1|smtp-in|ehlo|1|2|x\n")
	<-asked
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A session whose function is slow holds up the reading of more than a bound, but not
// of answers that a function waits for.
func TestFloodedSessionDoesNotStopLookups(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	f := &filter.Filter{DataLine: func(s *filter.Session, line []byte, out *filter.Lines) {
		if string(line) == "first" {
			<-first
			if txt, err := s.LookupTXT(s.Context(), "example.org"); err != nil || txt[0] != "ok" {
				t.Errorf("%q, %v", txt, err)
			}
		}
		out.Line(line)
	}}
	d := filtertest.Start(t, f, filtertest.Current())
	d.Lookup(func(wire.Query, string) ([]string, wire.Status) { return []string{"ok"}, wire.StatusOK })
	text := "first\n" + strings.Repeat(strings.Repeat("x", 1000)+"\n", 4000)
	s := d.Open("192.0.2.1:2", "x")
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := s.Content(text); got != text {
			t.Errorf("%d bytes of %d", len(got), len(text))
		}
	})
	close(first)
	wg.Wait()
}

// Whatever a daemon writes, a filter neither panics nor answers what was not asked.
func FuzzServe(f *testing.F) {
	f.Add([]byte("config|ready\nfilter|0.7|1.1|smtp-in|ehlo|1|2|x\n"))
	f.Add([]byte("config|protocol|0.7\nconfig|ready\nreport|0.7|1.1|smtp-in|tx-mail|1|2|ok|a\nfilter|0.7|1.1|smtp-in|data-line|1|2|A: b\nfilter|0.7|1.1|smtp-in|data-line|1|2|.\nfilter|0.7|1.1|smtp-in|commit|1|2|\n"))
	f.Add([]byte("config|extension|dns\nconfig|ready\ndns|1|1|value|x\ndns|1|1|ok\nreport|0.7|1.1|smtp-in|link-disconnect|1\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fl := everything()
		fl.Log = io.Discard
		fl.Message = func(_ *filter.Session, m *filter.Message) filter.Verdict {
			m.Remove("A", nil)
			m.Prepend("B", "c")
			return filter.Proceed()
		}
		var out bytes.Buffer
		_ = fl.Serve(t.Context(), bytes.NewReader(in), &out)
		asked := bytes.Count(in, []byte("filter|"))
		answered := 0
		for line := range bytes.Lines(out.Bytes()) {
			m, err := wire.ParseToDaemon(bytes.TrimSuffix(line, []byte{'\n'}))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if m.Kind == wire.KindResult {
				answered++
			}
		}
		if answered > asked {
			t.Fatalf("%d answers to %d questions", answered, asked)
		}
	})
}

// A lookup that is given up is given up at the daemon as well, once.
func TestLookupThatIsGivenUpIsCancelled(t *testing.T) {
	t.Parallel()
	cancels := make(chan context.CancelFunc, 1)
	f := &filter.Filter{Ehlo: func(s *filter.Session, _ string) filter.Verdict {
		ctx, cancel := context.WithCancel(s.Context())
		cancels <- cancel
		if _, err := s.LookupTXT(ctx, "example.org"); !errors.Is(err, context.Canceled) {
			return filter.Report(fmt.Sprint(err))
		}
		return filter.Proceed()
	}}
	toFilter, w := io.Pipe()
	r, fromFilter := io.Pipe()
	served := make(chan error, 1)
	go func() { served <- f.Serve(t.Context(), toFilter, fromFilter) }()
	go func() {
		_, _ = io.WriteString(w, "config|extension|dns\nconfig|extension|results\nconfig|ready\nfilter|0.7|1.1|smtp-in|ehlo|1|2|x\n") // the lines below are missing
	}()
	in := wire.NewReader(r)
	for _, want := range []string{
		"dns|0000000000000001|0000000000000001|txt|example.org", "dns|0000000000000001|0000000000000001|cancel",
		"filter-result|0000000000000001|0000000000000002|proceed",
	} {
		var line []byte
		for line = nil; line == nil || bytes.HasPrefix(line, []byte("register|")); {
			var err error
			if line, err = in.Line(); err != nil {
				t.Fatal(err)
			}
		}
		if string(line) != want {
			t.Errorf("the filter wrote %q, want %q", line, want)
		}
		if strings.HasSuffix(want, "example.org") {
			(<-cancels)()
		}
	}
	_ = w.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
