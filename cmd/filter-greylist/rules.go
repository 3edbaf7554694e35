package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

const (
	defaultEntries = 100_000
	maxEntries     = 1_000_000
	maxDeliveries  = 1_000_000
)

// rules say whose mail waits, and how long.
type rules struct {
	delay   time.Duration // until mail is taken
	window  time.Duration // in which it must come again
	expire  time.Duration // after which what was not used is forgotten
	auto    int           // deliveries after which a network need not wait; 0: never
	entries int           // that are kept, of tuples and of networks

	networks   rulefile.Networks
	recipients []string // "joe@example.org" and "@example.org", in lower case
	names      []string // confirmed names of clients, ".example.org" for all below it
	confirmed  bool     // all clients with a confirmed name are exempt
}

func defaults() *rules {
	return &rules{delay: 5 * time.Minute, window: 48 * time.Hour, expire: 36 * 24 * time.Hour, auto: 5, entries: defaultEntries}
}

// add reads one rule:
//
//	delay|window|expire PERIOD
//	auto|entries NUMBER
//	exempt NETWORK
//	exempt recipient ADDRESS|@DOMAIN
//	exempt name NAME|.DOMAIN
//	exempt confirmed
func (r *rules) add(f []string) error {
	periods := map[string]*time.Duration{"delay": &r.delay, "window": &r.window, "expire": &r.expire}
	switch {
	case len(f) == 2 && periods[f[0]] != nil:
		d, err := rulefile.Period(f[1])
		*periods[f[0]] = d
		return err
	case len(f) == 2 && f[0] == "auto":
		return number(&r.auto, f[1], 0, maxDeliveries)
	case len(f) == 2 && f[0] == "entries":
		return number(&r.entries, f[1], 100, maxEntries)
	case f[0] != "exempt":
	case len(f) == 2 && f[1] == "confirmed":
		r.confirmed = true
		return nil
	case len(f) == 2:
		return r.networks.Add(f[1])
	case len(f) == 3 && f[1] == "recipient":
		if !strings.Contains(f[2], "@") {
			return fmt.Errorf("neither an address nor @DOMAIN: %s", f[2])
		}
		r.recipients = append(r.recipients, strings.ToLower(f[2]))
		return nil
	case len(f) == 3 && f[1] == "name":
		r.names = append(r.names, strings.ToLower(strings.TrimSuffix(f[2], ".")))
		return nil
	}
	return errors.New("expected delay|window|expire PERIOD, auto|entries NUMBER, exempt NETWORK, exempt recipient ADDRESS, exempt name NAME or exempt confirmed")
}

func number(to *int, s string, least, most int) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return fmt.Errorf("not a number within %d and %d: %s", least, most, s)
	}
	*to = n
	return nil
}

// exemptClient tells whether the mail of a session need not wait: that of users of this
// server, and of clients that the rules name.
func (r *rules) exemptClient(s *filter.Session) bool {
	if s.Local || s.User != "" || !s.Source.IsValid() || r.networks.Contain(s.Source.Addr()) {
		return true
	}
	if s.FCrDNS != filter.Pass || s.RDNS == "" {
		return false
	}
	name := strings.ToLower(strings.TrimSuffix(s.RDNS, "."))
	return r.confirmed || slices.ContainsFunc(r.names, func(n string) bool {
		return name == n || strings.HasPrefix(n, ".") && strings.HasSuffix(name, n)
	})
}

// exemptRecipient tells whether mail for an address, in lower case, need not wait.
func (r *rules) exemptRecipient(address string) bool {
	return slices.ContainsFunc(r.recipients, func(x string) bool {
		return address == x || x[0] == '@' && strings.HasSuffix(address, x)
	})
}
