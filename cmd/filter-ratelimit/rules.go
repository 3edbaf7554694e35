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

// rules are what is limited, and whom it does not concern.
type rules struct {
	limits   []limit
	networks rulefile.Networks
	users    []string // in lower case
}

// limit bounds how much of something goes on with one user, source or destination.
type limit struct {
	who    string // user, source, destination
	what   string // connections, messages, recipients
	count  int
	period time.Duration
}

// String returns the limit as it is written in the rules.
func (l limit) String() string {
	return fmt.Sprintf("%s %s %d/%v", l.who, l.what, l.count, l.period)
}

// What a count and a period are at most.
const (
	maxCount  = 1_000_000
	maxPeriod = 31 * 24 * time.Hour
)

// add reads the words of one rule:
//
//	user|source|destination connections|messages|recipients COUNT/PERIOD
//	exempt NETWORK
//	exempt user NAME
func (r *rules) add(f []string) error {
	switch {
	case f[0] == "exempt" && len(f) == 3 && f[1] == "user":
		r.users = append(r.users, strings.ToLower(f[2]))
		return nil
	case f[0] == "exempt" && len(f) == 2:
		return r.networks.Add(f[1])
	case len(f) != 3:
		return errors.New("expected WHO WHAT COUNT/PERIOD or exempt NETWORK or exempt user NAME")
	}
	l := limit{who: f[0], what: f[1]}
	switch l.who + " " + l.what {
	case "user messages", "user recipients", "source connections", "source messages", "source recipients", "destination recipients":
	default:
		return fmt.Errorf("no such limit: %s %s", l.who, l.what)
	}
	count, period, ok := strings.Cut(f[2], "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 || n > maxCount {
		return fmt.Errorf("not a count and a period: %s", f[2])
	}
	l.count = n
	if l.period, err = rulefile.Period(period); err != nil {
		return err
	}
	if l.period > maxPeriod {
		return fmt.Errorf("longer than 31d: %s", period)
	}
	r.limits = append(r.limits, l)
	return nil
}

// exempt tells whether no rule concerns a user or a source.
func (r *rules) exempt(user string, source netip.Addr) bool {
	return user != "" && slices.Contains(r.users, strings.ToLower(user)) || r.networks.Contain(source)
}
