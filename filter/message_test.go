package filter_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// through sends a message through f, from a session of its own.
func through(t *testing.T, f *filter.Filter, text string) filtertest.Outcome {
	t.Helper()
	s := filtertest.Start(t, f, filtertest.Current()).Open("192.0.2.1:2", "x")
	return s.Send(filtertest.Mail{From: "a@x", To: []string{"b@y"}, Text: text})
}

func TestMessageCanBeChanged(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("a:", wire.MaxText/2-4) + "\n"
	text := long + "X-Old: 1\nSubject: a\n b\nx-old: 2\nTo: c\n\nX-Old: body\n.dot\n" + strings.Repeat("b", wire.MaxText) + "\n"
	for _, tt := range []struct {
		name, want, refused string
		f                   func(*testing.T, *filter.Message) filter.Verdict
	}{
		{"not at all", text, "", func(t *testing.T, m *filter.Message) filter.Verdict {
			b, err := io.ReadAll(m.Reader())
			if err != nil || string(b) != strings.ReplaceAll(text, "\n", "\r\n") || m.Size() != int64(len(b)) {
				t.Errorf("%q, %d bytes, %v", b, m.Size(), err)
			}
			if v := strings.Join(m.Values("SUBJECT"), ","); v != "a b" {
				t.Errorf("Subject %q", v)
			}
			if v := m.Values("x-long"); len(v) != 1 || len(v[0]) != wire.MaxText-8 {
				t.Errorf("X-Long: %d values", len(v))
			}
			if v := strings.Join(m.Values("x-old"), ","); v != "1,2" {
				t.Errorf("X-Old %q", v)
			}
			return filter.Proceed()
		}},
		{"fields in front", "B: 2\n\tc\nA: 1\n" + text, "", func(_ *testing.T, m *filter.Message) filter.Verdict {
			m.Prepend("A", "1")
			m.Prepend("B", "2\nc")
			return filter.Proceed()
		}},
		{"fields left out", long + "X-Old: 1\nTo: c\n\n" + strings.SplitN(text, "\n\n", 2)[1], "", func(_ *testing.T, m *filter.Message) filter.Verdict {
			m.Remove("X-OLD", func(v string) bool { return v == "2" })
			m.Remove("subject", nil)
			return filter.Proceed()
		}},
		{"replaced", "\nnew\n.\n\rx\n\nend\n", "", func(t *testing.T, m *filter.Message) filter.Verdict {
			if err := m.Replace(strings.NewReader("\r\nnew\n.\n\rx\r\n\nend")); err != nil {
				t.Error(err)
			}
			return filter.Proceed()
		}},
		{"marked as junk", "X-Spam: Yes\n" + text, "", func(*testing.T, *filter.Message) filter.Verdict { return filter.Junk() }},
		{"refused", text, "commit: reject|550 5.7.1 no", func(*testing.T, *filter.Message) filter.Verdict {
			return filter.Reject(550, "5.7.1", "no")
		}},
	} {
		for where, memory := range map[string]int{"memory": 0, "file": 16} {
			t.Run(tt.name+" in "+where, func(t *testing.T) {
				t.Parallel()
				f := &filter.Filter{MessageMemory: memory, TempDir: t.TempDir(),
					Message: func(_ *filter.Session, m *filter.Message) filter.Verdict { return tt.f(t, m) }}
				if got := through(t, f, text); got.Text != tt.want || got.Refused != tt.refused {
					t.Errorf("%s\n%.300q\nwant %s\n%.300q", got.Refused, got.Text, tt.refused, tt.want)
				}
			})
		}
	}
}

