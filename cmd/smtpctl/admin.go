package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform/password"
)

// hold makes a command that pauses or resumes local deliveries or relaying.
func hold(class string, pause bool) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, _ []string) error {
		return succeed(ctx, p, proto.Hold, proto.HoldRequest{Class: class, Pause: pause})
	}
}

// holdSMTP makes a command that stops or restarts accepting connections.
func holdSMTP(pause bool) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, _ []string) error {
		return succeed(ctx, p, proto.HoldSMTP, proto.HoldRequest{Class: "smtp", Pause: pause})
	}
}

// reload has the configuration read again and shows its mistakes.
func reload(ctx context.Context, p *program, _ []string) error {
	r, err := call(ctx, p, proto.Reload, proto.Empty{})
	if err != nil {
		return err
	}
	if len(r.Errors) == 0 {
		fmt.Fprintln(p.stdout, "command succeeded")
		return nil
	}
	for _, line := range r.Errors {
		fmt.Fprintln(p.stderr, oneLine(line))
	}
	fmt.Fprintln(p.stdout, "command failed: the configuration in force is unchanged")
	return errSilent
}

// stop ends the service.
func stop(ctx context.Context, p *program, _ []string) error {
	return succeed(ctx, p, proto.Stop, proto.Empty{})
}

// updateTable has a table read again.
func updateTable(ctx context.Context, p *program, args []string) error {
	return succeed(ctx, p, proto.UpdateTable, proto.TableRequest{Name: args[0]})
}

// logLevel makes a command that switches detail on or off. "log brief" ends traces,
// too.
func logLevel(verbose bool) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, _ []string) error {
		return setVerbose(ctx, p, func(v *proto.VerboseRequest) {
			if v.Debug = verbose; !verbose {
				v.Trace = nil
			}
		})
	}
}

// trace makes a command that switches the trace of a subsystem.
func trace(on bool) func(context.Context, *program, []string) error {
	return func(ctx context.Context, p *program, args []string) error {
		name := proto.Subsystem(args[0])
		return setVerbose(ctx, p, func(v *proto.VerboseRequest) {
			v.Trace = slices.DeleteFunc(v.Trace, func(s string) bool { return s == name || name == "all" })
			if on {
				v.Trace = append(v.Trace, name)
			}
		})
	}
}

// setVerbose changes the level of logging from what it is.
func setVerbose(ctx context.Context, p *program, change func(*proto.VerboseRequest)) error {
	c, st, err := p.status(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	change(&st.Verbose)
	if _, _, err := control.Call(ctx, c, proto.SetVerbose, st.Verbose); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "command succeeded")
	return nil
}

// encryptString hashes its argument.
func encryptString(_ context.Context, p *program, args []string) error {
	hash, err := password.Hash(args[0])
	if err != nil {
		return &localError{err}
	}
	fmt.Fprintln(p.stdout, hash)
	return nil
}

// encryptLines hashes the lines of standard input.
func encryptLines(ctx context.Context, p *program, _ []string) error {
	lines := bufio.NewScanner(p.stdin)
	for lines.Scan() {
		if err := encryptString(ctx, p, []string{lines.Text()}); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return &localError{err}
	}
	return nil
}
