package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/scheduler"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/platform"
)

// daemon is the far side of the local socket. It records the calls it gets.
type daemon struct {
	mux *imsg.Mux

	mu    sync.Mutex
	calls []string
}

// answer registers a handler that records the request and replies.
func answer[Req, Rep any](d *daemon, m imsg.Method[Req, Rep], f func(Req) (Rep, error)) {
	m.Handle(d.mux, func(_ context.Context, req Req, _ []*os.File) (Rep, []*os.File, error) {
		d.mu.Lock()
		d.calls = append(d.calls, fmt.Sprintf("%s%+v", m.Name, req))
		d.mu.Unlock()
		rep, err := f(req)
		return rep, nil, err
	})
}

// made returns the calls so far and forgets them.
func (d *daemon) made() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func ok[Req any](Req) (proto.Empty, error) { return proto.Empty{}, nil }

// prepared orders what a test prepares before a command runs and what the fake
// daemon does when the command connects: a socket does not, for the race detector.
var prepared sync.Mutex

func whenPrepared() {
	prepared.Lock()
	defer prepared.Unlock()
}

// newDaemon listens in dir/run.
func newDaemon(t *testing.T, dir string) *daemon {
	t.Helper()
	d := &daemon{mux: imsg.NewMux()}
	proto.Hello.Handle(d.mux, func(context.Context, proto.HelloRequest, []*os.File) (proto.HelloReply, []*os.File, error) {
		return proto.HelloReply{Version: proto.ControlVersion, Software: "OpenSMTPD test", ServerName: "mail.test"}, nil, nil
	})
	d.listen(t, dir)
	return d
}

func (d *daemon) listen(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "run", "smtpd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				whenPrepared()
				if c, err := imsg.New(conn.(*net.UnixConn), d.mux, imsg.Options{}); err == nil {
					_ = c.Serve(t.Context()) // the client's side is what is tested
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); serving.Wait() })
}

// shortDir returns a temporary directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// result is what a command did.
type result struct {
	status         int
	stdout, stderr string
}

// run runs a command as name, with its places below dir.
func run(t *testing.T, dir, stdin, name string, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	p := &program{
		name: name, uid: os.Getuid(),
		paths: platform.Paths{Run: filepath.Join(dir, "run"), Spool: filepath.Join(dir, "spool"), Config: filepath.Join(dir, "smtpd.conf"), Aliases: filepath.Join(dir, "aliases"), MailName: filepath.Join(dir, "mailname")},
		getenv: func(k string) string {
			if k == "HOME" {
				return dir
			}
			return ""
		},
		stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
	}
	whenPrepared()
	status := p.main(t.Context(), args)
	return result{status, stdout.String(), stderr.String()}
}

