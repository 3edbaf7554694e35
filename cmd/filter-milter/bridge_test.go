package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"github.com/opensmtpd/opensmtpd/filter/filtertest"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// script is a milter that does what a test says and notes what it is told.
type script struct {
	milter.NoOpMilter
	atConnect, atMail, atRcpt, atBody milter.Response
	change                            func(m *milter.Modifier) error
	told                              chan<- string
	aborted                           chan struct{} // closed when a message is given up; nil: nobody asks
	body                              bytes.Buffer
}

func (x *script) note(s ...string) { x.told <- strings.Join(s, " ") }

func or(r milter.Response) milter.Response {
	if r == nil {
		return milter.RespContinue
	}
	return r
}

func (x *script) Connect(host, family string, _ uint16, addr net.IP, _ *milter.Modifier) (milter.Response, error) {
	x.note("connect", host, family, addr.String())
	return or(x.atConnect), nil
}

func (x *script) Helo(name string, _ *milter.Modifier) (milter.Response, error) {
	x.note("helo", name)
	return milter.RespContinue, nil
}

func (x *script) MailFrom(from string, _ *milter.Modifier) (milter.Response, error) {
	x.note("mail", from)
	return or(x.atMail), nil
}

func (x *script) RcptTo(to string, _ *milter.Modifier) (milter.Response, error) {
	x.note("rcpt", to)
	if strings.HasPrefix(to, "bad") {
		return or(x.atRcpt), nil
	}
	return milter.RespContinue, nil
}

func (x *script) Header(name, value string, _ *milter.Modifier) (milter.Response, error) {
	x.note("header", name, value)
	return milter.RespContinue, nil
}

func (x *script) Abort(*milter.Modifier) error {
	if x.aborted != nil {
		close(x.aborted)
		x.aborted = nil
	}
	return nil
}

func (x *script) Headers(textproto.MIMEHeader, *milter.Modifier) (milter.Response, error) {
	return milter.RespContinue, nil
}

func (x *script) BodyChunk(chunk []byte, _ *milter.Modifier) (milter.Response, error) {
	x.body.Write(chunk)
	return milter.RespContinue, nil
}

func (x *script) Body(m *milter.Modifier) (milter.Response, error) {
	x.note("body", x.body.String())
	if x.change != nil {
		if err := x.change(m); err != nil {
			return nil, err
		}
	}
	return or(x.atBody), nil
}

// serve runs the milter and returns a bridge to it, and what the milter was told.
func serve(t *testing.T, newScript func() *script) (*bridge, <-chan string) {
	t.Helper()
	server := &milter.Server{Actions: actions &^ milter.OptSetSymList}
	dir, err := os.MkdirTemp("", "milter") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1000)
	server.NewMilter = func() milter.Milter {
		s := newScript()
		s.told = told
		return s
	}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close() })
	return &bridge{network: "unix", address: path, patience: time.Minute, forMessage: time.Minute}, told
}

func drain(told <-chan string) []string {
	var list []string
	for {
		select {
		case s := <-told:
			list = append(list, s)
		default:
			return list
		}
	}
}

// greet opens a session and goes on to where mail can be sent.
func greet(d *filtertest.Daemon, source, name string) *filtertest.Session {
	s := d.Open(source, name)
	s.Ask(wire.PhaseConnect, name+"|"+source)
	s.Ask(wire.PhaseEhlo, "client.test")
	return s
}

const text = "From: a@example.org\nSubject: two\n\twords\nX-Remove: 1\nX-Remove: 2\n\nbody\n.\n"

func TestMilterSeesTheWholeSession(t *testing.T) {
	t.Parallel()
	b, told := serve(t, func() *script { return &script{} })
	s := greet(filtertest.Start(t, b.filter(), filtertest.OpenSMTPD()), "192.0.2.1:1234", "client.example.org")
	o := s.Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net", "c@example.net"}, Text: text})
	if o.Refused != "" || o.Text != text {
		t.Errorf("%+v", o)
	}
	got := strings.Join(drain(told), "|")
	for _, want := range []string{
		"connect client.example.org tcp4 192.0.2.1|helo client.test|", "|mail a@example.org|", "|rcpt b@example.net|rcpt c@example.net|",
		"|header From a@example.org|header Subject two\n\twords|header X-Remove 1|header X-Remove 2|", "|body body\r\n.\r\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("told %q, which lacks %q", got, want)
		}
	}
	// A second message of the session is told from the start.
	o = s.Send(filtertest.Mail{From: "x@example.org", To: []string{"y@example.net"}, Text: "A: b\n\nsecond\n"})
	if got := strings.Join(drain(told), "|"); o.Refused != "" || !strings.HasPrefix(got, "mail x@example.org|rcpt y@example.net|header A b|body ") {
		t.Errorf("%+v, told %q", o, got)
	}
}

