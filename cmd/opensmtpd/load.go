package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/config/legacy"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/platform"
)

// translated is the warning about a configuration of before 6.4.
const translated = "a configuration of before OpenSMTPD 6.4: it is translated each time it is read; " +
	"\"smtpctl config convert\" prints it in today's language"

// load reads and checks smtpd.conf. The error lists every mistake, a line each. A
// configuration of before 6.4 is translated, which its warnings tell and old.
func load(f *flags, paths platform.Paths) (c *config.Config, old bool, err error) {
	name, err := paths.ServerName()
	if err != nil {
		return nil, false, err
	}
	opts := config.Options{
		Path: f.config, Macros: f.macros, ReadFile: config.ReadFile, ServerName: name, Credentials: paths.Credentials,
		Addresses: interfaceAddresses(), TableKind: tableKind, HasLabel: hasLabel,
		BackendExists: func(name string) bool { return backendExists(paths, name) },
		ResolveTarget: func(target string) error {
			_, err := resolveTarget(target, "")
			return err
		},
		LookupService: func(name string) (uint16, error) {
			p, err := net.LookupPort("tcp", name)
			return uint16(p), err
		},
	}
	if opts.Path == "" {
		opts.Path = paths.Config
	}
	c, t, errs := legacy.Parse(opts)
	if len(errs) > 0 {
		lines := make([]string, len(errs))
		for i, e := range errs {
			lines[i] = e.Error()
		}
		return nil, false, errors.New(strings.Join(lines, "\n"))
	}
	if t != nil {
		first := &config.Error{Pos: policy.Position{File: opts.Path, Line: 1}, Message: translated}
		c.Warnings = slices.Insert(c.Warnings, 0, first)
	}
	return c, t != nil, nil
}

// interfaceAddresses returns the addresses of this host.
func interfaceAddresses() []netip.Addr {
	var out []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

// backendExists tells whether a table backend is built in or has a program.
func backendExists(paths platform.Paths, name string) bool {
	if _, ok := tableBackends[name]; ok {
		return true
	}
	fi, err := os.Stat(tableProgramPath(paths, name))
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// tableProgramPath returns where the program of a table backend is.
func tableProgramPath(paths platform.Paths, backend string) string {
	return filepath.Join(paths.Libexec, "table-"+backend)
}
