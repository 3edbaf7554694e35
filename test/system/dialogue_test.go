//go:build system

package system

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// conn is a connection to an SMTP listener, for tests that care about each byte.
type conn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// connect opens a connection and reads the greeting.
func (d *daemon) connect() *conn {
	d.t.Helper()
	return d.connectFrom("")
}

// connectFrom connects from one of the loopback addresses and reads the greeting.
func (d *daemon) connectFrom(source string) *conn {
	d.t.Helper()
	c := d.dialFrom(source)
	c.expect("the connection", "^220 ")
	return c
}

// dialFrom connects from one of the loopback addresses.
func (d *daemon) dialFrom(source string) *conn {
	d.t.Helper()
	dialer := net.Dialer{Timeout: patience}
	if source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	nc, err := dialer.Dial("tcp", d.address())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { nc.Close() })
	return &conn{d.t, nc, newReader(nc)}
}

func newReader(nc net.Conn) *bufio.Reader { return bufio.NewReader(nc) }

// raw sends bytes as they are.
func (c *conn) raw(s string) {
	c.t.Helper()
	if err := c.write(s); err != nil {
		c.t.Fatalf("send %.60q: %v", s, err)
	}
}

func (c *conn) write(s string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.WriteString(c.Conn, s)
	return err
}

// reply reads a reply, its lines joined by "\n", each without its code but the first.
func (c *conn) reply() (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimSuffix(line, "\r\n")
		if len(line) < 4 {
			return line, nil
		}
		if b.Len() > 0 {
			b.WriteString("\n" + line[4:])
		} else {
			b.WriteString(line[:3] + " " + line[4:])
		}
		if line[3] == ' ' {
			return b.String(), nil
		}
	}
}

// expect reads the reply to what was sent; it must match.
func (c *conn) expect(sent, pattern string) string {
	c.t.Helper()
	got, err := c.reply()
	if err != nil {
		c.t.Fatalf("reply to %.70q: %v", sent, err)
	}
	if !regexp.MustCompile(pattern).MatchString(got) {
		c.t.Fatalf("reply to %.70q: %q, want %q", sent, got, pattern)
	}
	return got
}

// talk sends lines and expects replies: what is sent, then the pattern of the
// reply, and so on.
func (c *conn) talk(steps ...string) *conn {
	c.t.Helper()
	for i := 0; i < len(steps); i += 2 {
		c.raw(steps[i] + "\r\n")
		c.expect(steps[i], steps[i+1])
	}
	return c
}

// closed expects that the server closes the connection without another reply.
func (c *conn) closed() {
	c.t.Helper()
	if got, err := c.reply(); err == nil {
		c.t.Errorf("got %q, want the end of the connection", got)
	}
}

// to opens a session and a transaction for the recipients.
func (d *daemon) to(rcpts ...string) *conn {
	d.t.Helper()
	c := d.connect().talk("EHLO client.example.net", "^250", "MAIL FROM:<sender@example.net>", "^250")
	for _, r := range rcpts {
		c.talk("RCPT TO:<"+r+">", "^250")
	}
	return c
}

// send sends a message to recipients. Lines of text end in "\n".
func (d *daemon) send(text string, rcpts ...string) {
	d.t.Helper()
	text = strings.ReplaceAll("\n"+strings.TrimSuffix(text, "\n"), "\n.", "\n..")[1:]
	text = strings.ReplaceAll(text, "\n", "\r\n")
	d.to(rcpts...).talk("DATA", "^354", text+"\r\n.", "^250 2.0.0", "QUIT", "^221")
}

// mails returns the messages in a user's Maildir, in the order of their delivery.
func (d *daemon) mails(who string) []string {
	d.t.Helper()
	return d.maildir("home/" + who + "/Maildir")
}

// maildir returns the new messages of a Maildir.
func (d *daemon) maildir(name string) []string {
	d.t.Helper()
	paths, err := filepath.Glob(d.path(name + "/new/*"))
	if err != nil {
		d.t.Fatal(err)
	}
	times := map[string]time.Time{}
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			d.t.Fatal(err)
		}
		times[p] = fi.ModTime()
	}
	sort.SliceStable(paths, func(i, j int) bool { return times[paths[i]].Before(times[paths[j]]) })
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, string(b))
	}
	return out
}

// mail waits for n messages in a user's Maildir, and returns them.
func (d *daemon) mail(who string, n int) []string {
	d.t.Helper()
	d.await(fmt.Sprintf("%d messages of %s", n, who), func() bool { return d.arrived(who) >= n })
	got := d.mails(who)
	if len(got) > n {
		d.t.Errorf("%d messages of %s, want %d", len(got), who, n)
	}
	return got
}

// arrived returns the number of messages in a user's Maildir.
func (d *daemon) arrived(who string) int {
	entries, err := os.ReadDir(d.path("home/" + who + "/Maildir/new"))
	if err != nil {
		return 0 // nothing has been delivered yet
	}
	return len(entries)
}

// body returns a message without its header.
func body(mail string) string {
	_, b, _ := strings.Cut(mail, "\n\n")
	return b
}

// matches fails the test unless text matches.
func matches(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%s: %.2000q does not match %q", what, text, pattern)
	}
}

// atoi is strconv.Atoi for numbers that a test relies on.
func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
