package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/platform"
)

// maxConfig bounds one configuration file, in bytes.
const maxConfig = 16 << 20

// load reads and checks smtpd.conf. The error lists every mistake, a line each.
func load(f *flags, paths platform.Paths) (*config.Config, error) {
	name, err := serverName(paths)
	if err != nil {
		return nil, err
	}
	opts := config.Options{
		Path: f.config, Macros: f.macros, ReadFile: readBounded, ServerName: name,
		Addresses: interfaceAddresses(), TableKind: tableKind,
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
	c, errs := config.Parse(opts)
	if len(errs) > 0 {
		lines := make([]string, len(errs))
		for i, e := range errs {
			lines[i] = e.Error()
		}
		return nil, errors.New(strings.Join(lines, "\n"))
	}
	return c, nil
}

// readBounded reads a whole configuration file.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxConfig)
	}
	return b, nil
}

// serverName returns the name of this host: the first line of the mailname file,
// else the host name, completed by the resolver when it has no dot.
func serverName(paths platform.Paths) (string, error) {
	if b, err := os.ReadFile(paths.MailName); err == nil {
		line, _, _ := bytes.Cut(b, []byte("\n"))
		if name := strings.TrimSpace(string(line)); name != "" {
			return name, nil
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the name of this host: %w; write it into %s", err, paths.MailName)
	}
	if !strings.Contains(name, ".") {
		if full, err := net.LookupCNAME(name); err == nil && full != "" {
			return strings.TrimSuffix(full, "."), nil
		}
	}
	return name, nil
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
	fi, err := os.Stat(filepath.Join(paths.Libexec, "table-"+name))
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}
