package client

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

const (
	// maxBatch bounds the RCPT commands whose replies are still to be read: the
	// server's replies must fit in the buffers in between, or both sides would wait
	// for the other to read (RFC 2920 section 3.1).
	maxBatch = 100

	// maxInline bounds the message that leaves together with its envelope, in bytes.
	// It is lost work when the envelope is refused.
	maxInline = 64 << 10

	// blockSize is how much of a message is read and sent at a time, in bytes.
	blockSize = 32 << 10
)

// exchange is one run of Send.
type exchange struct {
	*Session
	t   *Transaction
	res Results

	utf8     bool      // SMTPUTF8 is asked for
	eightBit bool      // BODY=8BITMIME is declared
	body     io.Reader // t.Body, or what makes 7-bit text of it
	last     int       // the recipients from here on are for another transaction

	pipelined bool
	inline    bool   // the message leaves with the envelope, by BDAT …
	text      []byte // … and this is its wire form

	batch       []int // the recipients whose replies are to be read next
	accepted    int
	refusedMail bool
	delivered   bool // to one recipient at least
}

// Send runs one transaction. Its result is one per recipient. Whatever it is, the
// next transaction may follow if the session is Usable.
func (s *Session) Send(ctx context.Context, t *Transaction) Results {
	x := &exchange{Session: s, t: t, res: make(Results, len(t.Rcpts)), body: t.Body}
	if len(t.Rcpts) == 0 {
		return x.res
	}
	if !s.Usable() {
		err := error(&ConnError{Stage: Mail, Err: ErrNotUsable})
		if !s.over && !s.wire.broken && s.wire.r.Buffered() > 0 {
			err = s.fail(Mail, ErrTooMuchData)
		}
		x.undecided(Mail, Reply{}, err)
		return x.res
	}
	end := s.wire.begin(ctx, s.cfg.Timeouts.Transaction)
	defer end()
	defer s.wire.rest()
	if err := x.prepare(); err != nil {
		x.undecided(Mail, Reply{}, err)
		return x.res
	}
	if !x.remaining() {
		return x.res
	}
	x.pipelined = s.ext.Pipelining && !s.cfg.NoPipelining
	if x.pipelined && s.ext.Chunking && !s.cfg.NoChunking && !s.cfg.LMTP && t.Size <= maxInline {
		if err := x.readInline(); err != nil {
			x.undecided(Data, Reply{}, err)
			return x.res
		}
	}
	if err := x.run(ctx); err != nil {
		x.lost(err)
	}
	return x.res
}

// decided tells whether a recipient has its final result.
func (x *exchange) decided(i int) bool { return x.res[i].Err != nil || x.res[i].Stage == Dot }

// remaining tells whether a recipient has no final result yet.
func (x *exchange) remaining() bool {
	for i := range x.res {
		if !x.decided(i) {
			return true
		}
	}
	return false
}

// undecided gives a final result to all recipients that have none.
func (x *exchange) undecided(stage Stage, r Reply, err error) {
	for i := range x.res {
		if !x.decided(i) {
			x.res[i] = Result{Stage: stage, Reply: r, Err: err}
		}
	}
}

// lost gives all recipients without a final result the error that ended the
// session.
func (x *exchange) lost(err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		x.undecided(e.Stage, e.Reply, err)
	} else if e, ok := errors.AsType[*ConnError](err); ok {
		x.undecided(e.Stage, Reply{}, err)
	}
}

