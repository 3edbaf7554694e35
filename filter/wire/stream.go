package wire

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"
)

// Reader reads lines. It is for one goroutine.
type Reader struct {
	r          io.Reader
	buf        []byte
	start, end int // what is read and not yet returned
	scanned    int // no LF before it, from start on
	err        error
}

// readSize holds the longest line and what of others arrives with it.
const readSize = 2 * (MaxLine + 1)

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, buf: make([]byte, readSize)} }

// Line returns the next line without its LF. It is valid until the next call. At the
// end of input the error is io.EOF, io.ErrUnexpectedEOF within a line, and
// ErrTooLong for a line beyond MaxLine, after which nothing more can be read.
func (r *Reader) Line() ([]byte, error) {
	for !errors.Is(r.err, ErrTooLong) {
		if i := bytes.IndexByte(r.buf[r.scanned:r.end], '\n'); i >= 0 {
			line := r.buf[r.start : r.scanned+i]
			r.start = r.scanned + i + 1
			r.scanned = r.start
			if len(line) > MaxLine {
				break
			}
			return line, nil
		}
		r.scanned = r.end
		if r.end-r.start > MaxLine {
			break
		}
		if r.err != nil {
			if errors.Is(r.err, io.EOF) && r.end > r.start {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, r.err
		}
		r.fill()
	}
	r.err = ErrTooLong
	return nil, r.err
}

// fill reads once, after making room.
func (r *Reader) fill() {
	if r.start == r.end {
		r.start, r.end, r.scanned = 0, 0, 0
	} else if r.end == len(r.buf) {
		n := copy(r.buf, r.buf[r.start:r.end])
		r.start, r.end, r.scanned = 0, n, n
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if r.err = err; n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}

// More tells whether Line would return a line without reading: whoever answers
// lines can go on before it flushes.
func (r *Reader) More() bool {
	i := bytes.IndexByte(r.buf[r.scanned:r.end], '\n')
	return i >= 0
}

// Writer writes lines of many goroutines: what they send while a write is under way
// goes out together with the next. Whoever finds nobody writing writes, so there is
// no goroutine to wake and none to end.
type Writer struct {
	w     io.Writer
	limit int

	mu      sync.Mutex
	room    sync.Cond // signalled when a write has ended; on mu
	pending []byte    // guarded by mu
	spare   []byte    // guarded by mu; an empty buffer to swap with
	writing bool      // guarded by mu
	err     error     // guarded by mu; the first one
}

// NewWriter returns a Writer on w. Send blocks while more than limit bytes wait.
func NewWriter(w io.Writer, limit int) *Writer {
	wr := &Writer{w: w, limit: limit}
	wr.room.L = &wr.mu
	return wr
}

// Send writes whole lines, after those sent before, and does not keep them. It
// returns the error of the first write that failed, in this call or an earlier one;
// lines that it left to another goroutine to write may fail later.
func (w *Writer) Send(lines []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.writing && len(w.pending) > w.limit {
		w.room.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.pending = append(w.pending, lines...)
	if w.writing {
		return nil
	}
	w.writing = true
	w.mu.Unlock()
	runtime.Gosched() // whoever is about to send goes first: one write does for all
	w.mu.Lock()
	for len(w.pending) > 0 && w.err == nil {
		out := w.pending
		w.pending, w.spare = w.spare[:0], nil
		w.mu.Unlock()
		_, err := w.w.Write(out)
		w.mu.Lock()
		if cap(out) <= 4*w.limit {
			w.spare = out[:0]
		}
		w.err = err
		w.room.Broadcast()
	}
	w.writing = false
	w.room.Broadcast()
	return w.err
}

// Flush writes what waits, and returns when nothing does any more, whoever wrote it.
func (w *Writer) Flush() error {
	err := w.Send(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	for err == nil && w.err == nil && w.writing {
		w.room.Wait()
	}
	return w.err
}

// Later is Send for lines that nobody waits for: they go out with what is sent next,
// or with Send(nil).
func (w *Writer) Later(lines []byte) error {
	w.mu.Lock()
	if w.err == nil && len(w.pending) <= w.limit {
		w.pending = append(w.pending, lines...)
		w.mu.Unlock()
		return nil
	}
	w.mu.Unlock()
	return w.Send(lines)
}

// Pending returns how many bytes wait behind the write that is under way.
func (w *Writer) Pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending)
}
