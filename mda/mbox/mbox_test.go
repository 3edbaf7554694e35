package mbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

const fromLine = "From bob@example.com Tue Nov 24 07:55:09 2026\n"

func open(t *testing.T) (*Store, Target) {
	t.Helper()
	s := New()
	s.now = func() time.Time {
		return time.Date(2026, 11, 24, 8, 55, 9, 0, time.FixedZone("", 3600))
	}
	s.LockWait = 50 * time.Millisecond
	return s, Target{Path: filepath.Join(t.TempDir(), "alice"), UID: os.Geteuid()}
}

func message(body string) *mda.Delivery {
	return &mda.Delivery{
		Sender: smtp.Path{Local: "bob", Domain: "example.com"},
		Rcpt:   smtp.Path{Local: "alice", Domain: "example.org"},
		Body:   strings.NewReader(body),
		Size:   int64(len(body)),
	}
}

func deliver(t *testing.T, s *Store, to Target, d *mda.Delivery) {
	t.Helper()
	if r := s.Deliver(t.Context(), to, d); r.Outcome != mda.Delivered {
		t.Fatalf("deliver: got %+v, want Delivered", r)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMessagesAreAppended(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", bufferSize-len("From ")/2)
	for _, tt := range []struct{ name, before, body, want string }{
		{"first", "", "A: b\n\ntext\n", fromLine + "A: b\n\ntext\n\n"},
		{"behind another", "From x\n\ny\n\n", "A: b\n", "From x\n\ny\n\n" + fromLine + "A: b\n\n"},
		{"behind one without empty line", "From x\n\ny\n", "A: b\n", "From x\n\ny\n\n" + fromLine + "A: b\n\n"},
		{"behind one cut short", "From x\n\ny", "A: b\n", "From x\n\ny\n\n" + fromLine + "A: b\n\n"},
		{"From lines are quoted", "", "From a\n\nFrom b\nFrom\n From c\n>From d\n", fromLine + ">From a\n\n>From b\nFrom\n From c\n>From d\n\n"},
		{"last line without end", "", "A: b\n\ntext", fromLine + "A: b\n\ntext\n\n"},
		{"empty", "", "", fromLine + "\n"},
		{"From at the edge of a buffer", "", long + "\nFrom x\n" + long + "From y\n", fromLine + long + "\n>From x\n" + long + "From y\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, to := open(t)
			if tt.before != "" {
				if err := os.WriteFile(to.Path, []byte(tt.before), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			deliver(t, s, to, message(tt.body))
			if got := read(t, to.Path); got != tt.want {
				t.Errorf("got %.200q, want %.200q", got, tt.want)
			}
			wantMode := os.FileMode(0o600)
			if tt.before != "" {
				wantMode = 0o640
			}
			if fi, err := os.Stat(to.Path); err != nil || fi.Mode() != wantMode {
				t.Errorf("mode: got %v, %v, want %v", fi.Mode(), err, wantMode)
			}
			if _, err := os.Stat(to.Path + ".lock"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("lock file: got %v, want it gone", err)
			}
		})
	}
}

func TestFromLineIsOneLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sender smtp.Path
		want   string
	}{
		{smtp.Path{}, "MAILER-DAEMON"},
		{smtp.Path{Local: "a b\nFrom c", Domain: "x"}, `"a_b_From_c"@x`},
	} {
		s, to := open(t)
		d := message("\n")
		d.Sender = tt.sender
		deliver(t, s, to, d)
		if got, want := read(t, to.Path), "From "+tt.want+" Tue Nov 24 07:55:09 2026\n\n\n"; got != want {
			t.Errorf("%q: got %q, want %q", tt.sender, got, want)
		}
	}
}

func TestUnfitMailboxIsLeftAlone(t *testing.T) {
	t.Parallel()
	const before = "not to be touched"
	for _, tt := range []struct {
		name string
		make func(to *Target) error
		want error
	}{
		{"symbolic link", func(to *Target) error { return os.Symlink(to.Path+".real", to.Path) }, errNotRegular},
		{"two links", func(to *Target) error { return os.Link(to.Path+".real", to.Path) }, errLinks},
		{"directory", func(to *Target) error { return os.Mkdir(to.Path, 0o700) }, errNotRegular},
		{"fifo", func(to *Target) error { return syscall.Mkfifo(to.Path, 0o600) }, errNotRegular},
		{"another's", func(to *Target) error {
			to.UID++
			return os.WriteFile(to.Path, nil, 0o600)
		}, errOwner},
		{"relative", func(to *Target) error { to.Path = "alice"; return nil }, errPath},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, to := open(t)
			realFile := to.Path + ".real"
			if err := os.WriteFile(realFile, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(&to); err != nil {
				t.Fatal(err)
			}
			r := s.Deliver(t.Context(), to, message("\n"))
			if r.Outcome != mda.TempFail || !errors.Is(r.Err, tt.want) {
				t.Errorf("got %+v, want TempFail with %v", r, tt.want)
			}
			if got := read(t, realFile); got != before {
				t.Errorf("file: got %q, want %q", got, before)
			}
			if _, err := os.Stat(to.Path + ".lock"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("lock file: got %v, want it gone", err)
			}
		})
	}
}

