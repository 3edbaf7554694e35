package freebsd

import (
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/platform"
)

func TestCapabilityModeOfTheRoles(t *testing.T) {
	t.Parallel()
	for role, want := range map[proto.Role]string{
		proto.Key: "", proto.Control: "", proto.Dispatcher: "opens connections", proto.Lookup: "opens connections", proto.Queue: "opens files by name",
	} {
		ok, why := capable(proc.Needs(role, proto.Confinement{Root: "/var/empty", UID: 95, GID: 95}))
		if why != want || ok != (want == "") {
			t.Errorf("%s: capability mode %v, because it %s; want %q", role, ok, why, want)
		}
	}
	if ok, _ := capable(platform.Profile{Sandbox: platform.SandboxOff}); ok {
		t.Error("capability mode is entered though it is switched off")
	}
	if ok, _ := capable(platform.Profile{Exec: true}); ok {
		t.Error("a role that starts programs enters capability mode")
	}
}
