package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp/server"
)

// generation is one configuration with its sockets and the sessions that run
// under it.
type generation struct {
	d       *Dispatcher
	number  uint32
	socket  *server.Config // sessions of the local socket
	keys    *keyring
	sockets []*listener

	filtering *filtering

	sessions atomic.Int64 // and accept loops, which may begin some
	retired  atomic.Bool
	released sync.Once

	stop context.CancelFunc // ends the accept loops, nil when there are none
}

// listener is a socket and the configuration of its sessions.
type listener struct {
	file    *os.File
	config  *server.Config
	options server.Options
}

// newGeneration builds what the configuration describes. It owns files.
func (d *Dispatcher) newGeneration(c *proto.DispatcherConfig, files []*os.File) (_ *generation, err error) {
	g := &generation{d: d, number: c.Generation}
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			if g.filtering != nil {
				g.filtering.close()
			}
		}
	}()
	if len(files) != len(c.Listeners) {
		return nil, fmt.Errorf("%d sockets for %d listeners", len(files), len(c.Listeners))
	}
	keys, err := d.keyring(c)
	if err != nil {
		return nil, err
	}
	g.keys = keys
	if g.filtering, err = g.newFiltering(c); err != nil {
		return nil, err
	}
	for i := range c.Listeners {
		cfg, err := g.sessionConfig(c, &c.Listeners[i], keys)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", c.Listeners[i].Address, err)
		}
		l := &listener{file: files[i], config: cfg}
		l.options.Failed = func(err error) { d.p.Log.Warnf("accept: %v", err) }
		l.options.Config = func() (*server.Config, func()) {
			g.sessions.Add(1)
			return cfg, g.sessionEnded
		}
		if o := &c.Listeners[i]; o.Proxy {
			l.options.Proxy, l.options.ProxyV2Only = true, o.ProxyV2Only
			if o.ProxyFrom != "" {
				l.options.TrustProxy = g.trustProxy(o.ProxyFrom)
			}
		}
		g.sockets = append(g.sockets, l)
	}
	g.socket, err = g.sessionConfig(c, &c.Socket, keys)
	if err != nil {
		return nil, err
	}
	g.socket.Local, g.socket.AuthInClear = true, true
	return g, nil
}

// sessionConfig translates a listener's options.
func (g *generation) sessionConfig(c *proto.DispatcherConfig, l *proto.Listener, keys *keyring) (*server.Config, error) {
	cfg := &server.Config{
		Name: l.Hostname, Tag: l.Tag, Events: g.d.events,
		TLSMode: server.TLSMode(l.TLS), Auth: server.AuthMode(l.Auth),
		Submission: l.Local || l.Port == 587 || l.Port == 465, Masquerade: l.Masquerade,
		MaskSource: l.MaskSource, ReceivedAuth: l.ReceivedAuth, NoDSN: l.NoDSN,
		MaxSize: c.MaxMessageSize, MaxRcpt: c.MaxRcpt, MaxMails: c.MaxMails, MaxErrors: c.MaxErrors, MinRate: int64(c.MinRate),
	}
	if cfg.Name == "" {
		cfg.Name = c.ServerName
	}
	if c.NormalizeBare {
		cfg.BareNewline = server.NormalizeBare
	}
	if cfg.TLSMode != server.NoTLS {
		var err error
		if cfg.TLS, err = keys.serverConfig(c, l); err != nil {
			return nil, err
		}
	}
	cfg.RDNS = g.reverseName
	if l.Hostnames != "" {
		cfg.NameFor = g.hostName(l.Hostnames)
	}
	options := *l
	var err error
	if cfg.Filter, err = g.sessionFilter(&options); err != nil {
		return nil, err
	}
	cfg.Backend = func(s *server.Session) server.Backend { return &session{g: g, s: s, l: &options} }
	cfg.MaxAuthFailures = c.MaxAuthFailures
	return cfg, nil
}

// listen starts accepting on all sockets.
func (g *generation) listen() {
	if g.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	for _, l := range g.sockets {
		ln, err := net.FileListener(l.file)
		if err != nil {
			g.d.p.Log.Critf("cannot listen on a socket of the parent: %v", err)
			continue
		}
		g.sessions.Add(1)
		g.d.p.Go(func(life context.Context) {
			defer g.sessionEnded()
			defer context.AfterFunc(life, cancel)()
			if err := g.d.server.Serve(ctx, ln, l.options); err != nil && !errors.Is(err, net.ErrClosed) {
				g.d.p.Log.Critf("listener: %v", err)
			}
		})
	}
}