func TestNullDeviceTakesEverything(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	deliver(t, s, Target{Path: os.DevNull, UID: AnyOwner}, message("\n"))
}

func TestFailedDeliveryIsCutOff(t *testing.T) {
	t.Parallel()
	const before = "From x\n\ny\n"
	for _, tt := range []struct {
		name string
		set  func(*Store, *mda.Delivery)
		code smtp.EnhancedCode
	}{
		{"sync fails", func(s *Store, _ *mda.Delivery) {
			s.sync = func(*os.File) error { return syscall.EDQUOT }
		}, smtp.EnhancedCode{4, 2, 2}},
		{"body too short", func(_ *Store, d *mda.Delivery) { d.Size++ }, smtp.EnhancedCode{4, 3, 0}},
		{"body too long", func(_ *Store, d *mda.Delivery) { d.Size-- }, smtp.EnhancedCode{4, 3, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, to := open(t)
			if err := os.WriteFile(to.Path, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			d := message(strings.Repeat("line\n", bufferSize/4))
			tt.set(s, d)
			if r := s.Deliver(t.Context(), to, d); r.Outcome != mda.TempFail || r.Enhanced != tt.code {
				t.Errorf("got %+v, want TempFail %v", r, tt.code)
			}
			if got := read(t, to.Path); strings.TrimRight(got, "\n") != strings.TrimRight(before, "\n") {
				t.Errorf("file: got %.80q, want %q", got, before)
			}
		})
	}
}

func TestMailboxIsSyncedWhole(t *testing.T) {
	t.Parallel()
	s, to := open(t)
	deliver(t, s, to, message("one\n"))
	var synced string
	s.sync = func(f *os.File) error {
		synced = read(t, f.Name())
		return f.Sync()
	}
	deliver(t, s, to, message("two\n"))
	if want := fromLine + "one\n\n" + fromLine + "two\n\n"; synced != want {
		t.Errorf("got %q, want %q", synced, want)
	}
}

func TestConcurrentDeliveriesShareLocksAndSync(t *testing.T) {
	t.Parallel()
	s, to := open(t)
	deliver(t, s, to, message("0\n"))
	const others = 20
	release, begun := make(chan struct{}), make(chan struct{})
	syncs := 0
	s.sync = func(*os.File) error {
		if syncs++; syncs == 1 {
			close(begun)
			<-release
		}
		return nil
	}
	var wg sync.WaitGroup
	run := func(i int) {
		wg.Go(func() {
			d := message(fmt.Sprintln(i))
			if i == 7 {
				d.Size++ // this one fails, the others of its round do not
			}
			r := s.Deliver(t.Context(), to, d)
			if want := i != 7; (r.Outcome == mda.Delivered) != want {
				t.Errorf("delivery %d: got %+v, want delivered: %v", i, r, want)
			}
		})
	}
	run(1)
	<-begun
	for i := range others {
		run(2 + i)
	}
	// All others join the next round while the first is held.
	for joined := 0; joined < others; {
		s.mu.Lock()
		if b := s.boxes[to.Path]; b.next != nil {
			joined = len(b.next.jobs)
		}
		s.mu.Unlock()
	}
	close(release)
	wg.Wait()
	if syncs != 2 {
		t.Errorf("got %d syncs, want 2", syncs)
	}
	got := read(t, to.Path)
	for i := range 2 + others {
		if want := fmt.Sprintf("%s%d\n\n", fromLine, i); strings.Contains(got, want) != (i != 7) {
			t.Errorf("message %d: present: %v", i, i == 7)
		}
	}
	if n := strings.Count(got, fromLine); n != 1+others {
		t.Errorf("got %d messages, want %d", n, 1+others)
	}
}

func TestLockFileOfAnotherIsRespected(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, content string
		age           time.Duration
		want          mda.Outcome
	}{
		{"fresh", "1\n", 0, mda.TempFail},
		{"old, holder lives", fmt.Sprintln(os.Getpid()), staleAfter + time.Minute, mda.TempFail},
		{"old, holder gone", "999999999\n", staleAfter + time.Minute, mda.Delivered},
		{"old, no process named", "", staleAfter + time.Minute, mda.Delivered},
		{"very old", fmt.Sprintln(os.Getpid()), staleAlways + time.Minute, mda.Delivered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, to := open(t)
			lock := to.Path + ".lock"
			if err := os.WriteFile(lock, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			when := time.Now().Add(-tt.age)
			if err := os.Chtimes(lock, when, when); err != nil {
				t.Fatal(err)
			}
			r := s.Deliver(t.Context(), to, message("\n"))
			if r.Outcome != tt.want {
				t.Errorf("got %+v, want %v", r, tt.want)
			}
			entries, err := os.ReadDir(filepath.Dir(to.Path))
			if err != nil || len(entries) != 1 {
				t.Errorf("got %v, %v, want one file", entries, err)
			}
		})
	}
}

