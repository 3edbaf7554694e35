package imsg

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// raw is a peer that sends and receives bytes.
type raw struct{ pipeEnd }

func rawPeer(mux *Mux) (*Conn, *raw) {
	in, out := newPipe(), newPipe()
	return newConn(&pipeEnd{in: in, out: out}, mux, Options{}), &raw{pipeEnd{in: out, out: in}}
}

func (r *raw) send(b []byte, fds ...int) error {
	for len(b) > 0 {
		n, err := r.write(b, fds, true)
		if err != nil {
			return err
		}
		b, fds = b[n:], nil
	}
	return nil
}

// receive reads one frame.
func (r *raw) receive(t *testing.T) []byte {
	var b []byte
	for need := headerSize; len(b) < need; {
		part := make([]byte, need-len(b))
		n, fds, err := r.read(part)
		if err != nil || fds != nil {
			t.Fatalf("receive: descriptors %v, %v", fds, err)
		}
		if b = append(b, part[:n]...); len(b) == headerSize {
			h, err := parseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			need += int(h.length)
		}
	}
	return b
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "").Replace(s))
	if err != nil {
		panic(err)
	}
	return b
}

func TestGoldenFrames(t *testing.T) {
	t.Parallel()
	text := Method[string, string]{ID: 1, Name: "test.Text"}
	mux := NewMux()
	text.Handle(mux, func(_ context.Context, s string, _ []*os.File) (string, []*os.File, error) {
		if s == "no" {
			return "", nil, typedError{}
		}
		return s + "!", nil, nil
	})
	c, peer := rawPeer(mux)
	serve(t, c)
	expect := func(what, want string) {
		t.Helper()
		if got := peer.receive(t); string(got) != string(unhex(want)) {
			t.Errorf("%s: got %x, want %s", what, got, want)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, _, err := text.Call(ctx, c, "hi")
		result <- err
	}()
	expect("request", "00000003 0001 0000 0000000000000001 026869")
	cancel()
	expect("cancel", "00000000 0000 0010 0000000000000001")
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if err := peer.send(unhex("00000003 0001 0001 0000000000000001 026869")); err != nil {
		t.Fatal(err)
	}
	if err := text.Send(c, "hi"); err != nil {
		t.Error(err)
	}
	expect("one-way", "00000003 0001 0004 0000000000000002 026869")

	peer.send(unhex("00000003 0001 0000 0000000000000007 026869"))
	expect("reply", "00000004 0001 0001 0000000000000007 03686921")
	peer.send(unhex("00000003 0001 0000 0000000000000007 026e6f"))
	expect("error reply", "00000017 0001 0003 0000000000000007 057265706c79 0c6e6f20737563682075736572 03050101")
}

// full64K is the payload of a frame that is not the last.
var full64K = strings.Repeat("00", maxPayload)

func TestProtocolViolationsEndTheConn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"long frame", "00010001 0001 0000 0000000000000001", "frame of 65537 bytes"},
		{"unknown flag", "00000000 0001 0020 0000000000000001", "unknown flags 0x0020"},
		{"nine descriptors", "00000000 0001 0900 0000000000000001", "9 descriptors"},
		{"missing descriptors", "00000003 0001 0100 0000000000000001 000000", "1 descriptors counted, 0 received"},
		{"unknown method", "00000000 0063 0000 0000000000000001", "unknown method 99"},
		{"reply to nothing", "00000003 0001 0001 0000000000000001 000000", "reply to 1, which was not called"},
		{"one-way reply", "00000000 0001 0005 0000000000000001", "one-way reply"},
		{"error request", "00000000 0001 0002 0000000000000001", "error with flags"},
		{"cancel with payload", "00000001 0000 0010 0000000000000001 00", "cancel with"},
		{"cut request", "00000002 0001 0000 0000000000000001 0000", "request of test.Echo: value is cut short"},
		{"trailing bytes", "00000004 0001 0000 0000000000000001 00000000", "request of test.Echo: trailing bytes"},
		{"short part", "00000001 0001 0008 0000000000000001 00", "not the last"},
		{"oversize", "00010000 0001 0008 0000000000000001" + full64K + "00000001 0001 0000 0000000000000001 00", "exceeds 65536 bytes"},
		{"request over its own bound", "00000021 0008 0000 0000000000000001" + strings.Repeat("00", 33), "exceeds 32 bytes"},
		{"method changes", "00010000 0002 0008 0000000000000001" + full64K + "00000001 0001 0000 0000000000000001 00", "does not continue"},
		{"same id twice", strings.Repeat("00000003 0005 0000 0000000000000001 000000", 2), "request 1 sent twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, peer := rawPeer(newService().mux)
			serve(t, c)
			if err := peer.send(unhex(tt.in)); err != nil && c.Err() == nil {
				t.Fatal(err)
			}
			<-c.Done()
			if err := c.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, _, err := echoCall.Call(t.Context(), c, echo{}); !errors.Is(err, ErrPeerGone) || !errors.Is(err, ErrProtocol) {
				t.Errorf("later call: %v", err)
			}
		})
	}
}

func TestUnfinishedMessagesAreBounded(t *testing.T) {
	t.Parallel()
	c, peer := rawPeer(newService().mux)
	serve(t, c)
	for id := range uint64(maxLarge + 1) {
		h := header{length: maxPayload, method: 2, flags: flagMore, id: id}
		if err := peer.send(append(h.append(nil), make([]byte, maxPayload)...)); err != nil {
			break
		}
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "unfinished") {
		t.Errorf("got %v", err)
	}
}

