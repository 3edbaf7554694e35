package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/filterchain"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

// outgoing is the filter part of a session with a next hop. Filters are asked about
// sender, recipients, text and commit of a transaction before it begins with the host;
// what the host says is reported to them.
type outgoing struct {
	g       *generation
	session *filterchain.Session

	t        *relay.Transaction // in progress, its begin reported, as the host sees it; nil: none
	reported []bool             // recipients whose answer was
	done     bool               // so was its end
	body     relay.Body         // what filters made of the text; nil: nothing
}

// relayFilter makes the filter part of an outgoing session.
func (d *Dispatcher) relayFilter(ctx context.Context, t *relay.Target, local, remote netip.AddrPort) (relay.Filter, error) {
	g := d.begin()
	chain, err := g.filtering.chain(t.Filter, wire.Out)
	if err != nil {
		g.sessionEnded()
		return nil, err
	}
	connect := wire.LinkConnect{RDNS: t.Host, FCrDNS: wire.Pass, Source: local.String(), Destination: remote.String()}
	if t.Host == "" || strings.HasPrefix(t.Host, "[") {
		connect.RDNS, connect.FCrDNS = "<unknown>", wire.Fail
	}
	facts := policy.Facts{Source: remote.Addr().String(), RDNS: connect.RDNS}
	if remote.Addr().Is6() {
		facts.Source = "[" + facts.Source + "]"
	}
	return &outgoing{g: g, session: chain.Open(ctx, uint64(t.Session), facts, connect)}, nil
}

// Close implements relay.Filter.
func (o *outgoing) Close() {
	o.session.Close()
	o.g.sessionEnded()
}

// Sent implements client.Trace.
func (o *outgoing) Sent(line string) {
	if o.session.Wants(wire.EventProtocolClient) {
		o.session.Report(wire.ProtocolClient{Line: line})
	}
}

// Received implements client.Trace.
func (o *outgoing) Received(line string) {
	if o.session.Wants(wire.EventProtocolServer) {
		o.session.Report(wire.ProtocolServer{Line: line})
	}
}

// result returns the word for how a step ended.
func result(err error) wire.Result {
	if err == nil {
		return wire.OK
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code >= 500 {
		return wire.PermFail
	}
	return wire.TempFail
}

// Done implements client.Trace.
func (o *outgoing) Done(stage client.Stage, about string, err error) {
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		o.session.Report(wire.Timeout{})
	}
	switch {
	case stage == client.Auth:
		words := map[wire.Result]wire.Result{wire.OK: wire.Pass, wire.PermFail: wire.Fail, wire.TempFail: wire.Error}
		o.session.Report(wire.LinkAuth{Result: words[result(err)], User: about})
	case stage == client.Banner && err == nil:
		o.session.Report(wire.LinkGreeting{Hostname: about})
	case stage == client.Hello && err == nil:
		method, name, _ := strings.Cut(about, "|")
		o.session.Report(wire.LinkIdentify{Method: method, Identity: name})
	case stage == client.Handshake && err == nil:
		o.session.Report(wire.LinkTLS{Text: about})
	case o.t == nil:
	default:
		o.step(stage, about, err)
	}
}

// step reports a step of the transaction.
func (o *outgoing) step(stage client.Stage, about string, err error) {
	id := uint32(o.t.MsgID)
	switch stage {
	case client.Mail:
		o.session.Report(wire.TxMail{Message: id, Result: result(err), Address: about})
	case client.Rcpt:
		for i, e := range o.t.Rcpts {
			if !o.reported[i] && e.Dest.String() == about {
				o.reported[i] = true
				if err == nil {
					o.session.Report(wire.TxEnvelope{Message: id, Envelope: uint64(e.ID)})
				}
				break
			}
		}
		o.session.Report(wire.TxRcpt{Message: id, Result: result(err), Address: about})
	case client.Data:
		o.session.Report(wire.TxData{Message: id, Result: result(err)})
	case client.Dot:
		if err == nil && !o.done {
			o.done = true
			o.session.Report(wire.TxCommit{Message: id, Size: o.t.Body.Size()})
		}
	}
}

// Begin implements relay.Filter.
func (o *outgoing) Begin(ctx context.Context, t *relay.Transaction) (*relay.Transaction, []*smtp.Error) {
	changed := *t
	changed.Rcpts = make([]*envelope.Envelope, len(t.Rcpts))
	refused := make([]*smtp.Error, len(t.Rcpts))
	refuse := func(e *smtp.Error) (*relay.Transaction, []*smtp.Error) {
		for i := range refused {
			if refused[i] == nil {
				refused[i] = e
			}
		}
		return &changed, refused
	}
	// A filter that is away from here on has not seen all of the transaction: it takes no
	// further part, and no mail leaves without one that must be asked.
	o.session.Ready(ctx)
	o.t, o.done, o.reported = &changed, false, make([]bool, len(t.Rcpts))
	o.session.Report(wire.TxBegin{Message: uint32(t.MsgID)})
	v := o.session.Decide(ctx, wire.PhaseMailFrom, t.Sender.String())
	junk := v.Junk
	if v.Refusal == nil {
		v.Refusal = rewrite(&v, &changed.Sender)
	}
	if v.Refusal != nil {
		return refuse(v.Refusal)
	}
	left := 0
	for i, e := range t.Rcpts {
		rcpt := *e
		v := o.session.Decide(ctx, wire.PhaseRcptTo, e.Dest.String())
		junk = junk || v.Junk
		if v.Refusal == nil {
			v.Refusal = rewrite(&v, &rcpt.Dest)
		}
		if changed.Rcpts[i], refused[i] = &rcpt, v.Refusal; v.Refusal == nil {
			left++
		}
	}
	if left == 0 {
		return &changed, refused
	}
	if err := o.pass(ctx, &changed); err != nil {
		return refuse(temporary(err))
	}
	if v = o.session.Decide(ctx, wire.PhaseCommit, ""); v.Refusal != nil {
		return refuse(v.Refusal)
	}
	if junk || v.Junk {
		changed.Body = marked{changed.Body}
	}
	return &changed, refused
}

