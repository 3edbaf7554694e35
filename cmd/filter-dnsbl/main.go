// Command filter-dnsbl is a filter that asks DNS lists about clients (RFC 5782) and
// about the domains that a message names; see filter-dnsbl(8).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

func main() {
	file := flag.String("f", "", "read rules from this `file`")
	check := flag.Bool("n", false, "check the rules and exit")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-dnsbl [-n] [-f file] [rule ...]")
		os.Exit(2)
	}
	flag.Parse()
	r, err := readRules(*file, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "filter-dnsbl:", err)
		os.Exit(1)
	}
	if *check {
		fmt.Fprintln(os.Stderr, "rules OK")
		return
	}
	filter.Main(newFilter(r))
}

// readRules reads the rules of a file, if there is one, and of arguments.
func readRules(file string, args []string) (*rules, error) {
	r := &rules{timeout: defaultTimeout}
	if err := rulefile.Read(file, args, r.add); err != nil {
		return nil, err
	}
	if len(r.lists) == 0 {
		return nil, errors.New("no list is given")
	}
	if r.junk == 0 && r.reject == 0 {
		r.reject = 1
	}
	return r, nil
}
