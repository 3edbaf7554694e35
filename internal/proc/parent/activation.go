package parent

import (
	"net"
	"net/netip"

	"github.com/opensmtpd/opensmtpd/platform"
)

// adopt takes over the sockets that the service manager has bound: each serves the
// listeners of the configuration that have its address. Nothing else is bound yet.
func (p *Parent) adopt(passed []platform.PassedSocket) {
	for _, s := range passed {
		l, err := net.FileListener(s.File)
		s.File.Close()
		if err != nil {
			p.Log.Warnf("socket %q of the service manager: %v", s.Name, err)
			continue
		}
		t, ok := l.(*net.TCPListener)
		if !ok {
			p.Log.Warnf("socket %q of the service manager: %s is not a TCP socket", s.Name, l.Addr().Network())
			l.Close()
			continue
		}
		a := address(t)
		if p.listeners[a] != nil || !p.config.listensOn(a) {
			p.Log.Warnf("socket %q of the service manager: no listener of the configuration is on %s", s.Name, a)
			l.Close()
			continue
		}
		p.Log.Infof("%s is bound by the service manager", a)
		p.listeners[a] = t
	}
}

// address returns the address of a listener as configurations have it.
func address(l *net.TCPListener) string {
	a := l.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func (c *Config) listensOn(address string) bool {
	for _, l := range c.Listen {
		if l.Address == address {
			return true
		}
	}
	return false
}
