package relay

import (
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

// Bounds of what a Witness is told.
const (
	maxTold    = 1000 // domains of a connection
	maxWaiting = 100  // domains of a connection that did not get ready
)

// witness tells the Witness, if there is one, how the connection went for domains.
// Where TLS was not wanted there is nothing to tell.
func (c *conn) witness(domains []string, failure *DialError) {
	w, ok := c.e.desk.(Witness)
	if !ok || c.target.TLS.Mode == NoTLS {
		return
	}
	if c.told == nil {
		c.told = make(map[string]bool)
	}
	var news []string
	for _, d := range domains {
		if !c.told[d] && len(c.told) < maxTold {
			c.told[d] = true
			news = append(news, d)
		}
	}
	if len(news) > 0 {
		w.Session(c.target, c.caps, news, failure)
	}
}

// domainsOf returns the domains of recipients, in lower case.
func domainsOf(rcpts []*envelope.Envelope) []string {
	var out []string
	for _, e := range rcpts {
		if d := strings.ToLower(e.Dest.Domain); len(out) == 0 || out[len(out)-1] != d {
			out = append(out, d)
		}
	}
	return out
}

// waitingDomains returns the domains that wait for a connection like this.
func (c *conn) waitingDomains() []string {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	seen := make(map[string]bool)
	for _, t := range c.relay.tasks.all {
		for _, a := range t.waiting {
			if seen[strings.ToLower(a.Envelope.Dest.Domain)] = true; len(seen) >= maxWaiting {
				break
			}
		}
		if len(seen) >= maxWaiting {
			break
		}
	}
	out := make([]string, 0, len(seen))
	for d := range seen {
		out = append(out, d)
	}
	return out
}
