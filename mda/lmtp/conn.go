package lmtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// Bounds of what a server may say: bytes of a line (RFC 5321 section 4.5.3.1.5
// allows 512), and lines of a reply.
const (
	maxReplyLine  = 2048
	maxReplyLines = 128
)

// maxText bounds the text of a reply that is passed on, in bytes.
const maxText = 256

var errReply = errors.New("malformed reply")

// refusal is a reply other than the one hoped for.
type refusal struct {
	code    int
	line    string // the last line, printable
	session bool   // about the session, not this message
}

func (r *refusal) Error() string { return r.line }

// enhanced returns the enhanced status code behind the reply code (RFC 2034), if
// there is one.
func (r *refusal) enhanced() smtp.EnhancedCode {
	var e smtp.EnhancedCode
	if len(r.line) < 4 {
		return e
	}
	word, _, _ := strings.Cut(r.line[4:], " ")
	parts := strings.Split(word, ".")
	if len(parts) != len(e) {
		return e
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil {
			return smtp.EnhancedCode{}
		}
		e[i] = uint8(n)
	}
	return e
}

// conn is a connection on which LHLO was said.
type conn struct {
	net      net.Conn
	r        *bufio.Reader
	w        *bufio.Writer
	timeouts timeouts
	expire   *time.Timer // ends it when it is not used

	pipelining, size, eightBit, utf8 bool

	begun  bool // the server has answered a command of this transaction
	broken bool // not to be used again
}

func newConn(nc net.Conn, t timeouts) *conn {
	return &conn{
		net: nc, timeouts: t,
		r: bufio.NewReaderSize(nc, maxReplyLine),
		w: bufio.NewWriterSize(nc, 16<<10),
	}
}

// deadline sets the time by which the next step is over. A context that has
// ended keeps its say: Client sets a deadline in the past then, after this or
// before.
func (cn *conn) deadline(ctx context.Context, limit time.Duration) error {
	if err := cn.net.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return ctx.Err()
}

// greet reads the greeting, says LHLO and notes the extensions.
func (cn *conn) greet(ctx context.Context, hostName string) error {
	if _, err := cn.expect(ctx, 220, cn.timeouts.reply, nil); err != nil {
		return ofSession(err)
	}
	if err := cn.send(ctx, "LHLO "+hostName+"\r\n"); err != nil {
		return err
	}
	_, err := cn.expect(ctx, 250, cn.timeouts.reply, func(text string) {
		word, _, _ := strings.Cut(text, " ")
		switch strings.ToUpper(word) {
		case "PIPELINING":
			cn.pipelining = true
		case "SIZE":
			cn.size = true
		case "8BITMIME":
			cn.eightBit = true
		case "SMTPUTF8":
			cn.utf8 = true
		}
	})
	return ofSession(err)
}

// ofSession marks a refusal as one that is not about the message.
func ofSession(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		r.session = true
	}
	return err
}

// deliver runs one transaction. It marks the connection broken unless the next
// one can begin.
func (cn *conn) deliver(ctx context.Context, rcpt string, d *mda.Delivery) error {
	cn.broken = true
	mail := cn.mailCommand(rcpt, d)
	to := "RCPT TO:<" + rcpt + ">\r\n"
	if cn.pipelining {
		mail += to
	}
	if err := cn.send(ctx, mail); err != nil {
		return err
	}
	_, err := cn.expect(ctx, 250, cn.timeouts.reply, nil)
	var refused *refusal
	if cn.begun = err == nil || errors.As(err, &refused) && refused.code != 421; !cn.begun {
		return err
	}
	if !cn.pipelining && err == nil {
		if err := cn.send(ctx, to); err != nil {
			return err
		}
	}
	if cn.pipelining || err == nil {
		_, rcptErr := cn.expect(ctx, 250, cn.timeouts.reply, nil)
		if err == nil {
			err = rcptErr
		}
	}
	if err == nil {
		if err = cn.send(ctx, "DATA\r\n"); err == nil {
			_, err = cn.expect(ctx, 354, cn.timeouts.reply, nil)
		}
	}
	if err != nil {
		if errors.As(err, &refused) && refused.code != 421 {
			cn.reset(ctx)
		}
		return err
	}
	if err := cn.sendMessage(ctx, d); err != nil {
		return err
	}
	if _, err = cn.expect(ctx, 250, cn.timeouts.final, nil); err == nil || errors.As(err, &refused) && refused.code != 421 {
		cn.broken = false
	}
	return err
}

