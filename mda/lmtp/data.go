package lmtp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/opensmtpd/opensmtpd/mda"
)

// sendMessage sends the message in the form of transfer, and the final dot. When
// the message cannot be read to its end there is no final dot, and the server
// must not keep what it got.
func (cn *conn) sendMessage(ctx context.Context, d *mda.Delivery) error {
	msg, err := d.Reader()
	if err != nil {
		return err
	}
	size := min(d.Len()+1, 32<<10)
	br := bufio.NewReaderSize(msg, int(size))
	err = cn.writeBody(ctx, br)
	if err == nil || errors.Is(err, errBody) {
		return err
	}
	// A server that has closed may have said why.
	if ctx.Err() == nil && cn.net.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		if code, line, replyErr := cn.readReply(nil); replyErr == nil && code >= 400 {
			return &refusal{code: code, line: line}
		}
	}
	return err
}

// errBody wraps the errors of reading the message.
var errBody = errors.New("cannot read message")

// writeBody doubles dots at line starts (RFC 5321 section 4.5.2), ends lines with
// CR LF, and ends the message with a line of one dot.
func (cn *conn) writeBody(ctx context.Context, br *bufio.Reader) error {
	if err := cn.deadline(ctx, cn.timeouts.block); err != nil {
		return err
	}
	lineStart, cr := true, false
	for {
		line, err := br.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return errors.Join(errBody, err)
		}
		if len(line) > 0 {
			if cn.w.Available() < len(line)+3 { // the next write may wait
				if err := cn.deadline(ctx, cn.timeouts.block); err != nil {
					return err
				}
			}
			if lineStart && line[0] == '.' {
				cn.w.WriteByte('.')
			}
			end := len(line) - 1
			lineStart = line[end] == '\n'
			if !lineStart {
				end++
			}
			if end > 0 {
				cr = line[end-1] == '\r'
			}
			cn.w.Write(line[:end])
			if lineStart {
				if !cr {
					cn.w.WriteByte('\r')
				}
				cn.w.WriteByte('\n')
				cr = false
			}
		}
		if err == io.EOF {
			break
		}
		if _, err := cn.w.Write(nil); err != nil { // reports earlier errors
			return err
		}
	}
	if !lineStart {
		cn.w.WriteString("\r\n")
	}
	cn.w.WriteString(".\r\n")
	return cn.w.Flush()
}
