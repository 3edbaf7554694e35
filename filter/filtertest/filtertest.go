// Package filtertest tries filters without a daemon: it plays the daemon's part over
// pipes, by recorded sessions or step by step.
package filtertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// patience bounds the wait for a line of the filter. It is no measure of anything:
// a filter that needs it hangs.
const patience = 30 * time.Second

// Daemon plays the daemon for one filter. Its methods are for one goroutine, but for
// those of sessions, which may run in one each.
type Daemon struct {
	t   testing.TB
	out io.Writer // to the filter
	log *lockedBuffer

	registered []string

	mu       sync.Mutex
	next     uint64                                           // guarded by mu; the last session's id
	sessions map[uint64]*inbox                                // guarded by mu
	dns      func(wire.Query, string) ([]string, wire.Status) // guarded by mu
	ended    chan struct{}
}

// Config are lines of the handshake, such as "config|admd|mx.example.org", without
// config|ready.
type Config []string

// Current is the handshake of this project's daemon.
func Current() Config {
	return Config{"config|smtpd-version|7.8.0", "config|protocol|0.7", "config|smtp-session-timeout|300",
		"config|subsystem|smtp-in", "config|subsystem|smtp-out", "config|admd|mx.example.org",
		"config|extension|smtp-out", "config|extension|dns", "config|extension|results"}
}

// OpenSMTPD is the handshake of OpenSMTPD 7.8, without any extension.
func OpenSMTPD() Config {
	return Config{"config|smtpd-version|7.8.0-portable", "config|protocol|0.7", "config|smtp-session-timeout|300",
		"config|subsystem|smtp-in", "config|subsystem|smtp-out", "config|admd|mx.example.org"}
}

// Start serves f until the test ends, shakes hands and fails the test when the filter
// breaks the protocol. What the filter logs is in Log, unless it has a place for it.
func Start(t testing.TB, f *filter.Filter, config Config) *Daemon {
	t.Helper()
	log := new(lockedBuffer)
	logged := *f
	if logged.Log == nil {
		logged.Log = log
	}
	d := Run(t, config, func(r io.Reader, w io.Writer) error {
		return logged.Serve(context.Background(), r, w)
	})
	d.log = log
	return d
}

// Run is Start for a filter that is no Filter: serve reads what the daemon writes, and
// writes what it reads, until the end of input. It may run a program.
func Run(t testing.TB, config Config, serve func(r io.Reader, w io.Writer) error) *Daemon {
	t.Helper()
	toFilter, out := io.Pipe()
	in, fromFilter := io.Pipe()
	d := &Daemon{t: t, out: out, log: new(lockedBuffer), sessions: make(map[uint64]*inbox), ended: make(chan struct{})}
	served := make(chan error, 1)
	go func() {
		served <- serve(toFilter, fromFilter)
		_ = fromFilter.Close()
		_ = toFilter.Close()
	}()
	t.Cleanup(func() {
		_ = out.Close()
		<-d.ended
		if err := <-served; err != nil {
			t.Errorf("the filter ended: %v", err)
		}
	})
	r := wire.NewReader(in)
	go d.write(strings.Join(config, "\n") + "\nconfig|ready\n")
	for {
		line, err := r.Line()
		if err != nil {
			close(d.ended)
			t.Fatalf("before register|ready: %v", err)
		}
		m, err := wire.ParseToDaemon(line)
		if err != nil || m.Kind != wire.KindRegister && m.Kind != wire.KindReady {
			t.Errorf("registration %q: %v", line, err)
		}
		if m.Kind == wire.KindReady {
			break
		}
		d.registered = append(d.registered, strings.TrimPrefix(string(line), "register|"))
	}
	go d.read(r)
	return d
}

// Registered returns what the filter registered: "filter|smtp-in|connect" and so on.
func (d *Daemon) Registered() []string { return d.registered }

// Log returns what the filter has logged so far.
func (d *Daemon) Log() string { return d.log.String() }

// Lookup has f answer the lookups of the filter. Without, they fail for now.
func (d *Daemon) Lookup(f func(kind wire.Query, name string) ([]string, wire.Status)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dns = f
}

func (d *Daemon) write(lines string) { _, _ = io.WriteString(d.out, lines) }

// read hands what the filter writes to the sessions.
func (d *Daemon) read(r *wire.Reader) {
	defer close(d.ended)
	for {
		line, err := r.Line()
		if err != nil {
			return
		}
		m, err := wire.ParseToDaemon(line)
		if err != nil {
			d.t.Errorf("the filter wrote %q: %v", line, err)
			continue
		}
		m.Text = bytes.Clone(m.Text)
		if m.Kind == wire.KindDNS {
			d.answer(m)
			continue
		}
		d.mu.Lock()
		answers := d.sessions[m.Session]
		d.mu.Unlock()
		if answers == nil {
			d.t.Errorf("the filter wrote %q for a session that is not open", line)
			continue
		}
		answers.put(m)
	}
}

