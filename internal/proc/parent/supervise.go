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
	process, err := p.Spawner.Spawn(role, string(role), nil, theirs)
	if err != nil {
		ours.Close()
		return err
	}
	conn, err := imsg.FromFile(ours, p.mux(role), imsg.Options{})
	if err != nil {
		process.Kill()
		return err
	}
	// Serving outlives the parent's own ctx by the orderly end; closing the link ends it.
	p.wg.Go(func() { _ = conn.Serve(context.WithoutCancel(ctx)) })
	p.mu.Lock()
	m.process, m.conn, m.started, m.up = process, conn, time.Now(), false
	p.mu.Unlock()

	if err := p.configure(ctx, m); err != nil {
		conn.Close()
		process.Kill()
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
		if o := p.member(other); o != nil && o.up {
			if err := p.link(ctx, m, o); err != nil {
				p.Log.Warnf("link %s with %s: %v", role, other, err)
			}
		}
	}
	if _, _, err := proto.Start.Call(ctx, conn, proto.Empty{}); err != nil {
		conn.Close()
		process.Kill()
		return err
	}
	p.mu.Lock()
	m.up = true
	p.mu.Unlock()
	p.Log.Debugf("%s: pid %d, %s; missing: %s", role, process.PID(), m.reply.Guarantees, m.reply.Missing)
	return nil
}

// link gives two roles the ends of a new socket.
func (p *Parent) link(ctx context.Context, a, b *member) error {
	fa, fb, err := imsg.SocketPair()
	if err != nil {
		return err
	}
	defer fa.Close()
	defer fb.Close()
	if _, _, err := proto.Attach.Call(ctx, a.conn, proto.AttachRequest{Role: b.role}, fa); err != nil {
		return fmt.Errorf("%s: %w", a.role, err)
	}
	if _, _, err := proto.Attach.Call(ctx, b.conn, proto.AttachRequest{Role: a.role}, fb); err != nil {
		return fmt.Errorf("%s: %w", b.role, err)
	}
	return nil
}

// supervise waits for a role's end and starts it again.
func (p *Parent) supervise(ctx context.Context, role proto.Role) {
	delay := time.Duration(0)
	for {
		m := p.member(role)
		ended := make(chan error, 1)
		go func() { ended <- m.process.Wait() }()
		var err error
		select {
		case err = <-ended:
		case <-m.conn.Done():
			// The process broke its link, or is about to end: give it a moment, then end it.
			select {
			case err = <-ended:
			case <-time.After(500 * time.Millisecond):
				if ctx.Err() == nil {
					p.Log.Warnf("%s broke its link: %v", role, m.conn.Err())
				}
				m.process.Kill()
				err = <-ended
			}
		}
		p.mu.Lock()
		m.up = false
		p.mu.Unlock()
		m.conn.Close()
		if ctx.Err() != nil || p.ending() {
			return
		}
		why := "it ended"
		if err != nil {
			why = err.Error()
		}
		if time.Since(m.started) >= settled {
			delay = 0
		}
		for {
			p.Log.Critf("process %s lost (%s); starting it again in %v", role, why, delay)
			select {
			case <-ctx.Done():
				return
			case <-p.stopped:
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

func (p *Parent) ending() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

// configure sends a role its slice of the present configuration.
func (p *Parent) configure(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	c, generation := p.current()
	var reply proto.SetupReply
	var err error
	switch m.role {
	case proto.Dispatcher:
		var files []*os.File
		d := c.Dispatcher
		d.Generation, d.Verbose = generation, p.verbose
		if d.Listeners, files, err = p.listenerFiles(c); err != nil {
			return err
		}
		if err = p.passListeners(ctx, m, files); err == nil {
			reply, _, err = proto.SetupDispatcher.Call(ctx, m.conn, d)
		}
	case proto.Lookup:
		l := c.Lookup
		l.Generation, l.Verbose = generation, p.verbose
		reply, _, err = proto.SetupLookup.Call(ctx, m.conn, l)
	case proto.Queue:
		q := c.Queue
		q.Generation, q.Verbose = generation, p.verbose
		reply, _, err = proto.SetupQueue.Call(ctx, m.conn, q)
	case proto.Key:
		k := c.Key
		p.mu.Lock()
		k.Keys = slices.Concat(p.oldKeys, k.Keys)
		p.mu.Unlock()
		reply, _, err = proto.SetupKey.Call(ctx, m.conn, k)
	case proto.Control:
		var f *os.File
		if f, err = p.control.File(); err != nil {
			return err
		}
		reply, _, err = proto.SetupControl.Call(ctx, m.conn, c.Control, f)
		f.Close()
	}
	if err != nil {
		return err
	}
	if reply.Guarantees != "" {
		p.mu.Lock()
		m.reply = reply
		p.mu.Unlock()
	}
	return nil
}

// passListeners hands the sockets over, as many at a time as a call carries.
func (p *Parent) passListeners(ctx context.Context, m *member, files []*os.File) error {
	defer closeFiles(files)
	for first := 0; first < len(files) || first == 0; first += imsg.MaxFiles {
		batch := files[first:min(first+imsg.MaxFiles, len(files))]
		if _, _, err := proto.PassListeners.Call(ctx, m.conn, proto.PassListenersRequest{First: first}, batch...); err != nil {
			return err
		}
	}
	return nil
}
