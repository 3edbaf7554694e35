package proc

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// pair returns two ends of a link that are being served until the test ends. The far
// end answers Verbose.
func pair(t *testing.T, handler func(context.Context) error) (near, far *imsg.Conn) {
	t.Helper()
	a, b, err := imsg.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	mux := imsg.NewMux()
	proto.Verbose.Handle(mux, func(ctx context.Context, _ proto.VerboseRequest, _ []*os.File) (proto.Empty, []*os.File, error) {
		return proto.Empty{}, nil, handler(ctx)
	})
	serve := func(f *os.File, mux *imsg.Mux) *imsg.Conn {
		c, err := imsg.FromFile(f, mux, imsg.Options{Linger: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.Serve(context.Background())
		}()
		t.Cleanup(func() {
			c.Close()
			<-ended
		})
		return c
	}
	return serve(a, imsg.NewMux()), serve(b, mux)
}

func fine(context.Context) error { return nil }

func TestCallWaitsForAPeerThatIsStartedAgain(t *testing.T) {
	t.Parallel()
	l := NewLinks()
	defer l.Close()
	answer := make(chan error)
	go func() {
		_, err := Ask(context.Background(), l, proto.Key, proto.Verbose, proto.VerboseRequest{})
		answer <- err
	}()
	other, _ := pair(t, fine)
	l.Set(proto.Queue, other) // not the one that is waited for
	near, _ := pair(t, fine)
	l.Set(proto.Key, near)
	if err := <-answer; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
}

func TestCallDoesNotUseALinkThatHasEnded(t *testing.T) {
	t.Parallel()
	l := NewLinks()
	defer l.Close()
	old, far := pair(t, fine)
	l.Set(proto.Key, old)
	far.Close()
	<-old.Done()
	// Nobody has dropped the old link yet: its last handlers may be running.
	answer := make(chan error)
	go func() {
		_, err := Ask(context.Background(), l, proto.Key, proto.Verbose, proto.VerboseRequest{})
		answer <- err
	}()
	near, _ := pair(t, fine)
	l.Set(proto.Key, near)
	if err := <-answer; err != nil {
		t.Errorf("a call after the link had ended: %v", err)
	}
}

func TestNewLinkClosesTheOneBefore(t *testing.T) {
	t.Parallel()
	l := NewLinks()
	defer l.Close()
	old, _ := pair(t, fine)
	l.Set(proto.Key, old)
	near, _ := pair(t, fine)
	l.Set(proto.Key, near)
	<-old.Done()
	l.drop(proto.Key, old) // late: the new one stays
	if c, err := l.Conn(t.Context(), proto.Key); err != nil || c != near {
		t.Errorf("the link is %p (%v), want the new one", c, err)
	}
}

func TestCloseEndsThoseWhoWait(t *testing.T) {
	t.Parallel()
	l := NewLinks()
	answer := make(chan error)
	go func() {
		_, err := l.Conn(context.Background(), proto.Key)
		answer <- err
	}()
	l.Close()
	if err := <-answer; !errors.Is(err, imsg.ErrPeerGone) {
		t.Errorf("got %v, want %v", err, imsg.ErrPeerGone)
	}
	near, _ := pair(t, fine)
	l.Set(proto.Key, near) // too late: closed at once
	<-near.Done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewLinks().Conn(ctx, proto.Key); !errors.Is(err, imsg.ErrPeerGone) {
		t.Errorf("with an ended context: %v", err)
	}
}
