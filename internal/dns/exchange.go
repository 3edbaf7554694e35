package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is the size of UDP response we ask for, which passes unfragmented
	// (RFC 9715 section 3).
	udpSize = 1232
	// penalty is how long a server that did not answer is asked last.
	penalty = 30 * time.Second
	// maxStray bounds the packets a query skips because they do not answer it.
	maxStray = 64
)

// ask puts the question to the servers, each up to conf.attempts times, until one
// answers yes or no.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) outcome {
	conf, err := r.servers()
	if err != nil {
		return outcome{err: err}
	}
	var last error
	for range conf.attempts {
		for _, server := range r.ordered(conf.servers) {
			m, err := exchange(ctx, server, name, qtype, conf)
			if ctx.Err() != nil {
				return outcome{err: fmt.Errorf("look up %s: %w", name, ctx.Err())}
			}
			r.note(server, err == nil)
			if err == nil {
				err = refusal(m)
			}
			if err == nil {
				return interpret(m, name, qtype, conf.trusts(server))
			}
			last = fmt.Errorf("%s: %w", server, err)
		}
	}
	return outcome{err: fmt.Errorf("look up %s: %w", name, last), ttl: failureTTL}
}

// refusal returns an error when m answers neither yes nor no.
func refusal(m *dns.Msg) error {
	switch {
	case m.Rcode == dns.RcodeNameError:
		return nil
	case m.Rcode != dns.RcodeSuccess:
		return fmt.Errorf("response code %d %s", m.Rcode, dns.RcodeToString[m.Rcode])
	case len(m.Answer) == 0 && !m.RecursionAvailable && !m.Authoritative:
		return errors.New("referral by a server that does not resolve for us")
	}
	return nil
}

// ordered returns the servers in their order, those that failed lately last.
func (r *Resolver) ordered(servers []string) []string {
	out := slices.Clone(servers)
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failed) == 0 {
		return out
	}
	late := func(s string) int {
		if now.Before(r.failed[s]) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b string) int { return late(a) - late(b) })
	return out
}

// note remembers how a server did.
func (r *Resolver) note(server string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		delete(r.failed, server)
		return
	}
	if len(r.failed) >= maxServers*2 {
		clear(r.failed) // servers of former configurations
	}
	r.failed[server] = r.now().Add(penalty)
}

// exchange asks one server: with EDNS, without it when the server does not know
// that (RFC 6891 section 6.2.2), and by TCP when the answer is truncated.
func exchange(ctx context.Context, server, name string, qtype uint16, conf *conf) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name+".", qtype)
	q.SetEdns0(udpSize, false)
	// Asks for the AD bit in the response (RFC 6840 section 5.7).
	q.AuthenticatedData = conf.trusts(server)
	m, err := roundTrip(ctx, "udp", server, q, conf.timeout)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q.Extra = nil
		q.Id = dns.Id()
		m, err = roundTrip(ctx, "udp", server, q, conf.timeout)
	}
	if err == nil && m.Truncated {
		q.Id = dns.Id()
		m, err = roundTrip(ctx, "tcp", server, q, conf.timeout)
		if err == nil && m.Truncated {
			return nil, errors.New("truncated response by TCP")
		}
	}
	return m, err
}

// roundTrip sends one query and waits for its response.
func roundTrip(ctx context.Context, network, server string, q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	packet, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query: %w", err)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return overTCP(c, packet, q)
	}
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // some servers send more than they are told to
	for range maxStray {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if m, err := parse(buf[:n], q); err == nil {
			return m, nil
		}
		// What does not answer the question may be forged; the answer may yet come.
	}
	return nil, errors.New("too many packets that do not answer the question")
}

// overTCP sends a query over a connection and reads its response (RFC 1035 section
// 4.2.2: two bytes of length precede a message).
func overTCP(c net.Conn, packet []byte, q *dns.Msg) (*dns.Msg, error) {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, len(packet)+2), uint16(len(packet)))
	if _, err := c.Write(append(framed, packet...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	return parse(buf, q)
}
