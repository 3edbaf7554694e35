package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// serve runs a server on a loopback port until the test ends.
func serve(t *testing.T, l Limits, o Options) (s *Server, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = New(l)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, ln, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		_ = s.Drain(ctx)
	})
	return s, ln.Addr().String()
}

// remoteSetup is a setup whose sessions each have a backend of their own.
func remoteSetup() (*setup, Options) {
	u := newSetup()
	u.cfg.Local = false
	u.cfg.Backend = func(s *Session) Backend { return &fakeBackend{Session: s} }
	return u, Options{Config: func() (*Config, func()) { return u.cfg, nil }}
}

// dial connects and returns the connection and the first line.
func dial(t *testing.T, addr, say string) (net.Conn, *bufio.Reader, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, say); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	line, _ := r.ReadString('\n')
	return conn, r, line
}

const (
	greeted    = "220 mx.test ESMTP OpenSMTPD\r\n"
	turnedAway = "421 4.7.0 Too many connections\r\n"
)

func TestSessionsAreLimited(t *testing.T) {
	t.Parallel()
	for _, limits := range []Limits{{MaxSessions: 2}, {MaxPerSource: 2}} {
		t.Run(fmt.Sprintf("%+v", limits), func(t *testing.T) {
			t.Parallel()
			_, o := remoteSetup()
			_, addr := serve(t, limits, o)
			var first net.Conn
			for i := range 3 {
				conn, r, line := dial(t, addr, "")
				if i == 0 {
					first = conn
				}
				if want := map[bool]string{true: greeted, false: turnedAway}[i < 2]; line != want {
					t.Fatalf("connection %d got %q, want %q", i, line, want)
				}
				if i == 2 {
					if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
						t.Errorf("behind the refusal: %q, %v", rest, err)
					}
				}
			}
			_ = first.Close()
			// The place becomes free when the server has noticed.
			for line := ""; line != greeted; {
				_, _, line = dial(t, addr, "")
			}
		})
	}
}

func TestSourcesAreCountedByNetwork(t *testing.T) {
	t.Parallel()
	s := New(Limits{MaxPerSource: 1})
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.1", true}, {"192.0.2.2", true}, {"::ffff:192.0.2.1", false},
		{"2001:db8::1", true}, {"2001:db8::ffff:1", false}, {"2001:db8:0:1::1", true},
	} {
		if _, ok := s.admit(netip.MustParseAddr(tt.addr)); ok != tt.want {
			t.Errorf("%s admitted: %v, want %v", tt.addr, ok, tt.want)
		}
	}
}

func TestProxyNamesTheClient(t *testing.T) {
	t.Parallel()
	trust := func(netip.Addr) bool { return true }
	const v1 = "PROXY TCP6 2001:db8::1 2001:db8::2 50000 25\r\n"
	for _, tt := range []struct {
		name  string
		trust func(netip.Addr) bool
		say   string
		want  string // the reply to HELO, "" when cut off
	}{
		{"version 1", trust, v1 + "HELO x\r\n", "250 mx.test Hello x [2001:db8::1], pleased to meet you\r\n"},
		{"anyone is trusted without a list", nil, v1 + "HELO x\r\n", "250 mx.test Hello x [2001:db8::1], pleased to meet you\r\n"},
		{"version 2, the proxy for itself", trust, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00HELO x\r\n", "250 mx.test Hello x [127.0.0.1], pleased to meet you\r\n"},
		{"no header", trust, "EHLO client.example\r\nHELO x\r\n", ""},
		{"not trusted", func(netip.Addr) bool { return false }, v1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u, o := remoteSetup()
			o.Proxy, o.TrustProxy = true, tt.trust
			_, addr := serve(t, Limits{}, o)
			_, r, line := dial(t, addr, tt.say)
			if tt.want == "" {
				if line != "" {
					t.Errorf("got %q, want the connection cut", line)
				}
				if got := u.events.String(); !strings.Contains(got, "Refused {Address:127.0.0.1 Reason:PROXY header: ") {
					t.Errorf("events %s", got)
				}
				return
			}
			reply, err := r.ReadString('\n')
			if line != greeted || reply != tt.want {
				t.Errorf("got %q, %q, %v; want %q", line, reply, err, tt.want)
			}
		})
	}
}

func TestDrainEndsIdleSessionsAndLetsTransactionsFinish(t *testing.T) {
	t.Parallel()
	_, o := remoteSetup()
	s, addr := serve(t, Limits{}, o)
	_, idle, _ := dial(t, addr, "")
	busyConn, busy, _ := dial(t, addr, "HELO x\r\nMAIL FROM:<>\r\n")
	for _, want := range []string{"250 mx.test", "250 2.0.0 Ok"} {
		if line, err := busy.ReadString('\n'); !strings.HasPrefix(line, want) {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
	drained := make(chan error)
	go func() { drained <- s.Drain(context.Background()) }()
	const away = "421 4.3.2 Service shutting down\r\n"
	if rest, err := io.ReadAll(idle); string(rest) != away {
		t.Errorf("idle session got %q, %v", rest, err)
	}
	if _, err := io.WriteString(busyConn, "RCPT TO:<a@b>\r\nDATA\r\n.\r\n"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(busy)
	if got := string(rest); !strings.HasSuffix(got, "Message accepted for delivery\r\n"+away) {
		t.Errorf("busy session got %q, %v", rest, err)
	}
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
	if _, _, line := dial(t, addr, ""); line != away {
		t.Errorf("a draining server greets with %q", line)
	}
}

func TestDrainCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	_, o := remoteSetup()
	s, addr := serve(t, Limits{}, o)
	_, r, _ := dial(t, addr, "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n")
	for line := ""; !strings.HasPrefix(line, "354"); {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v, want %v", err, context.Canceled)
	}
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions left", n)
	}
}

// flakyListener fails to accept for a while.
type flakyListener struct {
	errs   int
	conns  chan net.Conn
	closed chan struct{}
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.errs > 0 {
		l.errs--
		return nil, syscall.EMFILE
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *flakyListener) Close() error   { close(l.closed); return nil }
func (l *flakyListener) Addr() net.Addr { return nil }

func TestAcceptGoesOnWhenDescriptorsAreShort(t *testing.T) {
	t.Parallel()
	_, o := remoteSetup()
	synctest.Test(t, func(t *testing.T) {
		failures := 0
		o.Failed = func(err error) {
			if errors.Is(err, syscall.EMFILE) {
				failures++
			}
		}
		l := &flakyListener{errs: 10, conns: make(chan net.Conn), closed: make(chan struct{})}
		s := New(Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- s.Serve(ctx, l, o) }()
		ours, theirs := net.Pipe()
		start := time.Now()
		l.conns <- ours
		if took := time.Since(start); took < time.Second || took > 5*time.Second || failures != 10 {
			t.Errorf("%d failures cost %v", failures, took)
		}
		if line, err := bufio.NewReader(theirs).ReadString('\n'); line != greeted {
			t.Errorf("got %q, %v", line, err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		_ = theirs.Close()
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

func TestWhoIsTurnedAwayIsReported(t *testing.T) {
	t.Parallel()
	u, o := remoteSetup()
	_, addr := serve(t, Limits{MaxSessions: 1}, o)
	dial(t, addr, "")
	_, r, _ := dial(t, addr, "")
	_, _ = io.ReadAll(r)
	if got, want := u.events.String(), "Refused {Address:127.0.0.1 Reason:too many connections}\n"; !strings.Contains(got, want) {
		t.Errorf("events %s, want %s", got, want)
	}
}
