// Command filter-dkimsign is a filter that signs messages by DKIM (RFC 6376); see
// filter-dkimsign(8). Its options are those of the filter of this name that
// OpenSMTPD's users know; -k and -s may also be given several times.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
)

// list is an option that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var o options
	algorithm := flag.String("a", "", "the `algorithm`, to check that the key is for it: rsa-sha256 or ed25519-sha256")
	canon := flag.String("c", "simple/simple", "canonicalization of `header/body`: simple or relaxed")
	flag.Var((*list)(&o.domains), "d", "sign for this `domain`; may be repeated")
	domainFiles := list{}
	flag.Var(&domainFiles, "D", "sign for the domains in this `file`, one a line")
	headers := flag.String("h", "", "header `fields` to sign, separated by colons")
	keys, selectors := list{}, list{}
	flag.Var(&keys, "k", "`file` of a private key, in PEM; may be repeated, for a signature each")
	flag.Var(&selectors, "s", "`selector` of the key given at the same place")
	flag.Bool("t", false, "add the time of signing; always done")
	expire := flag.Int64("x", 0, "signatures expire after so many `seconds`")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: filter-dkimsign [-t] [-a algorithm] [-c header/body] [-h fields] [-x seconds] -d domain [-D file] -k file -s selector ...")
		os.Exit(2)
	}
	flag.Parse()
	err := func() error {
		if flag.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q", flag.Arg(0))
		}
		for _, file := range domainFiles {
			if err := o.readDomains(file); err != nil {
				return err
			}
		}
		if err := o.setCanonicalization(*canon); err != nil {
			return err
		}
		if *expire < 0 {
			return fmt.Errorf("-x %d: must not be negative", *expire)
		}
		o.expire = time.Duration(*expire) * time.Second
		if *headers != "" {
			o.headers = strings.Split(*headers, ":")
		}
		return o.readKeys(keys, selectors, *algorithm)
	}()
	if err == nil {
		err = o.check()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "filter-dkimsign:", err)
		os.Exit(1)
	}
	filter.Main(&filter.Filter{Message: o.sign})
}

// readDomains adds the domains of a file: one a line, # begins a comment.
func (o *options) readDomains(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			o.domains = append(o.domains, line)
		}
	}
	return lines.Err()
}