func TestCommandsMakeTheirCalls(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args, call, stdout string
	}{
		{"pause mda", "queue.hold{Class:mda Pause:true}", "command succeeded\n"},
		{"resume mta", "queue.hold{Class:mta Pause:false}", "command succeeded\n"},
		{"pause smtp", "dispatcher.hold-smtp{Class:smtp Pause:true}", "command succeeded\n"},
		{"pau s", "dispatcher.hold-smtp{Class:smtp Pause:true}", "command succeeded\n"},
		{"resume smtp", "dispatcher.hold-smtp{Class:smtp Pause:false}", "command succeeded\n"},
		{"schedule all", "queue.manage{Verb:schedule ID:0000000000000000}", "2 envelopes scheduled\n"},
		{"sc 0123456789abcdef", "queue.manage{Verb:schedule ID:0123456789abcdef}", "2 envelopes scheduled\n"},
		{"remove deadbeef", "queue.manage{Verb:remove ID:deadbeef00000000}", "2 envelopes removed\n"},
		{"pause envelope a", "queue.manage{Verb:pause ID:0000000000000000}", "2 envelopes paused\n"},
		{"resume envelope deadbeef", "queue.manage{Verb:resume ID:deadbeef00000000}", "2 envelopes resumed\n"},
		{"discover deadbeef", "queue.manage{Verb:discover ID:deadbeef00000000}", "2 envelopes discovered\n"},
		{"update table aliases", "lookup.update-table{Name:aliases}", "command succeeded\n"},
		{"reload", "parent.reload{}", "command succeeded\n"},
		{"stop", "parent.stop{}", "command succeeded\n"},
		{"log verbose", "parent.status{}|parent.set-verbose{Debug:true Trace:[smtp]}", "command succeeded\n"},
		{"log brief", "parent.status{}|parent.set-verbose{Debug:false Trace:[]}", "command succeeded\n"},
		{"trace rules", "parent.status{}|parent.set-verbose{Debug:false Trace:[smtp expand]}", "command succeeded\n"},
		{"untrace smtp", "parent.status{}|parent.set-verbose{Debug:false Trace:[]}", "command succeeded\n"},
		{"show envelope 0123456789abcdef", "queue.show{ID:0123456789abcdef Body:false}", "version: 4\n"},
		{"pause mta from 192.0.2.1 for D.test", "dispatcher.relay-admin{Verb:pause Source:192.0.2.1 Domain:D.test Route:0}", "command succeeded\n"},
		{"resume mta from [IPv6:2001:db8::1] for *", "dispatcher.relay-admin{Verb:resume Source:2001:db8::1 Domain: Route:0}", "command succeeded\n"},
		{"pause mta from * for d.test", "dispatcher.relay-admin{Verb:pause Source:invalid IP Domain:d.test Route:0}", "command succeeded\n"},
		{"resume route 7", "dispatcher.relay-admin{Verb:resume-route Source:invalid IP Domain: Route:7}", "command succeeded\n"},
		{"show relays", "dispatcher.relay-list{What:relays JSON:false From:0}|dispatcher.relay-list{What:relays JSON:false From:1}", "one\ntwo\n"},
		{"show mta paused", "dispatcher.relay-list{What:paused JSON:false From:0}|dispatcher.relay-list{What:paused JSON:false From:1}", "one\ntwo\n"},
		{"show hosts -j", "dispatcher.relay-list{What:hosts JSON:true From:0}|dispatcher.relay-list{What:hosts JSON:true From:1}", "one\ntwo\n"},
		{"show filters", "dispatcher.list-filters{}", "spam ready since 1m0s, pid 7, restarts 2, sessions 3, asked 10, failed 1, nonsense 0, mean 150µs, slowest 2ms\n" +
			"    last failure: it closed its output\n"},
		{"show message deadbeef", "queue.show{ID:deadbeef00000000 Body:true}", "version: 4\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			d := newDaemon(t, dir)
			answer(d, proto.Hold, ok)
			answer(d, proto.HoldSMTP, ok)
			answer(d, proto.UpdateTable, ok)
			answer(d, proto.Stop, ok)
			answer(d, proto.SetVerbose, ok)
			answer(d, proto.Reload, func(proto.Empty) (proto.ReloadReply, error) { return proto.ReloadReply{}, nil })
			answer(d, proto.Manage, func(proto.ManageRequest) (proto.CountReply, error) { return proto.CountReply{Count: 2}, nil })
			answer(d, proto.RelayAdmin, ok)
			answer(d, proto.RelayList, func(req proto.RelayListRequest) (proto.RelayListReply, error) {
				if req.From == 0 {
					return proto.RelayListReply{Lines: []string{"one"}, Next: 1}, nil
				}
				return proto.RelayListReply{Lines: []string{"two"}}, nil
			})
			answer(d, proto.ListFilters, aFilter)
			answer(d, proto.Show, func(proto.ShowRequest) (proto.ShowReply, error) {
				return proto.ShowReply{Text: []byte("version: 4\n")}, nil
			})
			answer(d, proto.Status, func(proto.Empty) (proto.StatusReply, error) {
				return proto.StatusReply{Verbose: proto.VerboseRequest{Trace: []string{"smtp"}}}, nil
			})
			got := run(t, dir, "", "smtpctl", strings.Fields(tt.args)...)
			if want := (result{0, tt.stdout, ""}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if calls := strings.Join(d.made(), "|"); calls != tt.call {
				t.Errorf("calls %s, want %s", calls, tt.call)
			}
		})
	}
}

func aFilter(proto.Empty) (proto.ListFiltersReply, error) {
	return proto.ListFiltersReply{Filters: []proto.FilterStatus{{
		Name: "spam", State: "ready", PID: 7, Since: time.Minute, Restarts: 2, Sessions: 3, Asked: 10, Failed: 1,
		Mean: 150 * time.Microsecond, Slowest: 2 * time.Millisecond, LastError: "it closed its output",
		Phases: []string{"smtp-in mail-from", "smtp-in commit"},
	}}}, nil
}