// TestHoldLock is no test of its own: started with a file named in the
// environment, it locks the file by fcntl until its input ends.
func TestHoldLock(t *testing.T) {
	path := os.Getenv("MBOX_TEST_LOCK")
	if path == "" {
		t.Skip("started by TestFcntlLockOfAnotherProgramIsRespected")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := lockFile(f, &wait{}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
}

func TestFcntlLockOfAnotherProgramIsRespected(t *testing.T) {
	t.Parallel()
	s, to := open(t)
	deliver(t, s, to, message("one\n"))
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldLock$")
	cmd.Env = append(os.Environ(), "MBOX_TEST_LOCK="+to.Path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	r := s.Deliver(t.Context(), to, message("two\n"))
	if r.Outcome != mda.TempFail || !errors.Is(r.Err, errLocked) {
		t.Errorf("while locked: got %+v, want TempFail", r)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	deliver(t, s, to, message("three\n"))
	if got, want := read(t, to.Path), fromLine+"one\n\n"+fromLine+"three\n\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzQuote: whatever a message holds, the mailbox has one From line, and taking
// the quoting off gives the message back.
func FuzzQuote(f *testing.F) {
	f.Add("Subject: x\n\nFrom here\n>From there\n")
	f.Add("From \nFrom")
	f.Add("")
	s := New()
	dir := f.TempDir()
	s.sync = func(*os.File) error { return nil }
	f.Fuzz(func(t *testing.T, body string) {
		to := Target{Path: filepath.Join(dir, fmt.Sprint(os.Getpid())), UID: AnyOwner}
		defer os.Remove(to.Path)
		deliver(t, s, to, message(body))
		lines := strings.SplitAfter(read(t, to.Path), "\n")
		var text strings.Builder
		for i, l := range lines[1:] {
			if strings.HasPrefix(l, "From ") {
				t.Fatalf("line %d: %q", i, l)
			}
			text.WriteString(l)
		}
		want := "\n" + strings.TrimSuffix(body, "\n") + "\n\n"
		if body == "" {
			want = "\n\n"
		}
		want = strings.ReplaceAll(want, "\nFrom ", "\n>From ")
		if got := "\n" + text.String(); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