// mailCommand returns the MAIL command with the parameters the server knows. The
// size declared does not count the line ends that transfer makes longer; RFC 1870
// section 5 allows an estimate.
func (cn *conn) mailCommand(rcpt string, d *mda.Delivery) string {
	s := "MAIL FROM:<" + d.Sender.String() + ">"
	if cn.size {
		s += " SIZE=" + strconv.FormatInt(d.Len(), 10)
	}
	if cn.eightBit {
		s += " BODY=8BITMIME"
	}
	if cn.utf8 && strings.ContainsFunc(d.Sender.String()+rcpt, func(r rune) bool { return r >= 0x80 }) {
		s += " SMTPUTF8"
	}
	return s + "\r\n"
}

// reset ends a transaction that was refused, so that the connection can be used
// again.
func (cn *conn) reset(ctx context.Context) {
	if cn.send(ctx, "RSET\r\n") == nil {
		_, err := cn.expect(ctx, 250, cn.timeouts.reply, nil)
		cn.broken = err != nil
	}
}

// quit says goodbye without waiting for an answer, and ends the connection.
func (cn *conn) quit() {
	cn.net.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(cn.net, "QUIT\r\n")
	cn.net.Close()
}

// send sends commands.
func (cn *conn) send(ctx context.Context, commands string) error {
	if err := cn.deadline(ctx, cn.timeouts.reply); err != nil {
		return err
	}
	cn.w.WriteString(commands)
	return cn.w.Flush()
}

// expect reads a reply; a code that does not begin like the one wanted is a refusal. each is called
// with the text of the lines after the first, if it is not nil.
func (cn *conn) expect(ctx context.Context, want int, limit time.Duration, each func(text string)) (string, error) {
	if err := cn.deadline(ctx, limit); err != nil {
		return "", err
	}
	code, line, err := cn.readReply(each)
	if err != nil {
		return "", err
	}
	if code/100 != want/100 {
		if code < 400 {
			return "", fmt.Errorf("%w: %s", errReply, line)
		}
		return "", &refusal{code: code, line: line}
	}
	return line, nil
}

// readReply reads one reply of one or more lines, and returns its code and its
// last line in printable form.
func (cn *conn) readReply(each func(text string)) (code int, line string, err error) {
	for i := range maxReplyLines {
		b, err := cn.r.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = fmt.Errorf("%w: line too long", errReply)
			} else if errors.Is(err, io.EOF) {
				err = errors.New("connection closed by server")
			}
			return 0, "", err
		}
		text := strings.TrimRight(string(b), "\r\n")
		n, more, err := parseReplyLine(text)
		if err != nil || code != 0 && n != code {
			return 0, "", fmt.Errorf("%w: %s", errReply, printable(text))
		}
		code = n
		if i > 0 && each != nil && len(text) > 4 {
			each(text[4:])
		}
		if !more {
			return code, printable(text), nil
		}
	}
	return 0, "", fmt.Errorf("%w: too many lines", errReply)
}

// parseReplyLine returns the code of a reply line (RFC 5321 section 4.2), and
// whether lines follow.
func parseReplyLine(text string) (code int, more bool, err error) {
	if len(text) < 3 || text[0] < '2' || text[0] > '5' || text[1] < '0' || text[1] > '9' || text[2] < '0' || text[2] > '9' {
		return 0, false, errReply
	}
	code = int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0')
	switch {
	case len(text) == 3 || text[3] == ' ':
		return code, false, nil
	case text[3] == '-':
		return code, true, nil
	}
	return 0, false, errReply
}

// printable replaces control characters and cuts to what is passed on.
func printable(text string) string {
	text = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text), "?")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
