// Package lmtp delivers messages to an LMTP server (RFC 2033), over a local
// socket or TCP. One message is sent for one recipient at a time; connections are
// kept for a while and used again.
//
// A 4yz reply to any command, and every trouble with the connection, is a
// temporary failure. A 5yz reply to MAIL, RCPT, DATA or the message is permanent;
// one to the greeting or LHLO says nothing about the recipient, and is temporary.
//
// SIZE (RFC 1870) and 8BITMIME (RFC 6152) are used where they are offered,
// PIPELINING (RFC 2920) to send MAIL and RCPT together, SMTPUTF8 (RFC 6531) for
// addresses that need it.
package lmtp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/mda"
)

// maxIdle bounds how many connections are kept open without being in use.
const maxIdle = 10

// timeouts bound the waits of a connection. RFC 5321 section 4.5.3.2 asks for
// these minutes; the context of a delivery is usually shorter.
type timeouts struct {
	connect time.Duration
	reply   time.Duration // to the greeting, LHLO, MAIL, RCPT, DATA
	block   time.Duration // for a block of the message to be taken
	final   time.Duration // for the reply to the message
	idle    time.Duration // how long an unused connection is kept
}

// Client delivers to any number of servers. Its methods may be called at the same
// time from several goroutines.
type Client struct {
	hostName string
	timeouts timeouts

	mu     sync.Mutex
	idle   map[string][]*conn // by destination, newest last; guarded by mu
	count  int                // of idle connections; guarded by mu
	closed bool               // guarded by mu
}

// New returns a Client that introduces itself with the host name.
func New(hostName string) *Client {
	if hostName == "" {
		hostName = "localhost"
	}
	return &Client{
		hostName: hostName,
		timeouts: timeouts{
			connect: 30 * time.Second,
			reply:   5 * time.Minute,
			block:   3 * time.Minute,
			final:   10 * time.Minute,
			idle:    30 * time.Second,
		},
		idle: make(map[string][]*conn),
	}
}

// Close ends the connections that are kept open.
func (c *Client) Close() error {
	c.mu.Lock()
	var all []*conn
	for _, list := range c.idle {
		all = append(all, list...)
	}
	clear(c.idle)
	c.count, c.closed = 0, true
	c.mu.Unlock()
	for _, cn := range all {
		cn.expire.Stop()
		cn.quit()
	}
	return nil
}

// Deliver sends the message to the server at dest, an absolute path of a socket
// or host[:port] (port 25 if there is none), for the recipient rcpt.
func (c *Client) Deliver(ctx context.Context, dest, rcpt string, d *mda.Delivery) mda.Result {
	if !validRcpt(rcpt) {
		return mda.Refuse(smtp.EnhancedCode{5, 1, 3}, "recipient cannot be given to an LMTP server")
	}
	if err := d.Check(); err != nil {
		return mda.Refuse(smtp.EnhancedCode{5, 1, 3}, err.Error())
	}
	for {
		cn, used, err := c.get(ctx, dest)
		if err != nil {
			return result(err)
		}
		stop := context.AfterFunc(ctx, func() { cn.net.SetDeadline(time.Unix(1, 0)) })
		err = cn.deliver(ctx, rcpt, d)
		if !stop() {
			cn.broken = true
		}
		if cn.broken {
			cn.net.Close()
		} else {
			c.put(dest, cn)
		}
		// The server may have given up a connection that was not in use.
		if used && cn.broken && !cn.begun && ctx.Err() == nil {
			continue
		}
		return result(err)
	}
}

// validRcpt tells whether rcpt, an address or a user name, can stand between
// angle brackets.
func validRcpt(rcpt string) bool {
	return rcpt != "" && !strings.ContainsFunc(rcpt, func(r rune) bool {
		return r < ' ' || r == 0x7f || rcpt[0] != '"' && (r == ' ' || r == '<' || r == '>')
	})
}

// result turns the end of a transaction into that of the delivery.
func result(err error) mda.Result {
	if err == nil {
		return mda.OK()
	}
	var refusal *refusal
	if !errors.As(err, &refusal) {
		return mda.Fail("LMTP server cannot be used", err)
	}
	r := mda.Result{Enhanced: refusal.enhanced(), Text: "LMTP server error: " + refusal.line}
	if refusal.code >= 500 && !refusal.session {
		r.Outcome = mda.PermFail
	}
	if r.Enhanced[0] != 5 && r.Outcome == mda.PermFail || r.Enhanced[0] != 4 && r.Outcome == mda.TempFail {
		r.Enhanced = smtp.EnhancedCode{4, 3, 0}
		if r.Outcome == mda.PermFail {
			r.Enhanced[0] = 5
		}
	}
	return r
}

// get returns a connection to dest: one that was used before, or a new one.
func (c *Client) get(ctx context.Context, dest string) (cn *conn, used bool, err error) {
	c.mu.Lock()
	if list := c.idle[dest]; len(list) > 0 {
		cn = list[len(list)-1]
		c.remove(dest, cn)
		c.mu.Unlock()
		cn.expire.Stop()
		cn.begun = false
		return cn, true, nil
	}
	c.mu.Unlock()
	network, address, err := parseDest(dest)
	if err != nil {
		return nil, false, err
	}
	dialer := net.Dialer{Timeout: c.timeouts.connect}
	nc, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, false, err
	}
	cn = newConn(nc, c.timeouts)
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = cn.greet(ctx, c.hostName)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, false, err
	}
	return cn, false, nil
}

// put keeps a connection for the next delivery.
func (c *Client) put(dest string, cn *conn) {
	c.mu.Lock()
	if c.closed || c.count >= maxIdle {
		c.mu.Unlock()
		cn.quit()
		return
	}
	c.idle[dest] = append(c.idle[dest], cn)
	c.count++
	cn.expire = time.AfterFunc(c.timeouts.idle, func() {
		c.mu.Lock()
		found := c.remove(dest, cn)
		c.mu.Unlock()
		if found {
			cn.quit()
		}
	})
	c.mu.Unlock()
}

// remove takes a connection out of the idle ones and tells whether it was there.
// The caller holds c.mu.
func (c *Client) remove(dest string, cn *conn) bool {
	list := c.idle[dest]
	for i := range list {
		if list[i] == cn {
			list = append(list[:i], list[i+1:]...)
			c.count--
			if c.idle[dest] = list; len(list) == 0 {
				delete(c.idle, dest)
			}
			return true
		}
	}
	return false
}

// parseDest parses a destination: /path, host, host:port, [v6] or [v6]:port.
func parseDest(dest string) (network, address string, err error) {
	if strings.HasPrefix(dest, "/") {
		return "unix", dest, nil
	}
	host, port, err := net.SplitHostPort(dest)
	if err != nil {
		host, port = dest, "25"
		if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
			host = host[1 : len(host)-1]
		}
	}
	if host == "" || port == "" || strings.ContainsAny(host, "[]/ ") {
		return "", "", fmt.Errorf("bad LMTP destination %q", dest)
	}
	return "tcp", net.JoinHostPort(host, port), nil
}
