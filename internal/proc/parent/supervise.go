package parent

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/proto"
)

// setupTimeout bounds the configuration of one role: tables are loaded and the
// queue is opened in it.
const setupTimeout = 2 * time.Minute

// Restart delays: the first restart is immediate; a role that dies again within
// settled waits, twice as long each time.
const (
	firstDelay = 50 * time.Millisecond
	maxDelay   = 30 * time.Second
	settled    = 10 * time.Second
)

// launch starts a role, configures it, links it with those that are up, and lets
// it begin.
func (p *Parent) launch(ctx context.Context, role proto.Role) error {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	m := p.member(role)
	ours, theirs, err := imsg.SocketPair()
	if err != nil {
		return err
	}
	process, err := p.spawn(role, string(role), nil, theirs)
	if err != nil {
		ours.Close()
		return err
	}
	abandon := func(conn *imsg.Conn) {
		if conn != nil {
			conn.Close()
		}
		process.Kill()
		p.wg.Go(func() { _ = process.Wait() }) // it was killed
	}
	conn, err := imsg.FromFile(ours, p.mux(role), imsg.Options{})
	if err != nil {
		abandon(nil)
		return err
	}
	// Serving outlives the parent's own ctx by the orderly end; closing the link ends it.
	p.wg.Go(func() { _ = conn.Serve(context.WithoutCancel(ctx)) })
	p.mu.Lock()
	m.process, m.conn, m.started, m.up = process, conn, time.Now(), false
	p.mu.Unlock()

	if err := p.configure(ctx, role, conn); err != nil {
		abandon(conn)
		return err
	}
	for _, l := range links {
		other := proto.Role("")
		switch role {
		case l[0]:
			other = l[1]
		case l[1]:
			other = l[0]
		}
		if o := p.up(other); o != nil {
			if err := link(ctx, role, conn, other, o); err != nil {
				p.Log.Warnf("link %s with %s: %v", role, other, err)
			}
		}
	}
	if _, _, err := proto.Start.Call(ctx, conn, proto.Empty{}); err != nil {
		abandon(conn)
		return err
	}
	p.mu.Lock()
	m.up = true
	reply := m.reply
	p.mu.Unlock()
	if !p.OneProcess {
		p.logProtection(role, process.PID(), reply)
	}
	return nil
}

// logProtection tells what keeps a role in its place, and what does not.
func (p *Parent) logProtection(role proto.Role, pid int, r proto.SetupReply) {
	p.Log.Infof("process %s: pid=%d %s", role, pid, r.Guarantees)
	if r.Missing != "" {
		p.Log.Warnf("process %s: protection is missing: %s", role, r.Missing)
	}
}

// link gives two roles, of which the parent has these links, the ends of a new socket.
func link(ctx context.Context, a proto.Role, ac *imsg.Conn, b proto.Role, bc *imsg.Conn) error {
	fa, fb, err := imsg.SocketPair()
	if err != nil {
		return err
	}
	defer fa.Close()
	defer fb.Close()
	if _, _, err := proto.Attach.Call(ctx, ac, proto.AttachRequest{Role: b}, fa); err != nil {
		return fmt.Errorf("%s: %w", a, err)
	}
	if _, _, err := proto.Attach.Call(ctx, bc, proto.AttachRequest{Role: a}, fb); err != nil {
		return fmt.Errorf("%s: %w", b, err)
	}
	return nil
}

// supervise waits for a role's end and starts it again.
func (p *Parent) supervise(ctx context.Context, role proto.Role) {
	delay := time.Duration(0)
	for {
		m := p.member(role)
		p.mu.Lock()
		process, conn, started := m.process, m.conn, m.started
		p.mu.Unlock()
		err := p.await(ctx, role, process, conn)
		p.mu.Lock()
		m.up = false
		p.mu.Unlock()
		conn.Close()
		if ctx.Err() != nil {
			return
		}
		if role == proto.Lookup {
			p.endTables()
		}
		why := "it ended"
		if err != nil {
			why = err.Error()
		}
		if time.Since(started) >= settled {
			delay = 0
		}
		for {
			p.Log.Critf("process %s lost (%s); starting it again in %v", role, why, delay)
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
			delay = min(max(delay*2, firstDelay), maxDelay)
			p.mu.Lock()
			m.restarts++
			p.mu.Unlock()
			if err = p.launch(ctx, role); err == nil {
				break
			}
			why = err.Error()
		}
	}
}

// breakTime is what a process has to end after its link has.
const breakTime = 500 * time.Millisecond

// await waits for a role's process to end. One that breaks its link is ended, unless
// the service ends: then roles finish what they are doing.
func (p *Parent) await(ctx context.Context, role proto.Role, process Process, conn *imsg.Conn) error {
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-conn.Done():
	}
	if ctx.Err() != nil {
		return <-ended
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	case <-time.After(breakTime):
		p.Log.Warnf("%s broke its link: %v", role, conn.Err())
		process.Kill()
	}
	return <-ended
}

func (p *Parent) ending() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

// configure sends a role, over its link, its slice of the present configuration.
func (p *Parent) configure(ctx context.Context, role proto.Role, conn *imsg.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	c, generation := p.current()
	p.mu.Lock()
	verbose := p.verbose
	p.mu.Unlock()
	var reply proto.SetupReply
	var err error
	switch role {
	case proto.Dispatcher:
		var files []*os.File
		d := c.Dispatcher
		d.Generation, d.Verbose = generation, verbose
		if d.Listeners, files, err = p.listenerFiles(c); err != nil {
			return err
		}
		if err = p.passListeners(ctx, conn, files); err == nil {
			reply, _, err = proto.SetupDispatcher.Call(ctx, conn, d)
		}
	case proto.Lookup:
		l := c.Lookup
		l.Generation, l.Verbose = generation, verbose
		reply, _, err = proto.SetupLookup.Call(ctx, conn, l)
	case proto.Queue:
		q := c.Queue
		q.Generation, q.Verbose = generation, verbose
		reply, _, err = proto.SetupQueue.Call(ctx, conn, q)
	case proto.Key:
		k := c.Key
		p.mu.Lock()
		k.Keys = slices.Concat(p.oldKeys, k.Keys)
		p.mu.Unlock()
		reply, _, err = proto.SetupKey.Call(ctx, conn, k)
	case proto.Control:
		var f *os.File
		if f, err = p.control.File(); err != nil {
			return err
		}
		reply, _, err = proto.SetupControl.Call(ctx, conn, c.Control, f)
		f.Close()
	}
	if err != nil {
		return err
	}
	if reply.Guarantees != "" {
		p.mu.Lock()
		p.members[role].reply = reply
		p.mu.Unlock()
	}
	return nil
}

// passListeners hands the sockets over, as many at a time as a call carries.
func (p *Parent) passListeners(ctx context.Context, conn *imsg.Conn, files []*os.File) error {
	defer closeFiles(files)
	for first := 0; first < len(files) || first == 0; first += imsg.MaxFiles {
		batch := files[first:min(first+imsg.MaxFiles, len(files))]
		if _, _, err := proto.PassListeners.Call(ctx, conn, proto.PassListenersRequest{First: first}, batch...); err != nil {
			return err
		}
	}
	return nil
}
