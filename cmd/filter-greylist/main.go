// Command filter-greylist is a filter that refuses mail of strangers for some minutes
// (RFC 6647); see filter-greylist(8).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/rulefile"
)

// saveInterval is how often what has changed is written.
const saveInterval = time.Minute

func main() {
	file := flag.String("f", "", "read rules from this `file`")
	state := flag.String("s", "", "keep the state in this `file`")
	check := flag.Bool("n", false, "check the rules and exit")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-greylist [-n] [-f file] [-s file] [rule ...]")
		os.Exit(2)
	}
	flag.Parse()
	r, err := readRules(*file, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "filter-greylist:", err)
		os.Exit(1)
	}
	if *check {
		fmt.Fprintln(os.Stderr, "rules OK")
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, newGreylist(r, *state, os.Stderr), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// readRules reads the rules of a file, if there is one, and of arguments.
func readRules(file string, args []string) (*rules, error) {
	r := defaults()
	if err := rulefile.Read(file, args, r.add); err != nil {
		return nil, err
	}
	if r.window <= r.delay {
		return nil, fmt.Errorf("the window, %v, is not longer than the delay, %v", r.window, r.delay)
	}
	return r, nil
}

// serve runs the filter from the state it had to the state it leaves.
func serve(ctx context.Context, g *greylist, in io.Reader, out io.Writer) error {
	g.load()
	saving, stop := context.WithCancel(context.Background())
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		g.saveAtTimes(saving, saveInterval)
	}()
	err := g.filter().Serve(ctx, in, out)
	stop()
	<-saved
	g.save()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
