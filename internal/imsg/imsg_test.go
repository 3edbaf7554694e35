package imsg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type echo struct {
	N    int
	Text string
	Body []byte
}

var (
	echoCall  = Method[echo, echo]{ID: 1, Name: "test.Echo"}
	bodyCall  = Method[echo, echo]{ID: 2, Name: "test.Body", MaxSize: 1 << 20}
	filesCall = Method[echo, echo]{ID: 3, Name: "test.Files"}
	failCall  = Method[echo, echo]{ID: 4, Name: "test.Fail"}
	waitCall  = Method[echo, echo]{ID: 5, Name: "test.Wait"}
	noteSend  = Method[echo, struct{}]{ID: 6, Name: "test.Note"}
	askCall   = Method[echo, echo]{ID: 8, Name: "test.Ask", MaxSize: 1 << 20, MaxRequest: 32}
	otherCall = Method[echo, echo]{ID: 77, Name: "test.Other"}
)

type typedError struct{}

func (typedError) Error() string               { return "no such user" }
func (typedError) IMsgError() (string, []byte) { return "reply", []byte{5, 1, 1} }

// service is a Mux with a handler for each test method.
type service struct {
	mux     *Mux
	started chan struct{} // one for each waitCall
	ended   chan error    // the ctx's error, for each waitCall that was cancelled
	release chan struct{} // closed to let waitCalls return
	notes   chan int
}

func newService() *service {
	s := &service{NewMux(), make(chan struct{}, 10000), make(chan error, 10000), make(chan struct{}), make(chan int, 10000)}
	same := func(_ context.Context, r echo, _ []*os.File) (echo, []*os.File, error) { return r, nil, nil }
	echoCall.Handle(s.mux, same)
	bodyCall.Handle(s.mux, same)
	filesCall.Handle(s.mux, func(_ context.Context, r echo, files []*os.File) (echo, []*os.File, error) {
		for _, f := range files {
			b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
			r.Text += string(b)
		}
		return r, files, nil
	})
	askCall.Handle(s.mux, func(_ context.Context, r echo, _ []*os.File) (echo, []*os.File, error) {
		r.Body = make([]byte, 100_000)
		return r, nil, nil
	})
	failCall.Handle(s.mux, func(_ context.Context, r echo, files []*os.File) (echo, []*os.File, error) {
		if r.N == 0 {
			return r, files, errors.New("plain")
		}
		return r, files, fmt.Errorf("look up: %w", typedError{})
	})
	waitCall.Handle(s.mux, func(ctx context.Context, r echo, files []*os.File) (echo, []*os.File, error) {
		s.started <- struct{}{}
		select {
		case <-s.release:
		case <-ctx.Done():
			s.ended <- ctx.Err()
		}
		return r, files, nil
	})
	noteSend.Handle(s.mux, func(_ context.Context, r echo, _ []*os.File) (struct{}, []*os.File, error) {
		s.notes <- r.N
		return struct{}{}, nil, nil
	})
	return s
}

// serve runs Serve until the end of the test and waits for it.
func serve(t testing.TB, conns ...*Conn) {
	for _, c := range conns {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.Serve(context.Background())
		}()
		t.Cleanup(func() {
			c.Close()
			<-ended
		})
	}
}

type maker func(t testing.TB, a, b *Mux, o Options) (*Conn, *Conn)

func overPipe(t testing.TB, muxA, muxB *Mux, o Options) (*Conn, *Conn) {
	ab, ba := newPipe(), newPipe()
	a := newConn(&pipeEnd{in: ba, out: ab}, muxA, o)
	b := newConn(&pipeEnd{in: ab, out: ba}, muxB, o)
	serve(t, a, b)
	return a, b
}

func overSocket(t testing.TB, muxA, muxB *Mux, o Options) (*Conn, *Conn) {
	fa, fb, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	a, err := FromFile(fa, muxA, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromFile(fb, muxB, o)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, a, b)
	return a, b
}

// both runs a test over a socket and in memory.
func both(t *testing.T, f func(t *testing.T, make maker)) {
	t.Parallel()
	t.Run("socket", func(t *testing.T) { t.Parallel(); f(t, overSocket) })
	t.Run("memory", func(t *testing.T) { t.Parallel(); f(t, overPipe) })
}

func TestBothEndsMayCall(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, b := make(t, newService().mux, newService().mux, Options{})
		for _, c := range []*Conn{a, b} {
			got, _, err := echoCall.Call(t.Context(), c, echo{N: -3, Text: "hi", Body: []byte("x")})
			if err != nil || got.N != -3 || got.Text != "hi" || string(got.Body) != "x" {
				t.Fatalf("got %+v, %v", got, err)
			}
		}
	})
}

