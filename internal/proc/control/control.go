// Package control is the process behind the local socket: any user may submit
// mail through it, root may administer. It trusts the system about who is calling
// and nothing else; it holds no state but counters.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Bounds on callers.
const (
	maxPerUser = 32  // connections of one uid other than root
	maxClients = 512 // connections in all; root's are let in beyond it
)

// Control is the role.
type Control struct {
	p       *proc.Process
	config  proto.ControlConfig
	ln      *net.UnixListener
	started time.Time

	sessions atomic.Int64

	mu      sync.Mutex
	clients map[int]int // connections by uid
	total   int
}

// New makes the role.
func New(p *proc.Process) *Control {
	return &Control{p: p, clients: map[int]int{}, started: time.Now()}
}

// Mux implements proc.Role.
func (c *Control) Mux(peer proto.Role) *imsg.Mux {
	mux := imsg.NewMux()
	if peer == proto.Parent {
		proto.SetupControl.Handle(mux, c.setup)
	}
	return mux
}

func (c *Control) setup(_ context.Context, cfg proto.ControlConfig, files []*os.File) (proto.SetupReply, []*os.File, error) {
	if len(files) != 1 {
		return proto.SetupReply{}, nil, fmt.Errorf("control: %d descriptors, want the local socket", len(files))
	}
	ln, err := net.FileListener(files[0])
	files[0].Close()
	if err != nil {
		return proto.SetupReply{}, nil, err
	}
	c.config, c.ln = cfg, ln.(*net.UnixListener)
	c.ln.SetUnlinkOnClose(false)
	reply, err := c.p.Confine(cfg.Confine)
	return reply, nil, err
}

// Start implements proc.Role.
func (c *Control) Start(context.Context) error {
	c.p.Go(c.accept)
	return nil
}

// Stop implements proc.Role.
func (c *Control) Stop(context.Context) { c.ln.Close() }

// accept serves callers until the listener is closed.
func (c *Control) accept(ctx context.Context) {
	go func() {
		<-ctx.Done()
		c.ln.Close()
	}()
	for {
		conn, err := c.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.p.Log.Warnf("control socket: %v", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // out of descriptors, most likely
			}
			continue
		}
		cred, err := c.p.Host.Peer(conn)
		if err != nil || !c.admit(cred.UID) {
			conn.Close()
			continue
		}
		c.p.Go(func(ctx context.Context) {
			defer c.leave(cred.UID)
			c.serve(ctx, conn, cred)
		})
	}
}

func (c *Control) admit(uid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uid != 0 && (c.total >= maxClients || c.clients[uid] >= maxPerUser) {
		return false
	}
	c.total++
	c.clients[uid]++
	return true
}

func (c *Control) leave(uid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.clients[uid]--; c.clients[uid] == 0 {
		delete(c.clients, uid)
	}
}

// clientCalls bounds what one caller has outstanding.
const clientCalls = 16

// serve answers one caller until it goes away.
func (c *Control) serve(ctx context.Context, conn *net.UnixConn, cred platform.Cred) {
	mux := imsg.NewMux()
	proto.Hello.Handle(mux, proc.Handler(func(_ context.Context, req proto.HelloRequest) (proto.HelloReply, error) {
		return proto.HelloReply{Version: proto.ControlVersion, Software: c.config.Version, ServerName: c.config.ServerName}, nil
	}))
	proto.LocalSession.Handle(mux, func(ctx context.Context, _ proto.LocalSessionRequest, files []*os.File) (proto.Empty, []*os.File, error) {
		for _, f := range files {
			f.Close()
		}
		c.sessions.Add(1)
		return proc.Call(ctx, c.p.Links, proto.Dispatcher, proto.LocalSession, proto.LocalSessionRequest{UID: cred.UID, GID: cred.GID})
	})
	// Whoever started the daemon may administer it, and so may root.
	if cred.UID == 0 || cred.UID == os.Geteuid() && !c.p.Confined() {
		c.administer(mux)
	} else {
		refuse(mux)
	}
	ic, err := imsg.New(conn, mux, imsg.Options{MaxCalls: clientCalls, MaxQueued: 256 << 10})
	if err != nil {
		conn.Close()
		return
	}
	if err := ic.Serve(ctx); errors.Is(err, imsg.ErrProtocol) {
		c.p.Log.Warnf("control socket: uid %d: %v", cred.UID, err)
	}
}

