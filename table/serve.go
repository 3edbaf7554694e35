package table

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/opensmtpd/opensmtpd/table/wire"
)

// maxQuestions is how many questions Serve works on at a time; the daemon's next
// ones wait in the pipe.
const maxQuestions = 256

// Main is the body of a table program: it serves the daemon over standard input
// and output until the daemon goes away, closes t and exits. See Serve.
func Main(t Table, services ...Service) {
	// The daemon decides about the end; a terminal's signals are not for us.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	err := errors.Join(Serve(context.Background(), os.Stdin, os.Stdout, t, services...), t.Close())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Serve answers the questions of the daemon that come from r with those of t, over
// w, in the text table protocol. It offers the services, of which there must be
// one. It returns nil when r ends, after the last answer.
//
// Questions are put to t side by side, and answered in the order in which t is
// done with them. An answer ErrNotFound is sent as such; any other error is a
// temporary one for the mail concerned, and its text goes to the daemon's log. A
// service that asks for membership only is answered by whether Lookup finds
// anything.
func Serve(ctx context.Context, r io.Reader, w io.Writer, t Table, services ...Service) error {
	if len(services) == 0 {
		return errors.New("a table program has to offer a service")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{table: t, offers: map[Service]bool{}, w: w, slots: make(chan struct{}, maxQuestions)}
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 4096), wire.MaxLine)
	if err := handshake(in); err != nil {
		return err
	}
	var hello bytes.Buffer
	for _, service := range services {
		s.offers[service] = true
		fmt.Fprintf(&hello, "register|%s\n", service)
	}
	hello.WriteString("register|ready\n")
	if err := s.write(hello.Bytes()); err != nil {
		return err
	}
	err := s.serve(ctx, in)
	s.wg.Wait()
	if err == nil {
		err = s.failed()
	}
	return err
}

// handshake reads the lines up to "config|ready". The name of the table is also the
// program's name, os.Args[0].
func handshake(in *bufio.Scanner) error {
	for n := 0; in.Scan(); n++ {
		f := strings.SplitN(in.Text(), "|", 3)
		switch {
		case f[0] != "config" || len(f) < 2 || n > 100:
			return fmt.Errorf("%w: %.80q before config|ready", wire.ErrSyntax, in.Text())
		case f[1] == "ready":
			return nil
		case f[1] == "protocol" && (len(f) < 3 || f[2] != wire.Version):
			return fmt.Errorf("the daemon speaks another version of the table protocol than %s: %.80q", wire.Version, in.Text())
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the daemon went away before config|ready: %w", io.ErrUnexpectedEOF)
}

// server is one call of Serve.
type server struct {
	table  Table
	offers map[Service]bool
	slots  chan struct{} // one for each question being worked on
	wg     sync.WaitGroup

	mu  sync.Mutex // guards what follows
	w   io.Writer
	err error // of the first write that failed
}

func (s *server) serve(ctx context.Context, in *bufio.Scanner) error {
	for in.Scan() {
		q, err := wire.ParseRequest(in.Text())
		if err != nil {
			return err
		}
		s.slots <- struct{}{}
		if err := s.failed(); err != nil {
			<-s.slots
			return err
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			reply := s.answer(ctx, q)
			_ = s.write(reply.Append(nil)) // kept in s.err
		})
	}
	return in.Err()
}

func (s *server) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// write writes whole lines.
func (s *server) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
	return s.err
}

// answer puts one question to the table.
func (s *server) answer(ctx context.Context, q *wire.Request) wire.Reply {
	r := wire.Reply{Op: q.Op, ID: q.ID, Result: wire.Found}
	var err error
	service := Service(q.Service)
	switch {
	case q.Op == wire.Update:
		r.Result, err = wire.OK, s.table.Update(ctx)
	case !s.offers[service]:
		err = fmt.Errorf("%w: %s", ErrUnsupported, q.Service)
	case q.Op == wire.Fetch:
		r.Text, err = s.table.Fetch(ctx, service)
	case q.Op == wire.Lookup:
		r.Text, err = s.table.Lookup(ctx, service, q.Key)
	default:
		_, err = s.table.Lookup(ctx, service, q.Key)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		r.Result, r.Text = wire.NotFound, ""
	case err != nil:
		r.Result, r.Text = wire.Failed, oneLine(err.Error())
	case r.Result == wire.Found && q.Op != wire.Check && r.Text == "":
		r.Result, r.Text = wire.Failed, "the value is empty"
	case !wire.CanCarry(r.Text):
		r.Result, r.Text = wire.Failed, "the value has a line break or is too long"
	}
	return r
}

// maxMessage bounds the text of an error on its way to the daemon, in bytes.
const maxMessage = 1024

// oneLine makes a message fit for the protocol.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s[:min(len(s), maxMessage)])
	return strings.ToValidUTF8(s, "?")
}
