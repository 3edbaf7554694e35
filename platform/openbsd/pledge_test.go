package openbsd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

// confinements are what the roles are told about themselves.
func confinements() map[proto.Role]proto.Confinement {
	return map[proto.Role]proto.Confinement{
		proto.Key:        {Root: "/var/empty", UID: 95, GID: 95},
		proto.Control:    {Root: "/var/empty", UID: 95, GID: 95},
		proto.Dispatcher: {Root: "/var/empty", UID: 95, GID: 95},
		proto.Lookup:     {UID: 95, GID: 95},
		proto.Queue:      {Root: "/var/spool/smtpd", UID: 103, GID: 103},
	}
}

// needs returns the profile of a role, or of a worker by its method.
func needs(name proto.Role) platform.Profile {
	if method, ok := map[proto.Role]policy.Method{"mbox": policy.Mbox, "maildir": policy.Maildir, "lmtp": policy.LMTP}[name]; ok {
		p, _ := proc.WorkerNeeds(proto.WorkerConfig{Method: uint8(method)})
		return p
	}
	return proc.Needs(name, confinements()[name])
}

// The promises stand beside those that OpenSMTPD 7.8 makes for the same work.
func TestPromisesOfTheRoles(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/protection.md")
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[proto.Role]struct{ promises, original string }{
		// Each role is handed sockets, and asks what they are.
		proto.Key:        {"stdio unix sendfd recvfd", "stdio"},
		proto.Control:    {"stdio unix sendfd recvfd", "stdio unix recvfd sendfd"},
		proto.Dispatcher: {"stdio inet unix sendfd recvfd", "stdio inet unix recvfd sendfd"},
		proto.Lookup:     {"stdio rpath inet unix dns getpw sendfd recvfd", "stdio rpath inet dns getpw recvfd sendfd"},
		proto.Queue:      {"stdio rpath wpath cpath flock unix sendfd recvfd", "stdio rpath wpath cpath flock recvfd sendfd"},
		// Workers, in whose place the original runs a program for each delivery.
		"mbox":    {"stdio rpath wpath cpath flock unix sendfd recvfd proc", ""},
		"maildir": {"stdio rpath wpath cpath flock unix sendfd recvfd", ""},
		"lmtp":    {"stdio rpath inet unix dns sendfd recvfd", ""},
	} {
		got := promises(needs(role))
		if got != want.promises {
			t.Errorf("%s\n got %s\nwant %s", role, got, want.promises)
		}
		name := string(role)
		if want.original == "" {
			name = "worker, " + map[proto.Role]string{"mbox": "mbox", "maildir": "Maildir", "lmtp": "LMTP"}[role]
		}
		if row := fmt.Sprintf("| %s | `%s` | ", name, got); !strings.Contains(string(doc), row) {
			t.Errorf("docs/protection.md has no row that begins with %s", row)
		}
		for word := range strings.FieldsSeq(got) {
			if want.original != "" && word != "unix" && !strings.HasPrefix(word, "send") && !strings.HasPrefix(word, "recv") &&
				!slices.Contains(strings.Fields(want.original), word) {
				t.Errorf("%s promises less than the original: it may %s", role, word)
			}
		}
	}
}

func TestVeilsOfTheRoles(t *testing.T) {
	t.Parallel()
	for role, want := range map[proto.Role]string{
		proto.Key: "[]", proto.Control: "[]", proto.Dispatcher: "[]",
		proto.Lookup: "[{/ r} {/etc/passwd r} {/etc/group r} {/etc/resolv.conf r} {/etc/hosts r}]",
		proto.Queue:  "[{/ rwc}]",
		"mbox":       "[{/ rwc}]", "maildir": "[{/ rwc}]",
	} {
		got, err := veils(needs(role))
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s\n got %v, %v\nwant %s", role, got, err, want)
		}
	}
}

func TestFileOutsideOfTheRootDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/etc/mail", "/var/spool/smtpdx", "/"} {
		p := platform.Profile{Role: "queue", UID: 1, GID: 1, Root: "/var/spool/smtpd", Read: []string{path}}
		if got, err := veils(p); err == nil {
			t.Errorf("%s is unveiled as %v", path, got)
		}
	}
}