// pass lets root make a call of another role.
func pass[Req, Rep any](c *Control, mux *imsg.Mux, role proto.Role, m imsg.Method[Req, Rep]) {
	m.Handle(mux, func(ctx context.Context, req Req, files []*os.File) (Rep, []*os.File, error) {
		for _, f := range files {
			f.Close()
		}
		return proc.Call(ctx, c.p.Links, role, m, req)
	})
}

func (c *Control) administer(mux *imsg.Mux) {
	pass(c, mux, proto.Queue, proto.List)
	pass(c, mux, proto.Queue, proto.Show)
	pass(c, mux, proto.Queue, proto.Manage)
	pass(c, mux, proto.Queue, proto.Hold)
	pass(c, mux, proto.Dispatcher, proto.HoldSMTP)
	pass(c, mux, proto.Dispatcher, proto.RelayList)
	pass(c, mux, proto.Dispatcher, proto.ListFilters)
	pass(c, mux, proto.Dispatcher, proto.RelayAdmin)
	pass(c, mux, proto.Lookup, proto.UpdateTable)
	pass(c, mux, proto.Lookup, proto.ListTLS)
	pass(c, mux, proto.Parent, proto.Reload)
	pass(c, mux, proto.Parent, proto.Stop)
	pass(c, mux, proto.Parent, proto.Status)
	pass(c, mux, proto.Parent, proto.SetVerbose)
	proto.Stats.Handle(mux, proc.Handler(c.stats))
}

// errPrivileges is the answer to administration by others than root.
var errPrivileges = &smtp.Error{Code: 550, Enhanced: smtp.EnhancedCode{5, 7, 1}, Text: "need root privileges"}

func deny[Req, Rep any](mux *imsg.Mux, m imsg.Method[Req, Rep]) {
	m.Handle(mux, proc.Handler(func(context.Context, Req) (Rep, error) {
		var none Rep
		return none, errPrivileges
	}))
}

func refuse(mux *imsg.Mux) {
	deny(mux, proto.List)
	deny(mux, proto.Show)
	deny(mux, proto.Manage)
	deny(mux, proto.Hold)
	deny(mux, proto.HoldSMTP)
	deny(mux, proto.RelayList)
	deny(mux, proto.ListFilters)
	deny(mux, proto.RelayAdmin)
	deny(mux, proto.UpdateTable)
	deny(mux, proto.Reload)
	deny(mux, proto.Stop)
	deny(mux, proto.Status)
	deny(mux, proto.SetVerbose)
	deny(mux, proto.Stats)
}

// stats adds up the counters of all roles.
func (c *Control) stats(ctx context.Context, _ proto.Empty) (proto.StatsReply, error) {
	sum := map[string]int64{
		"uptime":          int64(time.Since(c.started) / time.Second),
		"control.session": c.sessions.Load(),
	}
	for _, role := range []proto.Role{proto.Dispatcher, proto.Queue, proto.Lookup} {
		reply, err := proc.Ask(ctx, c.p.Links, role, proto.Stats, proto.Empty{})
		if err != nil {
			return proto.StatsReply{}, err
		}
		for _, n := range reply.Counters {
			sum[n.Name] += n.Value
		}
	}
	var out proto.StatsReply
	for name, v := range sum {
		out.Counters = append(out.Counters, proto.Counter{Name: name, Value: v})
	}
	return out, nil
}
