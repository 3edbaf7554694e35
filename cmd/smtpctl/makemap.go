package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/opensmtpd/opensmtpd/internal/expand"
	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/tables/db"
	"github.com/opensmtpd/opensmtpd/internal/tables/file"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
)

const makemapUsage = "usage: makemap [-U] [-d type] [-o file] [-t type] file\n" +
	"       makemap type file <input\n"

// mapTypes are the formats that other systems' makemap knows by name; all mean the
// one there is.
const mapTypes = "|hash|btree|dbm|cdb|"

// makemap makes a database of a text file, or prints one.
func (p *program) makemap(args []string) int {
	options, rest, err := getopt.Parse(args, "Ud:o:t:")
	if err != nil {
		fmt.Fprintf(p.stderr, "makemap: %v\n%s", err, makemapUsage)
		return exitFailed
	}
	var dump bool
	var out, kind string
	for _, o := range options {
		switch o.Letter {
		case 'U':
			dump = true
		case 'd':
			if !strings.Contains(mapTypes, "|"+o.Arg+"|") {
				err = fmt.Errorf("-d %s: unknown type of database", o.Arg)
			}
		case 'o':
			out = o.Arg
		case 't':
			if kind = o.Arg; kind != "aliases" && kind != "set" {
				err = fmt.Errorf("-t %s: want aliases or set", kind)
			}
		}
	}
	var in string
	switch {
	case err != nil:
	case len(rest) == 2 && out == "" && !dump && strings.Contains(mapTypes, "|"+rest[0]+"|"):
		in, out = "-", rest[1]
		if !strings.HasSuffix(out, ".db") {
			out += ".db"
		}
	case len(rest) == 1:
		in = rest[0]
	default:
		err = errors.New("want one file")
	}
	if err == nil && dump {
		err = p.dumpMap(in)
	} else if err == nil {
		err = p.makeMap(in, out, kind)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "makemap: %s\n", oneLine(err.Error()))
		return exitFailed
	}
	return 0
}

// makeMap makes the database out, by default in with ".db" appended.
func (p *program) makeMap(in, out, kind string) error {
	var text []byte
	var err error
	if in == "-" {
		if out == "" {
			return errors.New("-o is needed when standard input is read")
		}
		text, err = io.ReadAll(p.stdin)
		in = "standard input"
	} else {
		text, err = os.ReadFile(in)
		if out == "" {
			out = in + ".db"
		}
	}
	if err != nil {
		return err
	}
	entries, err := parseMap(in, string(text), kind)
	if err != nil {
		return err
	}
	return writeMap(out, entries, db.WriteOptions{})
}

// parseMap reads the text of a map, of aliases or of a set. Keys are distinct
// without regard to case.
func parseMap(path, text, kind string) ([]static.Entry, error) {
	if kind == "set" {
		return parseSet(path, text)
	}
	found, entries, err := file.Parse(path, text)
	if err != nil {
		return nil, err
	}
	if found == static.List && kind == "aliases" && len(entries) > 0 {
		return nil, &file.Error{Path: path, Line: entries[0].Line, Message: "invalid entry: no value"}
	}
	if err := distinct(path, entries); err != nil {
		return nil, err
	}
	if kind != "aliases" {
		return entries, nil
	}
	for _, e := range entries {
		if _, err := expand.ParseTargets(e.Value, "+"); err != nil {
			return nil, &file.Error{Path: path, Line: e.Line, Message: "invalid entry: " + err.Error()}
		}
	}
	return entries, nil
}

// parseSet reads a text in which each line is one key.
func parseSet(path, text string) ([]static.Entry, error) {
	var entries []static.Entry
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if strings.IndexByte(line, 0) >= 0 {
			return nil, &file.Error{Path: path, Line: n, Message: "invalid entry: NUL byte"}
		}
		entries = append(entries, static.Entry{Key: line, Line: n})
	}
	return entries, distinct(path, entries)
}

// distinct returns an error for the first key that was there before.
func distinct(path string, entries []static.Entry) error {
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		key := strings.ToLower(e.Key)
		if seen[key] {
			return &file.Error{Path: path, Line: e.Line, Message: "duplicate entry for " + e.Key}
		}
		seen[key] = true
	}
	return nil
}

// writeMap writes a database. One that is there is replaced and keeps its owner.
func writeMap(path string, entries []static.Entry, o db.WriteOptions) error {
	old, statErr := os.Stat(path)
	if err := db.Write(path, entries, o); err != nil {
		return err
	}
	if statErr != nil {
		return nil
	}
	if st, ok := old.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return os.Chown(path, int(st.Uid), int(st.Gid))
	}
	return nil
}

// dumpMap prints a database, a key and its value a line.
func (p *program) dumpMap(path string) error {
	w := bufio.NewWriter(p.stdout)
	err := db.Dump(path, func(key, value string) error {
		if value != "" {
			key += "\t" + value
		}
		_, err := fmt.Fprintln(w, key)
		return err
	})
	return errors.Join(err, w.Flush())
}
