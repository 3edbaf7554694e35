package dsn

import (
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// Notice is one recipient to be reported on.
type Notice struct {
	Envelope  *envelope.Envelope
	Type      envelope.BounceType
	Recipient Recipient
}

// Group is the notices that make one notification. All are about one message from
// one sender.
type Group struct {
	Type    envelope.BounceType
	Notices []Notice
}

// Collector gathers the notices about one message, so that a message that fails for
// a thousand recipients makes one notification. It holds nothing that is not in the
// store: what is in it when the process ends is found there again. It is not safe
// for calls at the same time. Times are passed in.
type Collector struct {
	// Window is how long a group waits for another notice; it starts again with each,
	// but a group waits ten times as long at most.
	window time.Duration
	max    int
	groups map[groupKey]*pending
	order  []*pending // in the order in which they began
	full   []Group
	wake   time.Time // no group is ready before; zero: none waits
}

type groupKey struct {
	msg    envelope.MsgID
	typ    envelope.BounceType
	sender smtp.Path
	name   string
	ret    string
	envID  string
	utf8   bool
}

type pending struct {
	key         groupKey
	group       Group
	began, last time.Time
}

// NewCollector returns an empty Collector. window defaults to 1 s, max, the most
// notices in one group, to 1000.
func NewCollector(window time.Duration, max int) *Collector {
	if window <= 0 {
		window = time.Second
	}
	if max <= 0 {
		max = 1000
	}
	return &Collector{window: window, max: max, groups: map[groupKey]*pending{}}
}

// Add takes a notice and returns when to call Take: now when a group is full, else
// not after the first group is ready.
func (c *Collector) Add(n Notice, now time.Time) time.Time {
	e := n.Envelope
	k := groupKey{
		msg: e.ID.MsgID(), typ: n.Type, sender: e.Sender, name: e.SMTPName, ret: e.Ret, envID: e.EnvID,
		utf8: e.Flags&envelope.UTF8 != 0,
	}
	p := c.groups[k]
	if p == nil {
		p = &pending{key: k, group: Group{Type: n.Type}, began: now}
		c.groups[k] = p
		c.order = append(c.order, p)
	}
	p.group.Notices = append(p.group.Notices, n)
	p.last = now
	if len(p.group.Notices) >= c.max {
		c.full = append(c.full, p.group)
		delete(c.groups, k)
		p.group.Notices = nil // dropped from order by the next Take
		c.wake = now
		return now
	}
	if at := c.due(p); c.wake.IsZero() || at.Before(c.wake) {
		c.wake = at
	}
	return c.wake
}

// due returns when a group is ready.
func (c *Collector) due(p *pending) time.Time {
	at, latest := p.last.Add(c.window), p.began.Add(10*c.window)
	if latest.Before(at) {
		return latest
	}
	return at
}

// Take returns the groups that are ready at now, oldest first, and when to ask
// again, zero when nothing waits.
func (c *Collector) Take(now time.Time) (ready []Group, wake time.Time) {
	ready, c.full = c.full, nil
	rest := c.order[:0]
	for _, p := range c.order {
		at := c.due(p)
		switch {
		case len(p.group.Notices) == 0:
		case !now.Before(at):
			ready = append(ready, p.group)
			delete(c.groups, p.key)
		default:
			rest = append(rest, p)
			if wake.IsZero() || at.Before(wake) {
				wake = at
			}
		}
	}
	clear(c.order[len(rest):])
	c.order, c.wake = rest, wake
	return ready, wake
}

// Len returns how many groups wait.
func (c *Collector) Len() int { return len(c.groups) + len(c.full) }
