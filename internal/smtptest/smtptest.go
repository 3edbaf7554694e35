// Package smtptest is an SMTP server on a loopback address for tests of relaying. It
// takes mail, counts it, and misbehaves at the stage of a session that a test names.
package smtptest

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Stages of a session at which a server can misbehave, besides the commands in upper
// case.
const (
	Greeting = "greeting"
	Text     = "text" // in place of the reply to the final dot
)

// Options of a Server.
type Options struct {
	Extensions []string      // keywords of EHLO; PIPELINING and 8BITMIME when nil
	Delay      time.Duration // before each reply
	Gate       chan struct{} // no reply before it is closed; may be nil
	Faults     map[string]Fault
}

// Fault is what a server does at a stage instead of replying. The connection ends
// when it returns false; when it returns true, the session goes on.
type Fault func(c net.Conn) bool

// Message is mail that a server took.
type Message struct {
	Sender string
	Rcpts  []string
	Text   string // with CRLF, dots removed
}

// Server is an SMTP server. Its methods may be called concurrently.
type Server struct {
	Addr string // host:port

	o     Options
	l     net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex // guards what follows
	ended bool
	conns map[net.Conn]struct{}
	seen  int
	most  int
	mails []Message
	more  chan struct{} // closed and replaced at each message
}

// Start starts a server and stops it when the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if o.Extensions == nil {
		o.Extensions = []string{"PIPELINING", "8BITMIME"}
	}
	s := &Server{Addr: l.Addr().String(), o: o, l: l, conns: map[net.Conn]struct{}{}, more: make(chan struct{})}
	s.wg.Go(s.accept)
	t.Cleanup(s.Stop)
	return s
}

// Stop closes all connections and the listener.
func (s *Server) Stop() {
	s.mu.Lock()
	s.ended = true
	_ = s.l.Close() // nobody is to connect any more: that is all that matters
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Sessions returns how many connections there were, and how many at a time at most.
func (s *Server) Sessions() (all, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.most
}

// Mails returns the messages taken so far.
func (s *Server) Mails() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.mails...)
}

// Wait waits until n messages were taken and tells whether they were within the time.
func (s *Server) Wait(n int, patience time.Duration) bool {
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		got, more := len(s.mails), s.more
		s.mu.Unlock()
		if got >= n {
			return true
		}
		select {
		case <-more:
		case <-timeout:
			return false
		}
	}
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.ended {
			_ = c.Close()
			s.mu.Unlock()
			return
		}
		s.conns[c] = struct{}{}
		s.seen++
		s.most = max(s.most, len(s.conns))
		s.mu.Unlock()
		s.wg.Go(func() {
			s.serve(&session{s: s, Conn: c, r: bufio.NewReader(c)})
			_ = c.Close() // the peer knows more than a test server about how it ended
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// session is one connection.
type session struct {
	net.Conn
	s *Server
	r *bufio.Reader
}

// reply answers a stage, with what its fault says instead if there is one. It tells
// whether the session goes on.
func (c *session) reply(stage, text string) bool {
	if c.s.o.Gate != nil {
		<-c.s.o.Gate
	}
	if c.s.o.Delay > 0 {
		time.Sleep(c.s.o.Delay)
	}
	if f := c.s.o.Faults[stage]; f != nil {
		return f(c.Conn)
	}
	_, err := c.Write([]byte(text))
	return err == nil
}

func (s *Server) serve(c *session) {
	if !c.reply(Greeting, "220 peer.example.net ESMTP\r\n") {
		return
	}
	var m Message
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		text := "250 2.0.0 Ok\r\n"
		switch verb {
		case "EHLO":
			text = "250-" + strings.Join(append([]string{"peer.example.net"}, s.o.Extensions...), "\r\n250-") + "\r\n"
			last := strings.LastIndex(text, "250-")
			text = text[:last] + "250 " + text[last+4:]
		case "MAIL":
			m = Message{Sender: path(line)}
		case "RCPT":
			m.Rcpts = append(m.Rcpts, path(line))
		case "DATA":
			if !c.reply("DATA", "354 Go on\r\n") {
				return
			}
			if m.Text, err = message(c.r); err != nil {
				return
			}
			if !c.reply(Text, text) {
				return
			}
			s.take(m)
			continue
		case "QUIT":
			text = "221 2.0.0 Bye\r\n"
		case "STARTTLS":
			text = "220 2.0.0 Ready\r\n"
		}
		if !c.reply(verb, text) || verb == "QUIT" {
			return
		}
	}
}

func (s *Server) take(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, m)
	close(s.more)
	s.more = make(chan struct{})
}

// path returns what is between the angle brackets.
func path(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	p, _, _ := strings.Cut(rest, ">")
	return p
}

// message reads a message to the final dot.
func message(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == ".\r\n" {
			return b.String(), nil
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}