func TestMessageThatCannotBeKeptIsRefusedAndNotLost(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789\n", 100)
	for _, tt := range []struct {
		name string
		f    filter.Filter
		want string
	}{
		{"too big", filter.Filter{MaxMessage: 500}, "commit: reject|552 5.3.4 Message too big for a filter"},
		{"too big for memory", filter.Filter{MaxMessage: 500, MessageMemory: 100}, "commit: reject|552 5.3.4 Message too big for a filter"},
		{"no place for a file", filter.Filter{MessageMemory: 100, TempDir: "/nonexistent"}, "commit: reject|451 4.3.0 Temporary failure of a filter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.f.Message = func(*filter.Session, *filter.Message) filter.Verdict {
				t.Error("called")
				return filter.Proceed()
			}
			d := filtertest.Start(t, &tt.f, filtertest.Current())
			s := d.Open("192.0.2.1:2", "x")
			got := s.Send(filtertest.Mail{From: "a@x", To: []string{"b@y"}, Text: text})
			if got.Text != text || got.Refused != tt.want {
				t.Errorf("%d bytes of %d, %s, want %s", len(got.Text), len(text), got.Refused, tt.want)
			}
		})
	}
}

func TestNextMessageAfterOneTooBig(t *testing.T) {
	t.Parallel()
	seen := 0
	f := &filter.Filter{MaxMessage: 100, Message: func(_ *filter.Session, m *filter.Message) filter.Verdict {
		seen++
		return filter.Proceed()
	}}
	s := filtertest.Start(t, f, filtertest.Current()).Open("192.0.2.1:2", "x")
	for _, tt := range []struct {
		text    string
		refused bool
	}{{"small\n", false}, {strings.Repeat("x", 200) + "\n", true}, {"small\n", false}, {"", false}} {
		got := s.Send(filtertest.Mail{From: "a@x", To: []string{"b@y"}, Text: tt.text})
		if got.Text != tt.text || (got.Refused != "") != tt.refused {
			t.Errorf("%q: %+v", tt.text, got)
		}
	}
	if seen != 3 {
		t.Errorf("seen %d messages", seen)
	}
}

// A message that is not changed comes out as it went in, wherever it is kept, and one
// that loses fields has the lines of the rest in their order.
func FuzzMessage(f *testing.F) {
	f.Add([]byte("A: b\n c\nX: y\n\nbody\n"), "X")
	f.Add([]byte(" odd\n\n\n"), "")
	f.Add([]byte("\rA:\r\nX : y\n"), "x")
	f.Fuzz(func(t *testing.T, in []byte, name string) {
		text := strings.ReplaceAll(string(in), "\n.", "\n") + "\n"
		if len(text) > 1<<14 || text[0] == '.' {
			return
		}
		remove := false
		fl := &filter.Filter{MessageMemory: 64, TempDir: t.TempDir(), Message: func(_ *filter.Session, m *filter.Message) filter.Verdict {
			if remove {
				m.Remove(name, nil)
			}
			return filter.Proceed()
		}}
		s := filtertest.Start(t, fl, filtertest.Current()).Open("192.0.2.1:2", "x")
		if got := s.Content(text); got != text {
			t.Fatalf("%q came out as %q", text, got)
		}
		remove = true
		rest := text
		for line := range strings.Lines(s.Content(text)) {
			i := strings.Index(rest, line)
			if i < 0 {
				t.Fatalf("%q is not in %q, or not in order", line, text)
			}
			rest = rest[i+len(line):]
		}
	})
}

func TestHeaderAndBodyAreApart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		fields []string
		body   string
	}{
		"A: b\n c\nD: e\n\nbody\n\nmore\n": {[]string{"A: b\r\n c\r\n", "D: e\r\n"}, "body\r\n\r\nmore\r\n"},
		"A: b\n":                           {[]string{"A: b\r\n"}, ""},
		"A: b\n\n":                         {[]string{"A: b\r\n"}, ""},
		"\nbody\n":                         {nil, "body\r\n"},
		"no field\nbody\n":                 {nil, "no field\r\nbody\r\n"},
	} {
		d := filtertest.Start(t, &filter.Filter{Message: func(_ *filter.Session, m *filter.Message) filter.Verdict {
			fields, r, err := m.Header()
			if err != nil {
				return filter.Reject(451, "", err.Error())
			}
			body, err := io.ReadAll(r)
			if err != nil || !slices.Equal(fields, want.fields) || string(body) != want.body {
				t.Errorf("%q: fields %q, body %q, %v", text, fields, body, err)
			}
			return filter.Proceed()
		}}, filtertest.OpenSMTPD())
		if o := d.Open("192.0.2.1:1", "x").Send(filtertest.Mail{From: "a@x", To: []string{"b@x"}, Text: text}); o.Refused != "" {
			t.Errorf("%q: %s", text, o.Refused)
		}
	}
	long := strings.Repeat("A: "+strings.Repeat("x", 1000)+"\n", 1100)
	d := filtertest.Start(t, &filter.Filter{Message: func(_ *filter.Session, m *filter.Message) filter.Verdict {
		if _, _, err := m.Header(); !errors.Is(err, filter.ErrTooBig) {
			t.Errorf("a header of more than 1 MiB: %v", err)
		}
		return filter.Proceed()
	}}, filtertest.OpenSMTPD())
	d.Open("192.0.2.1:1", "x").Send(filtertest.Mail{From: "a@x", To: []string{"b@x"}, Text: long})
}

