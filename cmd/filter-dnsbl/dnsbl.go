package main

import "github.com/opensmtpd/opensmtpd/filter"

// maxMessage is no bound: how long messages may be is the daemon's to say.
const maxMessage = 1 << 40

// client is what a session keeps: what the lists have of its client.
type client struct{ found findings }

// newFilter returns the filter for the rules.
func newFilter(r *rules) *filter.Filter {
	a := newAsker(r)
	f := &filter.Filter{MaxMessage: maxMessage}
	if len(a.zones(aboutClient)) > 0 {
		f.MailFrom = a.mailFrom
	}
	if len(a.zones(aboutDomain)) > 0 {
		f.Message = a.message
	}
	return f
}

// concerned tells whether lists are asked about a session. Users of this server send
// from anywhere, and addresses that are not of the Internet are in no list.
func (a *asker) concerned(s *filter.Session) bool {
	addr := s.Source.Addr().Unmap()
	return !s.Local && s.User == "" && addr.IsGlobalUnicast() && !addr.IsPrivate() && !a.networks.Contain(addr)
}

// mailFrom asks about the client, at its first message: only then it is known not to
// authenticate.
func (a *asker) mailFrom(s *filter.Session, _ string) filter.Verdict {
	if !a.concerned(s) {
		return filter.Proceed()
	}
	c, ok := s.Data.(*client)
	if !ok {
		addr := s.Source.Addr().Unmap().WithZone("")
		c = &client{a.ask(s, aboutClient, []subject{{addr.String(), reversed(addr)}})}
		s.Data = c
	}
	v, decided := a.decide(s, c.found, len(a.zones(aboutDomain)) == 0)
	if !decided {
		return filter.Proceed()
	}
	return v
}

// message asks about the domains that a message names, and adds what is known of the
// client.
func (a *asker) message(s *filter.Session, m *filter.Message) filter.Verdict {
	if !a.concerned(s) {
		return filter.Proceed()
	}
	var found findings
	if c, ok := s.Data.(*client); ok {
		found = append(found, c.found...)
	}
	var subjects []subject
	for _, name := range domains(m.Reader()) {
		if !a.exemptDomain(name) {
			subjects = append(subjects, subject{name, name})
		}
	}
	found = append(found, a.ask(s, aboutDomain, subjects)...)
	v, _ := a.decide(s, found, true)
	return v
}

// decide answers by the score, if that is enough for an answer or, when it is the last
// word, in any case.
func (a *asker) decide(s *filter.Session, found findings, last bool) (v filter.Verdict, decided bool) {
	score := found.score()
	switch {
	case len(found) == 0:
		return filter.Proceed(), last
	case a.reject > 0 && score >= a.reject:
		s.Logf("refused: score %d: %v", score, found)
		worst := found.worst()
		text := "Refused: " + worst.subject + " is listed by " + worst.zone
		if reason := a.reason(s, worst); reason != "" {
			text += ": " + reason
		}
		return filter.Reject(550, "5.7.1", text), true
	case !last:
		return filter.Proceed(), false
	case a.junk > 0 && score >= a.junk:
		s.Logf("junk: score %d: %v", score, found)
		return filter.Junk(), true
	}
	s.Logf("score %d: %v", score, found)
	return filter.Proceed(), true
}
