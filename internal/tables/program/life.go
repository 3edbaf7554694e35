package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/wire"
)

// life is one life of a program, from its start to its end.
type life struct {
	conn   io.ReadWriteCloser
	o      *Options
	free   func() // frees the slot of an answered question
	offers map[table.Service]bool
	out    chan []byte   // lines on their way to the program; as many as there are slots
	ready  atomic.Bool   // it has named its services
	done   chan struct{} // closed by fail
	err    error         // why it ended, set before done is closed

	mu      sync.Mutex // guards what follows
	ended   bool
	last    uint32 // id
	waiting map[string]*question
	heard   time.Time // when the program last answered, or was first asked since it had nothing to answer
}

// question is one that the program has not answered.
type question struct {
	op     wire.Op
	answer chan *wire.Reply // has room for one
}

func newLife(conn io.ReadWriteCloser, o *Options, free func()) *life {
	return &life{
		conn: conn, o: o, free: free, offers: map[table.Service]bool{},
		out: make(chan []byte, maxOutstanding+1), done: make(chan struct{}), waiting: map[string]*question{},
	}
}

// fail ends the life, once; later reasons are dropped.
func (l *life) fail(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	l.err = why
	for range l.waiting {
		l.free()
	}
	clear(l.waiting)
	close(l.done)
	_ = l.conn.Close() // it is given up
}

// run talks to the program until the end and returns why. ready is called when the
// program has named its services.
func (l *life) run(ready func()) error {
	var wg sync.WaitGroup
	wg.Go(l.write)
	lines := bufio.NewScanner(l.conn)
	lines.Buffer(make([]byte, 0, 4096), wire.MaxLine)
	l.out <- fmt.Appendf(nil, "config|smtpd-version|%s\nconfig|protocol|%s\nconfig|tablename|%s\nconfig|ready\n", l.o.Version, wire.Version, l.o.Name)
	late := time.AfterFunc(l.o.Handshake, func() {
		l.fail(fmt.Errorf("its program named no services within %v%s", l.o.Handshake, hint))
	})
	err := l.register(lines)
	late.Stop()
	if err == nil {
		l.ready.Store(true)
		ready()
		wg.Go(l.watch)
		err = l.read(lines)
	}
	l.fail(err)
	wg.Wait()
	return l.err
}

// hint is for whoever upgrades.
const hint = " (what it says is in the log; programs made for OpenSMTPD before 7.6 do not work)"

// early says when a program ended.
const early = "before it named its services" + hint

// register reads what services the program offers.
func (l *life) register(lines *bufio.Scanner) error {
	for lines.Scan() {
		word, service, ok := strings.Cut(lines.Text(), "|")
		switch {
		case !ok || word != "register":
			return fmt.Errorf("its program writes %.80q where it should name its services%s", lines.Text(), hint)
		case service == "ready" && len(l.offers) == 0:
			return errors.New("its program offers no service")
		case service == "ready":
			return nil
		case !known(table.Service(service)):
			return fmt.Errorf("its program offers a service that does not exist: %.80q", service)
		}
		l.offers[table.Service(service)] = true
	}
	return ending(lines.Err(), early)
}

// ending tells of an input that ended.
func ending(err error, when string) error {
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("its program writes a line of more than %d bytes", wire.MaxLine)
	case err != nil && !errors.Is(err, syscall.ECONNRESET): // an end before all was read
		return fmt.Errorf("its program was lost %s: %w", when, err)
	}
	return fmt.Errorf("its program ended %s", when)
}

func known(s table.Service) bool {
	switch s {
	case table.Alias, table.Domain, table.Credentials, table.NetAddr, table.UserInfo, table.Source, table.MailAddr,
		table.AddrName, table.MailAddrMap, table.RelayHost, table.String, table.Regex, table.Auth:
		return true
	}
	return false
}

// read takes the answers.
func (l *life) read(lines *bufio.Scanner) error {
	for lines.Scan() {
		r, err := wire.ParseReply(lines.Text())
		if err != nil {
			return fmt.Errorf("its program writes %w", err)
		}
		l.mu.Lock()
		q := l.waiting[r.ID]
		delete(l.waiting, r.ID)
		l.heard = time.Now()
		l.mu.Unlock()
		if q != nil {
			l.free()
		}
		// The manual page of the protocol once showed a fetch answered as a lookup.
		if q == nil || q.op != r.Op && !(q.op == wire.Fetch && r.Op == wire.Lookup) {
			return fmt.Errorf("its program answers what it was not asked: %.80q", lines.Text())
		}
		q.answer <- r
	}
	return ending(lines.Err(), "while in use")
}

// send puts a question on its way. The caller has a slot, which is freed when the
// answer or the end comes.
func (l *life) send(r *wire.Request) (<-chan *wire.Reply, error) {
	q := &question{r.Op, make(chan *wire.Reply, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.free()
		return nil, l.err
	}
	for {
		l.last++
		r.ID = fmt.Sprintf("%08x", l.last)
		if l.waiting[r.ID] == nil {
			break
		}
	}
	select {
	case l.out <- r.Append(nil):
	default: // it has answered questions that it has not read
		l.free()
		return nil, errors.New("its program takes no questions")
	}
	if len(l.waiting) == 0 {
		l.heard = time.Now()
	}
	l.waiting[r.ID] = q
	return q.answer, nil
}

// write sends the lines, as many at a time as there are.
func (l *life) write() {
	var b []byte
	for {
		select {
		case <-l.done:
			return
		case line := <-l.out:
			b = append(b[:0], line...)
		}
	more:
		for len(b) < 64<<10 {
			select {
			case line := <-l.out:
				b = append(b, line...)
			default:
				break more
			}
		}
		if _, err := l.conn.Write(b); err != nil {
			if !l.ready.Load() { // it closed its input
				err = ending(nil, early)
			} else {
				err = fmt.Errorf("its program takes no questions: %w", err)
			}
			l.fail(err)
			return
		}
	}
}

// watch ends a program that has questions and answers none.
func (l *life) watch() {
	tick := time.NewTicker(max(l.o.Silence/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		l.mu.Lock()
		n, silent := len(l.waiting), time.Since(l.heard)
		l.mu.Unlock()
		if n > 0 && silent > l.o.Silence {
			l.fail(errors.New("its program has answered none of " + strconv.Itoa(n) + " questions for " + l.o.Silence.String()))
			return
		}
	}
}
