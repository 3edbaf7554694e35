package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
)

const (
	// maxLookups and, for short deadlines, maxRate bound the lookups that are under way
	// for all sessions. More wait, as long as their deadline lets them. A daemon knows
	// nothing of our deadline: it looks for up to 30 seconds, for 4096 questions.
	maxLookups = 512
	maxRate    = 100 // a second of the deadline
	// reasonTimeout bounds the lookup of a list's reason.
	reasonTimeout = 3 * time.Second
	maxReason     = 200 // bytes of it that are told
)

// asker asks the lists.
type asker struct {
	*rules
	slots chan struct{} // as many as there may be lookups

	mu   sync.Mutex
	told map[string]bool // guarded by mu; zones and what of them was logged
}

func newAsker(r *rules) *asker {
	slots := min(maxLookups, maxRate*int(r.timeout/time.Second))
	return &asker{rules: r, slots: make(chan struct{}, slots), told: make(map[string]bool)}
}

// hit is a list that has something.
type hit struct {
	*list
	subject string // the address or domain
	query   string // the name that was asked
	answer  netip.Addr
}

// findings are what the lists have of a client or a message.
type findings []hit

// score adds the weights of the lists.
func (f findings) score() int {
	n := 0
	for _, h := range f {
		n += h.weight
	}
	return n
}

// worst returns the hit that weighs most.
func (f findings) worst() hit {
	worst := f[0]
	for _, h := range f {
		if h.weight > worst.weight {
			worst = h
		}
	}
	return worst
}

// String returns the findings for the log.
func (f findings) String() string {
	var b strings.Builder
	for i, h := range f {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s by %s (%v, weight %d)", h.subject, h.zone, h.answer, h.weight)
	}
	return b.String()
}

// subject is what lists are asked about: label is what stands in front of their zone.
type subject struct{ name, label string }

// ask asks all lists of one kind about all subjects at the same time. A list counts
// once, by the first subject that it has; one that gives no answer counts nothing.
func (a *asker) ask(s *filter.Session, about string, subjects []subject) findings {
	ctx, cancel := context.WithTimeout(s.Context(), a.timeout)
	defer cancel()
	zones := a.zones(about)
	answers := make([][]netip.Addr, len(zones)*len(subjects))
	var asking sync.WaitGroup
	for i, zone := range zones {
		for j, subject := range subjects {
			asking.Go(func() { answers[i*len(subjects)+j] = a.lookup(ctx, s, zone, subject.label) })
		}
	}
	asking.Wait()
	var found findings
	for n := range a.lists {
		l := &a.lists[n]
		if l.about != about {
			continue
		}
		for i, zone := range zones {
			if zone == l.zone {
				found = appendHit(found, l, subjects, answers[i*len(subjects):])
			}
		}
	}
	return found
}

// appendHit appends the first subject that l has; answers are by subject.
func appendHit(found findings, l *list, subjects []subject, answers [][]netip.Addr) findings {
	for j, subject := range subjects {
		for _, answer := range answers[j] {
			if l.counts(answer) {
				return append(found, hit{l, subject.name, subject.label + "." + l.zone, answer})
			}
		}
	}
	return found
}

// lookup returns the answers of one list that mean something.
func (a *asker) lookup(ctx context.Context, s *filter.Session, zone, label string) []netip.Addr {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return nil
	}
	texts, err := s.LookupHost(ctx, absolute(label+"."+zone))
	if err != nil {
		if dns, ok := errors.AsType[*net.DNSError](err); (!ok || !dns.IsNotFound) && s.Context().Err() == nil {
			a.logOnce(s, zone, "does not answer and counts nothing: "+err.Error())
		} else if ok && dns.IsNotFound {
			a.answers(zone)
		}
		return nil
	}
	a.answers(zone)
	var answers []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		switch addr = addr.Unmap(); {
		case err != nil || addr.Is6(): // lists have IPv4 addresses
		case !answerRange(addr):
			a.logOnce(s, zone, "is no list: it answers "+text)
		case refusal(addr):
			a.logOnce(s, zone, "refuses to answer this resolver: "+text)
		default:
			answers = append(answers, addr)
		}
	}
	return answers
}

// absolute keeps a resolver from trying a name below its own domains.
func absolute(name string) string { return name + "." }

// logOnce logs a complaint about a zone, unless it was logged.
func (a *asker) logOnce(s *filter.Session, zone, complaint string) {
	key := zone + " " + complaint[:strings.IndexByte(complaint, ':')]
	a.mu.Lock()
	told := a.told[key]
	a.told[key] = true
	a.mu.Unlock()
	if !told {
		s.Logf("%s %s", zone, complaint)
	}
}

// answers has the next failure of a zone logged again.
func (a *asker) answers(zone string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.told, zone+" does not answer and counts nothing")
}

// reason returns why a list has something, in its words, or nothing.
func (a *asker) reason(s *filter.Session, h hit) string {
	ctx, cancel := context.WithTimeout(s.Context(), reasonTimeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return ""
	}
	texts, err := s.LookupTXT(ctx, absolute(h.query))
	if err != nil || len(texts) == 0 {
		return ""
	}
	return clean(texts[0])
}

// clean makes a text fit for a reply: printable ASCII, not too long.
func clean(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// reversed returns an address as lists have it (RFC 5782 sections 2.1 and 2.4).
func reversed(addr netip.Addr) string {
	var b strings.Builder
	if addr.Is4() {
		o := addr.As4()
		fmt.Fprintf(&b, "%d.%d.%d.%d", o[3], o[2], o[1], o[0])
		return b.String()
	}
	o := addr.As16()
	for i := len(o) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%x.%x.", o[i]&15, o[i]>>4)
	}
	return strings.TrimSuffix(b.String(), ".")
}
