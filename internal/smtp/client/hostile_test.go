package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// against runs f with a session whose server is serve, in virtual time.
func against(t *testing.T, cfg Config, serve func(conn net.Conn, r *bufio.Reader), f func(t *testing.T, s *Session)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer far.Close()
			serve(far, bufio.NewReader(far))
		}()
		cfg.Name = "me.test"
		s := New(near, cfg)
		f(t, s)
		_ = s.Close()
		<-done
	})
}

// say writes; what becomes of it is the test's business.
func say(conn net.Conn, text string) bool {
	_, err := conn.Write([]byte(text))
	return err == nil
}

// took returns how long f took.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestSilentServerCostsTheGreetingTimeout(t *testing.T) {
	t.Parallel()
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() }, func(t *testing.T, s *Session) {
		d := took(func() {
			if err := s.Open(t.Context()); err == nil || err.Error() != "Connection timeout" {
				t.Errorf("Open: %v", err)
			}
		})
		if d != 5*time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

func TestTrickleMovesNoDeadline(t *testing.T) {
	t.Parallel()
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) {
		for say(conn, "2") {
			time.Sleep(time.Second)
		}
	}, func(t *testing.T, s *Session) {
		d := took(func() {
			if err := s.Open(t.Context()); err == nil || err.Error() != "Connection timeout" {
				t.Errorf("Open: %v", err)
			}
		})
		if d != 5*time.Minute {
			t.Errorf("took %v", d)
		}
	})
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) {
		for say(conn, "220-x\r\n") {
			time.Sleep(time.Minute)
		}
	}, func(t *testing.T, s *Session) {
		d := took(func() {
			if err := s.Open(t.Context()); err == nil || err.Error() != "Connection timeout" {
				t.Errorf("Open: %v", err)
			}
		})
		if d != 5*time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

// slow is a server that takes every command, a minute late, or as late as it is
// told for its word.
func slow(extensions string, late map[string]time.Duration) func(conn net.Conn, r *bufio.Reader) {
	return func(conn net.Conn, r *bufio.Reader) {
		if !say(conn, "220 mx.test\r\n") {
			return
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			word := line[:4]
			d, ok := late[word]
			if !ok {
				d = time.Minute
			}
			time.Sleep(d)
			reply := "250 ok\r\n"
			switch word {
			case "EHLO":
				reply = "250-mx.test\r\n250 " + extensions + "\r\n"
			case "DATA":
				reply = "354 go\r\n"
			case "hi\r\n":
				reply = ""
			}
			if !say(conn, reply) {
				return
			}
		}
	}
}

func TestEachStepHasItsTime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		word  string
		most  time.Duration
		stage Stage
	}{
		{"MAIL", 5 * time.Minute, Mail},
		{"RCPT", 5 * time.Minute, Rcpt},
		{"DATA", 2 * time.Minute, Data},
		{".\r\n", 10 * time.Minute, Dot},
	} {
		t.Run(tt.stage.String(), func(t *testing.T) {
			t.Parallel()
			key := (tt.word + "    ")[:min(4, len(tt.word))]
			serve := func(conn net.Conn, r *bufio.Reader) {
				if !say(conn, "220 mx.test\r\n") {
					return
				}
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, key) {
						continue // nothing more is said
					}
					reply := map[string]string{"DATA": "354 go\r\n", "hi\r\n": ""}
					text, ok := reply[strings.TrimSuffix(line, "\r\n")]
					if !ok {
						text, ok = reply[line]
					}
					if !ok {
						text = "250 ok\r\n"
					}
					if text != "" && !say(conn, text) {
						return
					}
				}
			}
			against(t, Config{}, serve, func(t *testing.T, s *Session) {
				if err := s.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				var got Results
				d := took(func() { got = s.Send(t.Context(), message(t, "hi\n", "b@y.test")) })
				expect(t, got, tt.stage.String()+" temporary Connection timeout")
				if d != tt.most {
					t.Errorf("took %v, want %v", d, tt.most)
				}
			})
		})
	}
}

func TestTarpitCostsNoMoreThanTheTransactionTimeout(t *testing.T) {
	t.Parallel()
	against(t, Config{}, slow("SIZE", nil), func(t *testing.T, s *Session) {
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		tx := message(t, "hi\n")
		for range 1000 {
			tx.Rcpts = append(tx.Rcpts, Recipient{Path: path(t, "b@y.test")})
		}
		var got Results
		d := took(func() { got = s.Send(t.Context(), tx) })
		if d != 2*time.Hour {
			t.Errorf("took %v", d)
		}
		for i, r := range got {
			if r.Err == nil || r.Err.Error() != "Connection timeout" {
				t.Fatalf("recipient %d: %v", i, r.Err)
			}
		}
	})
}

