// Package parent is the process with the privileges: it starts the other
// processes and starts them again when they die, binds sockets, opens what only
// root can open, checks system passwords and starts delivery workers as their
// recipients. It reads no mail and nothing else that a stranger sent.
package parent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/imsg"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// Config is a checked configuration, cut into the slices of the roles.
type Config struct {
	ServerName string
	Listen     []Listen
	Dispatcher proto.DispatcherConfig // without listeners: they follow from Listen
	Lookup     proto.LookupConfig
	Queue      proto.QueueConfig
	Key        proto.KeyConfig
	Control    proto.ControlConfig

	TableFiles    map[string]string         // table name → file that lookup may have opened
	TablePrograms map[string]Program        // table name → program that answers it
	Actions       map[string]*policy.Action // by name, for delivery workers
	Delimiter     string                    // between user and subaddress
	Filters       map[string]FilterProgram  // by id
}

// Listen is an address to bind and how its sessions behave. Interface sockets may
// share an address only when they are equal.
type Listen struct {
	Address string // host:port
	Options proto.Listener
}

// Options are what the wiring gives the parent, once.
type Options struct {
	Host       platform.Host
	Paths      platform.Paths
	Log        *proc.Log
	Spawner    Spawner
	OneProcess bool
	Load       func() (*Config, error) // reads the configuration file again
	Forward    ReadForward
	SMTPUser   platform.User // runs commands out of aliases, and filters
	Group      func(name string) (gid int, err error)
	Version    string

	// Passed are the sockets that the service manager has bound. The parent closes them.
	Passed []platform.PassedSocket
}

// ReadForward returns the content of the .forward in a home directory that belongs
// to uid, after the checks of forward(5), and false when there is none.
type ReadForward func(home string, uid int) (content []byte, found bool, err error)

// Parent is the running service.
type Parent struct {
	Options
	stopped chan struct{} // closed when the service should end
	stop    sync.Once

	reloading sync.Mutex // held during a reload, so that they are done in order
	lifecycle sync.Mutex // held while roles are started, linked or configured

	mu         sync.Mutex // guards what follows
	config     *Config
	oldKeys    []proto.Named // of earlier configurations, for the sessions that run under them
	generation uint32
	members    map[proto.Role]*member
	listeners  map[string]*net.TCPListener // by address
	control    *net.UnixListener
	verbose    proto.VerboseRequest
	workers    map[*worker]struct{}
	programs   map[uint32]*runningProgram // of tables, by the number that lookup was told

	lastProgram uint32

	filters map[string]*filterLife // by id

	filterStarts sync.Mutex // held while a filter is started

	wg sync.WaitGroup
}

// order is the order in which roles are started. The dispatcher comes last, so
// that the first connection finds everybody there.
var order = []proto.Role{proto.Key, proto.Queue, proto.Lookup, proto.Control, proto.Dispatcher}

// links are the pairs of roles that talk to each other.
var links = [][2]proto.Role{
	{proto.Dispatcher, proto.Queue}, {proto.Dispatcher, proto.Lookup}, {proto.Dispatcher, proto.Key},
	{proto.Lookup, proto.Queue},
	{proto.Control, proto.Dispatcher}, {proto.Control, proto.Queue}, {proto.Control, proto.Lookup}, {proto.Control, proto.Key},
}

// member is one role's present life. Its fields are guarded by Parent.mu, but for
// role.
type member struct {
	role     proto.Role
	process  Process
	conn     *imsg.Conn
	reply    proto.SetupReply
	started  time.Time
	restarts int
	up       bool
}

// New makes a parent for a first configuration.
func New(o Options, c *Config, v proto.VerboseRequest) *Parent {
	return &Parent{
		Options: o, config: c, generation: 1, verbose: v,
		stopped: make(chan struct{}), members: map[proto.Role]*member{},
		listeners: map[string]*net.TCPListener{}, workers: map[*worker]struct{}{},
		programs: map[uint32]*runningProgram{},
		filters:  map[string]*filterLife{},
	}
}