func TestEndInAFrameIsToldFromAnEndBetweenFrames(t *testing.T) {
	t.Parallel()
	c, peer := rawPeer(nil)
	serve(t, c)
	peer.send([]byte{0, 0})
	peer.close()
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrPeerGone) || !strings.Contains(err.Error(), "middle of a frame") {
		t.Errorf("got %v", err)
	}
}

// probe returns a file to be sent and a check that no duplicate of it stays
// open. The check closes the file.
func probe(t *testing.T) (w *os.File, closed func()) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return w, func() {
		t.Helper()
		w.Close()
		r.SetReadDeadline(time.Now().Add(10 * time.Second)) // a failure, not a measure
		if n, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a descriptor is still open: %d, %v", n, err)
		}
	}
}

func TestNoDescriptorStaysOpen(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		t.Run("error reply", func(t *testing.T) {
			a, _ := make(t, nil, newService().mux, Options{})
			w, closed := probe(t)
			if _, _, err := failCall.Call(t.Context(), a, echo{}, w); err == nil {
				t.Error("no error")
			}
			closed()
		})
		t.Run("late reply", func(t *testing.T) {
			s := newService()
			a, _ := make(t, nil, s.mux, Options{})
			w, closed := probe(t)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-s.started; cancel() }()
			waitCall.Call(ctx, a, echo{}, w)
			closed()
		})
		t.Run("unknown method", func(t *testing.T) {
			a, _ := make(t, nil, newService().mux, Options{})
			w, closed := probe(t)
			if _, _, err := otherCall.Call(t.Context(), a, echo{}, w); !errors.Is(err, ErrPeerGone) {
				t.Errorf("got %v", err)
			}
			closed()
		})
		t.Run("one-way", func(t *testing.T) {
			a, _ := make(t, nil, newService().mux, Options{})
			w, closed := probe(t)
			fd, err := dupFile(w)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := encodeValue(echo{})
			a.room.take(headerSize + len(b))
			h := header{length: uint32(len(b)), method: filesCall.ID, flags: flagOneWay | 1<<fileShift, id: 1}
			if err := a.push(h, b, []int{fd}); err != nil {
				t.Fatal(err)
			}
			closed()
		})
	})
}

// rawSocket is a Conn with a bare socket as its peer.
func rawSocket(t *testing.T) (*Conn, *net.UnixConn) {
	fa, fb, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.FileConn(fb)
	fb.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c, err := FromFile(fa, newService().mux, Options{})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c)
	return c, nc.(*net.UnixConn)
}

func TestUncountedDescriptorsEndTheConn(t *testing.T) {
	t.Parallel()
	frame := unhex("00000003 0006 0004 0000000000000001 000000")
	for _, tt := range []struct {
		name  string
		bytes []byte
		n     int
	}{
		{"none counted", frame, 1},
		{"none counted, half a frame", frame[:5], MaxFiles + 1},
		{"more than there is room for", frame, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, peer := rawSocket(t)
			w, closed := probe(t)
			fd, err := dupFile(w)
			if err != nil {
				t.Fatal(err)
			}
			fds := make([]int, tt.n)
			for i := range fds {
				fds[i] = fd
			}
			_, _, err = peer.WriteMsgUnix(tt.bytes, unix.UnixRights(fds...), nil)
			unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			<-c.Done()
			if err := c.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "descriptors") {
				t.Errorf("got %v", err)
			}
			closed()
		})
	}
}

func TestReceivedDescriptorsAreClosedOnExec(t *testing.T) {
	both(t, func(t *testing.T, make maker) {
		a, _ := make(t, nil, newService().mux, Options{})
		_, files, err := filesCall.Call(t.Context(), a, echo{}, tempFile(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		defer closeFiles(files)
		flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
	})
}

// Whatever a peer sends, a Conn ends with the stream at the latest, tells
// whether the peer broke the rules, ends the calls that wait, and has not taken
// more memory for unfinished messages than stated.
func FuzzFrame(f *testing.F) {
	for _, s := range []string{
		"00000003 0001 0000 0000000000000007 000000",
		"00000003 0006 0004 0000000000000007 000000",
		"00000003 0005 0000 0000000000000007 000000 00000000 0000 0010 0000000000000007",
		"00000003 0001 0001 0000000000000001 000000",
		"00000003 0001 0003 0000000000000001 000000",
		"00010000 0002 0008 0000000000000001" + full64K + "00000003 0002 0000 0000000000000001 000000",
	} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, peer := rawPeer(newService().mux)
		result := make(chan error, 1)
		go func() {
			_, _, err := echoCall.Call(context.Background(), c, echo{})
			result <- err
		}()
		peer.receive(t) // the call, with id 1
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			peer.send(b)
			peer.out.end(false)
		}()
		go io.Copy(io.Discard, pipeReader{peer})

		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r := newReader(c, ctx)
		go func() {
			for range r.oneWay {
			}
		}()
		defer close(r.oneWay)
		err := c.cause(r.run())
		size := len(r.buf)
		for _, p := range r.partial {
			size += cap(p.data)
		}
		if most := largeRead + maxLarge*2*bodyCall.MaxSize; size > most {
			t.Errorf("%d bytes of memory, at most %d are allowed", size, most)
		}
		r.discard()
		c.end(err)
		cancel()
		c.handling.Wait()
		<-sent
		if callErr := <-result; callErr != nil && !errors.Is(callErr, ErrPeerGone) && !errors.As(callErr, new(*RemoteError)) {
			t.Errorf("call: %v", callErr)
		}
		if !errors.Is(err, ErrPeerGone) && !errors.Is(err, ErrProtocol) {
			t.Errorf("end: %v", err)
		}
	})
}

type pipeReader struct{ r *raw }

func (p pipeReader) Read(b []byte) (int, error) {
	n, _, err := p.r.read(b)
	return n, err
}
