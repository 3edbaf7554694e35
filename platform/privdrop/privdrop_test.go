package privdrop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/platform"
)

// system is a system made up: it records the calls and obeys, but for the call
// whose name is fail, which fails, or lie, which does nothing.
type system struct {
	uid, gid  int
	groups    []int
	log       []string
	fail, lie string
	regain    bool
}

func (s *system) do(name string, arg any, f func()) error {
	s.log = append(s.log, fmt.Sprint(name, " ", arg))
	if s.fail == name {
		return errors.New("refused")
	}
	if s.lie != name {
		f()
	}
	return nil
}

func (s *system) IDs() (int, int, []int, error) { return s.uid, s.gid, slices.Clone(s.groups), nil }
func (s *system) CheckRoot(dir string) error    { return s.do("check", dir, func() {}) }
func (s *system) Chroot(dir string) error       { return s.do("chroot", dir, func() {}) }
func (s *system) Setgroups(g []int) error       { return s.do("setgroups", g, func() { s.groups = g }) }
func (s *system) Setgid(g int) error            { return s.do("setgid", g, func() { s.gid = g }) }
func (s *system) Setuid(u int) error            { return s.do("setuid", u, func() { s.uid = u }) }
func (s *system) Regain() bool {
	s.log = append(s.log, "regain")
	return s.regain
}

func TestOrderOfADrop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		p    platform.Profile
		uid  int
		want string
	}{
		{"everything", platform.Profile{Root: "/var/empty", UID: 7, GID: 8, Groups: []int{9, 8}}, 0,
			"check /var/empty, chroot /var/empty, setgroups [8 9], setgid 8, setuid 7, regain"},
		{"without a root directory", platform.Profile{UID: 7, GID: 8}, 0, "setgroups [8], setgid 8, setuid 7, regain"},
		{"root directory is the root", platform.Profile{Root: "/", UID: 7, GID: 8}, 0, "setgroups [8], setgid 8, setuid 7, regain"},
		{"root keeps its ids", platform.Profile{UID: -1, GID: -1}, 0, ""},
		{"a user keeps its ids", platform.Profile{UID: -1, GID: -1}, 7, ""},
		{"a user becomes itself", platform.Profile{UID: 7, GID: -1}, 7, "regain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &system{uid: tt.uid, groups: []int{0, 4}}
			if _, err := Drop(tt.p, s); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.log, ", "); got != tt.want {
				t.Errorf("calls\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestFailedDropIsAnError(t *testing.T) {
	t.Parallel()
	full := platform.Profile{Root: "/var/empty", UID: 7, GID: 8}
	for name, tt := range map[string]struct {
		s system
		p platform.Profile
	}{
		"unsafe root directory": {system{fail: "check"}, full},
		"chroot refused":        {system{fail: "chroot"}, full},
		"groups refused":        {system{fail: "setgroups"}, full},
		"gid refused":           {system{fail: "setgid"}, full},
		"uid refused":           {system{fail: "setuid"}, full},
		"groups not dropped":    {system{lie: "setgroups", groups: []int{0}}, full},
		"gid not set":           {system{lie: "setgid"}, full},
		"uid not set":           {system{lie: "setuid"}, full},
		"root can be had back":  {system{regain: true}, full},
		"chroot by a user":      {system{uid: 7}, platform.Profile{Root: "/x", UID: -1, GID: -1}},
		"another uid by a user": {system{uid: 7}, platform.Profile{UID: 9, GID: -1}},
		"uid 0":                 {system{}, platform.Profile{UID: 0, GID: 8}},
	} {
		if g, err := Drop(tt.p, &tt.s); err == nil {
			t.Errorf("%s: no error, %+v", name, g)
		}
	}
}

func TestGuaranteesTellWhatHolds(t *testing.T) {
	t.Parallel()
	g, err := Drop(platform.Profile{Root: "/var/empty", UID: 7, GID: 8}, &system{})
	if err != nil {
		t.Fatal(err)
	}
	want := "{/var/empty 7 8 [{chroot on} {uid on}] []}"
	if got := fmt.Sprint(g); got != want {
		t.Errorf("guarantees %s, want %s", got, want)
	}
	g, err = Drop(platform.Profile{UID: -1, GID: -1}, &system{})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Mechanisms) != 0 || g.Root != "/" {
		t.Errorf("root unconfined has guarantees %+v", g)
	}
}
