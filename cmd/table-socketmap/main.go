// Command table-socketmap answers tables of smtpd from a server of socket maps; see
// table-socketmap(8). A question is a netstring with the name of a map and the key,
// an answer one with a word and the rest:
//
//	> 13:aliases alice,
//	< 6:OK bob,
//	< 9:NOTFOUND ,
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

// main takes the path of a configuration or, as in "table x socketmap:/run/x.sock",
// that of the server's socket.
func main() {
	if len(os.Args) == 2 {
		if fi, err := os.Stat(os.Args[1]); err == nil && fi.Mode()&os.ModeSocket != 0 {
			s := newSocketmap("unix", os.Args[1], os.Args[0], 8, 10*time.Second)
			table.Main(s, s.Services()...)
		}
	}
	remote.Main(open)
}

// maxReply bounds an answer, in bytes.
const maxReply = 100000

// socketmap is the table.
type socketmap struct {
	network, address string
	name             string // of the map
	timeout          time.Duration
	services         []table.Service
	guard            remote.Guard
	idle             chan *conn    // connections that nobody uses
	slots            chan struct{} // one for each connection in use
}

// conn is a connection, on which one question is asked at a time.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func open(name string, c *remote.Conf) (remote.Source, error) {
	server := c.Get("server")
	network, address, ok := strings.Cut(server, ":")
	switch {
	case !ok || network != "unix" && network != "inet":
		return nil, fmt.Errorf("server %q: want unix:/path or inet:host:port", server)
	case network == "inet":
		network = "tcp"
	}
	s := newSocketmap(network, address, c.Or("map", name), c.Int("connections", 1, 8), c.Delay("timeout", 10*time.Second))
	if list := c.Get("services"); list != "" {
		s.services = nil
		for word := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
			s.services = append(s.services, table.Service(word))
		}
	}
	return s, c.Err()
}

func newSocketmap(network, address, name string, connections int, timeout time.Duration) *socketmap {
	return &socketmap{
		network: network, address: address, name: name, timeout: timeout,
		services: []table.Service{table.Alias, table.Domain, table.Credentials, table.NetAddr, table.UserInfo, table.MailAddr,
			table.AddrName, table.MailAddrMap, table.RelayHost, table.String, table.Regex},
		idle: make(chan *conn, connections), slots: make(chan struct{}, connections),
	}
}

// Services implements remote.Source.
func (s *socketmap) Services() []table.Service { return s.services }

// Lookup implements table.Table.
func (s *socketmap) Lookup(ctx context.Context, _ table.Service, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return "", fmt.Errorf("all connections are in use: %w", ctx.Err())
	}
	c, fresh, err := s.get(ctx)
	if err != nil {
		return "", err
	}
	reply, err := ask(ctx, c, s.name+" "+key)
	if err != nil && !fresh && ctx.Err() == nil { // the server has closed it meanwhile
		c.Close()
		if c, err = s.dial(ctx); err != nil {
			return "", err
		}
		reply, err = ask(ctx, c, s.name+" "+key)
	}
	if err != nil {
		c.Close()
		return "", err
	}
	s.idle <- c // there are no more of them than slots
	return answer(reply)
}

// get returns a connection and whether it is new.
func (s *socketmap) get(ctx context.Context) (*conn, bool, error) {
	select {
	case c := <-s.idle:
		return c, false, nil
	default:
	}
	c, err := s.dial(ctx)
	return c, true, err
}

func (s *socketmap) dial(ctx context.Context) (*conn, error) {
	if err := s.guard.Away(); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, s.network, s.address)
	s.guard.Tried(err)
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// ask sends a netstring and reads one.
func ask(ctx context.Context, c *conn, text string) (string, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := fmt.Fprintf(c, "%d:%s,", len(text), text); err != nil {
		return "", err
	}
	reply, err := readNetstring(c.r)
	if err == nil && c.r.Buffered() > 0 { // it would be taken for the next answer
		return "", errors.New("the server answers more than it was asked")
	}
	return reply, err
}

// readNetstring reads a length in digits, a colon, so many bytes and a comma.
func readNetstring(r *bufio.Reader) (string, error) {
	var digits []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == ':' {
			break
		}
		if b < '0' || b > '9' || len(digits) == 6 {
			return "", errors.New("the answer is no netstring")
		}
		digits = append(digits, b)
	}
	n, err := strconv.Atoi(string(digits))
	if err != nil || n > maxReply || len(digits) > 1 && digits[0] == '0' {
		return "", fmt.Errorf("the answer is a netstring of %q bytes", digits)
	}
	text := make([]byte, n+1)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", err
	}
	if text[n] != ',' {
		return "", errors.New("the answer is no netstring")
	}
	return string(text[:n]), nil
}

// answer tells what a reply means.
func answer(reply string) (string, error) {
	word, rest, _ := strings.Cut(reply, " ")
	switch word {
	case "OK":
		return rest, nil
	case "NOTFOUND":
		return "", table.ErrNotFound
	case "TEMP", "TIMEOUT", "PERM":
		return "", fmt.Errorf("the server answers %s: %.500q", word, rest)
	}
	return "", fmt.Errorf("the server answers %.80q", reply)
}

// Fetch implements table.Table; there is nothing to fetch.
func (s *socketmap) Fetch(_ context.Context, service table.Service) (string, error) {
	return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, service)
}

// Update implements table.Table.
func (s *socketmap) Update(context.Context) error { return nil }

// Close implements table.Table.
func (s *socketmap) Close() error {
	for {
		select {
		case c := <-s.idle:
			c.Close()
		default:
			return nil
		}
	}
}
