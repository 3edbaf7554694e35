// Command filter-ratelimit is a filter that bounds how much a user, a source or a
// destination may send in a time; see filter-ratelimit(8).
package main

import (
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
		fmt.Fprintln(os.Stderr, "usage: filter-ratelimit [-n] [-f file] [rule ...]")
		os.Exit(2)
	}
	flag.Parse()
	r, err := readRules(*file, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "filter-ratelimit:", err)
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
	r := new(rules)
	if err := rulefile.Read(file, args, r.add); err != nil {
		return nil, err
	}
	if len(r.limits) == 0 {
		return nil, fmt.Errorf("no limit is given")
	}
	return r, nil
}
