// Package program is a table that a program of its own answers, over the text
// protocol of package table/wire. Questions are sent as they come, without waiting
// for the answers to earlier ones; a program may answer them in any order.
//
// A program that ends, writes something else or stops answering is ended and
// started again, with growing pauses. Until it is back every question fails for the
// moment. Nothing that a program does reaches beyond its own table.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
	"github.com/opensmtpd/opensmtpd/table/wire"
)

// maxOutstanding bounds the questions that a program has not answered. More wait,
// as long as they would for an answer.
const maxOutstanding = 512

// Options say how a program is run. Durations of 0 stand for the defaults.
type Options struct {
	Name    string // of the table
	Version string // of the daemon, for the program

	// Start starts the program anew and returns the socket to its standard input and
	// output. Closing it ends the program.
	Start func(ctx context.Context) (io.ReadWriteCloser, error)

	// Warn is told when the program is lost and why.
	Warn func(err error)

	Handshake time.Duration // until the program has named its services, 30 s
	Answer    time.Duration // until a question is given up, 30 s
	Silence   time.Duration // until a program that answers nothing is ended, 60 s
	Settled   time.Duration // after which a program's end is answered with a start at once, 10 s
	MaxPause  time.Duration // between two starts, 30 s
}

func (o *Options) defaults() {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&o.Handshake, 30 * time.Second}, {&o.Answer, 30 * time.Second}, {&o.Silence, time.Minute}, {&o.Settled, 10 * time.Second}, {&o.MaxPause, 30 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
}

// minPause is the first pause between two starts that follow each other quickly.
const minPause = 100 * time.Millisecond

// Table is the table.
type Table struct {
	o     Options
	slots chan struct{} // one for each question outstanding
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex    // guards what follows
	life    *life         // of the program, nil while there is none
	why     error         // there is none; nil while it is being started without a pause
	changed chan struct{} // closed, and replaced, when life or why change
}

var _ table.Table = (*Table)(nil)

// Open starts the program. It does not wait for it: a program that does not come up
// is reported by Warn and tried again.
func Open(o Options) *Table {
	o.defaults()
	ctx, end := context.WithCancel(context.Background())
	t := &Table{o: o, slots: make(chan struct{}, maxOutstanding), end: end, changed: make(chan struct{})}
	t.wg.Go(func() { t.run(ctx) })
	return t
}

// Close implements table.Table: it ends the program.
func (t *Table) Close() error {
	t.end()
	t.wg.Wait()
	return nil
}

// run starts the program again and again.
func (t *Table) run(ctx context.Context) {
	pause := time.Duration(0)
	for {
		began := time.Now()
		err := t.live(ctx)
		if time.Since(began) >= t.o.Settled {
			pause = 0
		}
		if pause > 0 || ctx.Err() != nil {
			t.set(nil, err)
		} else { // questions may wait for the next life
			t.set(nil, nil)
		}
		if ctx.Err() != nil {
			return
		}
		t.o.Warn(fmt.Errorf("table %s: %w; starting its program again in %v", t.o.Name, err, pause))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(max(2*pause, minPause), t.o.MaxPause)
	}
}

// live is one life of the program: it returns why it ended.
func (t *Table) live(ctx context.Context) error {
	conn, err := t.o.Start(ctx)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	l := newLife(conn, &t.o, func() { <-t.slots })
	stop := context.AfterFunc(ctx, func() { l.fail(errClosed) })
	defer stop()
	return l.run(func() { t.set(l, nil) })
}

// errClosed says that the table is not used any more.
var errClosed = errors.New("the table is closed")

func (t *Table) set(l *life, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life, t.why = l, why
	close(t.changed)
	t.changed = make(chan struct{})
}

// current returns the program's present life, waiting for one that is being started.
func (t *Table) current(ctx context.Context) (*life, error) {
	for {
		t.mu.Lock()
		l, why, changed := t.life, t.why, t.changed
		t.mu.Unlock()
		if l != nil || why != nil {
			return l, why
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("its program is being started: %w", ctx.Err())
		}
	}
}

// Lookup implements table.Table. Keys are sent in lower case where mail compares
// them so, which is what programs expect; a user name is tried as it is first.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	op := wire.Lookup
	if static.Member(s) || s == table.Auth {
		op = wire.Check
	}
	lower := strings.ToLower(key)
	if s.FoldsCase() {
		key = lower
	}
	value, err := t.ask(ctx, op, s, key)
	if s == table.Credentials && errors.Is(err, table.ErrNotFound) && key != lower {
		return t.ask(ctx, op, s, lower)
	}
	return value, err
}

// Fetch implements table.Table.
func (t *Table) Fetch(ctx context.Context, s table.Service) (string, error) {
	if s != table.Source && s != table.RelayHost {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return t.ask(ctx, wire.Fetch, s, "")
}

// Update implements table.Table.
func (t *Table) Update(ctx context.Context) error {
	_, err := t.ask(ctx, wire.Update, "", "")
	return err
}

// ask puts one question to the program and waits for the answer.
func (t *Table) ask(ctx context.Context, op wire.Op, s table.Service, key string) (string, error) {
	if !wire.CanCarry(key) {
		return "", errors.New("the key has a line break or is too long")
	}
	ctx, cancel := context.WithTimeout(ctx, t.o.Answer)
	defer cancel()
	l, err := t.current(ctx)
	if err != nil {
		return "", err
	}
	if op != wire.Update && !l.offers[s] {
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
	}
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return "", fmt.Errorf("%d questions are unanswered: %w", maxOutstanding, ctx.Err())
	}
	answer, err := l.send(&wire.Request{Time: time.Now(), Table: t.o.Name, Op: op, Service: string(s), Key: key})
	if err != nil {
		return "", err
	}
	select {
	case r := <-answer:
		return result(r, op, key)
	case <-l.done:
		return "", l.err
	case <-ctx.Done(): // the slot stays taken until the answer comes
		return "", fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// result tells what a reply means.
func result(r *wire.Reply, op wire.Op, key string) (string, error) {
	switch {
	case r.Result == wire.NotFound:
		return "", table.ErrNotFound
	case r.Result == wire.Failed && r.Text == "":
		return "", errors.New("its program reports an error")
	case r.Result == wire.Failed:
		return "", fmt.Errorf("its program reports: %.500q", r.Text)
	case op == wire.Check:
		return key, nil
	}
	return r.Text, nil
}
