package imsg

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketBuffer is asked of the system for each direction, in bytes; some
	// systems give 8 KiB otherwise, an eighth of a frame.
	socketBuffer = 256 << 10
	// hurryTime bounds the reading of what a peer sent before it stopped
	// taking our bytes.
	hurryTime = time.Second
)

// SocketPair returns the two ends of a new connected stream socket, both closed
// on exec. A parent makes its own Conn of one with FromFile and hands the other
// to a child, in exec.Cmd.ExtraFiles.
func SocketPair() (a, b *os.File, err error) {
	// Not every system can set close-on-exec in the same call; under this lock
	// no child is started in between.
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// FromFile makes a Conn of a unix stream socket. It closes f in any case.
func FromFile(f *os.File, mux *Mux, o Options) (*Conn, error) {
	nc, err := net.FileConn(f)
	f.Close() // FileConn has its own; with two, the peer would see no end
	if err != nil {
		return nil, fmt.Errorf("imsg: %w", err)
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("imsg: %s is not a unix socket", f.Name())
	}
	c, err := New(uc, mux, o)
	if err != nil {
		uc.Close()
	}
	return c, err
}

// socket is the transport over a unix stream socket.
type socket struct {
	uc  *net.UnixConn
	raw syscall.RawConn
	oob []byte // for read

	// What the next raw write is about; used by the one writer.
	out    []byte
	rights []byte
	sent   int
	err    error
	try    func(fd uintptr) bool
}

func newSocket(uc *net.UnixConn) (*socket, error) {
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("imsg: %w", err)
	}
	// Refusal is no failure: the system's own sizes work too.
	uc.SetReadBuffer(socketBuffer)
	uc.SetWriteBuffer(socketBuffer)
	// Room for twice what a frame may carry shows a peer that sends too many.
	s := &socket{uc: uc, raw: raw, oob: make([]byte, unix.CmsgSpace(2*MaxFiles*4))}
	s.try = s.tryOnce
	return s, nil
}

// tryOnce makes one attempt and never asks to be called again.
func (s *socket) tryOnce(fd uintptr) bool {
	for {
		if s.rights == nil {
			s.sent, s.err = unix.Write(int(fd), s.out)
		} else {
			s.sent, s.err = unix.SendmsgN(int(fd), s.out, s.rights, nil, 0)
		}
		if s.err != unix.EINTR {
			return true
		}
	}
}

func (s *socket) write(b []byte, fds []int, wait bool) (n int, err error) {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
		defer func() {
			if n > 0 {
				closeFDs(fds)
			}
		}()
	}
	if wait {
		if rights == nil {
			return s.uc.Write(b)
		}
		n, _, err = s.uc.WriteMsgUnix(b, rights, nil)
		return n, err
	}
	s.out, s.rights = b, rights
	err = s.raw.Write(s.try)
	s.out, s.rights = nil, nil
	if err != nil {
		return 0, err
	}
	if s.err != nil {
		if s.err == unix.EAGAIN {
			return 0, nil
		}
		return 0, os.NewSyscallError("sendmsg", s.err)
	}
	return s.sent, nil
}

// read relies on ReadMsgUnix setting close-on-exec on what it receives, with
// MSG_CMSG_CLOEXEC where the system has it.
func (s *socket) read(b []byte) (int, []int, error) {
	n, oobn, flags, _, err := s.uc.ReadMsgUnix(b, s.oob)
	var fds []int
	if oobn > 0 {
		var perr error
		if fds, perr = parseRights(s.oob[:oobn]); perr != nil {
			return n, fds, perr
		}
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		return n, fds, violation("too many descriptors in one message")
	}
	if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
		err = io.EOF // without net's wrapping
	}
	return n, fds, err
}

func parseRights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, violation("control message: %v", err)
	}
	for i := range msgs {
		// Other kinds arrive only when asked for with a socket option.
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, violation("control message: %v", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func (s *socket) hurry() { s.uc.SetReadDeadline(time.Now().Add(hurryTime)) }

func (s *socket) close() { s.uc.Close() }