func (d *Daemon) answer(m wire.ToDaemon) {
	if m.Cancel {
		return // it is answered all the same
	}
	d.mu.Lock()
	f := d.dns
	d.mu.Unlock()
	values, status := []string(nil), wire.StatusTempFail
	if f != nil {
		values, status = f(m.Query, string(m.Text))
	}
	go d.write(string(wire.AppendAnswer(nil, m.Session, m.ID, values, status)))
}

// Session is a session of the daemon with some client or next hop.
type Session struct {
	d         *Daemon
	ID        uint64
	direction wire.Direction
	answers   *inbox
	token     uint64

	// Remarks are the reports that the filter made of this session, as far as they were
	// seen while waiting for answers.
	Remarks []string
}

// Open begins a session with a client at source, "192.0.2.1:1234", with that confirmed
// name.
func (d *Daemon) Open(source, name string) *Session {
	s := d.open(wire.In)
	s.Report(wire.LinkConnect{RDNS: name, FCrDNS: wire.Pass, Source: source, Destination: "192.0.2.25:25"})
	return s
}

// OpenOut begins a session with a next hop.
func (d *Daemon) OpenOut(destination, name string) *Session {
	s := d.open(wire.Out)
	s.Report(wire.LinkConnect{RDNS: name, FCrDNS: wire.Pass, Source: "192.0.2.25:1234", Destination: destination})
	return s
}

func (d *Daemon) open(direction wire.Direction) *Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	s := &Session{d: d, ID: d.next, direction: direction, answers: &inbox{ready: make(chan struct{}, 1)}, token: 0x1000}
	d.sessions[s.ID] = s.answers
	return s
}

// Close reports the end of the session.
func (s *Session) Close() { s.Report(wire.LinkDisconnect{}) }

// has tells whether the filter registered something.
func (s *Session) has(what, name string) bool {
	for _, r := range s.d.registered {
		if r == what+"|"+s.direction.String()+"|"+name || r == what+"|"+s.direction.String()+"|*" {
			return true
		}
	}
	return false
}

// Report tells the filter what happened, if it wants to know.
func (s *Session) Report(r wire.Report) {
	if s.has("report", r.Event().String()) {
		s.d.write(string(wire.AppendReport(nil, time.Now(), s.direction, s.ID, r)))
	}
}

// Ask asks the filter for a decision and returns its answer as in the protocol:
// "proceed", "reject|550 5.1.1 no". The parameter of connect is "name|address". A phase
// that the filter has not registered is "proceed".
func (s *Session) Ask(p wire.Phase, param string) string {
	s.d.t.Helper()
	if !s.has("filter", p.String()) {
		return "proceed"
	}
	s.token++
	request := wire.AppendRequest(nil, time.Now(), s.direction, p, s.ID, s.token, param)
	s.d.write(string(request))
	m := s.next(wire.KindResult)
	if m.Token != s.token {
		s.d.t.Errorf("answer for token %x, asked with %x", m.Token, s.token)
	}
	if m.Verdict.HasParameter() {
		return m.Verdict.String() + "|" + string(m.Text)
	}
	return m.Verdict.String()
}

// next returns the next line of the filter for the session.
func (s *Session) next(kind wire.Kind) wire.ToDaemon {
	s.d.t.Helper()
	for {
		m, ok := s.answers.get()
		switch {
		case !ok:
			s.wait()
		case m.Kind == wire.KindReport:
			s.Remarks = append(s.Remarks, string(m.Text))
		case m.Kind != kind:
			s.d.t.Fatalf("the filter wrote %+v out of turn", m)
		default:
			return m
		}
	}
}

// wait waits for a line of the filter.
func (s *Session) wait() {
	s.d.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-s.answers.ready:
	case <-s.d.ended:
		s.d.t.Fatal("the filter ended")
	case <-late.C:
		s.d.t.Fatal("no answer of the filter")
	}
}

// inbox holds what the filter wrote for a session. It is not bounded: who tests a
// filter sends no more than fits into memory.
type inbox struct {
	ready chan struct{} // of size 1; there may be something

	mu    sync.Mutex
	lines []wire.ToDaemon // guarded by mu
}

func (b *inbox) put(m wire.ToDaemon) {
	b.mu.Lock()
	b.lines = append(b.lines, m)
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

func (b *inbox) get() (wire.ToDaemon, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines) == 0 {
		return wire.ToDaemon{}, false
	}
	m := b.lines[0]
	b.lines = b.lines[1:]
	return m, true
}

// Content passes a message through the filter and returns what comes out. Lines of
// text end with LF, in both; dots are stuffed on the way.
func (s *Session) Content(text string) string {
	s.d.t.Helper()
	if !s.has("filter", wire.PhaseDataLine.String()) {
		return text
	}
	s.token++
	go func() {
		var b []byte
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, ".") {
				line = "." + line
			}
			b = wire.AppendDataRequest(b, time.Now(), s.direction, s.ID, s.token, []byte(line))
		}
		b = wire.AppendDataRequest(b, time.Now(), s.direction, s.ID, s.token, []byte("."))
		s.d.write(string(b))
	}()
	var out strings.Builder
	for {
		m := s.next(wire.KindDataLine)
		if string(m.Text) == "." {
			return out.String()
		}
		fmt.Fprintf(&out, "%s\n", bytes.TrimPrefix(m.Text, []byte{'.'}))
	}
}