// stopListening ends the accept loops; sessions go on.
func (g *generation) stopListening() {
	if g.stop != nil {
		g.stop()
		g.stop = nil
	}
}

// retire ends a generation's accept loops for good. When its last session has
// ended, lookup may forget it.
func (g *generation) retire() {
	g.stopListening()
	for _, l := range g.sockets {
		l.file.Close()
	}
	g.retired.Store(true)
	g.release()
}

// begin returns the generation in force for a session, which is to call sessionEnded.
func (d *Dispatcher) begin() *generation {
	for {
		g := d.current.Load()
		g.sessions.Add(1)
		if !g.retired.Load() {
			return g
		}
		g.sessionEnded() // there is another one; nothing was lost if this one is released already
	}
}

func (g *generation) sessionEnded() {
	g.sessions.Add(-1)
	g.release()
}

func (g *generation) release() {
	if !g.retired.Load() || g.sessions.Load() > 0 {
		return
	}
	g.released.Do(func() {
		g.filtering.close()
		g.releaseNumber(g.number)
	})
}

// maxSkipped bounds the configurations released that were never in force.
const maxSkipped = 1000

// releaseNumber tells lookup that a configuration is needed no more.
func (g *generation) releaseNumber(n uint32) {
	g.d.p.Go(func(ctx context.Context) {
		conn, err := g.d.p.Links.Conn(ctx, proto.Lookup)
		if err == nil {
			err = proto.ReleaseGeneration.Send(conn, proto.GenerationRequest{Generation: n})
		}
		if err != nil && !errors.Is(err, imsg.ErrPeerGone) {
			g.d.p.Log.Warnf("release configuration %d: %v", n, err)
		}
	})
}

// reverseName asks lookup for a client's name. A name that does not lead back to
// the client is shown all the same, as the original does.
func (g *generation) reverseName(ctx context.Context, client netip.Addr) (string, wire.Result) {
	if known, ok := g.d.names.get(client); ok {
		return known.name, known.fcrdns
	}
	r, err := proc.Ask(ctx, g.d.p.Links, proto.Lookup, proto.ReverseName, proto.ReverseRequest{Address: client})
	if err != nil {
		return r.Name, wire.Error
	}
	fcrdns := wire.Fail
	if r.Confirmed {
		fcrdns = wire.Pass
	}
	g.d.names.put(client, r.Name, fcrdns)
	return r.Name, fcrdns
}

// Clients that come again soon are named without asking again.
const (
	nameLifetime = time.Minute
	maxNames     = 4096 // beyond it all are forgotten
)

// names remembers the names of recent clients.
type names struct {
	mu    sync.Mutex
	known map[netip.Addr]knownName
}

type knownName struct {
	name    string
	fcrdns  wire.Result
	expires time.Time
}

func (n *names) get(a netip.Addr) (knownName, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok := n.known[a]
	return k, ok && time.Now().Before(k.expires)
}

func (n *names) put(a netip.Addr, name string, fcrdns wire.Result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNames {
		clear(n.known)
	}
	n.known[a] = knownName{name, fcrdns, time.Now().Add(nameLifetime)}
}

func (g *generation) hostName(table string) func(context.Context, netip.Addr) string {
	return func(ctx context.Context, local netip.Addr) string {
		r, err := proc.Ask(ctx, g.d.p.Links, proto.Lookup, proto.HostName, proto.KeyRequest{Generation: g.number, Table: table, Key: local.Unmap().String()})
		if err != nil || !r.Found {
			return ""
		}
		return r.Value
	}
}

// trustTimeout bounds the question who may send PROXY headers.
const trustTimeout = 5 * time.Second

func (g *generation) trustProxy(table string) func(netip.Addr) bool {
	return func(peer netip.Addr) bool {
		ctx, cancel := context.WithTimeout(context.Background(), trustTimeout)
		defer cancel()
		r, err := proc.Ask(ctx, g.d.p.Links, proto.Lookup, proto.HasAddress, proto.KeyRequest{Generation: g.number, Table: table, Key: peer.Unmap().String()})
		return err == nil && r.Yes
	}
}
