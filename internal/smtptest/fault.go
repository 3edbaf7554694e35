package smtptest

import (
	"net"
	"sync/atomic"
	"time"
)

// Say answers with a text, such as "421 go away\r\n", and goes on.
func Say(text string) Fault {
	return func(c net.Conn) bool {
		_, err := c.Write([]byte(text))
		return err == nil
	}
}

// SayThen answers with a text, waits until the peer has said something, and goes on
// with another fault.
func SayThen(text string, next Fault) Fault {
	return func(c net.Conn) bool {
		if _, err := c.Write([]byte(text)); err != nil {
			return false
		}
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			return false
		}
		return next(c)
	}
}

// Close ends the connection.
func Close(net.Conn) bool { return false }

// Reset ends it with RST.
func Reset(c net.Conn) bool {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // else it ends in another way, which the test sees
	}
	return false
}

// Hang never answers; it ends with the connection.
func Hang(c net.Conn) bool {
	var b [512]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return false
		}
	}
}

// Flood sends a text again and again until the peer has had enough, and adds to sent
// the bytes that it could get rid of.
func Flood(text string, sent *atomic.Int64) Fault {
	return func(c net.Conn) bool {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetWriteBuffer(64 << 10) // what lies in buffers was not read
		}
		for {
			n, err := c.Write([]byte(text))
			sent.Add(int64(n))
			if err != nil {
				return false
			}
		}
	}
}

// Trickle sends a byte of a reply now and then.
func Trickle(every time.Duration) Fault {
	return func(c net.Conn) bool {
		for {
			if _, err := c.Write([]byte("2")); err != nil {
				return false
			}
			// A peer that has gone is noticed by the write; so is the end of the server.
			time.Sleep(every)
		}
	}
}
