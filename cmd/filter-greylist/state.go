package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The state is a text: a title, a line for each network and tuple, and the number of
// these lines. Times are seconds since 1970.
//
//	greylist 1
//	network 192.0.2.0/24 DELIVERIES LAST
//	tuple 192.0.2.0/24 FIRST LAST waiting|passed "SENDER" "RECIPIENT"
//	end 2
const title = "greylist 1"

// maxStateLine bounds a line in bytes: quoted, an address has four times its length.
const maxStateLine = 200 + 2*4*maxAddress

// load reads the state. Without one that is whole, all begins anew.
func (g *greylist) load() {
	if g.file == "" {
		return
	}
	f, err := os.Open(g.file)
	if err != nil {
		why := err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			why = "no such file"
		}
		g.log.Printf("%s: %s: the list begins empty", g.file, why)
		return
	}
	defer f.Close()
	if err := g.read(f); err != nil {
		g.log.Printf("%s: %v: the list begins empty", g.file, err)
	}
	if info, err := f.Stat(); err == nil {
		g.seen = info
	}
}

// read takes over a state, if it is whole.
func (g *greylist) read(r io.Reader) error {
	s := state{make(map[tuple]entry), make(map[string]origin)}
	if err := s.read(r); err != nil {
		return err
	}
	g.merge(s)
	return nil
}

// state is what is read.
type state struct {
	tuples  map[tuple]entry
	origins map[string]origin // by network
}

// read takes the lines of a state.
func (s state) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxStateLine)
	n := -1 // lines behind the title
	for lines.Scan() {
		line := lines.Text()
		if n++; n == 0 {
			if line != title {
				return errors.New("line 1: not the state of a greylist")
			}
			continue
		}
		if count, ok := strings.CutPrefix(line, "end "); ok {
			if count != strconv.Itoa(n-1) || lines.Scan() {
				return fmt.Errorf("line %d: not the end", n+1)
			}
			return nil
		}
		if n > 2*maxEntries {
			return errors.New("too many lines")
		}
		if err := s.readLine(line); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("it is not whole")
}

// readLine takes a network or a tuple.
func (s state) readLine(line string) error {
	bad := errors.New("neither a network nor a tuple")
	kind, rest, _ := strings.Cut(line, " ")
	name, rest, _ := strings.Cut(rest, " ")
	if p, err := netip.ParsePrefix(name); err != nil || network(p.Addr()) != name {
		return bad
	}
	a, rest, _ := strings.Cut(rest, " ")
	b, rest, more := strings.Cut(rest, " ")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if err1 != nil || err2 != nil || first < 0 || last < 0 {
		return bad
	}
	if kind == "network" && !more && first <= maxDeliveries {
		s.origins[name] = origin{int(first), last}
		return nil
	}
	passed, rest, _ := strings.Cut(rest, " ")
	sender, rest, err1 := unquote(rest)
	recipient, rest, err2 := unquote(strings.TrimPrefix(rest, " "))
	if kind != "tuple" || passed != "waiting" && passed != "passed" || err1 != nil || err2 != nil || rest != "" {
		return bad
	}
	s.tuples[tuple{name, sender, recipient}] = entry{first, last, passed == "passed"}
	return nil
}

// merge adds what a state knows to what is known. Of a tuple the first attempt and the
// last pass count; of a network the most that one filter has seen from it.
func (g *greylist) merge(s state) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Unix()
	for t, e := range s.tuples {
		if g.gone(e, now) {
			continue
		}
		if known, ok := g.tuples[t]; ok && !g.gone(known, now) {
			e = entry{min(e.first, known.first), max(e.last, known.last), e.passed || known.passed}
		}
		g.tuples[t] = e
	}
	for name, o := range s.origins {
		if g.old(o.last, now) {
			continue
		}
		if known, ok := g.origins[name]; ok && !g.old(known.last, now) {
			o = origin{max(o.deliveries, known.deliveries), max(o.last, known.last)}
		}
		g.origins[name] = o
	}
	if len(g.tuples) > g.entries {
		g.forgetTuples(now)
	}
	if len(g.origins) > g.entries {
		g.forgetOrigins(now)
	}
}

