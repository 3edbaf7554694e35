package openbsd

import (
	"fmt"
	"strings"

	"github.com/opensmtpd/opensmtpd/platform"
)

// promises returns the pledge(2) promises of a role.
//
// A role that keeps root and starts programs is the parent: it sets the ids of its
// children and the owners of mailboxes.
func promises(p platform.Profile) string {
	words := []struct {
		word string
		want bool
	}{
		{"stdio", true},
		{"rpath", len(p.Read) > 0 || len(p.Write) > 0 || p.Users},
		{"wpath", len(p.Write) > 0},
		{"cpath", len(p.Write) > 0},
		{"flock", len(p.Write) > 0},
		{"fattr", keepsRoot(p)},
		{"chown", keepsRoot(p)},
		{"id", keepsRoot(p)},
		{"inet", p.Inet || p.DNS},
		// What makes a connection of a descriptor it was handed asks the system what kind
		// of socket that is: getsockopt(2) wants this promise, or inet.
		{"unix", p.Unix || p.UnixServer || p.PassFD},
		{"dns", p.DNS},
		{"getpw", p.Users},
		{"sendfd", p.PassFD},
		{"recvfd", p.PassFD},
		{"proc", p.Exec || p.Probe},
		{"exec", p.Exec},
	}
	var out []string
	for _, w := range words {
		if w.want {
			out = append(out, w.word)
		}
	}
	return strings.Join(out, " ")
}

// keepsRoot tells whether p is the profile of the parent.
func keepsRoot(p platform.Profile) bool { return p.Exec && p.UID < 0 }

// veil is one call of unveil(2).
type veil struct{ path, permissions string }

// veils returns what a role may see of the file system, by paths as they are in
// its new root directory. Empty means that nothing is to be unveiled: either the
// role starts programs, which need more than it can tell, or it touches no file,
// and its promises keep it from doing so.
func veils(p platform.Profile) ([]veil, error) {
	if p.Exec {
		return nil, nil
	}
	var out []veil
	for _, list := range []struct {
		paths       []string
		permissions string
	}{{p.Read, "r"}, {p.Write, "rwc"}} {
		for _, path := range list.paths {
			inside, ok := p.Inside(path)
			if !ok {
				return nil, fmt.Errorf("profile of %s: %s lies outside of the root directory %s", p.Role, path, p.Root)
			}
			out = append(out, veil{inside, list.permissions})
		}
	}
	if p.Root != "" && p.Root != "/" {
		return out, nil
	}
	if p.Users {
		out = append(out, veil{"/etc/passwd", "r"}, veil{"/etc/group", "r"})
	}
	if p.DNS {
		out = append(out, veil{"/etc/resolv.conf", "r"}, veil{"/etc/hosts", "r"})
	}
	return out, nil
}

// paths is where the base system and its packages put the files of a mail server,
// by hier(7). A package that thinks otherwise sets Config.Paths.
func paths() platform.Paths {
	return platform.Paths{
		Config:   "/etc/mail/smtpd.conf",
		Spool:    "/var/spool/smtpd",
		Run:      "/var/run",
		Empty:    "/var/empty",
		Libexec:  "/usr/local/libexec/opensmtpd",
		Mail:     "/var/mail",
		Aliases:  "/etc/mail/aliases",
		MailName: "/etc/mail/mailname",
		Shell:    "/bin/sh",
		DefPath:  "/bin:/sbin:/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin",
	}
}