func TestMilterChangesTheMessage(t *testing.T) {
	t.Parallel()
	b, _ := serve(t, func() *script {
		return &script{change: func(m *milter.Modifier) error {
			for _, f := range []func() error{
				func() error { return m.AddHeader("X-Last", "added") },
				func() error { return m.InsertHeader(0, "DKIM-Signature", "v=1;\n b=xyz") },
				func() error { return m.ChangeHeader(1, "Subject", "[spam] two") },
				func() error { return m.ChangeHeader(2, "X-Remove", "") },
				func() error { return m.ReplaceBody([]byte("new\r\nbody\r\n")) },
			} {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		}}
	})
	s := greet(filtertest.Start(t, b.filter(), filtertest.Current()), "[2001:db8::1]:1234", "")
	o := s.Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
	want := "DKIM-Signature: v=1;\n b=xyz\nFrom: a@example.org\nSubject: [spam] two\nX-Remove: 1\nX-Last: added\n\nnew\nbody\n"
	if o.Refused != "" || o.Text != want {
		t.Errorf("refused %q, text %q\nwant %q", o.Refused, o.Text, want)
	}
}

func TestMilterDecides(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		script  func() *script
		refused string
		rcpt    string // answer to bad@example.net
		text    string
	}{
		"rejects a sender":    {func() *script { return &script{atMail: milter.RespReject} }, "mail-from: reject|550 5.7.1 Refused by a mail filter", "", ""},
		"defers a message":    {func() *script { return &script{atBody: milter.RespTempFail} }, "commit: reject|451 4.7.1 A mail filter asks to try again later", "", ""},
		"answers itself":      {func() *script { return &script{atBody: milter.NewResponseStr('y', "554 5.7.1 virus found")} }, "commit: reject|554 5.7.1 virus found", "", ""},
		"discards":            {func() *script { return &script{atBody: milter.RespDiscard} }, "commit: reject|550 5.7.1 Refused by a mail filter", "", ""},
		"rejects a recipient": {func() *script { return &script{atRcpt: milter.RespReject} }, "", "reject|550 5.7.1 Refused by a mail filter", text},
		"accepts a client":    {func() *script { return &script{atConnect: milter.RespAccept, atBody: milter.RespReject} }, "", "", text},
		"quarantines":         {func() *script { return &script{change: func(m *milter.Modifier) error { return m.Quarantine("odd") }} }, "", "", "X-Spam: Yes\n" + text},
	} {
		b, _ := serve(t, tt.script)
		s := greet(filtertest.Start(t, b.filter(), filtertest.OpenSMTPD()), "192.0.2.1:1234", "x")
		o := s.Send(filtertest.Mail{From: "a@example.org", To: []string{"good@example.net", "bad@example.net"}, Text: text})
		if o.Refused != tt.refused || o.Rcpts["bad@example.net"] != tt.rcpt || tt.refused == "" && o.Text != tt.text {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// A milter that is made of the usual library goes away unless it is offered all that
// it may want to do, and to leave out what it has no use for.
func TestMilterIsOfferedAllThatItMayWant(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		version uint32
		want    string // the last offer: version, actions, steps
	}{
		"of today":     {6, "6 1ff ff3ff"},
		"of version 2": {2, "6 3f 7f"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			offers := make(chan string, 10)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return // the test has ended
					}
					offer := make([]byte, 17)
					_, _ = io.ReadFull(c, offer) // seen in the offer
					n := func(at int) uint32 { return binary.BigEndian.Uint32(offer[at:]) }
					offers <- fmt.Sprintf("%d %x %x", n(5), n(9), n(13))
					binary.BigEndian.PutUint32(offer[5:], tt.version)
					_, _ = c.Write(offer) // it takes all and leaves all out
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}
			}()
			b := &bridge{network: "tcp", address: l.Addr().String(), patience: time.Minute, forMessage: time.Minute}
			s := greet(filtertest.Start(t, b.filter(), filtertest.OpenSMTPD()), "192.0.2.1:1234", "x")
			if v := s.Ask(wire.PhaseMailFrom, "a@example.org"); v != "proceed" {
				t.Errorf("the milter was given up: %s", v)
			}
			got := ""
			for len(offers) > 0 {
				got = <-offers
			}
			if got != tt.want {
				t.Errorf("offered %s, want %s", got, tt.want)
			}
		})
	}
}

// Milters do not see the field of the server that asks them.
func TestMilterDoesNotSeeOwnReceivedField(t *testing.T) {
	t.Parallel()
	const own, rest = "Received: from x\n\tby mx.test\n", "Received: from y\n\tby x\nSubject: s\n\nbody\n"
	for _, front := range []string{"", "Authentication-Results: mx.test; spf=pass\n", "X-A: 1\nX-B: 2\n"} {
		milterDoesNotSee(t, front, own, rest)
	}
}

