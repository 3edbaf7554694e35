// Package packaging holds what a package of the mail server is made of: service
// definitions for each system's service manager, a first configuration, maintainer
// scripts. The daemon takes its service definition from here when it is asked to
// install itself, so there is one of each. docs/packaging.md tells about the rest.
package packaging

import (
	_ "embed"
	"fmt"
	"strings"
)

// Manager is a service manager that this package has a definition for.
type Manager int

// The service managers.
const (
	Systemd Manager = iota
	OpenRC
	Launchd
	FreeBSD // rc.subr(8) of FreeBSD
)

//go:embed systemd/opensmtpd.service
var systemd string

//go:embed openrc/opensmtpd
var openrc string

//go:embed launchd/org.opensmtpd.smtpd.plist
var launchd string

//go:embed rc.d/freebsd/opensmtpd
var freebsd string

// Definition returns the text that makes m run the daemon whose executable is exe,
// an absolute path. It is an error if exe has characters other than letters, digits
// and "/._+-": each definition would quote them in another way.
func Definition(m Manager, exe string) (string, error) {
	if !strings.HasPrefix(exe, "/") || strings.ContainsFunc(exe, special) {
		return "", fmt.Errorf("%q cannot be put into a service definition: want an absolute path of letters, digits and /._+-", exe)
	}
	var text, packaged string
	switch m {
	case Systemd:
		text, packaged = systemd, "/usr/sbin/smtpd"
	case OpenRC:
		text, packaged = openrc, "/usr/sbin/smtpd"
	case Launchd:
		text, packaged = launchd, "/usr/local/sbin/smtpd"
	case FreeBSD:
		text, packaged = freebsd, "/usr/local/sbin/smtpd"
	default:
		return "", fmt.Errorf("no service definition for manager %d", m)
	}
	return strings.ReplaceAll(text, packaged, exe), nil
}

func special(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._+-", r))
}
