// Command filter-auth is a filter that checks who a message really comes from, by SPF
// (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489) and ARC (RFC 8617), writes what it found
// into Authentication-Results (RFC 8601), and refuses or marks what the rules say; see
// filter-auth(8).
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/opensmtpd/opensmtpd/filter"
)

func main() {
	var c checker
	flag.StringVar(&c.id, "i", "", "the `name` to give results under; default: the server's")
	flag.Func("p", "what to do about a result: `METHOD=RESULT:ACTION`; may be repeated", c.addRule)
	flag.Func("t", "trust what this `domain` sealed by ARC; may be repeated", c.addSealer)
	flag.DurationVar(&c.patience, "w", defaultPatience, "how long the checks of a message may take")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-auth [-i name] [-p method=result:action] ... [-t domain] ... [-w duration]")
		os.Exit(2)
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
	}
	filter.Main(&filter.Filter{Message: c.message})
}
