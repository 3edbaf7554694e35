package dispatcher

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/opensmtpd/opensmtpd/internal/dane"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

// Bounds of what is remembered and told. Beyond them sessions are not counted.
const (
	maxRouted   = 10_000 // domains
	maxSessions = 4096   // waiting to be told to lookup
	maxTold     = 256    // told at a time
)

// sessions tells lookup how TLS with other hosts went, for the reports of RFC 8460.
type sessions struct {
	events chan tlsrpt.Event

	mu     *sync.Mutex        // guards what follows
	routed map[string]*routed // by domain of the recipient; at most maxRouted
}

// routed is what a domain asks for.
type routed struct {
	name  string                   // of the domain, in ASCII
	hosts map[string]tlsrpt.Policy // by name
}

func newSessions() sessions {
	return sessions{events: make(chan tlsrpt.Event, maxSessions), mu: &sync.Mutex{}, routed: map[string]*routed{}}
}

// note remembers the policies of a domain.
func (s *sessions) note(domain string, r *proto.RouteReply) {
	n := &routed{name: r.Name, hosts: map[string]tlsrpt.Policy{}}
	for i := range r.Hosts {
		if p := r.Hosts[i].TLS.Policy; p >= 0 && p < len(r.Policies) {
			n.hosts[r.Hosts[i].Name] = r.Policies[p]
		}
	}
	if len(n.hosts) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.routed[domain]; !ok && len(s.routed) >= maxRouted {
		clear(s.routed) // routes are asked for again every few minutes
	}
	s.routed[domain] = n
}

// Session implements relay.Witness.
func (r *relaying) Session(t *relay.Target, caps relay.Caps, domains []string, failure *relay.DialError) {
	e := tlsrpt.Event{Source: caps.LocalAddr, MX: t.Host, HELO: caps.Name, Addr: t.Addr.Addr()}
	switch {
	case failure != nil:
		e.Source = t.Source
		e.Failure, e.Reason = resultOf(failure)
	case !caps.Secure:
		e.Failure = tlsrpt.StartTLSNotSupported
	case caps.Doubt != nil:
		e.Failure, e.Reason = tlsrpt.ResultOf(caps.Doubt), tlsrpt.Reason(caps.Doubt)
	}
	s := &r.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range domains {
		n := s.routed[d]
		if n == nil {
			continue
		}
		policy, ok := n.hosts[t.Host]
		if !ok {
			continue
		}
		e.Domain, e.Policy = n.name, policy
		select {
		case s.events <- e:
		default: // lookup is away for long; mail goes on
		}
	}
}

// resultOf returns what the failure of a session is called in reports, and more about
// it for people.
func resultOf(d *relay.DialError) (tlsrpt.Result, string) {
	if d.Reply != nil || d.Err == nil { // STARTTLS was refused, or is not offered
		return tlsrpt.StartTLSNotSupported, tlsrpt.Reason(errors.New(d.Text))
	}
	result := tlsrpt.ResultOf(d.Err)
	if errors.Is(d.Err, dane.ErrMismatch) {
		result = tlsrpt.CertificateNotTrusted
	}
	return result, tlsrpt.Reason(errors.New(strings.TrimPrefix(d.Text, "TLS handshake failed: ")))
}

// tellSessions tells lookup of sessions as they come, until ctx ends.
func (r *relaying) tellSessions(ctx context.Context) {
	for {
		var req proto.CountTLSRequest
		select {
		case <-ctx.Done():
			return
		case e := <-r.sessions.events:
			req.Events = append(req.Events, e)
		}
		for more := true; more && len(req.Events) < maxTold; {
			select {
			case e := <-r.sessions.events:
				req.Events = append(req.Events, e)
			default:
				more = false
			}
		}
		conn, err := r.d.p.Links.Conn(ctx, proto.Lookup)
		if err == nil {
			err = proto.CountTLS.Send(conn, req)
		}
		if err != nil && ctx.Err() == nil {
			r.d.p.Log.Debugf("count TLS sessions: %v", err)
		}
	}
}
