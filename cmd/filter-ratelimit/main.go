// Command filter-ratelimit is a filter that bounds how much a user, a source or a
// destination may send in a time; see filter-ratelimit(8).
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"

	"github.com/opensmtpd/opensmtpd/filter"
)

// maxFile bounds the file of rules, in bytes.
const maxFile = 1 << 20

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
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if len(text) > maxFile {
			return nil, fmt.Errorf("%s: longer than %d bytes", file, maxFile)
		}
		n := 0
		for line := range bytes.Lines(text) {
			n++
			if err := r.add(string(line)); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
		}
	}
	for _, arg := range args {
		if err := r.add(arg); err != nil {
			return nil, fmt.Errorf("%q: %w", arg, err)
		}
	}
	if len(r.limits) == 0 {
		return nil, fmt.Errorf("no limit is given")
	}
	return r, nil
}
