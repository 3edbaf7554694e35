package submit

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/getopt"
)

// options lists the letters of sendmail's command line: those of OpenSMTPD, and
// those of other systems' that programs use out of habit, which change nothing here.
const options = "A:B:b:C:d::E::e:F:f:Gh:iL:mN:nO:o:p:q::R:r:StUV:vX:x"

// Command is a command line of sendmail.
type Command struct {
	Request
	Verbose  bool // -v: show the dialogue
	NoSpool  bool // -S: do not keep the message while there is no daemon
	RunQueue bool // -q
	Mode     byte // of -b: m (the default), s, p, i …
}

// ParseArgs reads the arguments of sendmail, program name not included.
func ParseArgs(args []string) (Command, error) {
	c := Command{Mode: 'm'}
	opts, rest, err := getopt.Parse(args, options)
	if err != nil {
		return c, err
	}
	for _, o := range opts {
		switch o.Letter {
		case 'b':
			if c.Mode, err = mode(c.Mode, o.Arg); err != nil {
				return c, err
			}
		case 'F':
			c.FullName = o.Arg
		case 'f', 'r':
			if c.Sender = o.Arg; strings.TrimSpace(o.Arg) == "" {
				c.Sender = "<>"
			}
		case 'N':
			c.Notify = o.Arg
		case 'q':
			c.RunQueue = true
		case 'R':
			c.Ret = o.Arg
		case 'S':
			c.NoSpool = true
		case 't':
			c.FromHeader = true
		case 'V':
			c.EnvelopeID = o.Arg
		case 'v':
			c.Verbose = true
		}
	}
	c.Recipients = rest
	return c, nil
}

// mode reads the argument of -b. Modes that only say how mail is handed over mean
// the usual one.
func mode(old byte, arg string) (byte, error) {
	if len(arg) != 1 {
		return old, fmt.Errorf("unknown mode -b%s", arg)
	}
	switch arg[0] {
	case 'a', 'm':
		return old, nil
	case 'i', 'p', 's':
		return arg[0], nil
	case 'd', 'D':
		return old, fmt.Errorf("-b%s: start smtpd(8) instead", arg)
	}
	return old, fmt.Errorf("mode -b%s is not supported", arg)
}

// errUnspoolable says that an argument cannot stand in an offline file.
var errUnspoolable = errors.New(`an argument holds "|" or a line break and cannot be kept while smtpd is down`)

// spoolArgs returns the arguments under which the message can be submitted later by
// another process of the same user.
func (s *Submission) spoolArgs(r Request) ([]string, error) {
	args := []string{"-f", s.Sender.String()}
	if s.Sender.IsNull() {
		args[1] = "<>"
	}
	name := r.FullName
	if strings.ContainsAny(name, "|\r\n") {
		name = strings.Map(func(c rune) rune {
			if c == '|' || c == '\r' || c == '\n' {
				return ' '
			}
			return c
		}, name)
	}
	for _, o := range []struct{ letter, value string }{{"-F", name}, {"-N", s.Notify}, {"-R", s.Ret}, {"-V", s.EnvelopeID}} {
		if o.value != "" {
			args = append(args, o.letter, o.value)
		}
	}
	if r.FromHeader {
		args = append(args, "-t")
	}
	args = append(append(args, "--"), r.Recipients...)
	for _, a := range args {
		if strings.ContainsAny(a, "|\r\n\x00") {
			return nil, errUnspoolable
		}
	}
	return args, nil
}

// parseSpoolLine reads the first line of an offline file.
func parseSpoolLine(line string, written time.Time) (Request, error) {
	c, err := ParseArgs(strings.Split(line, "|"))
	if err != nil {
		return Request{}, err
	}
	if c.Mode != 'm' {
		return Request{}, fmt.Errorf("mode -b%c in an offline file", c.Mode)
	}
	c.Date = written
	return c.Request, nil
}
