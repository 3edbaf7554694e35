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

func main() {
	b := bridge{}
	flag.BoolVar(&b.failOpen, "o", false, "let mail through while the milter cannot be asked")
	flag.DurationVar(&b.patience, "w", time.Minute, "how long the milter may take for an answer")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-milter [-o] [-w duration] socket")
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
