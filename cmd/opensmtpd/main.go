// Command opensmtpd is the mail transfer agent, installed as smtpd. It reads
// smtpd.conf, cuts it into the slices of the processes, and starts them: each from
// this same executable, or all in one process when the user is not root. This is
// the one place where packages are wired together.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// version is set by the linker for releases.
var version = "8.0.0-dev"

func main() { os.Exit(run(os.Args)) }

// flags is the command line.
type flags struct {
	check      bool // -n
	foreground bool // -d or -F
	stderr     bool // -d
	verbose    bool // -v
	config     string
	macros     []string
	pause      []string
	trace      []string
	json       bool
	sandbox    string            // -o sandbox=
	dirs       map[string]string // -o spool=, run=, mail=
	net        network           // -o resolver=, loopback=
	role       string            // -x
}

const usageText = "usage: smtpd [-dFhnv] [-D macro=value] [-f file] [-o option] [-P system] [-T trace]\n" +
	"       smtpd quickstart [-p port] [directory]\n" +
	"       smtpd service install|uninstall|start|stop|status"

func run(args []string) int {
	if len(args) > 1 && args[1] == "quickstart" {
		return quickstart(args[2:])
	}
	if len(args) > 1 && args[1] == "service" {
		return manageService(args[2:])
	}
	f, err := parseFlags(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch {
	case f.role != "":
		return runRole(f)
	case f.check:
		return check(f)
	}
	return serve(f)
}

func parseFlags(args []string) (*flags, error) {
	f := &flags{dirs: map[string]string{}}
	options, rest, err := getopt.Parse(args, "dFhnvD:f:o:P:T:x:")
	if err != nil {
		return nil, fmt.Errorf("smtpd: %w\n%s", err, usageText)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("smtpd: unexpected argument %q\n%s", rest[0], usageText)
	}
	for _, o := range options {
		switch o.Letter {
		case 'd':
			f.foreground, f.stderr = true, true
		case 'F':
			f.foreground = true
		case 'h':
			return nil, fmt.Errorf("version: OpenSMTPD %s\n%s", version, usageText)
		case 'n':
			f.check = true
		case 'v':
			f.verbose = true
		case 'D':
			if !strings.Contains(o.Arg, "=") {
				return nil, fmt.Errorf("smtpd: -D %s: want macro=value", o.Arg)
			}
			f.macros = append(f.macros, o.Arg)
		case 'f':
			f.config = o.Arg
		case 'o':
			if err := f.option(o.Arg); err != nil {
				return nil, err
			}
		case 'P':
			if !slices.Contains([]string{"mda", "mta", "smtp"}, o.Arg) {
				return nil, fmt.Errorf("smtpd: -P %s: want mda, mta or smtp", o.Arg)
			}
			f.pause = append(f.pause, o.Arg)
		case 'T':
			for name := range strings.SplitSeq(o.Arg, ",") {
				subsystem := proto.Subsystem(name)
				if subsystem == "" {
					return nil, fmt.Errorf("smtpd: -T %s: want %s", name, strings.Join(proto.Subsystems, ", "))
				}
				f.trace = append(f.trace, subsystem)
			}
		case 'x':
			f.role = o.Arg
		}
	}
	return f, nil
}

// sandboxes are the values of -o sandbox=.
var sandboxes = map[string]platform.Sandbox{"": platform.SandboxOn, "trace": platform.SandboxTrace, "off": platform.SandboxOff}

// option reads one -o: "json", the place of a directory, or what becomes of the sandbox.
func (f *flags) option(arg string) error {
	name, value, _ := strings.Cut(arg, "=")
	switch name {
	case "json":
		f.json = true
	case "spool", "run", "mail", "libexec":
		if !strings.HasPrefix(value, "/") {
			return fmt.Errorf("smtpd: -o %s: want an absolute path", arg)
		}
		f.dirs[name] = value
	case "resolver", "loopback":
		if err := f.net.set(name, value); err != nil {
			return fmt.Errorf("smtpd: -o %s: %w", arg, err)
		}
	case "sandbox":
		if _, ok := sandboxes[value]; !ok || value == "" {
			return fmt.Errorf("smtpd: -o %s: want sandbox=trace or sandbox=off", arg)
		}
		f.sandbox = value
	default:
		return fmt.Errorf("smtpd: -o %s: want json, sandbox=trace, sandbox=off, spool=DIR, run=DIR, mail=DIR, libexec=DIR, resolver=ADDRESS:PORT or loopback=PORT:PORT", arg)
	}
	return nil
}