func milterDoesNotSee(t *testing.T, front, own, rest string) {
	b, told := serve(t, func() *script {
		return &script{change: func(m *milter.Modifier) error {
			if err := m.InsertHeader(1, "Signature", "s"); err != nil {
				return err
			}
			if err := m.InsertHeader(99, "Far", "f"); err != nil {
				return err
			}
			return m.ChangeHeader(1, "Received", "from z")
		}}
	})
	s := greet(filtertest.Start(t, b.filter(), filtertest.OpenSMTPD()), "192.0.2.1:1234", "x")
	o := s.Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: front + own + rest})
	got, seen := strings.Join(drain(told), "|"), strings.Count(front, "\n")
	if !strings.Contains(got, "|header Received from y\n\tby x|header Subject s|body ") || strings.Contains(got, "by mx.test") || strings.Count(got, "|header ") != seen+2 {
		t.Errorf("told %q", got)
	}
	if want := "Signature: s\n" + front + own + "Received: from z\nSubject: s\nFar: f\n\nbody\n"; o.Text != want {
		t.Errorf("text %q\nwant %q", o.Text, want)
	}
}

// What cannot be done for a milter is not passed over, unless mail may go unchecked.
func TestMilterThatChangesRecipients(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		b, _ := serve(t, func() *script {
			return &script{change: func(m *milter.Modifier) error { return m.DeleteRecipient("<b@example.net>") }}
		})
		b.failOpen = open
		d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
		o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
		if open && (o.Refused != "" || o.Text != text) || !open && !strings.Contains(o.Refused, "reject|451 4.3.0 ") {
			t.Errorf("open %v: %+v", open, o)
		}
		if !strings.Contains(d.Log(), "change the sender or recipients") {
			t.Errorf("log: %s", d.Log())
		}
	}
}

func TestMilterThatIsAway(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		b := &bridge{network: "unix", address: "/nonexistent/socket", patience: time.Minute, forMessage: time.Minute, failOpen: open}
		d := filtertest.Start(t, b.filter(), filtertest.OpenSMTPD())
		o := greet(d, "192.0.2.1:1234", "x").Send(filtertest.Mail{From: "a@example.org", To: []string{"b@example.net"}, Text: text})
		if open && (o.Refused != "" || o.Text != text) || !open && !strings.Contains(o.Refused, "reject|451 4.7.1 Mail filter unavailable") {
			t.Errorf("open %v: %+v", open, o)
		}
		if !strings.Contains(d.Log(), "/nonexistent/socket") {
			t.Errorf("log: %s", d.Log())
		}
	}
}

func TestSocketsAreRead(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"unix:/run/x": "unix /run/x", "local:/run/x": "unix /run/x", "/run/x": "unix /run/x",
		"inet:8891@localhost": "tcp localhost:8891", "inet:localhost:8891": "tcp localhost:8891", "inet::8891": "tcp localhost:8891",
		"inet:8891@[::1]": "tcp [::1]:8891", "inet6:[::1]:8891": "tcp6 [::1]:8891",
		"": "", "unix:": "", "inet:8891": "", "run/x": "", "tcp:x:1": "",
	} {
		network, address, err := parseSocket(in)
		if got := strings.TrimSpace(network + " " + address); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// A message that breaks off is given up with the milter, which sees no end of it.
func TestMilterIsNotGivenAPartOfAMessageForTheWhole(t *testing.T) {
	t.Parallel()
	aborted := make(chan struct{})
	b, told := serve(t, func() *script { return &script{aborted: aborted} })
	in, daemon := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.filter().Serve(t.Context(), in, io.Discard) }()
	lines := "config|ready\n"
	for _, what := range []string{"connect|1|2|x|192.0.2.1", "ehlo|1|3|x", "mail-from|1|4|a@example.org", "rcpt-to|1|5|b@example.net", "data-line|1|6|half"} {
		lines += "filter|0.7|1.0|smtp-in|" + what + "\n"
	}
	for _, what := range []string{"tx-rollback|1|00000001", "tx-reset|1|00000001"} {
		lines += "report|0.7|1.0|smtp-in|" + what + "\n"
	}
	if _, err := io.WriteString(daemon, lines); err != nil {
		t.Fatal(err)
	}
	<-aborted
	daemon.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	got := strings.Join(drain(told), "|")
	if !strings.Contains(got, "|rcpt b@example.net") || strings.Contains(got, "|body") || strings.Contains(got, "|header") {
		t.Errorf("told %q", got)
	}
}
