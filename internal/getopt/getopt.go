// Package getopt reads command lines as getopt(3) does (POSIX.1-2017, XBD 12.2):
// letters may be joined (-dv), an argument may be joined to its letter (-ffile),
// "--" ends the options, and so does the first operand.
package getopt

import (
	"fmt"
	"strings"
)

// Option is one option met.
type Option struct {
	Letter byte
	Arg    string // of a letter that takes one
}

// Parse reads args, the command line without the program's name. spec lists the
// letters; one followed by a colon takes an argument, one followed by two colons
// takes one only when it is joined to the letter. It returns the options in order
// and the operands that follow them.
func Parse(args []string, spec string) (options []Option, operands []string, err error) {
	for len(args) > 0 {
		a := args[0]
		if len(a) < 2 || a[0] != '-' {
			return options, args, nil
		}
		args = args[1:]
		if a == "--" {
			return options, args, nil
		}
		for a = a[1:]; a != ""; a = a[1:] {
			c := a[0]
			i := strings.IndexByte(spec, c)
			if c == ':' || i < 0 {
				return options, args, fmt.Errorf("unknown option -- %c", c)
			}
			if i+1 >= len(spec) || spec[i+1] != ':' {
				options = append(options, Option{Letter: c})
				continue
			}
			arg := a[1:]
			if arg == "" && !strings.HasPrefix(spec[i+1:], "::") {
				if len(args) == 0 {
					return options, args, fmt.Errorf("option requires an argument -- %c", c)
				}
				arg, args = args[0], args[1:]
			}
			options = append(options, Option{c, arg})
			break
		}
	}
	return options, args, nil
}
