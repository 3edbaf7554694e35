package command

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// chunk is how much of a message is read at a time, in bytes.
const chunk = 64 << 10

// maxOutput is how much of the end of a command's output is kept, in bytes;
// maxDrain is how much of it is read after the command itself has ended.
const (
	maxOutput = 2 << 10
	maxDrain  = 1 << 20
)

// feed is the pipe that carries the message to the command.
type feed struct {
	r, w   *os.File
	msg    io.Reader
	buf    []byte
	head   []byte        // read from msg but not written, part of buf
	eof    bool          // all of msg is read
	failed chan struct{} // closed when msg cannot be read
	done   chan struct{} // closed when the writer has ended
	err    error         // of reading msg; valid after done
	unread bool          // valid after done
}

// newFeed makes the pipe and fills it before anyone reads, so that whether a
// small message counts as taken does not depend on who runs first.
func newFeed(msg io.Reader, size int64) (*feed, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	f := &feed{
		r: r, w: w, msg: msg, buf: make([]byte, max(1, min(size, chunk))),
		failed: make(chan struct{}), done: make(chan struct{}),
	}
	for err == nil && !f.eof && len(f.head) == 0 {
		if err = f.read(); err == nil {
			err = f.fill()
		}
	}
	if err != nil {
		f.close()
		return nil, err
	}
	if f.finished() {
		f.w.Close()
	}
	return f, nil
}

// finished tells whether all of the message is in the pipe.
func (f *feed) finished() bool { return f.eof && len(f.head) == 0 }

// read reads the next part of the message.
func (f *feed) read() error {
	n, err := f.msg.Read(f.buf)
	f.head = f.buf[:n]
	if err == io.EOF {
		f.eof, err = true, nil
	}
	return err
}

// fill writes what the pipe takes without waiting.
func (f *feed) fill() error {
	conn, err := f.w.SyscallConn()
	if err != nil {
		return err
	}
	var writeErr error
	err = conn.Write(func(fd uintptr) bool {
		for len(f.head) > 0 {
			n, err := syscall.Write(int(fd), f.head)
			switch {
			case err == nil:
				f.head = f.head[n:]
			case errors.Is(err, syscall.EAGAIN):
				return true
			case !errors.Is(err, syscall.EINTR):
				writeErr = err
				return true
			}
		}
		return true
	})
	return errors.Join(err, writeErr)
}

// start is called when the command runs. If there is more of the message, a
// goroutine writes it; it ends with the message, or when nobody reads the pipe,
// at the latest by finish. When the message cannot be read to its end the pipe
// stays open, so that the command does not take the part for the whole before it
// is stopped.
func (f *feed) start() {
	f.r.Close()
	if f.finished() {
		close(f.done)
		return
	}
	go func() {
		defer close(f.done)
		for {
			if _, err := f.w.Write(f.head); err != nil {
				f.unread = true
				return
			}
			f.head = nil
			if f.eof {
				f.w.Close()
				return
			}
			if f.err = f.read(); f.err != nil {
				close(f.failed)
				return
			}
		}
	}()
}

// finish is called when the command has ended. It tells whether part of the
// message found no reader, or why the message could not be read.
func (f *feed) finish() (unread bool, err error) {
	f.w.SetWriteDeadline(time.Now())
	<-f.done
	return f.unread, f.err
}

// close frees the pipe, whatever state it is in.
func (f *feed) close() {
	f.r.Close()
	f.w.Close()
}

// capture is the pipe that takes a command's output, of which it keeps the end.
type capture struct {
	r, w *os.File
	tail []byte
	done chan struct{} // closed when the reader has ended
}

func newCapture() (*capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &capture{r: r, w: w, done: make(chan struct{})}, nil
}

// start is called when the command runs. Its goroutine ends when all writers are
// gone, at the latest by finish.
func (c *capture) start() {
	c.w.Close()
	go func() {
		defer close(c.done)
		buf := make([]byte, 4<<10)
		for {
			n, err := c.r.Read(buf)
			c.keep(buf[:n])
			if err != nil {
				return
			}
		}
	}()
}

func (c *capture) keep(p []byte) {
	c.tail = append(c.tail, p...)
	if extra := len(c.tail) - maxOutput; extra > 0 {
		c.tail = append(c.tail[:0], c.tail[extra:]...)
	}
}

// finish is called when the command has ended, and returns the end of its output.
// Processes that the command left behind are not waited for.
func (c *capture) finish() []byte {
	c.r.SetReadDeadline(time.Now())
	<-c.done
	c.r.SetReadDeadline(time.Time{})
	conn, err := c.r.SyscallConn()
	if err != nil {
		return c.tail
	}
	buf := make([]byte, 4<<10)
	conn.Read(func(fd uintptr) bool {
		for total := 0; total < maxDrain; {
			n, err := syscall.Read(int(fd), buf)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || n <= 0 {
				break
			}
			c.keep(buf[:n])
			total += n
		}
		return true
	})
	return c.tail
}

func (c *capture) close() {
	c.r.Close()
	c.w.Close()
}