func TestLargeMessagesAlternateWithSmallOnes(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, _ := make(t, nil, newService().mux, Options{MaxQueued: 1})
		errs := goEach(40, func(i int) error {
			body := bytes.Repeat([]byte{byte(i)}, 300_000+i)
			got, _, err := bodyCall.Call(t.Context(), a, echo{Body: body})
			if err == nil && !bytes.Equal(got.Body, body) {
				err = fmt.Errorf("body %d changed", i)
			}
			_, _, err2 := echoCall.Call(t.Context(), a, echo{N: i})
			return errors.Join(err, err2)
		})
		if errs != nil {
			t.Fatal(errs)
		}
	})
}

// goEach runs f n times at once and joins the errors.
func goEach(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var all error
	for range n {
		all = errors.Join(all, <-errs)
	}
	return all
}

func tempFile(t testing.TB, text string) *os.File {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDescriptorsTravelBothWays(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, _ := make(t, nil, newService().mux, Options{})
		f, g := tempFile(t, "one"), tempFile(t, "two")
		err := goEach(50, func(i int) error {
			want, send := "onetwo", []*os.File{f, g}
			if i%2 == 1 {
				want, send = "two", send[1:]
			}
			got, files, err := filesCall.Call(t.Context(), a, echo{}, send...)
			defer closeFiles(files)
			if err != nil || got.Text != want || len(files) != len(send) {
				return fmt.Errorf("got %q, %d files, %w", got.Text, len(files), err)
			}
			b := []byte("xxx")
			if _, err := files[0].ReadAt(b, 0); string(b) != want[:3] {
				return fmt.Errorf("returned file has %q, %w", b, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Stat(); err != nil {
			t.Errorf("the caller's file: %v", err)
		}
	})
}

func TestHandlersErrorArrivesTyped(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, _ := make(t, nil, newService().mux, Options{})
		var re *RemoteError
		_, _, err := failCall.Call(t.Context(), a, echo{}, tempFile(t, ""))
		if !errors.As(err, &re) || re.Text != "plain" || re.Kind != "" || re.Data != nil {
			t.Errorf("plain error: got %#v", err)
		}
		_, _, err = failCall.Call(t.Context(), a, echo{N: 1})
		if !errors.As(err, &re) || re.Text != "look up: no such user" || re.Kind != "reply" || !bytes.Equal(re.Data, []byte{5, 1, 1}) {
			t.Errorf("typed error: got %#v", err)
		}
	})
}

func TestTooLargeMessagesLeaveTheConnAlive(t *testing.T) {
	t.Parallel()
	mux := NewMux()
	echoCall.Handle(mux, func(context.Context, echo, []*os.File) (echo, []*os.File, error) {
		return echo{Body: make([]byte, DefaultMaxSize)}, nil, nil
	})
	a, b := overPipe(t, nil, mux, Options{})
	if _, _, err := echoCall.Call(t.Context(), a, echo{Body: make([]byte, DefaultMaxSize)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large request: got %v", err)
	}
	var re *RemoteError
	if _, _, err := echoCall.Call(t.Context(), a, echo{}); !errors.As(err, &re) || re.Kind != KindTooLarge {
		t.Errorf("large reply: got %v", err)
	}
	f := tempFile(t, "")
	if _, _, err := echoCall.Call(t.Context(), a, echo{}, f, f, f, f, f, f, f, f, f); !errors.Is(err, ErrTooLarge) {
		t.Errorf("nine files: got %v", err)
	}
	if _, _, err := askCall.Call(t.Context(), a, echo{Text: "longer than the thirty-two bytes of a request"}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("request over its own bound: got %v", err)
	}
	if a.Err() != nil || b.Err() != nil {
		t.Errorf("conns ended: %v, %v", a.Err(), b.Err())
	}
}

func TestSmallQuestionsMayHaveLargeReplies(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, _ := make(t, nil, newService().mux, Options{})
		got, _, err := askCall.Call(t.Context(), a, echo{})
		if err != nil || len(got.Body) != 100_000 {
			t.Errorf("got %d bytes, %v", len(got.Body), err)
		}
	})
}

func TestCancelReachesTheHandlerAndItsReplyIsDropped(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		s := newService()
		a, _ := make(t, nil, s.mux, Options{MaxCalls: 1})
		for range 3 { // the only slot becomes free again
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-s.started
				cancel()
			}()
			if _, _, err := waitCall.Call(ctx, a, echo{}, tempFile(t, "")); !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled call: got %v", err)
			}
			if err := <-s.ended; err != context.Canceled {
				t.Fatalf("handler's context: %v", err)
			}
		}
		if _, _, err := echoCall.Call(t.Context(), a, echo{}); err != nil {
			t.Fatalf("call after cancel: %v", err)
		}
	})
}

