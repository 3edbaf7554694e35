package mda

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// smallMessage is the size, in bytes, up to which a message is written by one
// call out of memory.
const smallMessage = 64 << 10

// maxHeaderLine bounds what Header shows of one line, in bytes.
const maxHeaderLine = 4096

// ErrSize means that the body does not have the size it was announced with.
var ErrSize = errors.New("message body is not of the announced size")

// Headers returns the lines of final delivery: Return-Path and Delivered-To.
func (d *Delivery) Headers() []byte {
	return fmt.Appendf(nil, "Return-Path: <%s>\nDelivered-To: %s\n", d.Sender, d.Rcpt)
}

// Len returns the length of the whole message: Prefix and Body, in bytes.
func (d *Delivery) Len() int64 { return int64(len(d.Prefix)) + d.Size }

// Reader returns the whole message from its start. After Size bytes of body it
// fails with ErrSize when there are more, and with io.ErrUnexpectedEOF when there
// are fewer. There may be one reader of a delivery at a time.
func (d *Delivery) Reader() (io.Reader, error) {
	if _, err := d.Body.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return &reader{prefix: d.Prefix, body: d.Body, left: d.Size}, nil
}

// WriteTo writes the whole message, a small one by a single call of Write.
func (d *Delivery) WriteTo(w io.Writer) (int64, error) {
	r, err := d.Reader()
	if err != nil {
		return 0, err
	}
	if d.Len() > smallMessage {
		return io.CopyBuffer(onlyWriter{w}, r, make([]byte, smallMessage))
	}
	buf := make([]byte, d.Len())
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		return 0, err
	}
	n, err := w.Write(buf)
	return int64(n), err
}

// onlyWriter hides ReadFrom, so that io.CopyBuffer uses the buffer it is given.
type onlyWriter struct{ io.Writer }

// reader reads the prefix, then exactly left bytes of the body.
type reader struct {
	prefix []byte
	body   io.Reader
	left   int64
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.prefix) > 0 {
		n := copy(p, r.prefix)
		r.prefix = r.prefix[n:]
		if n == len(p) || r.left == 0 {
			return n, nil
		}
		m, err := r.read(p[n:])
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n + m, err
	}
	if r.left > 0 {
		n, err := r.read(p)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	var extra [1]byte
	n, err := r.body.Read(extra[:])
	if n > 0 {
		return 0, ErrSize
	}
	return 0, err
}

// read reads body, no further than its announced end. An end of file that comes
// with the last bytes is kept for the next call.
func (r *reader) read(p []byte) (int, error) {
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.body.Read(p)
	r.left -= int64(n)
	if err == io.EOF && r.left == 0 {
		err = nil
	}
	return n, err
}

// Header calls yield with each line of the body's header block, line end
// removed, until the empty line, the end of the body, or yield returns false. A
// line longer than 4096 bytes is cut to that. The slice is valid during the call.
func (d *Delivery) Header(yield func(line []byte) bool) error {
	if _, err := d.Body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	br := bufio.NewReaderSize(d.Body, maxHeaderLine)
	for {
		line, err := br.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		if err != nil && !long && err != io.EOF {
			return err
		}
		text := bytes.TrimSuffix(line, []byte{'\n'})
		text = bytes.TrimSuffix(text, []byte{'\r'})
		if len(text) == 0 || !yield(text) {
			return nil
		}
		for long {
			_, err = br.ReadSlice('\n')
			long = err == bufio.ErrBufferFull
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Looped tells whether the message was delivered to this recipient address
// before: its header block has a Delivered-To line with the address that Headers
// writes. Case does not count.
func (d *Delivery) Looped() (bool, error) {
	var looped bool
	rcpt := d.Rcpt.String()
	err := d.Header(func(line []byte) bool {
		const name = "delivered-to:"
		if len(line) > len(name) && (line[0] == 'd' || line[0] == 'D') && strings.EqualFold(string(line[:len(name)]), name) {
			looped = strings.EqualFold(string(bytes.TrimSpace(line[len(name):])), rcpt)
		}
		return !looped
	})
	return looped, err
}

// Spam tells whether a filter before us marked the message: a header line
// "X-Spam: Yes" or "X-Spam-Flag: Yes", case ignored.
func (d *Delivery) Spam() (bool, error) {
	var spam bool
	err := d.Header(func(line []byte) bool {
		if line[0] == 'x' || line[0] == 'X' {
			s := string(line)
			spam = strings.EqualFold(s, "X-Spam: Yes") || strings.EqualFold(s, "X-Spam-Flag: Yes")
		}
		return !spam
	})
	return spam, err
}
