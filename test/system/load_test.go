//go:build system

package system

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// loadSerial makes the names of messages.
var loadSerial atomic.Int64

// load is mail sent over several sessions at a time, for as long as a test wants.
// Each message has a name of its own, in the field X-Load.
type load struct {
	d       *daemon
	stop    chan struct{}
	wg      sync.WaitGroup
	perConn int

	mu       sync.Mutex // guards what follows
	acked    map[string]bool
	refused  map[string]int // replies other than the wanted one
	broken   int            // sessions that ended before QUIT
	unheard  int            // connections that were refused
	lastDone time.Time      // when the MAIL of the youngest acknowledged message was sent
}

// startLoad sends mail for rcpt over n sessions, perConn messages over each
// connection.
func (d *daemon) startLoad(n, perConn int, rcpt string) *load {
	l := &load{d: d, stop: make(chan struct{}), perConn: perConn, acked: map[string]bool{}, refused: map[string]int{}}
	for range n {
		l.wg.Go(func() {
			for !l.ending() {
				l.session(rcpt)
			}
		})
	}
	d.t.Cleanup(l.end)
	return l
}

func (l *load) ending() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// end ends the load when each session has finished its message.
func (l *load) end() {
	if !l.ending() {
		close(l.stop)
	}
	l.wg.Wait()
}

// session is one connection.
func (l *load) session(rcpt string) {
	c, err := net.DialTimeout("tcp", l.d.address(), patience)
	if err != nil {
		l.note(func() { l.unheard++ })
		time.Sleep(time.Millisecond) // nobody listens: do not spin
		return
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	r := bufio.NewReader(c)
	ask := func(sent, want string) bool {
		if _, err := io.WriteString(c, sent); err != nil {
			l.note(func() { l.broken++ })
			return false
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil || len(line) < 4 {
				l.note(func() { l.broken++ })
				return false
			}
			if line[3] == '-' {
				continue
			}
			if !strings.HasPrefix(line, want) {
				l.note(func() { l.refused[strings.TrimSpace(line)]++ })
				return false
			}
			return true
		}
	}
	if !ask("", "220") || !ask("EHLO load.example.net\r\n", "250") {
		return
	}
	for range l.perConn {
		begun := time.Now()
		name := fmt.Sprintf("load-%d", loadSerial.Add(1))
		if !ask("MAIL FROM:<load@example.net>\r\n", "250") || !ask("RCPT TO:<"+rcpt+">\r\n", "250") || !ask("DATA\r\n", "354") ||
			!ask("From: <load@example.net>\r\nSubject: load\r\nX-Load: "+name+"\r\n\r\n"+strings.Repeat("some text of a message\r\n", 40)+".\r\n", "250") {
			return
		}
		l.note(func() {
			l.acked[name] = true
			if begun.After(l.lastDone) {
				l.lastDone = begun
			}
		})
		if l.ending() {
			break
		}
	}
	ask("QUIT\r\n", "221")
}

func (l *load) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// count returns the number of acknowledged messages.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// more waits until n more messages are acknowledged.
func (l *load) more(n int) {
	l.d.t.Helper()
	want := l.count() + n
	l.d.await(fmt.Sprintf("%d messages to be accepted", n), func() bool { return l.count() >= want })
}

// recovered waits until a message is acknowledged that was begun after an event,
// and returns how long that took.
func (l *load) recovered(event time.Time) time.Duration {
	l.d.t.Helper()
	l.d.await("mail to be accepted again", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.lastDone.After(event)
	})
	return time.Since(event)
}

// refusals returns the replies other than the wanted ones.
func (l *load) refusals() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.refused))
}

// verify waits until each acknowledged message has been delivered to a user's
// Maildir, and returns how many were delivered more than once.
func (l *load) verify(who string) (duplicates int) {
	l.d.t.Helper()
	l.end()
	delivered := map[string]int{}
	known := map[string]bool{}
	missing := func() (n int) {
		entries, err := os.ReadDir(l.d.path("home/" + who + "/Maildir/new"))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // which is before the first delivery
			l.d.t.Fatal(err)
		}
		for _, e := range entries {
			if known[e.Name()] {
				continue
			}
			known[e.Name()] = true
			b, err := os.ReadFile(filepath.Join(l.d.path("home/"+who+"/Maildir/new"), e.Name()))
			if err != nil {
				l.d.t.Fatal(err)
			}
			if _, rest, ok := strings.Cut(string(b), "\nX-Load: "); ok {
				name, text, _ := strings.Cut(rest, "\n")
				if strings.Count(text, "some text of a message\n") != 40 {
					l.d.t.Errorf("message %s is not whole", name)
				}
				delivered[name]++
			}
		}
		for name := range l.acked {
			if delivered[name] == 0 {
				n++
			}
		}
		return n
	}
	l.d.await("all acknowledged mail to be delivered", func() bool { return missing() == 0 })
	for _, n := range delivered {
		duplicates += n - 1
	}
	return duplicates
}
