package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/config/legacy"
	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/getopt"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/tables/db"
)

// aliasesTable is the name of the table that newaliases is about.
const aliasesTable = "aliases"

// newaliases checks the aliases, makes a database of them if the configuration wants
// one, and has the daemon read them again.
func (p *program) newaliases(ctx context.Context, args []string) int {
	path := p.paths.Config
	options, rest, err := getopt.Parse(args, "f:")
	if err != nil || len(rest) > 0 {
		fmt.Fprintln(p.stderr, "usage: newaliases [-f file]")
		return exitUsage
	}
	for _, o := range options {
		path = o.Arg
	}
	source, database, err := p.aliasesFile(path)
	if err == nil {
		err = p.makeAliases(source, database)
	}
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(p.stderr, "newaliases: %s\n", oneLine(line))
		}
		return exitFailed
	}
	_, err = call(ctx, p, proto.UpdateTable, proto.TableRequest{Name: aliasesTable})
	if err == nil || errors.Is(err, control.ErrNotRunning) {
		return 0
	}
	return p.report(err)
}

// aliasesFile returns the text file of the aliases and, if the table is a database,
// the latter's path. Without a table of that name it is the system's aliases file.
func (p *program) aliasesFile(conf string) (source, database string, err error) {
	c, _, errs := legacy.Parse(config.Options{
		Path: conf, ReadFile: config.ReadFile,
		BackendExists: func(string) bool { return true },
	})
	if len(errs) > 0 {
		lines := make([]string, len(errs))
		for i, e := range errs {
			lines[i] = e.Error()
		}
		return "", "", errors.New(strings.Join(lines, "\n"))
	}
	for _, t := range c.Tables {
		if t.Name != aliasesTable {
			continue
		}
		switch t.Backend {
		case "file":
			return t.Path, "", nil
		case "db":
			return strings.TrimSuffix(t.Path, ".db"), t.Path, nil
		}
		return "", "", fmt.Errorf("table %s is of type %s, which is no file", t.Name, t.Backend)
	}
	return p.paths.Aliases, "", nil
}

// makeAliases checks source and writes database, unless that is empty.
func (p *program) makeAliases(source, database string) error {
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	entries, err := parseMap(source, string(text), "aliases")
	if err != nil {
		return err
	}
	if database == "" {
		database = source
	} else if err := writeMap(database, entries, db.WriteOptions{}); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s: %d aliases\n", database, len(entries))
	return nil
}