func TestWhatCannotBeUnderstoodIsAnsweredWithPossibilities(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, stderr string }{
		{"frobnicate", "\tdiscover\n"},
		{"show", "possibilities are:\n\tenvelope\n\tfilters\n\thosts\n\thoststats\n\tmessage\n\tmta\n\tqueue\n\trelays\n\troutes\n\tstats\n\tstatus\n\ttlsrpt\n"},
		{"show st", "\tstatus\n"},
		{"r", "\tremove\n"},
		{"remove xyz", "possibilities are:\n\t<evpid|msgid>\n\tall\n"},
		{"remove 00000000", "\t<evpid|msgid>\n"},
		{"remove deadbeef00000000", "\t<evpid|msgid>\n"},
		{"show status now", "possibilities are:\n\t<end of line>\n"},
		{"trace mta", "possibilities are:\n\tbounce\n\texpand\n\tlookup\n\tmda\n\tqueue\n\tscheduler\n\tsmtp\n\tall\n"},
		{"", "\tuntrace\n"},
	} {
		got := run(t, t.TempDir(), "", "smtpctl", strings.Fields(tt.args)...)
		if got.status != 255 || got.stdout != "" || !strings.HasPrefix(got.stderr, "possibilities are:\n") || !strings.Contains(got.stderr, tt.stderr) {
			t.Errorf("%q: got %+v, want 255 and %q", tt.args, got, tt.stderr)
		}
	}
}

func TestFailuresAreTold(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := newDaemon(t, dir)
	answer(d, proto.Hold, func(proto.HoldRequest) (proto.Empty, error) {
		return proto.Empty{}, errors.New("mda is already paused")
	})
	answer(d, proto.Stop, func(proto.Empty) (proto.Empty, error) {
		return proto.Empty{}, &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 7, 1}, Text: "need root privileges"}
	})
	answer(d, proto.Reload, func(proto.Empty) (proto.ReloadReply, error) {
		return proto.ReloadReply{Errors: []string{"smtpd.conf:1: no\x1b such word", "smtpd.conf:2: bad"}}, nil
	})
	for _, tt := range []struct {
		dir, args string
		want      result
	}{
		{dir, "pause mda", result{1, "command failed: mda is already paused\n", ""}},
		{dir, "stop", result{1, "", "smtpctl: need root privileges\n"}},
		{dir, "reload", result{1, "command failed: the configuration in force is unchanged\n", "smtpd.conf:1: no  such word\nsmtpd.conf:2: bad\n"}},
		{dir, "pause mta from nowhere for d.test", result{1, "", "smtpctl: \"nowhere\" is no address, nor \"*\" for all\n"}},
		{t.TempDir(), "show queue", result{1, "", "smtpctl: smtpd doesn't seem to be running\n"}},
	} {
		if got := run(t, tt.dir, "", "smtpctl", strings.Fields(tt.args)...); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.args, got, tt.want)
		}
	}
}

func TestOtherVersionIsTold(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := &daemon{mux: imsg.NewMux()}
	proto.Hello.Handle(d.mux, func(context.Context, proto.HelloRequest, []*os.File) (proto.HelloReply, []*os.File, error) {
		return proto.HelloReply{Version: proto.ControlVersion + 1, Software: "OpenSMTPD 99"}, nil, nil
	})
	d.listen(t, dir)
	got := run(t, dir, "", "smtpctl", "stop")
	if got.status != 1 || !strings.Contains(got.stderr, "OpenSMTPD 99") || !strings.Contains(got.stderr, "restart smtpd") {
		t.Errorf("got %+v", got)
	}
}

// entry makes a queue entry. It is far in the future so that seconds do not matter.
func entry(id envelope.ID) proto.ListEntry {
	e := proto.ListEntry{Envelope: envelope.Envelope{
		ID: id, Type: envelope.MDA, Source: "local", Sender: smtp.Path{Local: "a", Domain: "x.test"},
		Rcpt: smtp.Path{Local: "b|", Domain: "y.test"}, Dest: smtp.Path{Local: "c", Domain: "y.test"}, Action: "act",
		Created: time.Unix(1700000000, 0), TTL: time.Hour, ErrorLine: "451 later",
	}}
	e.Status = scheduler.Status{Item: scheduler.Item{ID: id}, State: scheduler.Pending}
	return e
}

// queueDaemon has two pages of one envelope each.
func queueDaemon(t *testing.T, dir string) *daemon {
	d := newDaemon(t, dir)
	answer(d, proto.List, func(req proto.ListRequest) (proto.ListReply, error) {
		switch {
		case req.From <= 0x0000000100000002:
			return proto.ListReply{Entries: []proto.ListEntry{entry(0x0000000100000002)}, Corrupt: []string{"0000000300000001", "x|y\n"}, Next: 0x0000000200000001}, nil
		default:
			return proto.ListReply{Entries: []proto.ListEntry{entry(0x0000000200000001)}}, nil
		}
	})
	return d
}

