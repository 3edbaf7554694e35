package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rules are what is limited, and whom it does not concern.
type rules struct {
	limits   []limit
	networks []netip.Prefix
	users    []string
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

// add reads one line of rules: nothing, a comment, or one of
//
//	user|source|destination connections|messages|recipients COUNT/PERIOD
//	exempt NETWORK
//	exempt user NAME
func (r *rules) add(line string) error {
	line, _, _ = strings.Cut(line, "#")
	f := strings.Fields(line)
	switch {
	case len(f) == 0:
		return nil
	case f[0] == "exempt" && len(f) == 3 && f[1] == "user":
		r.users = append(r.users, f[2])
		return nil
	case f[0] == "exempt" && len(f) == 2:
		p, err := parseNetwork(f[1])
		r.networks = append(r.networks, p)
		return err
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
	if l.period, err = parsePeriod(period); err != nil {
		return err
	}
	r.limits = append(r.limits, l)
	return nil
}

// parsePeriod reads a unit (second, minute, hour, day, or its first letter), with a
// number in front or not.
func parsePeriod(s string) (time.Duration, error) {
	unit := strings.TrimLeft(s, "0123456789")
	n := 1
	if digits := s[:len(s)-len(unit)]; digits != "" {
		var err error
		if n, err = strconv.Atoi(digits); err != nil {
			return 0, fmt.Errorf("not a period: %s", s)
		}
	}
	var one time.Duration
	switch strings.TrimSuffix(unit, "s") {
	case "", "second", "sec":
		if unit == "" {
			return 0, fmt.Errorf("a period needs a unit: %s", s)
		}
		one = time.Second
	case "m", "min", "minute":
		one = time.Minute
	case "h", "hour":
		one = time.Hour
	case "d", "day":
		one = 24 * time.Hour
	default:
		return 0, fmt.Errorf("not a period: %s", s)
	}
	if n < 1 || n > int(maxPeriod/one) {
		return 0, fmt.Errorf("not within 1s and 31d: %s", s)
	}
	return time.Duration(n) * one, nil
}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr.WithZone(""), addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("not a network: %s", s)
	}
	return p.Masked(), nil
}

// exempt tells whether no rule concerns a user or a source.
func (r *rules) exempt(user string, source netip.Addr) bool {
	return user != "" && slices.Contains(r.users, user) ||
		slices.ContainsFunc(r.networks, func(p netip.Prefix) bool { return p.Contains(source) })
}
