//go:build system

package system

import (
	"encoding/json"
	"syscall"
	"testing"
	"time"
)

// again bounds how long a killed process may keep mail from being accepted.
const again = 10 * time.Second

func TestKilledProcessIsReplacedAndNoMailIsLost(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"dispatcher", "lookup", "queue", "control", "key", "delivery alice"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, listen+toMaildir)
			l := d.startLoad(8, 20, "alice@example.org")
			l.more(100)
			d.wait(`mda delivery .* result=Ok`) // a worker is there
			for range 2 {
				victim := d.role(role)
				if err := syscall.Kill(victim.pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				killed := time.Now()
				took := l.recovered(killed)
				t.Logf("mail was accepted again %v after the end of %s", took.Round(time.Millisecond), role)
				if took > again {
					t.Errorf("mail was accepted again after %v, want at most %v", took, again)
				}
				l.more(50)
				if role == "delivery alice" {
					d.wait(`delivery alice: signal: killed`)
					d.await("a new worker", func() bool { p, ok := d.family()[victim.title]; return ok && p.pid != victim.pid })
					continue
				}
				d.wait(`process ` + role + ` lost \(signal: killed\); starting it again`)
				d.await("a new process", func() bool { p, ok := d.family()[victim.title]; return ok && p.pid != victim.pid })
			}
			duplicates := l.verify("alice")
			t.Logf("%d messages acknowledged, %d delivered twice, %d sessions broken, refusals: %v", l.count(), duplicates, l.broken, l.refused)
			if l.unheard > 0 {
				t.Errorf("%d connections were refused", l.unheard)
			}
			if role != "delivery alice" {
				if n := d.status()[role].Restarts; n != 2 {
					t.Errorf("smtpctl show status: %s was restarted %d times, want 2", role, n)
				}
			}
		})
	}
}

func TestAcknowledgedMailSurvivesTheDeathOfAllProcesses(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	for range 3 {
		l := d.startLoad(8, 20, "alice@example.org")
		l.more(150)
		for _, p := range d.family() {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				t.Fatal(err)
			}
		}
		d.ended()
		l.end()
		d.start()
		duplicates := l.verify("alice")
		t.Logf("%d messages acknowledged, %d delivered twice", l.count(), duplicates)
	}
}

// roleStatus is what "smtpctl show status" tells of a role.
type roleStatus struct {
	Role     string
	PID      int
	Restarts int
}

// status asks smtpctl about the roles.
func (d *daemon) status() map[string]roleStatus {
	d.t.Helper()
	var reply struct{ Roles []roleStatus }
	out := d.run("", "", "smtpctl", "-j", "show", "status")
	if err := json.Unmarshal([]byte(out), &reply); err != nil {
		d.t.Fatalf("%v in %s", err, out)
	}
	roles := map[string]roleStatus{}
	for _, r := range reply.Roles {
		roles[r.Role] = r
	}
	return roles
}