// run holds the dialogue of the transaction. It returns the error that ended the
// session, if one did, or that of RSET.
func (x *exchange) run(ctx context.Context) error {
	if x.stale && !x.pipelined {
		x.wire.command("RSET", "")
		if err := x.flush(ctx, Rset); err != nil {
			return err
		}
		if err := x.readReset(ctx); err != nil {
			return err
		}
	}
	reset := x.stale // it leaves together with MAIL
	if reset {
		x.wire.command("RSET", "")
	}
	x.stale = true
	x.transactions++
	x.wire.command(x.mailCommand(), "")
	if !x.pipelined {
		if err := x.flush(ctx, Mail); err != nil {
			return err
		}
		if err := x.readMail(ctx); err != nil {
			return err
		}
	}
	ready := false // for the message: all that comes before has been sent
	for next := 0; next < x.last && x.goesOn(); {
		first := next == 0 && x.pipelined
		next = x.addRcpts(next)
		if ready = x.pipelined && next >= x.last; ready {
			x.addData()
		}
		if err := x.flush(ctx, Rcpt); err != nil {
			return err
		}
		if first && reset {
			if err := x.readReset(ctx); err != nil {
				return err
			}
		}
		if first {
			if err := x.readMail(ctx); err != nil {
				return err
			}
		}
		if err := x.readRcpts(ctx); err != nil {
			return err
		}
	}
	x.giveUp()
	if !ready {
		if x.accepted == 0 {
			return nil
		}
		x.addData()
		if err := x.flush(ctx, Data); err != nil {
			return err
		}
	}
	if x.inline {
		return x.final(ctx)
	}
	return x.data(ctx)
}

// goesOn tells whether more recipients are worth trying.
func (x *exchange) goesOn() bool { return !x.refusedMail && !x.tooManyFailures() }

// tooManyFailures tells whether so many recipients in a row were refused that this
// server is left alone.
func (x *exchange) tooManyFailures() bool {
	return x.cfg.MaxRcptFailures > 0 && x.rcptFailures >= x.cfg.MaxRcptFailures
}

// giveUp ends the session after the transaction if too many recipients were
// refused, and decides on those that were not tried.
func (x *exchange) giveUp() {
	if !x.tooManyFailures() {
		return
	}
	x.over = true
	for i := range x.res {
		if !x.decided(i) && x.res[i].Stage != Rcpt {
			x.refuse(i, local(Rcpt, 450, smtp.EnhancedCode{4, 5, 0}, "Too many consecutive errors, closing connection"))
		}
	}
}

// flush sends what was added.
func (x *exchange) flush(ctx context.Context, stage Stage) error {
	if err := x.wire.flush(ctx); err != nil {
		return x.interrupted(ctx, stage, err)
	}
	return nil
}

// interrupted returns the error for a failed write. A server that closed the
// connection may have said why.
func (x *exchange) interrupted(ctx context.Context, stage Stage, err error) error {
	const patience = 2 * time.Second
	if _, ok := errors.AsType[Reason](err); ok || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		return x.fail(stage, err)
	}
	r, readErr := x.wire.reply(ctx, patience, nil)
	failed := x.fail(stage, err)
	if readErr == nil && r.Code >= 400 {
		return x.refused(stage, r)
	}
	return failed
}

// answer reads a reply. Its error ends the session: that of the connection, or the
// server's announcement of its end.
func (x *exchange) answer(ctx context.Context, stage Stage, d time.Duration) (Reply, error) {
	r, err := x.read(ctx, stage, d, nil)
	if err == nil && r.Code == 421 {
		err = x.refused(stage, r)
	}
	return r, err
}

// readReset reads the reply to RSET.
func (x *exchange) readReset(ctx context.Context) error {
	r, err := x.answer(ctx, Rset, x.cfg.Timeouts.Mail)
	if err == nil && r.Code/100 != 2 {
		x.over = true
		err = x.refused(Rset, r)
	}
	x.stale = err != nil
	x.done(Rset, "", err)
	return err
}

// readMail reads the reply to MAIL.
func (x *exchange) readMail(ctx context.Context) error {
	r, err := x.answer(ctx, Mail, x.cfg.Timeouts.Mail)
	shown := err
	if err == nil && r.Code/100 != 2 {
		shown = x.refused(Mail, r)
		x.refusedMail = true
		x.undecided(Mail, r, shown)
	}
	x.stale = true
	if x.cfg.Trace != nil {
		x.done(Mail, x.t.Sender.String(), shown)
	}
	return err
}