func TestQueueIsListed(t *testing.T) {
	t.Parallel()
	const line = `|local|mda||a@x.test|b\174@y.test|c@y.test|1700000000|1700003600|0|0|pending|0|451 later` + "\n"
	const corrupt = "|||||||||||corrupt||damaged, set aside in the spool's directory corrupt\n"
	dir := shortDir(t)
	d := queueDaemon(t, dir)
	want := result{0, "0000000100000002" + line + "0000000300000001" + corrupt + "x y " + corrupt + "0000000200000001" + line, ""}
	for _, name := range [][]string{{"smtpctl", "show", "queue"}, {"mailq"}, {"sendmail", "-bp"}} {
		if got := run(t, dir, "", name[0], name[1:]...); got != want {
			t.Errorf("%q: got %+v\nwant %+v", name, got, want)
		}
	}
	if fields := strings.Count(corrupt, "|"); fields != strings.Count(line, "|") {
		t.Errorf("a damaged entry has %d separators, others %d", fields, strings.Count(line, "|"))
	}
	d.made()
	got := run(t, dir, "", "smtpctl", "show", "queue", "00000003")
	if calls := d.made(); got.status != 0 || !strings.HasPrefix(calls[0], "queue.list{From:0000000000000000 MsgID:00000003 ") || strings.Contains(got.stdout, "x y") {
		t.Errorf("got %+v after %q", got, calls)
	}
}

