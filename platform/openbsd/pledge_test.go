package openbsd

import (
	"fmt"
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
)

// roles are the profiles of an MTA split the way OpenSMTPD is.
func roles() map[string]platform.Profile {
	drop := platform.Profile{UID: 95, GID: 95, Root: "/var/empty"}
	role := func(f func(*platform.Profile)) platform.Profile {
		p := drop
		f(&p)
		return p
	}
	return map[string]platform.Profile{
		"parent": {UID: -1, GID: -1, Read: []string{"/"}, Write: []string{"/"},
			Inet: true, Unix: true, PassFD: true, Exec: true, Users: true},
		"key":        drop,
		"control":    role(func(p *platform.Profile) { p.Unix, p.PassFD = true, true }),
		"dispatcher": role(func(p *platform.Profile) { p.Inet, p.Unix, p.PassFD = true, true, true }),
		"lookup": {UID: 95, GID: 95, Read: []string{"/etc/mail"},
			Inet: true, DNS: true, Users: true, PassFD: true},
		"queue": {UID: 103, GID: 103, Root: "/var/spool/smtpd", PassFD: true,
			Write: []string{"/var/spool/smtpd", "/var/spool/smtpd/queue"}},
	}
}

func TestPromisesOfTheRoles(t *testing.T) {
	t.Parallel()
	for role, want := range map[string]string{
		// The original's parent has tmppath, which newer systems refuse, and neither
		// flock nor recvfd.
		"parent":     "stdio rpath wpath cpath flock fattr chown id inet unix getpw sendfd recvfd proc exec",
		"key":        "stdio",
		"control":    "stdio unix sendfd recvfd",
		"dispatcher": "stdio inet unix sendfd recvfd",
		"lookup":     "stdio rpath inet dns getpw sendfd recvfd",
		"queue":      "stdio rpath wpath cpath flock sendfd recvfd",
	} {
		if got := promises(roles()[role], false); got != want {
			t.Errorf("%s\n got %s\nwant %s", role, got, want)
		}
	}
	if got, want := promises(roles()["lookup"], true), "stdio rpath inet dns getpw sendfd recvfd proc exec"; got != want {
		t.Errorf("lookup with YP\n got %s\nwant %s", got, want)
	}
}

func TestVeilsOfTheRoles(t *testing.T) {
	t.Parallel()
	for role, want := range map[string]string{
		"parent": "[]", "key": "[]", "control": "[]", "dispatcher": "[]",
		"lookup": "[{/etc/mail r} {/etc/passwd r} {/etc/group r} {/etc/resolv.conf r} {/etc/hosts r}]",
		"queue":  "[{/ rwc} {/queue rwc}]",
	} {
		got, err := veils(roles()[role], false)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s\n got %v, %v\nwant %s", role, got, err, want)
		}
	}
}

func TestFileOutsideOfTheRootDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/etc/mail", "/var/spool/smtpdx", "/"} {
		p := platform.Profile{Role: "queue", UID: 1, GID: 1, Root: "/var/spool/smtpd", Read: []string{path}}
		if got, err := veils(p, false); err == nil {
			t.Errorf("%s is unveiled as %v", path, got)
		}
	}
}

func TestYPIsSeenInTheFiles(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"":                               false,
		"root:*:0:0::/root:/bin/ksh\n":   false,
		"a+b:*:1:1::/:/bin/ksh\n":        false,
		"root:*:0:0::/:/bin/ksh\n+:::\n": true,
		"+:::":                           true,
	} {
		if got := usesYP(text); got != want {
			t.Errorf("usesYP(%q) = %v, want %v", text, got, want)
		}
	}
}
