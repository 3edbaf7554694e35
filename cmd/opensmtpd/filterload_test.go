package main

import (
	"fmt"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// filterState returns the state of the one filter process there is.
func filterState(t *testing.T, c *control.Client) proto.FilterStatus {
	t.Helper()
	r, _, err := control.Call(t.Context(), c, proto.ListFilters, proto.Empty{})
	if err != nil || len(r.Filters) != 1 {
		t.Fatalf("%d filter processes, want 1: %v", len(r.Filters), err)
	}
	return r.Filters[0]
}

// sendOne tries to send a message and returns the code of the last reply.
func sendOne(addr, subject string) (int, error) {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, line := range []string{"", "EHLO client.example.net", "MAIL FROM:<a@example.net>", "RCPT TO:<x@example.org>", "DATA",
		"Subject: " + subject + "\r\n\r\n" + strings.Repeat("some text\r\n", 50) + ".", "QUIT"} {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				return 0, err
			}
		}
		code, _, err := c.ReadResponse(0)
		if code == 0 {
			return 0, err
		}
		if code >= 400 || strings.HasPrefix(line, "Subject") {
			return code, nil
		}
	}
	return 0, nil
}

func TestFilterKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	const kills = 15
	for _, policy := range []string{"tempfail", "bypass"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			m := startMTA(t, filtered(`filter "f" proc-exec `+filterCommand(t, allPhases, "events", "add=X-Seen:+yes")+" on-failure "+policy, `"f"`))
			c := m.control()
			passed := make(chan struct{}) // for each message
			stop := make(chan struct{})
			var done atomic.Bool
			var accepted, later, n atomic.Int64
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for !done.Load() {
						code, err := sendOne(m.addr, fmt.Sprintf("message %d.", n.Add(1)))
						switch {
						case err != nil || code/100 == 5:
							t.Errorf("a client got %d, %v", code, err)
							return
						case code == 250:
							accepted.Add(1)
							select {
							case passed <- struct{}{}:
							case <-stop:
							}
						default:
							later.Add(1)
						}
					}
				})
			}
			for killed := 0; killed < kills; {
				s := filterState(t, c)
				if s.State == "ready" && syscall.Kill(s.PID, syscall.SIGKILL) == nil {
					killed++
				}
				for range 20 { // mail goes on, so that it is no filter that keeps failing
					select {
					case <-passed:
					case <-time.After(patience):
						t.Fatal("no mail passes any more")
					}
				}
			}
			done.Store(true)
			close(stop)
			wg.Wait()
			for range accepted.Load() {
				m.wait(`mda delivery .* result=Ok`)
			}
			mails := m.mails()
			if len(mails) != int(accepted.Load()) {
				t.Errorf("%d messages arrived, want the %d that were accepted", len(mails), accepted.Load())
			}
			for _, mail := range mails {
				if strings.Count(mail, "some text") != 50 {
					t.Errorf("a message is not whole: %q", mail)
				}
				if policy == "tempfail" && !strings.Contains(mail, "\nX-Seen: yes\n") {
					t.Errorf("a message passed without the filter: %q", mail)
				}
			}
			s := filterState(t, c)
			t.Logf("%d accepted, %d put off, %d restarts, %d failed answers", accepted.Load(), later.Load(), s.Restarts, s.Failed)
			if s.Restarts < kills-1 {
				t.Errorf("%d restarts, want %d", s.Restarts, kills)
			}
		})
	}
}

func TestLargeMessagePassesThroughThreeFilters(t *testing.T) {
	t.Parallel()
	m := startMTA(t, filtered(strings.Join([]string{
		`filter "a" proc-exec ` + filterCommand(t, "data-line", "add=X-A:+1"),
		`filter "b" proc-exec ` + filterCommand(t, "data-line", "hold", "add=X-B:+1"),
		`filter "c" proc-exec ` + filterCommand(t, "data-line", "commit", "add=X-C:+1"),
	}, "\n"), `{ "a", "b", "c" }`))
	c := m.dialogue(append(begin(), "DATA", "^354")...)
	line := strings.Repeat("\xff|\x01", 20000) // 60,000 bytes that are no text
	const lines = 34 << 20 / 60000
	w := c.W
	fmt.Fprint(w, "Subject: large\r\n\r\n")
	for range lines {
		fmt.Fprintf(w, "%s\r\n", line) // an error shows below
	}
	m.talk(c, ".", "^250", "QUIT", "^221")
	m.wait(`mda delivery .* result=Ok`)
	mails := m.mails()
	if len(mails) != 1 {
		t.Fatalf("%d messages arrived", len(mails))
	}
	head, body, _ := strings.Cut(mails[0], "\n\n")
	if !strings.Contains(head, "X-C: 1\nX-B: 1\nX-A: 1\nReceived: ") {
		t.Errorf("the header reads %q", head)
	}
	if want := strings.Repeat(line+"\n", lines); body+"\n" != want {
		t.Errorf("%d bytes arrived, want %d", len(body)+1, len(want))
	}
}