// Finish implements relay.Filter.
func (o *outgoing) Finish() {
	if o.t != nil {
		if !o.done {
			o.session.Report(wire.TxRollback{Message: uint32(o.t.MsgID)})
		}
		o.session.Report(wire.TxReset{Message: uint32(o.t.MsgID)})
	}
	if o.t = nil; o.body != nil {
		_ = o.body.Close() // it was read
		o.body = nil
	}
}

// rewrite sets an address to what filters made of it.
func rewrite(v *filterchain.Verdict, p *smtp.Path) *smtp.Error {
	if v.Kind != wire.VerdictRewrite {
		return nil
	}
	path, _, err := smtp.ParsePath(v.Argument)
	if err != nil {
		return temporary(fmt.Errorf("filters give the address %q", v.Argument))
	}
	*p = path
	return nil
}

// temporary refuses for a failure of ours.
func temporary(err error) *smtp.Error {
	if e, ok := errors.AsType[*smtp.Error](err); ok {
		return e
	}
	return &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 0}, Text: "Temporary failure in filters", Err: err}
}

// pass has the text pass through the filters that want to see it.
func (o *outgoing) pass(ctx context.Context, t *relay.Transaction) error {
	out := &scratch{d: o.g.d}
	text := o.session.Text(func(p []byte) error { return out.write(ctx, p) })
	if text == nil {
		return nil
	}
	_, err := io.Copy(text, io.NewSectionReader(t.Body, 0, t.Body.Size()))
	if err == nil {
		err = text.Close(ctx)
	} else {
		text.Abort()
	}
	if err != nil {
		out.Close()
		return err
	}
	t.Body, o.body = out, out
	return nil
}

// marked is a text that filters hold for spam.
type marked struct{ relay.Body }

// spamField says so.
const spamField = "X-Spam: Yes\n"

// ReadAt implements relay.Body.
func (m marked) ReadAt(p []byte, off int64) (n int, err error) {
	if off < int64(len(spamField)) {
		n = copy(p, spamField[off:])
	}
	if n == len(p) {
		return n, nil
	}
	k, err := m.Body.ReadAt(p[n:], max(off-int64(len(spamField)), 0))
	return n + k, err
}

// Size implements relay.Body.
func (m marked) Size() int64 { return m.Body.Size() + int64(len(spamField)) }

// scratch holds a text: in memory, or when it is large in a file that the queue keeps
// for a transaction that never comes about.
type scratch struct {
	d    *Dispatcher
	text []byte // what is not in file
	size int64
	file *os.File
	conn *imsg.Conn
	id   envelope.MsgID
}

// maxScratch bounds what filters may make of a text.
const maxScratch = 1 << 30

func (s *scratch) write(ctx context.Context, p []byte) error {
	if s.size += int64(len(p)); s.size > maxScratch {
		return errors.New("filters give out too much")
	}
	if s.text = append(s.text, p...); len(s.text) <= envelope.InlineMax {
		return nil
	}
	if s.file == nil {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	_, err := s.file.Write(s.text)
	s.text = s.text[:0]
	return err
}

// open gets a file.
func (s *scratch) open(ctx context.Context) error {
	conn, err := s.d.p.Links.Conn(ctx, proto.Queue)
	if err != nil {
		return err
	}
	r, _, err := proto.Begin.Call(ctx, conn, proto.BeginRequest{})
	if err != nil {
		return refusal(err)
	}
	s.conn, s.id = conn, r.MsgID
	_, files, err := proto.Spill.Call(ctx, conn, proto.MsgRequest(r))
	if err != nil {
		return refusal(err)
	}
	if s.file, err = only(files); err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	return nil
}

// only returns the one descriptor that a call came back with.
func only(files []*os.File) (*os.File, error) {
	if len(files) == 1 {
		return files[0], nil
	}
	for _, f := range files {
		f.Close()
	}
	return nil, fmt.Errorf("%d descriptors, want 1", len(files))
}

// ReadAt implements relay.Body.
func (s *scratch) ReadAt(p []byte, off int64) (n int, err error) {
	stored := s.size - int64(len(s.text))
	if off < stored {
		n, err = s.file.ReadAt(p[:min(int64(len(p)), stored-off)], off)
		if err != nil || n == len(p) {
			return n, err
		}
	}
	m, err := bytes.NewReader(s.text).ReadAt(p[n:], off+int64(n)-stored)
	return n + m, err
}

// Size implements relay.Body.
func (s *scratch) Size() int64 { return s.size }

// Close implements relay.Body.
func (s *scratch) Close() error {
	if s.conn != nil {
		_ = proto.Rollback.Send(s.conn, proto.MsgRequest{MsgID: s.id}) // with the link goes the transaction
	}
	if s.file != nil {
		return s.file.Close()
	}
	return nil
}