// unquote takes a quoted string from the start of s.
func unquote(s string) (text, rest string, err error) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", err
	}
	text, err = strconv.Unquote(q)
	return text, s[len(q):], err
}

// write returns the state, without what is gone.
func (g *greylist) write() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed = false
	now := g.now().Unix()
	var b bytes.Buffer
	n := 0
	fmt.Fprintln(&b, title)
	for name, o := range g.origins {
		if g.old(o.last, now) {
			delete(g.origins, name)
			continue
		}
		n++
		fmt.Fprintf(&b, "network %s %d %d\n", name, o.deliveries, o.last)
	}
	for t, e := range g.tuples {
		if g.gone(e, now) {
			delete(g.tuples, t)
			continue
		}
		n++
		state := "waiting"
		if e.passed {
			state = "passed"
		}
		fmt.Fprintf(&b, "tuple %s %d %d %s %q %q\n", t.network, e.first, e.last, state, t.sender, t.recipient)
	}
	fmt.Fprintf(&b, "end %d\n", n)
	return b.Bytes()
}

// save writes the state if it has changed, and takes over what another filter wrote. A
// failure is logged once, until it works again. It is for one goroutine at a time.
func (g *greylist) save() {
	g.mu.Lock()
	changed := g.changed
	g.mu.Unlock()
	if g.file == "" || !changed && !g.foreign() {
		return
	}
	err := g.exchange()
	if err != nil && !g.failed {
		g.log.Printf("the state is not saved: %v", err)
	}
	g.failed = err != nil
}

// foreign tells whether the file is one that this filter has neither read nor written:
// over a reload of the daemon two run for a while.
func (g *greylist) foreign() bool {
	info, err := os.Stat(g.file)
	return err == nil && !(g.seen != nil && os.SameFile(info, g.seen) && info.ModTime().Equal(g.seen.ModTime()) && info.Size() == g.seen.Size())
}

// exchange takes over what another filter wrote, and writes the state if it has
// changed. Meanwhile, no other does.
func (g *greylist) exchange() error {
	unlock, err := lock(filepath.Dir(g.file))
	if err != nil {
		return err
	}
	defer unlock()
	if g.foreign() {
		g.learn()
	}
	g.mu.Lock()
	changed := g.changed
	g.mu.Unlock()
	if !changed {
		return nil
	}
	if err := replaceFile(g.file, g.write()); err != nil {
		g.mu.Lock()
		g.changed = true
		g.mu.Unlock()
		return err
	}
	g.seen, err = os.Stat(g.file)
	return err
}

// learn takes over what is in the file. What cannot be read is logged, and lost with
// the next save.
func (g *greylist) learn() {
	f, err := os.Open(g.file)
	if err == nil {
		defer f.Close()
		if g.seen, err = f.Stat(); err == nil {
			err = g.read(f)
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		g.seen, _ = os.Stat(g.file) // not again
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.log.Printf("%s: %v: what another has written is not taken over", g.file, err)
	}
}

// maxLockWait bounds the wait for another filter to have saved.
const maxLockWait = 5 * time.Second

// lock keeps other filters from the states in a directory, until unlock or the end of
// the process. Where directories cannot be locked, as on some network file systems,
// it does nothing.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK) && time.Since(began) < maxLockWait, errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			d.Close()
			return nil, fmt.Errorf("lock %s: another program holds it", dir)
		}
		return func() { d.Close() }, nil
	}
}

// saveAtTimes saves until ctx ends.
func (g *greylist) saveAtTimes(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.save()
		case <-ctx.Done():
			return
		}
	}
}

// replaceFile puts a file in the place of another, which stays whole whenever the
// machine stops.
func replaceFile(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