func TestQueueInJSON(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	queueDaemon(t, dir)
	const first = `{"evpid":"0000000100000002","msgid":"00000001","source":"local","type":"mda","flags":[],"sender":"a@x.test","rcpt":"b|@y.test","dest":"c@y.test","action":"act","created":"2023-11-14T22:13:20Z","expires":"2023-11-14T23:13:20Z","retry":0,"state":"pending","error":"451 later"}` + "\n"
	got := run(t, dir, "", "smtpctl", "-j", "show", "queue")
	lines := strings.SplitAfter(got.stdout, "\n")
	if got.status != 0 || len(lines) != 5 || lines[0] != first || lines[1] != `{"evpid":"0000000300000001","state":"corrupt","error":"damaged, set aside in the spool's directory corrupt"}`+"\n" {
		t.Errorf("got %+v", got)
	}
	if got, want := run(t, dir, "", "smtpctl", "-j", "show", "envelope", "0000000100000002"), (result{0, first, ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := run(t, dir, "", "smtpctl", "-j", "show", "envelope", "0000000100000003"), (result{1, "command failed: no envelope 0000000100000003\n", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestListingThatGoesInCirclesEnds(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := newDaemon(t, dir)
	answer(d, proto.List, func(proto.ListRequest) (proto.ListReply, error) { return proto.ListReply{Next: 7}, nil })
	if got := run(t, dir, "", "smtpctl", "show", "queue"); got.status != 1 {
		t.Errorf("got %+v", got)
	}
}

func statusDaemon(t *testing.T, dir string) {
	d := newDaemon(t, dir)
	answer(d, proto.Status, func(proto.Empty) (proto.StatusReply, error) {
		return proto.StatusReply{ServerName: "mail.test", Generation: 3, Roles: []proto.RoleStatus{
			{Role: proto.Parent, PID: 10, Guarantees: "uid=0"},
			{Role: proto.Queue, Restarts: 2, Missing: "seccomp"},
		}}, nil
	})
	answer(d, proto.ListFilters, aFilter)
	answer(d, proto.Stats, func(proto.Empty) (proto.StatsReply, error) {
		return proto.StatsReply{Counters: []proto.Counter{{Name: "uptime", Value: 90061}, {Name: "mda.paused", Value: 1}, {Name: "smtp.paused"}, {Name: "smtp.session", Value: 5}}}, nil
	})
}

func TestStatusAndStats(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	statusDaemon(t, dir)
	const top = "MDA paused\nSMTP running\nserver mail.test, OpenSMTPD test, configuration 3\n"
	const filter = "filter spam ready since 1m0s, pid 7, restarts 2, sessions 3, asked 10, failed 1, nonsense 0, mean 150µs, slowest 2ms\n" +
		"    last failure: it closed its output\n    decides: smtp-in mail-from, smtp-in commit\n    reports: 0\n"
	for _, tt := range []struct{ args, want string }{
		{"show status", top + "parent      pid 10      restarts 0\nqueue       down        restarts 2\n"},
		{"show status -v", top + "parent      pid 10      restarts 0\n    protections: uid=0\nqueue       down        restarts 2\n    missing: seccomp\n" + filter},
		{"-v show status", top + "parent      pid 10      restarts 0\n    protections: uid=0\nqueue       down        restarts 2\n    missing: seccomp\n" + filter},
		{"-j show status", `{"server":"mail.test","software":"OpenSMTPD test","configuration":3,"one_process":false,"verbose":false,"trace":[],"paused":["mda"],` +
			`"roles":[{"role":"parent","pid":10,"restarts":0,"protections":"uid=0","missing":""},{"role":"queue","pid":0,"restarts":2,"protections":"","missing":"seccomp"}]}` + "\n"},
		{"show stats", "mda.paused=1\nsmtp.paused=0\nsmtp.session=5\nuptime=90061\nuptime.human=1d1h1m1s\n"},
		{"-j show stats", `{"mda.paused":1,"smtp.paused":0,"smtp.session":5,"uptime":90061}` + "\n"},
	} {
		if got, want := run(t, dir, "", "smtpctl", strings.Fields(tt.args)...), (result{0, tt.want, ""}); got != want {
			t.Errorf("%s: got %+v, want %+v", tt.args, got, want)
		}
	}
}

func TestMonitorShowsChanges(t *testing.T) {
	t.Parallel()
	got := monitorLine(map[string]int64{"smtp.session": 9, "smtp.connected": 10}, map[string]int64{"smtp.session": 7, "smtp.connected": 13, "bounce.message": 1})
	if want := "        7        3        0        0        0        0        0        0        0        0        0        1\n"; got != want {
		t.Errorf("line %q, want %q", got, want)
	}
	if titles := strings.Split(monitorTitles(), "\n"); len(titles[1])+1 != len(got) {
		t.Errorf("titles %q do not stand above %q", titles[1], got)
	}
}

func TestEncrypt(t *testing.T) {
	t.Parallel()
	if got := run(t, t.TempDir(), "", "smtpctl", "encrypt", "secret"); got.status != 0 || !strings.HasPrefix(got.stdout, "$2b$") {
		t.Errorf("got %+v", got)
	}
	if got := run(t, t.TempDir(), "one\ntwo\n", "smtpctl", "encrypt"); got.status != 0 || strings.Count(got.stdout, "$2b$") != 2 {
		t.Errorf("got %+v", got)
	}
	if got := run(t, t.TempDir(), "\n", "smtpctl", "encrypt"); got.status != 1 || got.stdout != "" {
		t.Errorf("empty password: got %+v", got)
	}
}

func TestConfigurationOfBefore64IsConverted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("mailname", "mx.example.org\n")
	relays := write("relays", "example.net smtp://a.example.net\n")
	write("smtpd.conf", "listen on localhost # here\nmap r source plain \""+relays+"\"\naccept for any relay via map r as root\n")
	want := "# Translated from the language of OpenSMTPD before 6.4.\nlisten on localhost # here\ntable r file:" + relays +
		"\naction \"smarthost\" relay domain <r> mail-from root@mx.example.org\nmatch from local for any action \"smarthost\"\n"
	got := run(t, dir, "", "smtpctl", "config", "convert")
	if got.status != 0 || got.stdout != want || !strings.Contains(got.stderr, "smtpd.conf:3: the certificates") {
		t.Errorf("got %+v, want\n%s", got, want)
	}

	other := write("other.conf", "listen on localhost\naccept for any relay via gopher://x\n")
	got = run(t, dir, "", "smtpctl", "config", "convert", other)
	if got.status != 1 || got.stdout != "" || !strings.HasPrefix(got.stderr, other+`:2: relay URL "gopher://x": unknown scheme`) {
		t.Errorf("what cannot be converted: %+v", got)
	}
	modern := write("modern.conf", "action a relay\nmatch for any action a\n")
	got = run(t, dir, "", "smtpctl", "config", "convert", modern)
	if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, "nothing to convert") {
		t.Errorf("what is of today: %+v", got)
	}
	got = run(t, dir, "", "smtpctl", "config", "convert", filepath.Join(dir, "nowhere"))
	if got.status != 1 || !strings.Contains(got.stderr, "no such file") {
		t.Errorf("what is missing: %+v", got)
	}
}

func TestSPFWalkReadsDomains(t *testing.T) {
	t.Parallel()
	if got := run(t, t.TempDir(), "# none\n\n", "smtpctl", "spf", "walk", "-4"); got.status != 0 || got.stdout != "" || got.stderr != "" {
		t.Errorf("no domain: %+v", got)
	}
	got := run(t, t.TempDir(), "not a domain\n", "smtpctl", "-6", "spf", "walk")
	if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, "not a domain: malformed domain name") {
		t.Errorf("no name: %+v", got)
	}
}
