// Package dnstest is a DNS server on a loopback address for tests. It answers from
// records in master file form (RFC 1035 section 5) and can be told to misbehave.
package dnstest

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Server is a name server. Its methods may be called concurrently.
type Server struct {
	addr string

	mu      sync.Mutex
	records map[string][]dns.RR // guarded by mu; by owner in lower case with final dot
	faults  map[string]Fault    // guarded by mu; by owner as above
	asked   map[string]int      // guarded by mu; by "name TYPE network"
}

// Fault is how the server answers questions about one name. The zero Fault is none.
type Fault struct {
	Rcode     int           // answer with this response code, such as dns.RcodeServerFailure
	Drop      bool          // do not answer at all
	Truncate  bool          // answer by UDP that the answer does not fit
	NoEDNS    bool          // answer FORMERR when the query has an OPT record
	WrongID   bool          // send a response to another query first
	Authentic bool          // set the AD bit
	Wait      chan struct{} // answer once it is closed
}

// Response codes for Fault.
const (
	ServFail = dns.RcodeServerFailure
	Refused  = dns.RcodeRefused
	NotImpl  = dns.RcodeNotImplemented
)

// Start starts a server with the records of zone, absolute names one record a
// line, and stops it when the test ends.
func Start(t testing.TB, zone string) *Server {
	t.Helper()
	pc, l := listen(t)
	return serve(t, pc, l, zone)
}

// StartAt is Start for a server at an address of host:port, for programs that can be
// told a host only. Ports below 1024 need root.
func StartAt(t testing.TB, addr, zone string) *Server {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		pc.Close()
		t.Fatal(err)
	}
	return serve(t, pc, l, zone)
}

// serve answers on two sockets of the same port until the test ends.
func serve(t testing.TB, pc net.PacketConn, l net.Listener, zone string) *Server {
	t.Helper()
	s := &Server{
		records: make(map[string][]dns.RR),
		faults:  make(map[string]Fault),
		asked:   make(map[string]int),
	}
	s.Add(t, zone)
	s.addr = pc.LocalAddr().String()
	for _, srv := range []*dns.Server{
		{PacketConn: pc, Handler: s.handler("udp")},
		{Listener: l, Handler: s.handler("tcp"), ReadTimeout: 10 * time.Second},
	} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		done := make(chan error, 1)
		go func() { done <- srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Errorf("stop DNS server: %v", err)
			}
			<-done
		})
	}
	return s
}

// listen opens a UDP and a TCP socket of the same port.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal("found no port that is free for both UDP and TCP")
	return nil, nil
}

// Addr returns the host:port of the server.
func (s *Server) Addr() string { return s.addr }

// Add adds the records of zone. The TTL is 300 seconds where none is given.
func (s *Server) Add(t testing.TB, zone string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := dns.NewZoneParser(strings.NewReader(zone), ".", "")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := strings.ToLower(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
}

// Remove removes all records of a name.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, owner(name))
}

// Set makes the server answer questions about name with f from now on.
func (s *Server) Set(name string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[owner(name)] = f
}

// Asked returns how often name was asked for, by type such as "A" and network
// "udp" or "tcp".
func (s *Server) Asked(name, qtype, network string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[owner(name)+" "+qtype+" "+network]
}

// owner returns name as records are kept.
func owner(name string) string { return strings.ToLower(dns.Fqdn(name)) }

// handler answers queries that come by network.
func (s *Server) handler(network string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		if len(q.Question) != 1 {
			return
		}
		name := strings.ToLower(q.Question[0].Name)
		s.mu.Lock()
		fault := s.faults[name]
		s.asked[name+" "+dns.TypeToString[q.Question[0].Qtype]+" "+network]++
		s.mu.Unlock()
		if fault.Wait != nil {
			<-fault.Wait
		}
		if fault.Drop {
			return
		}
		m := s.answer(q, fault, network)
		if fault.WrongID {
			forged := m.Copy()
			forged.Id++
			forged.Answer = nil
			forged.Rcode = dns.RcodeNameError
			_ = w.WriteMsg(forged) // the test sees what is missing
		}
		_ = w.WriteMsg(m)
	}
}

// answer makes the response to q.
func (s *Server) answer(q *dns.Msg, f Fault, network string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.AuthenticatedData = f.Authentic && q.AuthenticatedData
	switch {
	case f.Rcode != 0:
		m.Rcode = f.Rcode
		return m
	case f.NoEDNS && q.IsEdns0() != nil:
		m.Rcode = dns.RcodeFormatError
		return m
	case f.Truncate && network == "udp":
		m.Truncated = true
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, exists := strings.ToLower(q.Question[0].Name), false
	for range 32 {
		next := ""
		for _, rr := range s.records[name] {
			exists = true
			switch {
			case rr.Header().Rrtype == q.Question[0].Qtype:
				m.Answer = append(m.Answer, rr)
			case rr.Header().Rrtype == dns.TypeCNAME:
				m.Answer = append(m.Answer, rr)
				next = owner(rr.(*dns.CNAME).Target)
			}
		}
		if next == "" {
			break
		}
		name, exists = next, false
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	if !exists || len(m.Answer) == 0 {
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
			Ns:  "ns.", Mbox: "root.", Serial: 1, Refresh: 1, Retry: 1, Expire: 1, Minttl: 60,
		}}
	}
	return m
}
