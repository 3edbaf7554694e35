package lookup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/table"
)

// Access is what a table that is being opened may have of other processes. It may
// be used as long as the table is.
type Access struct {
	// File opens the file that the configuration names, with the parent's rights.
	File func(ctx context.Context) (*os.File, error)

	// Program starts the program of the table and returns the socket to it. Closing
	// that ends the program.
	Program func(ctx context.Context) (io.ReadWriteCloser, error)

	// Warn logs.
	Warn func(err error)
}

func (l *Lookup) access(generation uint32, name string) Access {
	return Access{
		File:    func(ctx context.Context) (*os.File, error) { return l.openFile(ctx, generation, name) },
		Program: func(ctx context.Context) (io.ReadWriteCloser, error) { return l.startProgram(ctx, generation, name) },
		Warn:    func(err error) { l.p.Log.Warnf("%v", err) },
	}
}

// openFile has the parent open the file of a table.
func (l *Lookup) openFile(ctx context.Context, generation uint32, name string) (*os.File, error) {
	_, files, err := proc.Call(ctx, l.p.Links, proto.Parent, proto.OpenTable, proto.OpenTableRequest{Generation: generation, Name: name})
	if err != nil {
		return nil, err
	}
	return oneFile(name, files)
}

// oneFile returns the one descriptor that a call about a table came with.
func oneFile(name string, files []*os.File) (*os.File, error) {
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("open table %s: %d descriptors, want 1", name, len(files))
	}
	return files[0], nil
}

// startProgram has the parent start the program of a table.
func (l *Lookup) startProgram(ctx context.Context, generation uint32, name string) (io.ReadWriteCloser, error) {
	r, files, err := proc.Call(ctx, l.p.Links, proto.Parent, proto.StartTable, proto.OpenTableRequest{Generation: generation, Name: name})
	if err != nil {
		return nil, err
	}
	f, err := oneFile(name, files)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &programConn{conn, func() {
		// The service may be ending, and the parent ends its programs then anyway.
		l.p.Go(func(ctx context.Context) { _, _ = proc.Ask(ctx, l.p.Links, proto.Parent, proto.EndTable, r) })
	}}, nil
}

// programConn is the socket to a program, whose end is made sure of.
type programConn struct {
	net.Conn
	end func()
}

// Close implements io.Closer.
func (c *programConn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}

// watchInterval is the time between two looks at the files of the tables.
const watchInterval = time.Second

// watched is a table with a file.
type watched struct {
	table.Table
	name, path string
	access     Access

	mu   sync.Mutex  // held during a look; guards what follows
	used fs.FileInfo // as the file was when the table was read last; nil: not known
	now  fs.FileInfo // as it was at the last look
}

// stat looks at the file, with the parent's help where this process may not.
func (w *watched) stat(ctx context.Context) fs.FileInfo {
	fi, err := os.Stat(w.path)
	if errors.Is(err, fs.ErrPermission) {
		var f *os.File
		if f, err = w.access.File(ctx); err == nil {
			fi, err = f.Stat()
			f.Close()
		}
	}
	if err != nil {
		return nil
	}
	return fi
}

// same tells whether a file has not changed.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// watch reads tables again whose files change. A file counts as changed when two
// looks at it find it the same, so that one that is being written is left alone. A
// table that takes long to be read again holds up no other.
func (l *Lookup) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g, done := l.use(0)
		var looks sync.WaitGroup
		for _, w := range g.watched {
			if w.mu.TryLock() { // else the last look is not over
				looks.Go(func() {
					defer w.mu.Unlock()
					l.look(ctx, w)
				})
			}
		}
		l.p.Go(func(context.Context) {
			looks.Wait()
			done()
		})
	}
}

// look looks at one table's file. The caller holds its mutex.
func (l *Lookup) look(ctx context.Context, w *watched) {
	before := w.now
	w.now = w.stat(ctx)
	if same(w.now, w.used) || !same(w.now, before) {
		return
	}
	w.used = w.now
	if err := w.Update(ctx); err != nil {
		l.p.Log.Warnf("table %q stays as it was: %v", w.name, err)
		return
	}
	l.p.Log.Infof("table %q: %s has changed and was read again", w.name, w.path)
}

// updateTable reads a table again because somebody says so.
func (l *Lookup) updateTable(ctx context.Context, req proto.TableRequest) (proto.Empty, error) {
	g, done := l.use(0)
	defer done()
	t := g.tables[req.Name]
	if t == nil {
		l.p.Log.Warnf("Lookup table not found: %q", req.Name)
		return proto.Empty{}, fmt.Errorf("no table %q in the configuration", req.Name)
	}
	for _, w := range g.watched {
		if w.name == req.Name {
			w.mu.Lock()
			w.now = w.stat(ctx)
			w.used = w.now
			w.mu.Unlock()
		}
	}
	if err := t.Update(ctx); err != nil {
		l.p.Log.Warnf("Failed to update table %q: %v", req.Name, err)
		return proto.Empty{}, err
	}
	l.p.Log.Infof("Table %q successfully updated", req.Name)
	return proto.Empty{}, nil
}
