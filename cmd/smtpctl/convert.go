package main

import (
	"context"
	"fmt"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/config/legacy"
	"github.com/opensmtpd/opensmtpd/internal/tables/file"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
)

// convert prints a configuration of before 6.4 in today's language. Nothing is
// printed but mistakes unless the result can be read.
func convert(_ context.Context, p *program, args []string) error {
	path := p.paths.Config
	if len(args) > 0 {
		path = args[0]
	}
	if _, err := config.ReadFile(path); err != nil {
		return &localError{err}
	}
	name, err := p.paths.ServerName()
	if err != nil {
		return &localError{err}
	}
	opts := config.Options{Path: path, ReadFile: config.ReadFile, ServerName: name, TableKind: fileKind}
	c, t, errs := legacy.Parse(opts)
	for _, e := range errs {
		fmt.Fprintln(p.stderr, oneLine(e.Error()))
	}
	switch {
	case len(errs) > 0:
		return errSilent
	case t == nil:
		return &localError{fmt.Errorf("%s has no statement of before OpenSMTPD 6.4: there is nothing to convert", path)}
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(p.stderr, "warn: %s\n", oneLine(w.Error()))
	}
	if _, err := fmt.Fprint(p.stdout, t.Text); err != nil {
		return &localError{err}
	}
	return nil
}

// fileKind tells whether a table file is a list or a map. One that cannot be read
// here may be either.
func fileKind(backend, path string) (config.TableKind, error) {
	if backend != "file" && backend != "static" {
		return config.Dynamic, nil
	}
	kind, err := file.Kind(path, false)
	switch {
	case err != nil:
		return config.Dynamic, nil
	case kind == static.List:
		return config.List, nil
	case kind == static.Map:
		return config.Map, nil
	}
	return config.Empty, nil
}
