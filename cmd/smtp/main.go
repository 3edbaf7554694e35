// Command smtp sends a message, which it reads from its standard input, to an SMTP
// or LMTP server; see smtp(1).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/smtp/client"
)

func main() {
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.main(context.Background(), os.Args[1:]))
}

const usageText = "usage: smtp [-Chnv] [-a authfile] [-F from] [-H helo] [-s server] [-S name] [-T params] [recipient ...]\n"

// program is one call of the command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	target      target
	name        string // -H
	sender      smtp.Path
	rcpts       []smtp.Path
	params      tlsParams
	credentials *client.Credentials
	connectOnly bool // -n
	verbose     bool // -v
}

// main runs the command and returns the exit status: 0 when every recipient was
// accepted.
func (p *program) main(ctx context.Context, args []string) int {
	options, operands, err := getopt.Parse(args, "a:CF:hH:nS:s:T:v")
	if err == nil {
		for _, o := range options {
			if o.Letter == 'h' {
				_, _ = io.WriteString(p.stdout, usageText)
				return 0
			}
		}
		err = p.configure(options, operands)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "smtp: %v\n%s", err, usageText)
		return 1
	}
	ok, err := p.run(ctx)
	if err != nil {
		fmt.Fprintf(p.stderr, "smtp: %v\n", err)
	}
	if err != nil || !ok {
		return 1
	}
	return 0
}

// configure takes the command line.
func (p *program) configure(options []getopt.Option, operands []string) error {
	server := "localhost"
	from, authFile := "", ""
	fromGiven := false
	p.params.verify = true
	for _, o := range options {
		var err error
		switch o.Letter {
		case 'a':
			authFile = o.Arg
		case 'C':
			p.params.verify = false
		case 'F':
			from, fromGiven = o.Arg, true
		case 'H':
			p.name = o.Arg
		case 'n':
			p.connectOnly = true
		case 's':
			server = o.Arg
		case 'S':
			p.params.name = o.Arg
		case 'T':
			err = p.params.parse(o.Arg)
		case 'v':
			p.verbose = true
		}
		if err != nil {
			return err
		}
	}
	var err error
	if p.target, err = parseTarget(server); err != nil {
		return err
	}
	p.credentials = p.target.credentials
	if authFile != "" {
		if p.credentials, err = readCredentials(authFile); err != nil {
			return err
		}
	}
	if err := p.identify(from, fromGiven); err != nil {
		return err
	}
	for _, o := range operands {
		rcpt, err := smtp.ParseMailbox(o)
		if err != nil || rcpt.IsNull() {
			return fmt.Errorf("invalid recipient: %q", o)
		}
		p.rcpts = append(p.rcpts, rcpt)
	}
	if len(p.rcpts) == 0 && !p.connectOnly {
		return fmt.Errorf("no recipient")
	}
	return nil
}

// identify sets who we are: the name of this host and the sender, by default who
// calls.
func (p *program) identify(from string, given bool) error {
	if p.name == "" || !given {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		if p.name == "" {
			p.name = host
		}
		if !given {
			u, err := user.Current()
			if err != nil {
				return err
			}
			from = u.Username + "@" + host
		}
	}
	if from = strings.TrimSuffix(strings.TrimPrefix(from, "<"), ">"); from == "" {
		return nil // the null sender
	}
	var err error
	if p.sender, err = smtp.ParseMailbox(from); err != nil {
		return fmt.Errorf("invalid sender: %q", from)
	}
	return nil
}
