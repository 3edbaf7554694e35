package client

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/opensmtpd/opensmtpd/internal/sevenbit"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// prepare finds out how the message can be sent to this server, if at all. An
// error is about all recipients, except those that have one already.
func (x *exchange) prepare() error {
	t, ext := x.t, x.ext
	if !validPath(t.Sender) {
		return local(Mail, 553, smtp.EnhancedCode{5, 1, 7}, "sender address cannot be sent")
	}
	if ext.MaxSize > 0 && t.Size > ext.MaxSize {
		return local(Mail, 552, smtp.EnhancedCode{5, 3, 4}, "message too large for peer")
	}
	if t.RequireTLS && (x.tls == nil || !x.verified || !ext.RequireTLS) {
		return local(Mail, 550, smtp.EnhancedCode{5, 7, 30}, "REQUIRETLS needed but not offered by peer")
	}
	x.last = len(t.Rcpts)
	domains := make(map[string]struct{})
	first := t.Rcpts[0].Path.Domain
	for i, r := range t.Rcpts {
		if !validPath(r.Path) || r.Path.IsNull() {
			x.refuse(i, local(Rcpt, 553, smtp.EnhancedCode{5, 1, 3}, "recipient address cannot be sent"))
			continue
		}
		if !r.Path.ASCII() && !ext.UTF8 {
			x.refuse(i, local(Rcpt, 553, smtp.EnhancedCode{5, 6, 7}, "SMTPUTF8 needed but not offered by peer"))
			continue
		}
		x.utf8 = x.utf8 || !r.Path.ASCII()
		if ext.MaxDomains > 0 && (r.Path.Domain != first || i == 0) {
			domains[strings.ToLower(r.Path.Domain)] = struct{}{}
		}
		if ext.MaxRcpts > 0 && i >= ext.MaxRcpts || ext.MaxDomains > 0 && len(domains) > ext.MaxDomains {
			x.later(i)
			break
		}
	}
	x.utf8 = x.utf8 || t.UTF8 && ext.UTF8 || !t.Sender.ASCII()
	return x.prepareText()
}

// later leaves the recipients from i on to another transaction.
func (x *exchange) later(i int) {
	x.last = i
	for ; i < len(x.res); i++ {
		if x.res[i].Err == nil {
			e := local(Rcpt, 452, smtp.EnhancedCode{4, 5, 3}, "too many recipients for one transaction with peer")
			e.Err = ErrNextTransaction
			x.refuse(i, e)
		}
	}
}

// refuse gives one recipient its error.
func (x *exchange) refuse(i int, e *Error) {
	x.res[i] = Result{Stage: e.Stage, Err: e}
	if !e.Local {
		x.res[i].Reply = e.Reply
	}
}

// prepareText looks into the message where the server lacks what its bytes need:
// what was declared may be more than what is there, or less.
func (x *exchange) prepareText() error {
	t, ext := x.t, x.ext
	x.eightBit = ext.EightBit && (t.EightBit || x.utf8)
	needUTF8 := (t.UTF8 || x.utf8) && !ext.UTF8
	if ext.EightBit && !needUTF8 {
		return nil
	}
	facts, err := sevenbit.Scan(t.Body)
	if err == nil {
		_, err = t.Body.Seek(0, io.SeekStart)
	}
	if err != nil {
		return bodyError(err)
	}
	if needUTF8 && (!t.Sender.ASCII() || t.UTF8 && facts.EightBitHeader) {
		return local(Mail, 550, smtp.EnhancedCode{5, 6, 7}, "SMTPUTF8 needed but not offered by peer")
	}
	if ext.EightBit || !facts.EightBitBody {
		return nil
	}
	if !facts.Convertible {
		return local(Mail, 554, smtp.EnhancedCode{5, 6, 3}, "8BITMIME needed but not offered by peer, and conversion would break a signature")
	}
	x.body = sevenbit.NewReader(t.Body, facts)
	return nil
}

// bodyError returns the error of a message that cannot be read.
func bodyError(err error) error {
	return &ConnError{Stage: Data, Err: fmt.Errorf("%w: %w", ErrBody, err)}
}

// readInline reads the message into memory, in wire form.
func (x *exchange) readInline() error {
	text := make([]byte, 0, x.t.Size+x.t.Size/16+64)
	text, err := x.encode(text, false, func(text []byte) ([]byte, error) { return text, nil })
	if err != nil {
		return err
	}
	if !x.eightBit && x.ext.EightBit {
		for _, c := range text {
			if c >= 0x80 { // it was not declared
				x.eightBit = true
				break
			}
		}
	}
	x.inline, x.text = true, text
	return nil
}

// validPath tells whether p can stand in a command.
func validPath(p smtp.Path) bool {
	if p.IsNull() {
		return true
	}
	return p.Local != "" && printable(p.Local, true) && printable(p.Domain, false) && !strings.ContainsAny(p.Domain, "<>")
}

// printable tells whether s is well-formed and free of control characters, and of
// blanks but where they may be.
func printable(s string, blanks bool) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == 0x7f || c == ' ' && !blanks {
			return false
		}
	}
	return utf8.ValidString(s)
}
