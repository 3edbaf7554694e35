package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// listenJournal stands in for systemd's journal at path.
func listenJournal(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// newJournal returns a journal and what stands in for systemd's.
func newJournal(t testing.TB) (*journal, *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	conn := listenJournal(t, path)
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j, conn
}

// entries reads up to n entries, one after another.
func entries(t testing.TB, conn *net.UnixConn, n int) []string {
	t.Helper()
	var got []string
	b := make([]byte, 2*maxLogLine)
	for range n {
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		k, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, string(b[:k]))
	}
	return got
}

func TestJournalHasFieldsOfALine(t *testing.T) {
	t.Parallel()
	j, conn := newJournal(t)
	o := &output{stderr: io.Discard, journal: j}
	const common = "SYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=smtpd\n"
	for _, tt := range []struct {
		role       proto.Role
		line, want string
	}{
		{proto.Dispatcher, "<6>00000000deadbeef smtp connected address=192.0.2.1 host=a.example\n",
			"MESSAGE=00000000deadbeef smtp connected address=192.0.2.1 host=a.example\nPRIORITY=6\n" + common +
				"SMTPD_ROLE=dispatcher\nSMTPD_SESSION=00000000deadbeef\n"},
		{proto.Queue, "<6>00000000deadbeef mda delivery evpid=5b1f0c4a9d8e7f60 from=<> stat=a\x01\xffb\n",
			"MESSAGE=00000000deadbeef mda delivery evpid=5b1f0c4a9d8e7f60 from=<> stat=a\x01\xffb\nPRIORITY=6\n" + common +
				"SMTPD_ROLE=queue\nSMTPD_SESSION=00000000deadbeef\nSMTPD_MESSAGE=5b1f0c4a\nSMTPD_ENVELOPE=5b1f0c4a9d8e7f60\n"},
		{proto.Parent, "<4>warn: SMTPD_SESSION=x\n", "MESSAGE=warn: SMTPD_SESSION=x\nPRIORITY=4\n" + common + "SMTPD_ROLE=parent\n"},
		{proto.Worker, "panic: b\n", "MESSAGE=panic: b\nPRIORITY=2\n" + common + "SMTPD_ROLE=worker\n"},
	} {
		if _, err := o.pipe(tt.role).Write([]byte(tt.line)); err != nil {
			t.Fatal(err)
		}
		if got := entries(t, conn, 1)[0]; got != tt.want {
			t.Errorf("%q:\n got %q\nwant %q", tt.line, got, tt.want)
		}
	}
}

// A journal that takes nothing holds nobody up; when it takes entries again, the first
// tells how many are missing.
func TestJournalThatHangsLosesLinesOnly(t *testing.T) {
	t.Parallel()
	j, conn := newJournal(t)
	j.patience, j.pause = time.Millisecond, time.Hour
	sent := 0
	for ; j.lost == 0; sent++ {
		if sent == 1_000_000 {
			t.Fatal("nothing was lost")
		}
		j.line(proto.Queue, proc.Info, []byte(strconv.Itoa(sent)))
	}
	for range 3 {
		j.line(proto.Queue, proc.Info, []byte("dropped without a try"))
	}
	taken := entries(t, conn, sent-1)
	if !strings.HasPrefix(taken[sent-2], "MESSAGE="+strconv.Itoa(sent-2)+"\n") {
		t.Errorf("the last that was taken: %q", taken[sent-2])
	}
	j.again = time.Time{}
	j.line(proto.Queue, proc.Info, []byte("again"))
	got := strings.Join(entries(t, conn, 2), "")
	if !strings.HasPrefix(got, "MESSAGE=again\n") || !strings.Contains(got, "MESSAGE=warn: 4 lines are missing here: the journal took none\nPRIORITY=4\n") {
		t.Errorf("got %q", got)
	}
	if j.lost != 0 {
		t.Errorf("%d are still counted as lost", j.lost)
	}
}

func TestJournalMayGoAndComeBack(t *testing.T) {
	t.Parallel()
	j, conn := newJournal(t)
	j.pause = 0
	conn.Close()
	if err := os.Remove(j.path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	j.line(proto.Key, proc.Info, []byte("to nobody"))
	if j.lost != 1 {
		t.Errorf("%d lines are lost, want 1", j.lost)
	}
	conn = listenJournal(t, j.path)
	j.line(proto.Key, proc.Info, []byte("back"))
	got := entries(t, conn, 2)
	if !strings.HasPrefix(got[0], "MESSAGE=back\n") || !strings.Contains(got[1], " 1 lines are missing") {
		t.Errorf("got %q", got)
	}
}

func TestJournalMustBeThere(t *testing.T) {
	t.Parallel()
	if _, err := openJournal(filepath.Join(t.TempDir(), "socket")); err == nil {
		t.Error("a journal was opened that is not there")
	}
}

// BenchmarkJournal is one line of a delivery, from its pipe to the socket.
func BenchmarkJournal(b *testing.B) {
	j, conn := newJournal(b)
	go func() {
		buf := make([]byte, maxLogLine)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	pipe := (&output{journal: j}).pipe(proto.Queue)
	line := []byte("<6>00000000deadbeef mta delivery evpid=5b1f0c4a9d8e7f60 from=<a@b.example> to=<c@d.example> rcpt=<-> source=\"-\" relay=\"192.0.2.2 (mx.d.example)\" delay=1s result=\"Ok\" stat=\"250 2.0.0 queued\"\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pipe.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}
