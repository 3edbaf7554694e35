// Package control is the near side of the daemon's local socket: programs on the
// same host connect, agree on the version of the calls, and then make the calls of
// package proto that the daemon serves there, or ask for an SMTP session.
package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// helloTimeout bounds the wait for the daemon's first answer. It comes from a
// process that does nothing else, so a daemon that is slower is stuck.
const helloTimeout = 30 * time.Second

// ErrNotRunning says that nothing listens on the socket.
var ErrNotRunning = errors.New("smtpd doesn't seem to be running")

// VersionError says that the daemon is of another version than this program. It
// goes away when the daemon is restarted after an upgrade.
type VersionError struct {
	Want, Got uint32
	Software  string // what the daemon calls itself
}

// Error names both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("the running smtpd (%s) speaks version %d of the control protocol, this program version %d: restart smtpd",
		e.Software, e.Got, e.Want)
}

// Client is a connection to the daemon.
type Client struct {
	// Daemon is how the daemon introduced itself.
	Daemon proto.HelloReply

	conn *imsg.Conn
	done chan struct{} // closed when Serve has returned
}

// Dial connects to the socket at path. The error wraps ErrNotRunning when there is
// no daemon behind it, or is a *VersionError.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w (no answer on %s)", ErrNotRunning, path)
	}
	if err != nil {
		return nil, err
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("%s is not a local socket", path)
	}
	return New(ctx, uc)
}

// New opens the conversation over a connected socket, which it owns.
func New(ctx context.Context, uc *net.UnixConn) (*Client, error) {
	conn, err := imsg.New(uc, imsg.NewMux(), imsg.Options{})
	if err != nil {
		uc.Close()
		return nil, err
	}
	c := &Client{conn: conn, done: make(chan struct{})}
	go func() { // ends with Close or with the daemon
		defer close(c.done)
		_ = conn.Serve(context.WithoutCancel(ctx)) // its error comes back from the calls
	}()
	hello, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	c.Daemon, _, err = proto.Hello.Call(hello, conn, proto.HelloRequest{Version: proto.ControlVersion})
	if err == nil && c.Daemon.Version != proto.ControlVersion {
		err = &VersionError{Want: proto.ControlVersion, Got: c.Daemon.Version, Software: c.Daemon.Software}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}

// Call makes a call of the daemon. The caller owns the returned files.
func Call[Req, Rep any](ctx context.Context, c *Client, m imsg.Method[Req, Rep], req Req) (Rep, []*os.File, error) {
	return m.Call(ctx, c.conn, req)
}

// Session returns a connection that speaks SMTP: the server greets first. It
// outlives the Client.
func (c *Client) Session(ctx context.Context) (net.Conn, error) {
	_, files, err := proto.LocalSession.Call(ctx, c.conn, proto.LocalSessionRequest{})
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 1 {
		return nil, fmt.Errorf("smtpd sent %d descriptors for a session", len(files))
	}
	return net.FileConn(files[0])
}

// DialSession connects to the socket at path and returns a connection that speaks
// SMTP.
func DialSession(ctx context.Context, path string) (net.Conn, error) {
	c, err := Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Session(ctx)
}
