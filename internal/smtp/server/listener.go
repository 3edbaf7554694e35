package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proxyproto"
	"github.com/opensmtpd/opensmtpd/internal/report"
)

// Limits bound what a Server takes on at a time. Zero means no limit of that kind.
// Connections beyond them get 421 4.7.0.
type Limits struct {
	MaxSessions  int // over all listeners
	MaxPerSource int // per client network: an IPv4 address or an IPv6 /64
}

// Server accepts connections and runs their sessions.
type Server struct {
	buffers sync.Pool
	wg      sync.WaitGroup // of the connections' goroutines

	mu       sync.Mutex // guards what follows
	limits   Limits
	draining bool
	conns    map[*connection]struct{}
	sources  map[netip.Prefix]int
}

// connection is one accepted connection; its session is nil before the dialogue.
type connection struct {
	net.Conn
	cancel  context.CancelFunc // ends the calls of the session
	session *session
}

// New returns a server without listeners.
func New(l Limits) *Server {
	return &Server{
		limits:  l,
		buffers: sync.Pool{New: func() any { return new([]byte) }},
		conns:   make(map[*connection]struct{}),
		sources: make(map[netip.Prefix]int),
	}
}

// SetLimits changes the limits for connections to come; none is cut that there is.
func (s *Server) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
}

// Options belong to one listening socket.
type Options struct {
	// Config returns what a new session shall use, and what to call when that is needed no
	// more; it may be nil. It is called per connection, before Serve accepts another, so
	// that a reload changes new sessions and leaves running ones alone.
	Config func() (cfg *Config, done func())

	// Proxy makes the PROXY header (version 1 or 2) mandatory, and TrustProxy says
	// from which peers it is taken; nil trusts all. Others are cut off.
	// ProxyV2Only takes headers of version 2 only.
	Proxy       bool
	ProxyV2Only bool
	TrustProxy  func(peer netip.Addr) bool

	// Failed is told of each failed accept, such as for lack of descriptors; Serve
	// tries again after a pause. It may be nil.
	Failed func(error)
}

// maxPause bounds the pause after a failed accept, such as for lack of
// descriptors.
const maxPause = time.Second

// Serve accepts from l until ctx ends or l fails for good, then closes it.
// Sessions go on; Drain ends them. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener, o Options) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // unblocks Accept
	defer func() {
		if stop() {
			_ = l.Close() // it has failed, that is returned
		}
	}()
	var pause time.Duration
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			// What was accepted is served, even when ctx has ended meanwhile: after a
			// reload another listener goes on, and the client must notice nothing.
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default:
			if o.Failed != nil {
				o.Failed(err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), maxPause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		// Sessions outlive ctx: Drain is what ends them.
		s.start(context.WithoutCancel(ctx), conn, o)
	}
}

// start runs a session over an accepted connection in a goroutine of its own.
func (s *Server) start(ctx context.Context, conn net.Conn, o Options) {
	cfg, done := o.Config()
	if done == nil {
		done = func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &connection{Conn: conn, cancel: cancel}
	if !s.enter(c) {
		cancel()
		s.turnAway(conn, cfg)
		done()
		return
	}
	go func() {
		defer s.leave(c)
		defer done()
		client, local := endpoints(conn)
		var proxied bool
		if o.Proxy {
			h, err := readProxy(conn, cfg, client.Addr(), &o)
			if err != nil {
				cfg.Events.Report(report.Refused{Address: sourceText(client.Addr()), Reason: fmt.Sprintf("PROXY header: %v", err)})
				return
			}
			if proxied = h.Source.IsValid(); proxied {
				client, local = h.Source, h.Destination
			}
		}
		network, ok := s.admit(client.Addr())
		if !ok {
			s.turnAway(conn, cfg)
			return
		}
		defer s.release(network)
		s.talk(ctx, c, cfg, client, local, proxied)
	}()
}

// ServeConn runs one session over a connection obtained elsewhere, such as the
// local socket's, closes it and returns when it has ended. It counts towards
// MaxSessions.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, cfg *Config) {
	ctx, cancel := context.WithCancel(ctx)
	c := &connection{Conn: conn, cancel: cancel}
	if !s.enter(c) {
		cancel()
		s.turnAway(conn, cfg)
		return
	}
	defer s.leave(c)
	client, local := endpoints(conn)
	s.talk(ctx, c, cfg, client, local, false)
}

