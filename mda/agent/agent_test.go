package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

const headers = "Return-Path: <bob@example.com>\nDelivered-To: alice+tag@example.org\n"

func message(t *testing.T, body string) *mda.Delivery {
	t.Helper()
	return &mda.Delivery{
		Sender: smtp.Path{Local: "bob", Domain: "example.com"},
		Rcpt:   smtp.Path{Local: "alice+tag", Domain: "example.org"},
		Dest:   smtp.Path{Local: "alice", Domain: "example.net"},
		User:   "alice", Home: t.TempDir(), Subaddress: "tag",
		Body: strings.NewReader(body), Size: int64(len(body)),
	}
}

func run(t *testing.T, spec Spec, d *mda.Delivery) mda.Result {
	t.Helper()
	a, err := New(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	return a.Deliver(t.Context(), d)
}

// only returns the content of the one file that a pattern matches.
func only(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: got %q, %v, want one file", pattern, names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMethodsDeliver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		spec Spec
		exec string
		file string // pattern below the home
	}{
		{"maildir", Spec{Method: Maildir}, "", "Maildir/new/*"},
		{"maildir elsewhere", Spec{Method: Maildir, Path: "~/M/%{dest.domain}/%{rcpt.user:strip}"}, "", "M/example.net/alice/new/*"},
		{"maildir, home by specifier", Spec{Method: Maildir, Path: "%{user.directory}/M"}, "", "M/new/*"},
		{"maildir, junk", Spec{Method: Maildir, Junk: true}, "", "Maildir/.Junk/new/*"},
		{"mbox", Spec{Method: Mbox}, "", "alice"},
		{"file", Spec{Method: File, Path: "~/box-%{sender.user}"}, "", "box-bob"},
		{"command", Spec{Method: Command, Command: "cat >%{user.username}.%{rcpt.user[0:1]:uppercase}"}, "", "alice.AL"},
		{"command of .forward", Spec{Method: Maildir}, "|cat >out", "out"},
		{"file of .forward", Spec{Method: Maildir}, "/HOME/out", "out"},
		{"wrapped command", Spec{Method: Command, Command: "cat - | cat >out", Wrapper: "cat | %{mda}"}, "", "out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const body = "X-Spam: Yes\n\ntext\n"
			d := message(t, body)
			d.Exec = strings.Replace(tt.exec, "/HOME", d.Home, 1)
			tt.spec.MailDir = d.Home
			tt.spec.Libexec = fakeHelpers(t)
			if r := run(t, tt.spec, d); r.Outcome != mda.Delivered {
				t.Fatalf("got %+v", r)
			}
			got := only(t, filepath.Join(d.Home, tt.file))
			if from, rest, ok := strings.Cut(got, "\n"); ok && strings.HasPrefix(from, "From bob@example.com ") {
				got = strings.TrimSuffix(rest, "\n")
			}
			if got != headers+body {
				t.Errorf("got %q, want %q", got, headers+body)
			}
		})
	}
}

