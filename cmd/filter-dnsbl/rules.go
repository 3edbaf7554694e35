package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = time.Minute
	maxLists       = 32
	maxWeight      = 1000
)

// What a list is asked about.
const (
	aboutClient = "client"
	aboutDomain = "domain"
)

// rules are the lists that are asked, and what their answers lead to.
type rules struct {
	lists        []list
	junk, reject int // scores from which; 0: never
	timeout      time.Duration
	networks     rulefile.Networks // of clients that are not asked about
	domains      []string          // that are not asked about
}

// list is a zone of the DNS, what it is asked about, and what an answer counts.
type list struct {
	about   string
	zone    string
	answers []span // that count; those of RFC 5782 if there are none
	weight  int    // less than zero for a list of good ones
}

// span is a range of addresses, both ends in it.
type span struct{ first, last netip.Addr }

// counts tells whether an answer is one of those that count.
func (l *list) counts(answer netip.Addr) bool {
	return slices.ContainsFunc(l.answers, func(s span) bool {
		return answer.Compare(s.first) >= 0 && answer.Compare(s.last) <= 0
	})
}

// add reads one rule:
//
//	client|domain ZONE[=ANSWERS] [WEIGHT]
//	junk|reject SCORE
//	timeout PERIOD
//	exempt NETWORK
//	exempt domain NAME
func (r *rules) add(f []string) error {
	switch {
	case (f[0] == aboutClient || f[0] == aboutDomain) && (len(f) == 2 || len(f) == 3):
		return r.addList(f[0], f[1], f[2:])
	case (f[0] == "junk" || f[0] == "reject") && len(f) == 2:
		n, err := strconv.Atoi(f[1])
		if err != nil || n < 1 || n > maxLists*maxWeight {
			return fmt.Errorf("not a score of 1 or more: %s", f[1])
		}
		if f[0] == "junk" {
			r.junk = n
		} else {
			r.reject = n
		}
		return nil
	case f[0] == "timeout" && len(f) == 2:
		d, err := rulefile.Period(f[1])
		if err == nil && d > maxTimeout {
			err = fmt.Errorf("longer than %v: %s", maxTimeout, f[1])
		}
		r.timeout = d
		return err
	case f[0] == "exempt" && len(f) == 3 && f[1] == aboutDomain:
		name := strings.ToLower(f[2])
		if !validName(name) {
			return fmt.Errorf("not a domain: %s", f[2])
		}
		r.domains = append(r.domains, name)
		return nil
	case f[0] == "exempt" && len(f) == 2:
		return r.networks.Add(f[1])
	}
	return errors.New("expected client|domain LIST[=ANSWERS] [WEIGHT], junk|reject SCORE, timeout PERIOD, exempt NETWORK or exempt domain NAME")
}

func (r *rules) addList(about, where string, weight []string) error {
	if len(r.lists) == maxLists {
		return fmt.Errorf("more than %d lists", maxLists)
	}
	zone, answers, given := strings.Cut(where, "=")
	l := list{about: about, zone: strings.ToLower(strings.TrimSuffix(zone, ".")), weight: 1}
	if !validName(l.zone) {
		return fmt.Errorf("not a domain: %s", zone)
	}
	if !given {
		// RFC 5782 section 2.1: listed is 127.0.0.2 and what is like it; 127.0.0.1 is
		// never listed. Above are the messages of lists to those who ask.
		answers = "127.0.0.2-127.255.254.255"
	}
	for part := range strings.SplitSeq(answers, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		s, err := parseSpan(first, last)
		if err != nil {
			return err
		}
		l.answers = append(l.answers, s)
	}
	if len(weight) == 1 {
		n, err := strconv.Atoi(weight[0])
		if err != nil || n == 0 || n < -maxWeight || n > maxWeight {
			return fmt.Errorf("not a weight within -%d and %d, without 0: %s", maxWeight, maxWeight, weight[0])
		}
		l.weight = n
	}
	r.lists = append(r.lists, l)
	return nil
}

func parseSpan(first, last string) (span, error) {
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	if err1 != nil || err2 != nil || a.Compare(b) > 0 || !answerRange(a) || !answerRange(b) {
		return span{}, fmt.Errorf("not an answer or a range of answers within 127.0.0.0/8: %s-%s", first, last)
	}
	return span{a, b}, nil
}

// answerRange tells whether lists answer so. What is not in 127.0.0.0/8 is the answer of
// somebody else, such as who sells the zone's name (RFC 5782 section 2.1).
func answerRange(a netip.Addr) bool { return a.Is4() && a.As4()[0] == 127 }

// refusal tells whether an answer says that the list does not answer who asks.
func refusal(a netip.Addr) bool {
	b := a.As4()
	return b[0] == 127 && b[1] == 255 && b[2] == 255
}

// validName tells whether s is a name of two labels or more, in lower case.
func validName(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// zones returns the zones to be asked, each once.
func (r *rules) zones(about string) []string {
	var zones []string
	for _, l := range r.lists {
		if l.about == about && !slices.Contains(zones, l.zone) {
			zones = append(zones, l.zone)
		}
	}
	return zones
}

// exemptDomain tells whether a name is, or is below, one that is not asked about.
func (r *rules) exemptDomain(name string) bool {
	return slices.ContainsFunc(r.domains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}