// talk holds the dialogue.
func (s *Server) talk(ctx context.Context, c *connection, cfg *Config, client, local netip.AddrPort, proxied bool) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends what waits for the peer
	defer stop()
	ss := newSession(c.Conn, cfg, &s.buffers, client, local)
	s.mu.Lock()
	c.session = ss
	draining := s.draining
	s.mu.Unlock()
	if draining {
		ss.wire.drain()
	}
	if proxied {
		cfg.Events.Report(report.Proxied{Session: ss.ID, Address: ss.Source})
	}
	ss.run(ctx)
}

// Drain makes Serve accept no session any more and ends those there are: idle
// ones at once with 421 4.3.2, others after their transaction. When ctx ends the
// remaining connections are cut. It returns when no session is left, with the
// error of ctx if that had to end them.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		if c.session != nil {
			c.session.wire.drain()
		} else {
			c.cancel()
			_ = c.Close() // still to say who it speaks for
		}
	}
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	s.wg.Wait()
	return ctx.Err()
}

// cut closes all connections.
func (s *Server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cancel()
		_ = c.Close() // the session notices
	}
}

// Sessions returns the number of connections there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// enter counts a connection, unless there are too many or the server is to end.
func (s *Server) enter(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.limits.MaxSessions > 0 && len(s.conns) >= s.limits.MaxSessions {
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

// leave closes a connection and forgets it.
func (s *Server) leave(c *connection) {
	c.cancel()
	_ = c.Close() // its session has said all it had to
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// admit counts a session of a client's network, unless there are too many.
func (s *Server) admit(client netip.Addr) (netip.Prefix, bool) {
	if !client.IsValid() {
		return netip.Prefix{}, true
	}
	client = client.Unmap().WithZone("")
	bits := 32
	if client.Is6() {
		bits = 64
	}
	network, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits.MaxPerSource > 0 && s.sources[network] >= s.limits.MaxPerSource {
		return netip.Prefix{}, false
	}
	s.sources[network]++
	return network, true
}

// release is the reverse of admit.
func (s *Server) release(network netip.Prefix) {
	if !network.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sources[network]--; s.sources[network] == 0 {
		delete(s.sources, network)
	}
}

// turnAway closes a connection that is not served, with a word where the client
// can read it.
func (s *Server) turnAway(conn net.Conn, cfg *Config) {
	defer func() { _ = conn.Close() }() // nothing is left to be said
	s.mu.Lock()
	reason, reply := "too many connections", "421 4.7.0 Too many connections\r\n"
	if s.draining {
		reason, reply = "shutting down", "421 4.3.2 Service shutting down\r\n"
	}
	s.mu.Unlock()
	client, _ := endpoints(conn)
	cfg.Events.Report(report.Refused{Address: sourceText(client.Addr()), Reason: reason})
	if cfg.TLSMode != ImmediateTLS && conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = conn.Write([]byte(reply)) // a courtesy
	}
}

// errProxyNotTrusted is why a peer is cut off that may not speak for others.
var errProxyNotTrusted = errors.New("peer is not trusted")

// readProxy reads the PROXY header that peer sends, if it is trusted to.
func readProxy(conn net.Conn, cfg *Config, peer netip.Addr, o *Options) (proxyproto.Header, error) {
	if o.TrustProxy != nil && !o.TrustProxy(peer.Unmap()) {
		return proxyproto.Header{}, errProxyNotTrusted
	}
	if err := conn.SetReadDeadline(time.Now().Add(cfg.withDefaults().Timeout)); err != nil {
		return proxyproto.Header{}, err
	}
	if o.ProxyV2Only {
		return proxyproto.ReadV2(conn)
	}
	return proxyproto.Read(conn)
}

// endpoints returns the addresses of a TCP connection, invalid ones for another.
func endpoints(conn net.Conn) (client, local netip.AddrPort) {
	return address(conn.RemoteAddr()), address(conn.LocalAddr())
}

// address returns the address of a TCP endpoint.
func address(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}
