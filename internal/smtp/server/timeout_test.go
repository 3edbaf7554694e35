package server

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// overtime runs a session in virtual time, lets f act for the client, and returns
// all that the server said and how long it took to end the session.
func overtime(t *testing.T, u *setup, f func(conn net.Conn)) (said string, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		start := time.Now()
		acted := make(chan struct{})
		go func() {
			defer close(acted)
			f(theirs)
		}()
		heard := make(chan string)
		go func() {
			b, _ := io.ReadAll(theirs)
			heard <- string(b)
		}()
		New(Limits{}).ServeConn(context.Background(), ours, u.cfg)
		took = time.Since(start)
		said = <-heard
		<-acted
	})
	return said, took
}

func TestSilentClientIsTimedOut(t *testing.T) {
	t.Parallel()
	u := newSetup()
	said, took := overtime(t, u, func(net.Conn) {})
	if took != 300*time.Second || !strings.HasSuffix(said, "\r\n421 4.4.2 Timeout\r\n") {
		t.Errorf("ended after %v, server said %q", took, said)
	}
	if got := u.events.String(); !strings.HasSuffix(got, "Disconnected {Reason:timeout}\n") {
		t.Errorf("events %s", got)
	}
}

func TestDrippedCommandDoesNotExtendItsTime(t *testing.T) {
	t.Parallel()
	_, took := overtime(t, newSetup(), func(conn net.Conn) {
		for {
			time.Sleep(time.Second)
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
	})
	if took != 300*time.Second {
		t.Errorf("ended after %v, want 5m0s", took)
	}
}

func TestDrippedMessageIsTimedOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		drip  string // each second
		bdat  bool
		ended bool
	}{
		{"one byte a second", "x", false, true},
		{"one byte a second by BDAT", "x", true, true},
		{"a line a second", strings.Repeat("x", 98) + "\r\n", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newSetup()
			said, took := overtime(t, u, func(conn net.Conn) {
				command := "DATA\r\nA: b\r\n"
				if tt.bdat {
					command = "BDAT 1000000 LAST\r\nA: b\r\n"
				}
				_, _ = io.WriteString(conn, "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"+command)
				for range 1000 {
					time.Sleep(time.Second)
					if _, err := io.WriteString(conn, tt.drip); err != nil {
						return
					}
				}
				_, _ = io.WriteString(conn, "\r\n.\r\nQUIT\r\n")
			})
			if ended := strings.HasSuffix(said, "421 4.4.2 Timeout\r\n"); ended != tt.ended || ended && took > 310*time.Second {
				t.Errorf("after %v the server said %q", took, said)
			}
		})
	}
}

func TestClientThatDoesNotReadIsTimedOut(t *testing.T) {
	t.Parallel()
	u := newSetup()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }()
		start := time.Now()
		New(Limits{}).ServeConn(context.Background(), ours, u.cfg)
		if took := time.Since(start); took != 300*time.Second {
			t.Errorf("ended after %v, want 5m0s", took)
		}
	})
	if got := u.events.String(); !strings.HasSuffix(got, "Disconnected {Reason:timeout}\n") {
		t.Errorf("events %s", got)
	}
}

func TestPauseAfterFailedAuth(t *testing.T) {
	t.Parallel()
	u := authSetup()
	u.cfg.Local = true
	u.cfg.AuthDelay = func(n int) time.Duration { return time.Duration(n) * time.Second }
	synctest.Test(t, func(t *testing.T) {
		conn, _ := u.start(t)
		r := bufio.NewReader(conn)
		go func() {
			_, _ = io.WriteString(conn, "HELO x\r\nAUTH PLAIN AGFubgB3cm9uZw==\r\nAUTH PLAIN AGFubgB3cm9uZw==\r\n")
		}()
		start := time.Now()
		for line := ""; !strings.HasPrefix(line, "535"); {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("replies after %v, want 1 s and 2 s in one write", took)
		}
	})
}

func TestSlowReverseNameIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	u := newSetup()
	u.cfg.Local = false
	synctest.Test(t, func(t *testing.T) {
		u.cfg.RDNS = func(ctx context.Context, _ netip.Addr) (string, wire.Result) { <-ctx.Done(); return "", wire.Error }
		conn, _ := u.start(t)
		start := time.Now()
		line, err := bufio.NewReader(conn).ReadString('\n')
		if took := time.Since(start); took != 10*time.Second || line != "220 mx.test ESMTP OpenSMTPD\r\n" {
			t.Errorf("after %v: %q, %v", took, line, err)
		}
	})
}