// Mail is a message to be sent.
type Mail struct {
	From string
	To   []string
	Text string // lines end with LF
}

// Outcome is what became of a message.
type Outcome struct {
	Refused string            // the answer that ended it: "mail-from: reject|550 no"; "" if it was accepted
	Rcpts   map[string]string // refusals of single recipients
	Text    string            // what came out of the filter
	Junk    bool
}

// Send runs one transaction as the daemon does, with requests and reports in its order.
func (s *Session) Send(m Mail) Outcome {
	s.d.t.Helper()
	id := uint32(s.ID<<8 + s.token)
	o := Outcome{Rcpts: map[string]string{}}
	refused := func(p wire.Phase, answer string) bool {
		verdict, _, _ := strings.Cut(answer, "|")
		o.Junk = o.Junk || verdict == "junk"
		return verdict == "reject" || verdict == "disconnect"
	}
	end := func(p wire.Phase, answer string) Outcome {
		o.Refused = p.String() + ": " + answer
		if p != wire.PhaseMailFrom {
			s.Report(wire.TxRollback{Message: id})
			s.Report(wire.TxReset{Message: id})
		}
		return o
	}
	if a := s.Ask(wire.PhaseMailFrom, m.From); refused(wire.PhaseMailFrom, a) {
		return end(wire.PhaseMailFrom, a)
	}
	s.Report(wire.TxBegin{Message: id})
	s.Report(wire.TxMail{Message: id, Result: wire.OK, Address: m.From})
	for i, to := range m.To {
		result := wire.OK
		if a := s.Ask(wire.PhaseRcptTo, to); refused(wire.PhaseRcptTo, a) {
			o.Rcpts[to] = a
			result = wire.PermFail
		} else {
			s.Report(wire.TxEnvelope{Message: id, Envelope: uint64(id)<<32 | uint64(i)})
		}
		s.Report(wire.TxRcpt{Message: id, Result: result, Address: to})
	}
	if len(o.Rcpts) == len(m.To) {
		o.Refused = "no recipient is left"
		s.Report(wire.TxRollback{Message: id})
		s.Report(wire.TxReset{Message: id})
		return o
	}
	if s.direction == wire.In {
		if a := s.Ask(wire.PhaseData, ""); refused(wire.PhaseData, a) {
			return end(wire.PhaseData, a)
		}
	}
	s.Report(wire.TxData{Message: id, Result: wire.OK})
	o.Text = s.Content(m.Text)
	if a := s.Ask(wire.PhaseCommit, ""); refused(wire.PhaseCommit, a) {
		return end(wire.PhaseCommit, a)
	}
	s.Report(wire.TxCommit{Message: id, Size: int64(len(o.Text))})
	s.Report(wire.TxReset{Message: id})
	return o
}

// Replay plays a recorded session: lines with "<< " in front are written to the
// filter, and of it lines with ">> " are expected, those of a session in their order.
// It returns the differences, nothing when the filter did as recorded. What it
// registers may differ.
func Replay(ctx context.Context, f *filter.Filter, recorded io.Reader) ([]string, error) {
	text, err := io.ReadAll(recorded)
	if err != nil {
		return nil, err
	}
	var in bytes.Buffer
	var want []string
	for line := range strings.Lines(string(text)) {
		if l, ok := strings.CutPrefix(line, "<< "); ok {
			in.WriteString(l)
		} else if l, ok := strings.CutPrefix(line, ">> "); ok {
			want = append(want, strings.TrimSuffix(l, "\n"))
		}
	}
	var out bytes.Buffer
	if err := f.Serve(ctx, &in, &out); err != nil {
		return nil, err
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	return diff(bySession(want), bySession(got)), nil
}

// bySession sorts lines into those of sessions, without registrations.
func bySession(lines []string) map[string][]string {
	m := make(map[string][]string)
	for _, line := range lines {
		if word, rest, _ := strings.Cut(line, "|"); word != "register" && line != "" {
			key, _, _ := strings.Cut(rest, "|")
			m[key] = append(m[key], line)
		}
	}
	return m
}

// diff compares the lines of each session.
func diff(want, got map[string][]string) []string {
	var out []string
	for key := range want {
		w, g := want[key], got[key]
		for i := range max(len(w), len(g)) {
			switch {
			case i >= len(g):
				out = append(out, "missing: "+w[i])
			case i >= len(w):
				out = append(out, "too many: "+g[i])
			case w[i] != g[i]:
				out = append(out, "want "+w[i]+", got "+g[i])
			}
		}
	}
	for key, lines := range got {
		if want[key] == nil {
			out = append(out, "not expected: "+strings.Join(lines, ", "))
		}
	}
	return out
}

// lockedBuffer takes the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