// readRcpts reads the replies to a batch of RCPT. Behind a refused MAIL they mean
// nothing.
func (x *exchange) readRcpts(ctx context.Context) error {
	for _, i := range x.batch {
		r, err := x.answer(ctx, Rcpt, x.cfg.Timeouts.Rcpt)
		if err == nil && x.refusedMail {
			continue
		}
		shown := err
		switch {
		case err != nil:
		case r.Code/100 == 2:
			x.res[i] = Result{Stage: Rcpt, Reply: r}
			x.accepted++
			x.rcptFailures = 0
		default:
			e := x.refused(Rcpt, r)
			if x.accepted > 0 && tooManyRcpts(r) {
				e.Err = ErrNextTransaction
			} else {
				x.rcptFailures++
			}
			x.refuse(i, e)
			shown = e
		}
		if x.cfg.Trace != nil {
			x.done(Rcpt, x.t.Rcpts[i].Path.String(), shown)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tooManyRcpts tells whether a reply to RCPT is about their number (RFC 5321
// section 4.5.3.1.10, with the 552 of older servers).
func tooManyRcpts(r Reply) bool {
	if r.Enhanced != (smtp.EnhancedCode{}) {
		return r.Enhanced[1] == 5 && r.Enhanced[2] == 3
	}
	return r.Code == 452 || r.Code == 552
}

// data reads the reply to DATA, sends the message and reads what became of it.
func (x *exchange) data(ctx context.Context) error {
	r, err := x.answer(ctx, Data, x.cfg.Timeouts.Data)
	shown := err
	refused := err == nil && r.Code != 354 && r.Code/100 != 2
	if refused {
		shown = x.refused(Data, r)
		x.undecided(Data, r, shown)
	}
	x.done(Data, "", shown)
	if err != nil || refused {
		return err
	}
	if x.accepted == 0 {
		return x.loneDot(ctx)
	}
	if err := x.sendText(ctx); err != nil {
		return err
	}
	return x.final(ctx)
}

// loneDot ends a message that the server wants although it took no recipient (RFC
// 2920 section 3.1). How many replies an LMTP server has for it nobody knows.
func (x *exchange) loneDot(ctx context.Context) error {
	if x.cfg.LMTP {
		x.over = true
		return nil
	}
	x.wire.command(".", "")
	if err := x.flush(ctx, Dot); err != nil {
		return err
	}
	_, err := x.answer(ctx, Dot, x.cfg.Timeouts.Dot)
	return err
}

// sendText sends the message and the dot that ends it, the last block and the dot
// in one write.
func (x *exchange) sendText(ctx context.Context) error {
	out, err := x.encode(x.wire.out, true, func(out []byte) ([]byte, error) {
		if len(out) < blockSize {
			return out, nil
		}
		x.wire.out = out
		err := x.flush(ctx, Data)
		return x.wire.out, err
	})
	if err != nil {
		if e, ok := errors.AsType[*ConnError](err); ok && !x.wire.broken {
			return x.fail(e.Stage, e.Err) // there is no other way out of a message
		}
		return err
	}
	x.wire.out = out
	x.wire.command(".", "")
	return x.flush(ctx, Dot)
}

// encode appends the message in wire form to dst. full is called from time to time
// and returns what to append to from there on.
func (x *exchange) encode(dst []byte, stuff bool, full func([]byte) ([]byte, error)) ([]byte, error) {
	var e encoder
	block := make([]byte, min(blockSize, max(x.t.Size, 0)+1))
	for {
		n, err := x.body.Read(block)
		dst = e.add(dst, block[:n], stuff)
		if err == io.EOF {
			return e.end(dst), nil
		}
		if err != nil {
			return dst, bodyError(err)
		}
		if dst, err = full(dst); err != nil {
			return dst, err
		}
	}
}

// final reads what became of the message: one reply for all, or with LMTP one for
// each recipient that was taken (RFC 2033 section 4.2). The transaction has ended
// with it.
func (x *exchange) final(ctx context.Context) error {
	for i := range x.res {
		if x.cfg.LMTP && x.decided(i) {
			continue
		}
		r, err := x.answer(ctx, Dot, x.cfg.Timeouts.Dot)
		shown := err
		if err == nil && r.Code/100 != 2 {
			shown = x.refused(Dot, r)
		}
		x.done(Dot, "", shown)
		if err != nil {
			return err
		}
		x.stale = false
		if shown == nil && x.accepted > 0 && !x.delivered {
			x.delivered = true
			x.messages++
		}
		if x.cfg.LMTP {
			x.res[i] = Result{Stage: Dot, Reply: r, Err: shown}
			continue
		}
		x.undecided(Dot, r, shown)
		break
	}
	return nil
}

// mailCommand returns the MAIL command with the parameters that the message needs
// and the server knows.
func (x *exchange) mailCommand() string {
	t, ext := x.t, x.ext
	b := append(make([]byte, 0, 256), "MAIL FROM:<"...)
	b = append(b, t.Sender.String()...)
	b = append(b, '>')
	if ext.Size && t.Size > 0 {
		size := t.Size // an estimate (RFC 1870 section 5): line ends grow on the way
		if x.inline {
			size = int64(len(x.text))
		}
		b = strconv.AppendInt(append(b, " SIZE="...), size, 10)
	}
	if x.eightBit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if x.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	if t.RequireTLS {
		b = append(b, " REQUIRETLS"...)
	}
	if ext.DSN && t.Ret != "" && printable(t.Ret, false) {
		b = append(append(b, " RET="...), t.Ret...)
	}
	if ext.DSN && t.EnvID != "" && printable(t.EnvID, false) {
		b = append(append(b, " ENVID="...), t.EnvID...)
	}
	return string(b)
}

// addRcpts adds the next batch of RCPT commands and returns the recipient behind
// it. Recipients that have their result already are passed over.
func (x *exchange) addRcpts(next int) int {
	most := 1
	if x.pipelined {
		most = maxBatch
	}
	x.batch = x.batch[:0]
	for ; next < x.last && len(x.batch) < most; next++ {
		if !x.decided(next) {
			x.wire.command(x.rcptCommand(&x.t.Rcpts[next]), "")
			x.batch = append(x.batch, next)
		}
	}
	return next
}

// rcptCommand returns a RCPT command.
func (x *exchange) rcptCommand(r *Recipient) string {
	if !x.ext.DSN || r.Notify == 0 && r.OrigRcpt == "" {
		return "RCPT TO:<" + r.Path.String() + ">"
	}
	b := append(make([]byte, 0, 256), "RCPT TO:<"...)
	b = append(b, r.Path.String()...)
	b = append(b, '>')
	separator := " NOTIFY="
	for _, n := range [...]struct {
		flag envelope.Notify
		word string
	}{
		{envelope.NotifyNever, "NEVER"}, {envelope.NotifySuccess, "SUCCESS"},
		{envelope.NotifyFailure, "FAILURE"}, {envelope.NotifyDelay, "DELAY"},
	} {
		if r.Notify&n.flag != 0 && (r.Notify&envelope.NotifyNever == 0 || n.flag == envelope.NotifyNever) {
			b = append(append(b, separator...), n.word...)
			separator = ","
		}
	}
	if r.OrigRcpt != "" && printable(r.OrigRcpt, false) {
		b = append(append(b, " ORCPT="...), r.OrigRcpt...)
	}
	return string(b)
}

// addData adds the command that announces the message, with the message itself
// where that can be.
func (x *exchange) addData() {
	if !x.inline {
		x.wire.command("DATA", "")
		return
	}
	x.wire.command("BDAT "+strconv.Itoa(len(x.text))+" LAST", "")
	x.wire.out = append(x.wire.out, x.text...)
}
