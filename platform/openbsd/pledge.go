package openbsd

import (
	"fmt"
	"strings"

	"github.com/opensmtpd/opensmtpd/platform"
)

// promises returns the pledge(2) promises of a role. yp says that users may have
// to be asked for by running getent(1).
//
// A role that keeps root and starts programs is the parent: it sets the ids of its
// children and the owners of mailboxes.
func promises(p platform.Profile, yp bool) string {
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
		{"unix", p.Unix},
		{"dns", p.DNS},
		{"getpw", p.Users},
		{"sendfd", p.PassFD},
		{"recvfd", p.PassFD},
		{"proc", p.Exec || p.Users && yp},
		{"exec", p.Exec || p.Users && yp},
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
func veils(p platform.Profile, yp bool) ([]veil, error) {
	if p.Exec {
		return nil, nil
	}
	var out []veil
	for _, list := range []struct {
		paths       []string
		permissions string
	}{{p.Read, "r"}, {p.Write, "rwc"}} {
		for _, path := range list.paths {
			inside, ok := within(p.Root, path)
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
		if yp {
			out = append(out, veil{getent, "x"}, veil{id, "x"}, veil{"/dev/null", "r"})
		}
	}
	if p.DNS {
		out = append(out, veil{"/etc/resolv.conf", "r"}, veil{"/etc/hosts", "r"})
	}
	return out, nil
}

// Programs that userdb runs when YP is in use.
const (
	getent = "/usr/bin/getent"
	id     = "/usr/bin/id"
)

// within returns path as it is called under the root directory root.
func within(root, path string) (string, bool) {
	if root == "" || root == "/" {
		return path, true
	}
	if path == root {
		return "/", true
	}
	rest, ok := strings.CutPrefix(path, root+"/")
	return "/" + rest, ok
}

// usesYP tells whether the text of passwd(5) or group(5) refers to YP.
func usesYP(text string) bool {
	return strings.HasPrefix(text, "+") || strings.Contains(text, "\n+")
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