// fakeHelpers returns a directory with a stand-in for mail.mda that works, and
// for the others that show how they were called.
func fakeHelpers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	show := "#!/bin/sh\nprintf '[%s]' \"${0##*/}\" \"$@\" >args\n"
	for name, text := range map[string]string{
		"mail.mda":   "#!/bin/sh\n[ \"$1\" = -- ] && shift\nexec sh -c \"$1\"\n",
		"mail.local": show, "mail.maildir": show, "mail.mboxfile": show, "mail.lmtp": show,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWrapperRunsTheHelper(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		spec Spec
		exec string
		want string
	}{
		{"mbox", Spec{Method: Mbox}, "", "[mail.local][-f][b'o b;@example.com][--][alice]"},
		{"maildir", Spec{Method: Maildir, Path: "/x/it's $HOME"}, "", "[mail.maildir][--][/x/it's $HOME]"},
		{"maildir, junk", Spec{Method: Maildir, Junk: true}, "", "[mail.maildir][-j][--][HOME/Maildir]"},
		{"lmtp", Spec{Method: LMTP, Dest: "/run/%{dest.domain}"}, "", "[mail.lmtp][-d][/run/example.net][-f][b'o b;@example.com][--][alice]"},
		{"lmtp, address", Spec{Method: LMTP, Dest: "localhost:24", RcptTo: true}, "", "[mail.lmtp][-d][localhost:24][-f][b'o b;@example.com][--][alice@example.net]"},
		{"file of .forward", Spec{Method: Maildir}, "/x/a b", "[mail.mboxfile][-f][b'o b;@example.com][--][/x/a b]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := message(t, "x\n")
			d.Sender.Local = "b'o b;"
			d.Exec = tt.exec
			tt.spec.Wrapper, tt.spec.Libexec = "cat >/dev/null; exec %{mda}", fakeHelpers(t)
			if r := run(t, tt.spec, d); r.Outcome != mda.Delivered {
				t.Fatalf("got %+v", r)
			}
			want := strings.ReplaceAll(strings.ReplaceAll(tt.want, "HOME/", d.Home+"/"), "b'o b;@", `"b'o b;"@`)
			if got := only(t, filepath.Join(d.Home, "args")); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestLoopIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		body string
		want mda.Outcome
	}{
		{"Received: x\nDelivered-To: alice+tag@example.org\n\n", mda.Loop},
		{"delivered-to:ALICE+TAG@EXAMPLE.ORG\n\n", mda.Loop},
		{"Delivered-To: alice@example.net\n\n", mda.Delivered},
		{"Delivered-To: alice+tag@example.org.uk\n\n", mda.Delivered},
		{"X-Delivered-To: alice+tag@example.org\n\n", mda.Delivered},
		{"A: b\n\nDelivered-To: alice+tag@example.org\n", mda.Delivered},
		{"Long: " + strings.Repeat("x", 10000) + "\nDelivered-To: alice+tag@example.org\n", mda.Loop},
	} {
		r := run(t, Spec{Method: Maildir}, message(t, tt.body))
		if r.Outcome != tt.want {
			t.Errorf("%.60q: got %+v, want %v", tt.body, r, tt.want)
		}
	}
}

func TestWhatWasDeliveredIsFoundAsLoop(t *testing.T) {
	t.Parallel()
	for _, rcpt := range []smtp.Path{{Local: "a b", Domain: "x.org"}, {Local: "alice", Domain: "[192.0.2.1]"}, {Local: "ünï", Domain: "x.org"}} {
		d := message(t, "A: b\n\n")
		d.Rcpt = rcpt
		if r := run(t, Spec{Method: Command, Command: "cat >out"}, d); r.Outcome != mda.Delivered {
			t.Fatalf("got %+v", r)
		}
		again := message(t, only(t, filepath.Join(d.Home, "out")))
		again.Rcpt = rcpt
		if r := run(t, Spec{Method: Maildir}, again); r.Outcome != mda.Loop {
			t.Errorf("%v: got %+v, want Loop", rcpt, r)
		}
	}
}

func TestNullSenderIsWritten(t *testing.T) {
	t.Parallel()
	d := message(t, "\n")
	d.Sender = smtp.Path{}
	if r := run(t, Spec{Method: Command, Command: "cat >out; echo $SENDER %{mbox.from} >>out"}, d); r.Outcome != mda.Delivered {
		t.Fatalf("got %+v", r)
	}
	want := "Return-Path: <>\nDelivered-To: alice+tag@example.org\n\nMAILER-DAEMON\n"
	if got := only(t, filepath.Join(d.Home, "out")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHostileFactsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		set  func(*mda.Delivery)
	}{
		{"line in sender", func(d *mda.Delivery) { d.Sender.Local = "a\nEvil: x" }},
		{"line in recipient", func(d *mda.Delivery) { d.Rcpt.Domain = "a\r" }},
		{"NUL in subaddress", func(d *mda.Delivery) { d.Subaddress = "\x00" }},
		{"mailbox elsewhere", func(d *mda.Delivery) { d.User = "../x" }},
		{"neither command nor file", func(d *mda.Delivery) { d.Exec = "x" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := message(t, "\n")
			tt.set(d)
			r := run(t, Spec{Method: Mbox, MailDir: d.Home}, d)
			entries, err := os.ReadDir(d.Home)
			if r.Outcome != mda.PermFail || err != nil || len(entries) != 0 {
				t.Errorf("got %+v, %v, %v, want PermFail and no file", r, entries, err)
			}
		})
	}
}

func TestAddressIsNoShellCommand(t *testing.T) {
	t.Parallel()
	d := message(t, "\n")
	d.Sender.Local = "`touch a`$(touch b);touch c"
	r := run(t, Spec{Method: Command, Command: `echo %{sender} "%{sender}" >out; echo "$SENDER" >>out`}, d)
	if r.Outcome != mda.Delivered {
		t.Fatalf("got %+v", r)
	}
	want := "::touch:a:::touch:b::touch:c:@example.com"
	want = fmt.Sprintf("%s %s\n\"`touch a`$(touch b);touch c\"@example.com\n", want, want)
	if got := only(t, filepath.Join(d.Home, "*")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFailedExpansionIsPermanent(t *testing.T) {
	t.Parallel()
	r := run(t, Spec{Method: Command, Command: "echo %{rcpt.user[99]}"}, message(t, "\n"))
	if r.Outcome != mda.PermFail || r.Text != "mda command line could not be expanded" {
		t.Errorf("got %+v", r)
	}
}

func TestIncompleteSpecIsRefused(t *testing.T) {
	t.Parallel()
	for _, spec := range []Spec{
		{}, {Method: "relay"}, {Method: LMTP}, {Method: Command}, {Method: File},
		{Method: Mbox, Wrapper: "%{mda}"}, {Method: Mbox, Timeout: -1},
	} {
		if _, err := New(spec); err == nil {
			t.Errorf("%+v: got no error", spec)
		}
	}
}

// TestUsualCommands: lines as they stand in many configurations reach the program
// with the words one expects.
func TestUsualCommands(t *testing.T) {
	t.Parallel()
	dir := fakeHelpers(t)
	for _, tt := range []struct{ line, want string }{
		{`DIR/mail.local -f %{mbox.from} -d %{user.username}`, "[mail.local][-f][bob@example.com][-d][alice]"},
		{`DIR/mail.local -f -`, "[mail.local][-f][-]"},
		{`DIR/mail.local -m "$HOME" -a "$EXTENSION" && exit 0 || exit 75`, "[mail.local][-m][HOME][-a][tag]"},
		{`DIR/mail.local 100%% '%{rcpt}'`, "[mail.local][100%][alice+tag@example.org]"},
	} {
		d := message(t, "\n")
		if r := run(t, Spec{Method: Command, Command: strings.ReplaceAll(tt.line, "DIR", dir)}, d); r.Outcome != mda.Delivered {
			t.Errorf("%s: got %+v", tt.line, r)
			continue
		}
		if got, want := only(t, filepath.Join(d.Home, "args")), strings.ReplaceAll(tt.want, "HOME", d.Home); got != want {
			t.Errorf("%s: got %s, want %s", tt.line, got, want)
		}
	}
}
