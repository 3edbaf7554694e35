package submit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

const (
	replyTimeout = 5 * time.Minute  // RFC 5321 section 4.5.3.2
	endTimeout   = 10 * time.Minute // for the reply to the final dot, section 4.5.3.2.6
	quitTimeout  = 5 * time.Second  // nothing depends on that reply
	maxReply     = 64 << 10         // bytes of one reply
	batch        = 64               // commands sent ahead of their replies
)

// dialogue is the client side of one SMTP session over the local socket.
type dialogue struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	log  io.Writer // -v; may be nil

	host       string          // the server's name
	extensions map[string]bool // offered, in upper case
}

// reply is what the server said.
type reply struct {
	code  int
	lines []string // without the code
}

// err returns the reply as an error unless its first digit is class.
func (r reply) err(class int) error {
	if r.code/100 == class {
		return nil
	}
	text := strings.Join(r.lines, "\n")
	e := &smtp.Error{Code: r.code, Text: text}
	if r.code < 400 || r.code > 599 {
		e.Code = 451
	}
	if word, rest, ok := strings.Cut(text, " "); ok {
		if enhanced, ok := parseEnhanced(word); ok {
			e.Enhanced = enhanced
			e.Text = strings.ReplaceAll(rest, "\n"+word+" ", "\n")
		}
	}
	return e
}

// parseEnhanced reads an enhanced status code (RFC 3463 section 2).
func parseEnhanced(s string) (c smtp.EnhancedCode, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != len(c) || parts[0] != "4" && parts[0] != "5" {
		return c, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil {
			return c, false
		}
		c[i] = uint8(n)
	}
	return c, true
}

// watch closes conn when ctx ends, until stop is called.
func watch(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.Close() })
}

// open exchanges greetings with the server. The caller closes conn.
func open(conn net.Conn, log io.Writer) (*dialogue, error) {
	d := &dialogue{
		conn: conn, r: bufio.NewReaderSize(conn, 4096), w: bufio.NewWriterSize(conn, 32<<10),
		log: log, extensions: map[string]bool{},
	}
	hello, err := d.read(replyTimeout)
	if err != nil {
		return nil, err
	}
	if err := hello.err(2); err != nil {
		return nil, err
	}
	d.host, _, _ = strings.Cut(hello.lines[0], " ")
	if !smtp.IsHostName(d.host) {
		return nil, fmt.Errorf("server greets with %q, not with its name", clip(d.host))
	}
	if hello, err = d.ask("EHLO localhost"); err != nil {
		return nil, err
	}
	if err := hello.err(2); err != nil {
		return nil, err
	}
	for _, line := range hello.lines[1:] {
		word, _, _ := strings.Cut(line, " ")
		d.extensions[strings.ToUpper(word)] = true
	}
	return d, nil
}

// send queues a command.
func (d *dialogue) send(command string) error {
	if d.log != nil {
		fmt.Fprintf(d.log, ">>> %s\n", command)
	}
	if _, err := d.w.WriteString(command); err != nil {
		return err
	}
	_, err := d.w.WriteString("\r\n")
	return err
}

// flush sends what is queued.
func (d *dialogue) flush(limit time.Duration) error {
	if err := d.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return d.w.Flush()
}

// ask sends a command and waits for its reply.
func (d *dialogue) ask(command string) (reply, error) {
	if err := d.send(command); err != nil {
		return reply{}, err
	}
	if err := d.flush(replyTimeout); err != nil {
		return reply{}, err
	}
	return d.read(replyTimeout)
}

// read waits for a reply.
func (d *dialogue) read(limit time.Duration) (reply, error) {
	if err := d.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return reply{}, err
	}
	var r reply
	for size := 0; ; {
		line, err := d.r.ReadSlice('\n')
		if err != nil {
			return reply{}, fmt.Errorf("read reply: %w", err)
		}
		if size += len(line); size > maxReply {
			return reply{}, fmt.Errorf("read reply: more than %d bytes", maxReply)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if d.log != nil {
			fmt.Fprintf(d.log, "<<< %s\n", text)
		}
		code, more, rest, ok := parseReplyLine(text)
		if !ok || r.code != 0 && r.code != code {
			return reply{}, fmt.Errorf("read reply: malformed line %q", clip(text))
		}
		r.code, r.lines = code, append(r.lines, rest)
		if !more {
			return r, nil
		}
	}
}

// parseReplyLine takes a reply line apart (RFC 5321 section 4.2).
func parseReplyLine(s string) (code int, more bool, text string, ok bool) {
	if len(s) < 3 || len(s) > 3 && s[3] != ' ' && s[3] != '-' {
		return 0, false, "", false
	}
	n, err := strconv.ParseUint(s[:3], 10, 16)
	if err != nil || n < 200 || n > 599 {
		return 0, false, "", false
	}
	if len(s) == 3 {
		return int(n), false, "", true
	}
	return int(n), s[3] == '-', s[4:], true
}

// quit ends the session politely; nothing depends on it.
func (d *dialogue) quit() {
	if d.send("QUIT") == nil && d.flush(quitTimeout) == nil {
		_, _ = d.read(quitTimeout)
	}
}
