package wire_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// rewriteToFilter parses a line of the daemon and writes it again.
func rewriteToFilter(line []byte) ([]byte, error) {
	m, err := wire.ParseToFilter(line)
	if err != nil {
		return nil, err
	}
	switch m.Kind {
	case wire.KindConfig:
		return wire.AppendConfig(nil, string(m.Key), string(m.Text)), nil
	case wire.KindReady:
		return wire.AppendConfigReady(nil), nil
	case wire.KindReport:
		r, err := wire.ParseReport(m.Version, m.Event, m.Text)
		if err != nil {
			return nil, err
		}
		return wire.AppendReport(nil, m.Time, m.Direction, m.Session, r), nil
	case wire.KindRequest:
		switch m.Phase {
		case wire.PhaseConnect:
			rdns, address, _ := strings.Cut(string(m.Text), "|")
			return wire.AppendConnectRequest(nil, m.Time, m.Session, m.Token, rdns, address), nil
		case wire.PhaseDataLine:
			return wire.AppendDataRequest(nil, m.Time, m.Direction, m.Session, m.Token, m.Text), nil
		}
		return wire.AppendRequest(nil, m.Time, m.Direction, m.Phase, m.Session, m.Token, m.Text), nil
	case wire.KindDNS:
		if m.Status == wire.StatusValue {
			b := wire.AppendAnswer(nil, m.Session, m.ID, []string{wire.Unescape(m.Text)}, wire.StatusOK)
			return b[:bytes.IndexByte(b, '\n')+1], nil
		}
		return wire.AppendAnswer(nil, m.Session, m.ID, nil, m.Status), nil
	}
	return append(bytes.Clone(line), '\n'), nil
}

// rewriteToDaemon parses a line of a filter and writes it again.
func rewriteToDaemon(line []byte) ([]byte, error) {
	m, err := wire.ParseToDaemon(line)
	if err != nil {
		return nil, err
	}
	switch m.Kind {
	case wire.KindRegister:
		if m.Event != 0 {
			return wire.AppendRegisterReport(nil, m.Direction, m.Event), nil
		}
		return wire.AppendRegisterFilter(nil, m.Direction, m.Phase), nil
	case wire.KindReady:
		return wire.AppendRegisterReady(nil), nil
	case wire.KindResult:
		return wire.AppendResult(nil, wire.Current, m.Session, m.Token, m.Verdict, string(m.Text)), nil
	case wire.KindDataLine:
		return wire.AppendDataLine(nil, wire.Current, m.Session, m.Token, false, m.Text), nil
	case wire.KindReport:
		return wire.AppendRemark(nil, m.Time, m.Direction, m.Session, string(m.Text)), nil
	case wire.KindDNS:
		if m.Cancel {
			return wire.AppendCancel(nil, m.Session, m.ID), nil
		}
		return wire.AppendQuestion(nil, m.Session, m.ID, m.Query, string(m.Text)), nil
	}
	return nil, errors.New("no kind")
}

func TestSessionOfTheOriginalPrintsBackTheSame(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/session.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(data)) {
		text := strings.TrimSuffix(line, "\n")
		var got []byte
		var err error
		if in, ok := strings.CutPrefix(text, "<< "); ok {
			got, err = rewriteToFilter([]byte(in))
		} else {
			got, err = rewriteToDaemon([]byte(strings.TrimPrefix(text, ">> ")))
		}
		if err != nil || string(got) != line[3:] {
			t.Errorf("%s gives %q, %v", text, got, err)
		}
		seen++
	}
	if seen < 100 {
		t.Errorf("only %d lines", seen)
	}
}

