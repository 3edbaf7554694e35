package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Limits bound what a Server takes on at a time. Zero means no limit of that kind.
type Limits struct {
	MaxSessions  int // over all listeners
	MaxPerSource int // per client network: an IPv4 address or an IPv6 /64
}

// Server accepts connections and runs their sessions.
type Server struct{ limits Limits }

// New returns a server without listeners.
func New(l Limits) *Server { return &Server{limits: l} }

// Options belong to one listening socket.
type Options struct {
	// Config returns what a new session shall use. It is called per connection, so
	// that a reload changes new sessions and leaves running ones alone.
	Config func() *Config

	// Proxy makes the PROXY header (version 1 or 2) mandatory, from clients for
	// which TrustProxy says true; nil trusts all.
	Proxy      bool
	TrustProxy func(netip.Addr) bool
}

// Serve accepts from l until ctx ends or l fails for good, then closes it.
// Sessions go on; Drain ends them. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener, o Options) error {
	return errors.New("not yet")
}

// ServeConn runs one session over a connection obtained elsewhere, such as the
// local socket's, and returns when it has ended. It counts towards MaxSessions.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, cfg *Config) {}

// Drain ends sessions: idle ones at once with 421 4.3.2, others after their
// transaction. When ctx ends the remaining connections are cut. It returns when no
// session is left.
func (s *Server) Drain(ctx context.Context) error { return nil }