func TestServerThatStopsReading(t *testing.T) {
	t.Parallel()
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) {
		say(conn, "220 mx.test\r\n")
		for _, reply := range []string{"250 mx.test\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"} {
			if _, err := r.ReadString('\n'); err != nil || !say(conn, reply) {
				return
			}
		}
		time.Sleep(time.Hour)
	}, func(t *testing.T, s *Session) {
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got Results
		d := took(func() { got = s.Send(t.Context(), message(t, strings.Repeat("x\n", 1<<20), "b@y.test")) })
		expect(t, got, "DATA temporary Connection timeout")
		if d != 3*time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

func TestQuitDoesNotWaitLong(t *testing.T) {
	t.Parallel()
	against(t, Config{}, slow("SIZE", map[string]time.Duration{"QUIT": time.Hour}), func(t *testing.T, s *Session) {
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := took(func() { quit(t, s) }); d != 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestContextEndsTheSession(t *testing.T) {
	t.Parallel()
	against(t, Config{}, slow("SIZE", nil), func(t *testing.T, s *Session) {
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(90*time.Second, cancel)
		var got Results
		d := took(func() { got = s.Send(ctx, message(t, "hi\n", "b@y.test")) })
		expect(t, got, "RCPT temporary Session ended: context canceled")
		if d != 90*time.Second || s.Usable() {
			t.Errorf("took %v, usable %v", d, s.Usable())
		}
		expect(t, s.Send(t.Context(), message(t, "hi\n", "b@y.test")), "MAIL temporary Session has ended")
	})
	against(t, Config{}, slow("SIZE", nil), func(t *testing.T, s *Session) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Open(ctx); err == nil || err.Error() != "Connection timeout" {
			t.Errorf("Open: %v", err)
		}
	})
}

func TestCloseEndsTheWait(t *testing.T) {
	t.Parallel()
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() }, func(t *testing.T, s *Session) {
		time.AfterFunc(time.Second, func() { _ = s.Close() })
		var err error
		d := took(func() { err = s.Open(t.Context()) })
		if err == nil || d != time.Second {
			t.Errorf("Open: %v after %v", err, d)
		}
	})
}

func TestServerMaySayOnlySoMuch(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 50) + "250 ok\r\n"
	against(t, Config{}, func(conn net.Conn, r *bufio.Reader) {
		say(conn, "220 mx.test\r\n")
		for {
			if _, err := r.ReadString('\n'); err != nil || !say(conn, long) {
				return
			}
		}
	}, func(t *testing.T, s *Session) {
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := 0
		var err error
		wasUsable := true
		for ; err == nil; n++ {
			if wasUsable = s.Usable(); n < 10 && !wasUsable {
				t.Fatalf("session is over after %d replies", n)
			}
			err = s.Noop(t.Context())
		}
		if !errors.Is(err, ErrTooMuchData) || n*len(long) > maxReceived+2*len(long) || wasUsable {
			t.Errorf("%v after %d replies, usable until then %v", err, n, wasUsable)
		}
	})
}

// cut is a connection that cannot be written to any more.
type cut struct {
	net.Conn
	after int // bytes
}

func (c *cut) Write(p []byte) (int, error) {
	if c.after -= len(p); c.after < 0 {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestRefusalBeforeTheServerHangsUpIsRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, last, want string }{
		{"with a reason", "552 5.3.4 too large\r\n", "DATA permanent 552 5.3.4 too large"},
		{"with the end announced", "421 4.3.2 bye\r\n", "DATA temporary 421 4.3.2 bye"},
		{"without a reason", "", "DATA temporary Connection closed unexpectedly"},
		{"with nonsense", "250 taken\r\n", "DATA temporary Connection closed unexpectedly"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer far.Close()
				r := bufio.NewReader(far)
				say(far, "220 mx.test\r\n")
				for _, reply := range []string{"250 mx.test\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"} {
					if _, err := r.ReadString('\n'); err != nil || !say(far, reply) {
						return
					}
				}
				read := make(chan struct{})
				go func() {
					defer close(read)
					_, _ = io.Copy(io.Discard, r) // until either side closes
				}()
				if tt.last != "" {
					say(far, tt.last)
				}
				_ = far.Close()
				<-read
			}()
			s := New(&cut{near, 3 * blockSize}, Config{Name: "me.test"})
			if err := s.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			expect(t, s.Send(t.Context(), message(t, strings.Repeat("x\n", blockSize), "b@y.test")), tt.want)
			if s.Usable() {
				t.Error("session is usable")
			}
			_ = s.Close()
			<-done
		})
	}
}
