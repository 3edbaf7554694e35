// Command filter-milter is a filter that asks a milter, a mail filter of the kind that
// Sendmail and Postfix use: OpenDKIM, rspamd, ClamAV and others; see filter-milter(8).
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
)

// How long a milter may take. The daemon waits for a filter for a minute, and at the
// end of a message for five; one that takes longer is ended, with all its sessions. Two
// steps may come in a row where the daemon waits for one: the end of a transaction is
// told and not waited for.
const (
	patience   = 20 * time.Second
	forMessage = 4 * time.Minute
)

func main() {
	b := bridge{}
	flag.BoolVar(&b.failOpen, "o", false, "let mail through while the milter cannot be asked")
	flag.DurationVar(&b.patience, "w", patience, "how long the milter may take for a step of a session")
	flag.DurationVar(&b.forMessage, "m", forMessage, "how long the milter may take for a message")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-milter [-o] [-m duration] [-w duration] socket")
		os.Exit(2)
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
	}
	var err error
	if b.network, b.address, err = parseSocket(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "filter-milter:", err)
		os.Exit(1)
	}
	filter.Main(b.filter())
}

// parseSocket reads the address of a milter as Sendmail (inet:PORT@HOST) and Postfix
// (inet:HOST:PORT) write it, or unix:PATH.
func parseSocket(s string) (network, address string, err error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case strings.HasPrefix(s, "/"):
		return "unix", s, nil
	case (kind == "unix" || kind == "local") && rest != "":
		return "unix", rest, nil
	case kind == "inet" || kind == "inet6":
		if port, host, ok := strings.Cut(rest, "@"); ok {
			rest = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		host, port, err := net.SplitHostPort(rest)
		if err != nil || port == "" {
			return "", "", fmt.Errorf("%q: want %s:HOST:PORT or %s:PORT@HOST", s, kind, kind)
		}
		if host == "" {
			host = "localhost"
		}
		return map[string]string{"inet": "tcp", "inet6": "tcp6"}[kind], net.JoinHostPort(host, port), nil
	}
	return "", "", errors.New(s + ": want unix:PATH or inet:HOST:PORT")
}