// A verdict of Message that is made later counts as one that is made at once.
func TestMessageIsDecidedLater(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		verdict       func() filter.Verdict
		text, refused string
		asked         bool // Commit
	}{
		{"proceed", filter.Proceed, "a\n", "commit: reject|550 5.7.1 asked", true},
		{"junk", filter.Junk, "X-Spam: Yes\na\n", "commit: reject|550 5.7.1 asked", true},
		{"reject", func() filter.Verdict { return filter.Reject(550, "5.7.1", "no") }, "a\n", "commit: reject|550 5.7.1 no", false},
		{"later still", func() filter.Verdict {
			v, decide := filter.Later()
			go decide(filter.Junk())
			return v
		}, "X-Spam: Yes\na\n", "commit: reject|550 5.7.1 asked", true},
	} {
		for daemon, config := range map[string]filtertest.Config{"this daemon": filtertest.Current(), "OpenSMTPD": filtertest.OpenSMTPD()} {
			for when, run := range map[string]func(func()){"at once": func(f func()) { f() }, "later": func(f func()) { go f() }} {
				t.Run(tt.name+" "+when+" under "+daemon, func(t *testing.T) {
					t.Parallel()
					asked := false
					s := filtertest.Start(t, &filter.Filter{
						Message: func(*filter.Session, *filter.Message) filter.Verdict {
							v, decide := filter.Later()
							run(func() { decide(tt.verdict()) })
							return v
						},
						Commit: func(*filter.Session) filter.Verdict {
							asked = true
							return filter.Reject(550, "5.7.1", "asked")
						},
					}, config).Open("192.0.2.1:2", "x")
					for range 2 { // the next message, too
						got := s.Send(filtertest.Mail{From: "a@x", To: []string{"b@y"}, Text: "a\n"})
						if got.Text != tt.text || got.Refused != tt.refused || asked != tt.asked {
							t.Errorf("text %q, %s, Commit was asked: %v", got.Text, got.Refused, asked)
						}
					}
				})
			}
		}
	}
}

// A message that is given up while it waits for its verdict goes nowhere, and says nothing
// about the next.
func TestMessageIsGivenUpBeforeItIsDecided(t *testing.T) {
	t.Parallel()
	decides := make(chan func(filter.Verdict), 1)
	gone := make(chan struct{})
	f := &filter.Filter{
		Message: func(*filter.Session, *filter.Message) filter.Verdict {
			v, decide := filter.Later()
			decides <- decide
			return v
		},
		OnTxRollback: func(*filter.Session) { close(gone) },
	}
	in, daemon := io.Pipe()
	out := new(strings.Builder)
	done := make(chan error, 1)
	go func() { done <- f.Serve(t.Context(), in, out) }()
	write := func(lines string) {
		if _, err := io.WriteString(daemon, lines); err != nil {
			t.Error(err)
		}
	}
	write("config|ready\nfilter|0.7|1.0|smtp-in|data-line|1|2|a\nfilter|0.7|1.0|smtp-in|data-line|1|2|.\n")
	decide := <-decides
	write("report|0.7|1.0|smtp-in|tx-rollback|1|00000001\n")
	<-gone
	decide(filter.Reject(550, "", "no"))
	write("filter|0.7|1.0|smtp-in|commit|1|3|\n")
	daemon.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := out.String(); strings.Contains(got, "dataline") || !strings.Contains(got, "|proceed\n") {
		t.Errorf("the filter says\n%s", got)
	}
}
