package parent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// bindAll binds the network listeners and the control socket.
func (p *Parent) bindAll() error {
	p.adopt(p.Passed)
	if err := p.bindControl(); err != nil {
		p.closeSockets()
		return err
	}
	fresh, err := p.bind(p.config)
	if err != nil {
		p.closeSockets()
		return err
	}
	for a, l := range fresh {
		p.listeners[a] = l
	}
	return nil
}

// bind binds the addresses of c that are not bound yet. On an error none is.
func (p *Parent) bind(c *Config) (map[string]*net.TCPListener, error) {
	fresh := map[string]*net.TCPListener{}
	for _, l := range c.Listen {
		if p.listeners[l.Address] != nil || fresh[l.Address] != nil {
			continue
		}
		ln, err := listenTCP(l.Address, nil)
		if errors.Is(err, syscall.EADDRINUSE) {
			ln, err = p.bindBeside(l.Address, fresh)
		}
		if err != nil {
			for _, f := range fresh {
				f.Close()
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("listen on %s: the address is in use; is another mail server running?", l.Address)
			}
			return nil, err
		}
		fresh[l.Address] = ln
	}
	return fresh, nil
}

// listenTCP binds an address of one family: all addresses of IPv4 are none of IPv6.
func listenTCP(address string, control func(network, address string, c syscall.RawConn) error) (*net.TCPListener, error) {
	network := "tcp6"
	if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().Is4() {
		network = "tcp4"
	}
	lc := net.ListenConfig{Control: control}
	lc.SetMultipathTCP(false) // MPTCP sockets slip past Landlock's rules on ports
	ln, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// bindBeside binds an address that is in use when it is one of ours that uses it: all
// addresses of a family beside a single one, whose connections stay its own. Before a
// reload and after it the one may be there without the other.
func (p *Parent) bindBeside(address string, fresh map[string]*net.TCPListener) (*net.TCPListener, error) {
	host, ok := p.Host.(platform.PortSharer)
	own := false
	for _, listeners := range []map[string]*net.TCPListener{p.listeners, fresh} {
		for a, ln := range listeners {
			if !ok || !overlap(a, address) {
				continue
			}
			raw, err := ln.SyscallConn()
			if err != nil {
				return nil, err
			}
			if err := host.SharePort(raw); err != nil {
				return nil, err
			}
			own = true
		}
	}
	if !own {
		return nil, syscall.EADDRINUSE
	}
	return listenTCP(address, func(_, _ string, c syscall.RawConn) error { return host.SharePort(c) })
}

// overlap tells whether one of two addresses, host:port, is all addresses of the
// other's family.
func overlap(a, b string) bool {
	x, err1 := netip.ParseAddrPort(a)
	y, err2 := netip.ParseAddrPort(b)
	return err1 == nil && err2 == nil && x.Port() == y.Port() && x.Addr().Is4() == y.Addr().Is4() &&
		x.Addr().IsUnspecified() != y.Addr().IsUnspecified()
}

// listenerFiles returns the options of the listeners with a descriptor for each.
func (p *Parent) listenerFiles(c *Config) ([]proto.Listener, []*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var options []proto.Listener
	var files []*os.File
	for _, l := range c.Listen {
		f, err := p.listeners[l.Address].File()
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, nil, fmt.Errorf("listener %s: %w", l.Address, err)
		}
		o := l.Options
		o.Address = l.Address
		options, files = append(options, o), append(files, f)
	}
	return options, files, nil
}

// ControlSocket is the name of the local socket in the run directory.
const ControlSocket = "smtpd.sock"

// bindControl binds the local socket. A live one means that the daemon is running.
func (p *Parent) bindControl() error {
	path := filepath.Join(p.Paths.Run, ControlSocket)
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("%s: another daemon listens on the control socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	// Anybody may connect: the control process asks the system who it is.
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return fmt.Errorf("control socket: %w", err)
	}
	p.control = ln
	return nil
}

func (p *Parent) closeSockets() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, l := range p.listeners {
		l.Close()
		delete(p.listeners, a)
	}
	if p.control != nil {
		p.control.Close() // removes the socket file, too
	}
}
