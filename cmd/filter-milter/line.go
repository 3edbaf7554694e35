package main

import (
	"errors"
	"net"
	"time"
)

// Bounds of what a milter may send for one question of the daemon, in bytes.
const (
	maxAnswer  = 1 << 20         // to a step of the session
	maxChanged = maxBody + 8<<20 // to a message: a new body and other changes
	packetCost = 512             // each packet counts as so many bytes more, which is what it takes to keep
)

// errTalks ends the connection to a milter without measure.
var errTalks = errors.New("it sends too much")

// line is the connection of a session to its milter. What the milter may take for one
// question of the daemon is bounded as a whole, in time and in bytes, into how many
// answers and signs of progress it may be cut: the daemon waits for the whole.
type line struct {
	net.Conn
	left int // bytes that the milter may still send
}

// begin starts the measure of a question.
func (l *line) begin(until time.Time, most int) {
	l.left = most
	_ = l.SetDeadline(until) // when it fails, so does what follows
}

// Read implements net.Conn. The length of a packet is four bytes, and read alone.
func (l *line) Read(b []byte) (int, error) {
	if len(b) == 4 {
		l.left -= packetCost
	}
	if l.left <= 0 {
		return 0, errTalks
	}
	n, err := l.Conn.Read(b)
	l.left -= n
	return n, err
}

// dialer makes a line, and remembers it.
type dialer struct {
	until time.Time
	line  *line
}

// Dial connects to the milter.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Deadline: d.until}).Dial(network, address)
	if err != nil {
		return nil, err
	}
	d.line = &line{Conn: c}
	d.line.begin(d.until, maxAnswer)
	return d.line, nil
}