func TestLinesToTheDaemon(t *testing.T) {
	t.Parallel()
	const sid, token = "00000000000000ab", "00000000000000cd"
	for _, tt := range []struct{ name, line, err string }{
		{"proceed", "filter-result|" + sid + "|" + token + "|proceed", ""},
		{"reject", "filter-result|" + sid + "|" + token + "|reject|550 a|b", ""},
		{"empty rewrite", "filter-result|" + sid + "|" + token + "|rewrite|", ""},
		{"bypass", "filter-result|" + sid + "|" + token + "|bypass", ""},
		{"all reports", "register|report|smtp-out|*", ""},
		{"remark", "report|12.000001|smtp-in|" + sid + "|seen|it", ""},
		{"question", "dns|" + sid + "|" + token + "|txt|example.org", ""},
		{"empty line of a message", "filter-dataline|" + sid + "|" + token + "|", ""},
		{"filter for outgoing mail", "register|filter|smtp-out|mail-from", ""},
		{"a phase that outgoing mail does not have", "register|filter|smtp-out|connect", "unknown phase"},
		{"all phases", "register|filter|smtp-in|*", "unknown phase"},
		{"no such event", "register|report|smtp-in|tx-lost", "unknown event"},
		{"no such direction", "register|report|smtp|*", "bad direction"},
		{"no such registration", "register|hook|smtp-in|*", "bad registration"},
		{"proceed with a parameter", "filter-result|" + sid + "|" + token + "|proceed|x", "unexpected parameter"},
		{"reject without reply", "filter-result|" + sid + "|" + token + "|reject", "missing parameter"},
		{"no such result", "filter-result|" + sid + "|" + token + "|maybe", "unknown result"},
		{"no result", "filter-result|" + sid + "|" + token, "bad token"},
		{"session with too many digits", "filter-result|0" + sid + "|" + token + "|proceed", "bad session"},
		{"session that is no number", "filter-result|x|" + token + "|proceed", "bad session"},
		{"token is empty", "filter-dataline|" + sid + "||x", "bad token"},
		{"line without a kind", "hello", "unknown line"},
		{"empty line", "", "unknown line"},
		{"question that is given up", "dns|" + sid + "|" + token + "|cancel", ""},
		{"question without a name", "dns|" + sid + "|" + token + "|txt", "missing name"},
		{"remark without a time", "report|smtp-in|" + sid + "|seen", "bad time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := rewriteToDaemon([]byte(tt.line))
			switch {
			case tt.err == "" && (err != nil || string(got) != tt.line+"\n"):
				t.Errorf("%q gives %q, %v", tt.line, got, err)
			case tt.err != "" && (!errors.Is(err, wire.ErrSyntax) || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("%q gives %q, error %v, want %s", tt.line, got, err, tt.err)
			}
		})
	}
}

func TestReportsOfOlderVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		version string
		event   wire.Event
		params  string
		want    wire.Report
	}{
		{"0.7", wire.EventLinkAuth, "pass|a|b", wire.LinkAuth{Result: wire.Pass, User: "a|b"}},
		{"0.6", wire.EventLinkAuth, "a|b|fail", wire.LinkAuth{Result: wire.Fail, User: "a|b"}},
		{"0.6", wire.EventTxMail, "0000000a|ok|x|y@z", wire.TxMail{Message: 10, Result: wire.OK, Address: "x|y@z"}},
		{"0.5", wire.EventTxRcpt, "0000000a|x|y@z|permfail", wire.TxRcpt{Message: 10, Result: wire.PermFail, Address: "x|y@z"}},
	} {
		v, err := wire.ParseVersion(tt.version)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ParseReport(v, tt.event, []byte(tt.params))
		if err != nil || got != tt.want {
			t.Errorf("%s %v %q: %#v, %v, want %#v", tt.version, tt.event, tt.params, got, err, tt.want)
		}
	}
	if got := string(wire.AppendResult(nil, 4, 1, 2, wire.VerdictProceed, "")); got != "filter-result|0000000000000002|0000000000000001|proceed\n" {
		t.Errorf("result for 0.4: %q", got)
	}
}

