// Package rulefile reads the rules of the filters that ship with the daemon: one a
// line, in words, from arguments and from a file in which # begins a comment.
//
//	exempt 192.0.2.0/24     # a line
package rulefile

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxFile bounds the file of rules, in bytes.
const maxFile = 1 << 20

// MaxPeriod is the longest period.
const MaxPeriod = 366 * 24 * time.Hour

// Read calls add with the words of each rule: those of the file, unless its name is
// empty, and then those of the arguments. Lines without words are left out. An error
// says where it is.
func Read(file string, args []string, add func(words []string) error) error {
	if file != "" {
		text, err := readFile(file)
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(text) {
			n++
			if err := addLine(line, add); err != nil {
				return fmt.Errorf("%s:%d: %w", file, n, err)
			}
		}
	}
	for _, arg := range args {
		if err := addLine(arg, add); err != nil {
			return fmt.Errorf("%q: %w", arg, err)
		}
	}
	return nil
}

func readFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: longer than %d bytes", file, maxFile)
	}
	return string(text), err
}

func addLine(line string, add func(words []string) error) error {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	return add(words)
}

// Period reads a unit (second, minute, hour, day, or its first letter), with a number
// in front or not. It is from a second to MaxPeriod.
func Period(s string) (time.Duration, error) {
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
	if n < 1 || n > int(MaxPeriod/one) {
		return 0, fmt.Errorf("not within 1s and %dd: %s", int(MaxPeriod/(24*time.Hour)), s)
	}
	return time.Duration(n) * one, nil
}

// Networks are networks and addresses.
type Networks []netip.Prefix

// Add reads an address or a network.
func (n *Networks) Add(s string) error {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap().WithZone("")
		*n = append(*n, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("not a network: %s", s)
	}
	*n = append(*n, p.Masked())
	return nil
}

// Contain tells whether an address is in one of the networks.
func (n Networks) Contain(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(addr) })
}