func TestCallsFailWhenThePeerIsGone(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		s := newService()
		a, b := make(t, nil, s.mux, Options{Linger: time.Millisecond})
		result := goCall(t.Context(), a)
		<-s.started
		b.end(ErrClosed) // as when the process dies
		if err := <-result; !errors.Is(err, ErrPeerGone) {
			t.Errorf("outstanding call: got %v", err)
		}
		<-a.Done()
		if _, _, err := echoCall.Call(t.Context(), a, echo{}); !errors.Is(err, ErrPeerGone) {
			t.Errorf("later call: got %v", err)
		}
		if err := noteSend.Send(a, echo{}); !errors.Is(err, ErrPeerGone) {
			t.Errorf("later send: got %v", err)
		}
		if err := a.Err(); !errors.Is(err, ErrPeerGone) || errors.Is(err, ErrProtocol) {
			t.Errorf("Err: %v", err)
		}
		a.Close()
		if _, _, err := echoCall.Call(t.Context(), b, echo{}); !errors.Is(err, ErrPeerGone) || !errors.Is(err, ErrClosed) {
			t.Errorf("call on a closed Conn: got %v", err)
		}
	})
}

func goCall(ctx context.Context, c *Conn) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, _, err := waitCall.Call(ctx, c, echo{})
		result <- err
	}()
	return result
}

func TestCallersWaitWhenTooManyCallsAreOutstanding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		a, _ := overPipe(t, nil, s.mux, Options{MaxCalls: 2})
		first, second := goCall(t.Context(), a), goCall(t.Context(), a)
		<-s.started
		<-s.started
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, _, err := echoCall.Call(ctx, a, echo{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("third call: got %v", err)
		}
		close(s.release)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		if _, _, err := echoCall.Call(t.Context(), a, echo{}); err != nil {
			t.Errorf("call after release: %v", err)
		}
	})
}

func TestCallersWaitWhileThePeerDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b, err := Pair(nil, newService().mux)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		body := echo{Body: make([]byte, 1_000_000)}
		err = goEach(10, func(int) error {
			_, _, err := bodyCall.Call(ctx, a, body)
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(a.out.buf) + len(a.out.cur.buf); n > 5<<20 {
			t.Errorf("%d bytes are queued", n)
		}
		serve(t, b) // what was cut short is forgotten, the rest answered
		got, _, err := bodyCall.Call(t.Context(), a, body)
		if err != nil || len(got.Body) != len(body.Body) {
			t.Errorf("once the peer reads: %d bytes, %v", len(got.Body), err)
		}
	})
}

func TestOneWayMessagesKeepTheirOrder(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		s := newService()
		a, _ := make(t, nil, s.mux, Options{})
		for i := range 2000 {
			if err := noteSend.Send(a, echo{N: i}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 2000 {
			if n := <-s.notes; n != i {
				t.Fatalf("message %d: got %d", i, n)
			}
		}
	})
}

func TestHandlersMayCallBackHoweverManyThereAre(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		muxes := [2]*Mux{}
		for i := range muxes {
			muxes[i] = newService().mux
			otherCall.Handle(muxes[i], func(ctx context.Context, r echo, _ []*os.File) (echo, []*os.File, error) {
				return echoCall.Call(ctx, ConnOf(ctx), r)
			})
		}
		a, b := make(t, muxes[0], muxes[1], Options{MaxCalls: 8})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := goEach(6, func(i int) error { // with the calls back, fewer than MaxCalls each way
			c := []*Conn{a, b}[i%2]
			for range 50 {
				if _, _, err := otherCall.Call(ctx, c, echo{}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseSendsTheRepliesOfRunningHandlers(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		s := newService()
		a, b := make(t, nil, s.mux, Options{Linger: time.Minute})
		result := goCall(t.Context(), a)
		<-s.started
		b.Close()
		if err := <-result; err != nil {
			t.Errorf("got %v", err)
		}
		if !errors.Is(b.Err(), ErrClosed) {
			t.Errorf("Err of the closing end: %v", b.Err())
		}
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := Pair(nil, nil)
		serve(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := a.Serve(ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		<-b.Done()
	})
}

func TestFromFileRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	f := tempFile(t, "")
	if c, err := FromFile(f, nil, Options{}); err == nil {
		c.Close()
		t.Error("a regular file was taken")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer ln.Close()
	tf, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := FromFile(tf, nil, Options{}); err == nil {
		c.Close()
		t.Error("a TCP listener was taken")
	}
}

func benchPair(b *testing.B, make maker, body int, inFlight int) {
	s := newService()
	a, _ := make(b, nil, s.mux, Options{})
	req := echo{N: 7, Text: "some.user@example.org", Body: bytes.Repeat([]byte{'x'}, body)}
	b.ReportAllocs()
	b.SetBytes(int64(body))
	if inFlight == 1 {
		for b.Loop() {
			if _, _, err := bodyCall.Call(b.Context(), a, req); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	err := goEach(inFlight, func(int) error {
		for left.Add(-1) >= 0 {
			if _, _, err := bodyCall.Call(b.Context(), a, req); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkCall(b *testing.B) {
	for name, make := range map[string]maker{"socket": overSocket, "memory": overPipe} {
		for _, n := range []int{1, 64, 1024} {
			b.Run(fmt.Sprintf("%s/%dInFlight", name, n), func(b *testing.B) { benchPair(b, make, 100, n) })
		}
		b.Run(name+"/body256K", func(b *testing.B) { benchPair(b, make, 256<<10, 1) })
	}
}