func TestFieldsCannotBeForged(t *testing.T) {
	t.Parallel()
	at := time.Unix(1, 2000)
	r := wire.LinkConnect{RDNS: "a|pass|b\nreport", FCrDNS: wire.Fail, Source: "1.2.3.4:5", Destination: "6.7.8.9:25"}
	const want = "report|0.7|1.000002|smtp-in|link-connect|0000000000000001|a?pass?b?report|fail|1.2.3.4:5|6.7.8.9:25\n"
	if got := string(wire.AppendReport(nil, at, wire.In, 1, r)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	got := wire.AppendDataRequest(nil, at, wire.In, 1, 2, []byte("a\nb\r\x00"))
	if !bytes.HasSuffix(got, []byte("|a?b\r\x00\n")) {
		t.Errorf("data line: %q", got)
	}
	if got := wire.AppendResult(nil, wire.Current, 1, 2, wire.VerdictReject, "550 a\r\n250 b"); bytes.Count(got, []byte("\n")) != 1 {
		t.Errorf("result: %q", got)
	}
}

func TestDNSValuesMayHoldAnything(t *testing.T) {
	t.Parallel()
	value := "v=spf1|%41\n\x00\xff"
	b := wire.AppendAnswer(nil, 1, 2, []string{value, ""}, wire.StatusOK)
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if len(lines) != 3 {
		t.Fatalf("%q", b)
	}
	m, err := wire.ParseToFilter(lines[0])
	if err != nil || m.Status != wire.StatusValue || m.Session != 1 || m.ID != 2 || wire.Unescape(m.Text) != value {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = wire.ParseToFilter(lines[2]); err != nil || m.Status != wire.StatusOK {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestReaderBoundsLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", wire.MaxLine)
	for _, tt := range []struct {
		name, in string
		want     []string
		err      error
	}{
		{"lines", "a\n\nb|c\n", []string{"a", "", "b|c"}, io.EOF},
		{"end within a line", "a\nb", []string{"a"}, io.ErrUnexpectedEOF},
		{"longest line", long + "\n" + long + "\nc\n", []string{long, long, "c"}, io.EOF},
		{"one byte more", "a\n" + long + "x\nb\n", []string{"a"}, wire.ErrTooLong},
		{"no end", "a\n" + long + long + long, []string{"a"}, wire.ErrTooLong},
	} {
		for _, in := range []io.Reader{strings.NewReader(tt.in), iotest.HalfReader(strings.NewReader(tt.in)), iotest.DataErrReader(strings.NewReader(tt.in))} {
			r := wire.NewReader(in)
			var got []string
			var err error
			for {
				var line []byte
				if line, err = r.Line(); err != nil {
					break
				}
				got = append(got, string(line))
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") || !errors.Is(err, tt.err) {
				t.Errorf("%s: %d lines, %v, want %d, %v", tt.name, len(got), err, len(tt.want), tt.err)
			}
			if _, again := r.Line(); !errors.Is(again, tt.err) {
				t.Errorf("%s: then %v", tt.name, again)
			}
		}
	}
}

func TestReaderTellsWhatIsWaiting(t *testing.T) {
	t.Parallel()
	r := wire.NewReader(strings.NewReader("a\nb\nc"))
	if r.More() {
		t.Error("before reading")
	}
	for _, want := range []bool{true, false} {
		if _, err := r.Line(); err != nil || r.More() != want {
			t.Errorf("More is %v, want %v; %v", !want, want, err)
		}
	}
}

// gate lets writes through one at a time.
type gate struct {
	writes chan string
	pass   chan error
}

func (g *gate) Write(p []byte) (int, error) {
	g.writes <- string(p)
	if err := <-g.pass; err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestWriterJoinsWhatWaits(t *testing.T) {
	t.Parallel()
	g := &gate{make(chan string), make(chan error)}
	w := wire.NewWriter(g, 4)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Send([]byte("a\n")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the one who wrote all: %v", err)
		}
	})
	if got := <-g.writes; got != "a\n" {
		t.Errorf("first write %q", got)
	}
	for range 3 { // the third fills it beyond the limit
		if err := w.Send([]byte("b\n")); err != nil {
			t.Error(err)
		}
	}
	if n := w.Pending(); n != 6 {
		t.Errorf("%d bytes wait", n)
	}
	wg.Go(func() {
		if err := w.Send([]byte("c\n")); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the one who had to wait: %v", err)
		}
	})
	g.pass <- nil
	if got := <-g.writes; got != "b\nb\nb\n" && got != "b\nb\nb\nc\n" {
		t.Errorf("second write %q", got)
	}
	g.pass <- io.ErrClosedPipe
	wg.Wait()
	if err := w.Send([]byte("d\n")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after an error: %v", err)
	}
}

func TestFlushWaitsForTheWriteOfAnother(t *testing.T) {
	t.Parallel()
	g := &gate{make(chan string), make(chan error)}
	w := wire.NewWriter(g, 100)
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Send([]byte("a\n")) })
	<-g.writes
	if err := w.Later([]byte("b\n")); err != nil {
		t.Error(err)
	}
	flushed := make(chan error, 1)
	wg.Go(func() { flushed <- w.Flush() })
	g.pass <- nil
	if got := <-g.writes; got != "b\n" {
		t.Errorf("second write %q", got)
	}
	select {
	case err := <-flushed:
		t.Errorf("Flush returned before the write had ended: %v", err)
	default:
	}
	g.pass <- nil
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := w.Flush(); err != nil { // nothing waits
		t.Error(err)
	}
}

// chunks reads size bytes at a time.
type chunks struct {
	b    []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b[:min(c.size, len(c.b))])
	c.b = c.b[n:]
	return n, nil
}

func BenchmarkDataLine(b *testing.B) {
	line := []byte(strings.Repeat("x", 70))
	at := time.Unix(1795472472, 0)
	var out, back []byte
	for b.Loop() {
		out = wire.AppendDataRequest(out[:0], at, wire.In, 1, 2, line)
		m, err := wire.ParseToFilter(out[:len(out)-1])
		if err != nil {
			b.Fatal(err)
		}
		back = wire.AppendDataLine(back[:0], wire.Current, m.Session, m.Token, false, m.Text)
		if _, err := wire.ParseToDaemon(back[:len(back)-1]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
}