// Run binds the sockets, starts the roles and keeps them running until ctx ends or
// somebody asks for the end. ready is called when mail is being accepted.
func (p *Parent) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.wg.Go(func() { // whatever is being started or waited for ends with the wish to end
		select {
		case <-ctx.Done():
		case <-p.stopped:
			cancel()
		}
	})
	if err := p.bindAll(); err != nil {
		return err
	}
	defer p.closeSockets()
	for _, role := range order {
		p.mu.Lock()
		p.members[role] = &member{role: role}
		p.mu.Unlock()
		if err := p.launch(ctx, role); err != nil {
			stopped := p.ending()
			cancel()
			p.endFilters()
			p.endAll()
			p.waitAll()
			if stopped {
				return nil
			}
			return fmt.Errorf("start %s: %w", role, err)
		}
		p.wg.Go(func() { p.supervise(ctx, role) })
	}
	p.Log.Infof("OpenSMTPD %s ready", p.Version)
	ready()
	p.wg.Go(func() { p.offline(ctx) })
	p.wg.Go(func() { p.watchdog(ctx) })
	<-ctx.Done()
	p.shutdown()
	p.endFilters()
	p.endAll()
	p.waitAll()
	return nil
}

// endTimeout bounds the end of the processes after their links are closed. What
// has not ended by then is killed, and what cannot be killed is not waited for.
const (
	endTimeout  = 10 * time.Second
	killTimeout = 2 * time.Second
)

// waitAll waits for everything that Run has started.
func (p *Parent) waitAll() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.wg.Wait()
	}()
	select {
	case <-ended:
		return
	case <-time.After(endTimeout):
	}
	p.mu.Lock()
	for _, m := range p.members {
		if m.process != nil {
			m.process.Kill()
		}
	}
	for _, r := range p.programs {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	}
	n := len(p.workers)
	for w := range p.workers {
		w.process.Kill()
	}
	p.mu.Unlock()
	p.Log.Warnf("not everything ended within %v; killed the rest, %d deliveries among them", endTimeout, n)
	select {
	case <-ended:
	case <-time.After(killTimeout):
	}
}

// watchdog gives the service manager the signs of life that it wants. There are none
// while the parent is stuck.
func (p *Parent) watchdog(ctx context.Context) {
	w, ok := p.Host.(platform.Watched)
	if !ok || w.WatchdogInterval() == 0 {
		return
	}
	tick := time.NewTicker(w.WatchdogInterval() / 2)
	defer tick.Stop()
	for {
		p.mu.Lock() // nobody holds it for long
		down := 0
		for _, m := range p.members {
			if !m.up {
				down++
			}
		}
		p.mu.Unlock()
		st := platform.State{Watchdog: true, Status: "accepting mail"}
		if down > 0 {
			st.Status = fmt.Sprintf("%d processes are being started again", down)
		}
		if err := p.Host.Notify(st); err != nil {
			p.Log.Warnf("watchdog: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Stop asks for the end of the service.
func (p *Parent) Stop() { p.stop.Do(func() { close(p.stopped) }) }

// shutdownTimeout bounds the orderly end of all roles together.
const shutdownTimeout = 8 * time.Second

// shutdown asks the roles to finish, the dispatcher first: no new mail, then what
// is being delivered.
func (p *Parent) shutdown() {
	p.lifecycle.Lock()
	defer p.lifecycle.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	for i := len(order) - 1; i >= 0; i-- {
		conn := p.up(order[i])
		if conn == nil {
			continue
		}
		if _, _, err := proto.Shutdown.Call(ctx, conn, proto.Empty{}); err != nil && !errors.Is(err, imsg.ErrPeerGone) {
			p.Log.Warnf("%s did not end in order: %v", order[i], err)
		}
	}
}

// endAll closes the links, upon which the processes end.
func (p *Parent) endAll() {
	var conns []*imsg.Conn
	p.mu.Lock()
	for _, m := range p.members {
		m.up = false
		if m.conn != nil {
			conns = append(conns, m.conn)
		}
	}
	for w := range p.workers {
		conns = append(conns, w.conn)
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(c.Close) // which waits for what is on its way
	}
	wg.Wait()
	p.endTables()
}

func (p *Parent) member(r proto.Role) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[r]
}

// up returns the link to a role that runs, nil while it does not.
func (p *Parent) up(r proto.Role) *imsg.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.members[r]; m != nil && m.up {
		return m.conn
	}
	return nil
}

func (p *Parent) current() (*Config, uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config, p.generation
}
