package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

func message(t *testing.T, body string) *mda.Delivery {
	t.Helper()
	d := &mda.Delivery{
		Sender: smtp.Path{Local: "bob", Domain: "example.com"},
		Rcpt:   smtp.Path{Local: "alice+tag", Domain: "example.org"},
		Dest:   smtp.Path{Local: "alice", Domain: "example.net"},
		User:   "alice", Home: t.TempDir(), Subaddress: "tag",
		Body: strings.NewReader(body), Size: int64(len(body)),
	}
	d.Prefix = d.Headers()
	return d
}

func TestEndOfCommandDecides(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789\n", 1<<20/11)
	for _, tt := range []struct {
		name, line, body string
		outcome          mda.Outcome
		text, stat       string
	}{
		{"success", "cat >/dev/null", "x\n", mda.Delivered, "Delivered", "Delivered"},
		{"output of success is not told", "cat; echo hi >&2", "x\n", mda.Delivered, "Delivered", "Delivered"},
		{"big message", "cat >/dev/null", big, mda.Delivered, "Delivered", "Delivered"},
		{"small message may be left", "exit 0", "x\n", mda.Delivered, "Delivered", "Delivered"},
		{"big message left", "exit 0", big, mda.TempFail, "mda exited prematurely", "Error (mda exited prematurely)"},
		{"big message half read", "head -c 100000 >/dev/null", big, mda.TempFail, "mda exited prematurely", "Error (mda exited prematurely)"},
		{"temporary failure", "echo a; echo try later >&2; exit 75", "x\n", mda.TempFail, `"try later"`, `Error (temporary failure: "try later")`},
		{"system error", "exit 71", "x\n", mda.TempFail, "exited abnormally", "Error (system resource problem: exited abnormally)"},
		{"unknown user", "echo no such user; echo; exit 67", "x\n", mda.PermFail, `"no such user"`, `Error (user unknown: "no such user")`},
		{"failure with the message left", "exit 1", big, mda.PermFail, "exited abnormally", "Error (exited abnormally)"},
		{"command not found", "exec /nonexistent/x 2>/dev/null", "x\n", mda.PermFail, "exited abnormally", "Error (exited abnormally)"},
		{"signal", "kill -15 $$", "x\n", mda.TempFail, "terminated; signal 15", "Error (terminated; signal 15)"},
		{"much output", "yes | head -c 300000; printf last; exit 1", "x\n", mda.PermFail, `"last"`, `Error ("last")`},
		{"unprintable output", `printf 'a\033[31m\\\n\n'; exit 1`, "x\n", mda.PermFail, `"a\^[[31m\\"`, `Error ("a\^[[31m\\")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := (&Runner{}).Deliver(t.Context(), tt.line, message(t, tt.body))
			if r.Outcome != tt.outcome || r.Text != tt.text || r.Stat() != tt.stat {
				t.Errorf("%s: got %v %q %q, want %v %q %q", tt.line, r.Outcome, r.Text, r.Stat(), tt.outcome, tt.text, tt.stat)
			}
		})
	}
}

func TestCommandSeesMessageEnvironmentAndHome(t *testing.T) {
	t.Parallel()
	d := message(t, "Subject: hi\n\ntext\n")
	r := (&Runner{Path: "/usr/bin:/bin"}).Deliver(t.Context(), "cat >msg; env | sort >env; ps -o pid=,pgid=,sid= -p $$ >ids 2>/dev/null; echo $$ >pid", d)
	if r.Outcome != mda.Delivered {
		t.Fatalf("got %+v", r)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(d.Home, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, want := read("msg"), "Return-Path: <bob@example.com>\nDelivered-To: alice+tag@example.org\nSubject: hi\n\ntext\n"; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
	got := map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(read("env")), "\n") {
		k, v, _ := strings.Cut(line, "=")
		got[k] = v
	}
	delete(got, "PWD") // set by the shell itself
	delete(got, "OLDPWD")
	delete(got, "SHLVL")
	delete(got, "_")
	want := map[string]string{
		"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": d.Home, "USER": "alice", "LOGNAME": "alice",
		"LOCAL": "alice+tag", "DOMAIN": "example.org", "ORIGINAL_RECIPIENT": "alice+tag@example.org",
		"RECIPIENT": "alice@example.net", "SENDER": "bob@example.com", "EXTENSION": "tag",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("environment: got %v, want %v", got, want)
	}
	if ids := strings.Fields(read("ids")); len(ids) == 3 && (ids[0] != ids[1] || ids[0] != ids[2]) {
		t.Errorf("pid, process group, session: got %v, want all the same", ids)
	}
}

func TestMissingHomeFallsBackToRoot(t *testing.T) {
	t.Parallel()
	d := message(t, "\n")
	out := filepath.Join(d.Home, "out")
	d.Home = filepath.Join(d.Home, "missing")
	if r := (&Runner{}).Deliver(t.Context(), "pwd >"+out, d); r.Outcome != mda.Delivered {
		t.Fatalf("got %+v", r)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "/\n" {
		t.Errorf("got %q, %v, want /", b, err)
	}
}

// TestLateCommandIsEndedWithItsChildren: the FIFO has a reader as long as the
// command's child lives, and reading it ends when the child is gone.
func TestLateCommandIsEndedWithItsChildren(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, line, text string }{
		{"child in the background", "(exec sleep 1000) & echo started >&3; wait", "terminated; timeout"},
		{"not reading", "echo started >&3; exec sleep 1000", "terminated; timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := message(t, strings.Repeat("x\n", 1<<20))
			fifo := filepath.Join(d.Home, "fifo")
			r := (&Runner{Timeout: 300 * time.Millisecond}).Deliver(t.Context(), "mkfifo "+fifo+"; exec 3<>"+fifo+"; "+tt.line, d)
			if r.Outcome != mda.TempFail || r.Text != tt.text {
				t.Errorf("got %+v, want TempFail %q", r, tt.text)
			}
			// Nobody holds the FIFO: opening it for writing without waiting fails.
			deadline := time.Now().Add(10 * time.Second)
			for {
				f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
				if err != nil {
					return
				}
				f.Close()
				if time.Now().After(deadline) {
					t.Fatal("a child of the command is still there")
				}
			}
		})
	}
}

func TestInterruptedCommandIsTriedAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	d := message(t, "\n")
	d.Body = &trigger{ReadSeeker: d.Body, fire: cancel}
	r := (&Runner{}).Deliver(ctx, "exec sleep 1000", d)
	if r.Outcome != mda.TempFail || r.Text != "terminated; interrupted" {
		t.Errorf("got %+v, want TempFail", r)
	}
}

// trigger calls fire when it is read.
type trigger struct {
	io.ReadSeeker
	fire func()
}

func (tr *trigger) Read(p []byte) (int, error) {
	tr.fire()
	return tr.ReadSeeker.Read(p)
}

func TestProcessLeftBehindIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	d := message(t, "\n")
	r := (&Runner{}).Deliver(t.Context(), "sleep 1000 & echo $! >pid; echo gone; exit 69", d)
	if r.Outcome != mda.PermFail || r.Text != `"gone"` {
		t.Errorf("got %+v, want PermFail", r)
	}
	b, err := os.ReadFile(filepath.Join(d.Home, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("the process left behind: %v, want it alive", err)
	}
}

func TestUnreadableBodyIsTemporary(t *testing.T) {
	t.Parallel()
	fail := errors.New("disk on fire")
	for _, tt := range []struct {
		name string
		good int
	}{{"at once", 0}, {"after the command has begun", 1 << 20}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := message(t, "")
			d.Size = int64(tt.good) + 10
			d.Body = &broken{Reader: io.MultiReader(bytes.NewReader(make([]byte, tt.good)), &failing{fail})}
			r := (&Runner{}).Deliver(t.Context(), "cat >/dev/null; touch whole", d)
			if r.Outcome != mda.TempFail || !errors.Is(r.Err, fail) {
				t.Errorf("got %+v, want TempFail with %v", r, fail)
			}
			if _, err := os.Stat(filepath.Join(d.Home, "whole")); err == nil {
				t.Error("the command saw the part as a whole message")
			}
		})
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

type broken struct{ io.Reader }

func (*broken) Seek(int64, int) (int64, error) { return 0, nil }
