//go:build system

package system

import (
	"encoding/json"
	"fmt"
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
				d.wait(`process ` + role + ` lost \(.*\); starting it again`)
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

func TestProcessKilledWhileItStartsIsReplaced(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	for _, role := range []string{"dispatcher", "lookup", "queue", "control", "key"} {
		last := 0
		for range 4 { // the first is up, the others have just begun
			d.await("a process to kill", func() bool {
				p, ok := d.family()["opensmtpd: "+role]
				if !ok || p.pid == last {
					return false
				}
				last = p.pid
				return syscall.Kill(p.pid, syscall.SIGKILL) == nil
			})
		}
	}
	l := d.startLoad(2, 5, "alice@example.org")
	l.more(20)
	l.verify("alice")
	d.await("smtpctl to tell of the restarts", func() bool {
		status, err := d.askStatus() // an error while control is down
		for role, s := range status {
			if role != "parent" && s.Restarts < 4 {
				return false
			}
		}
		return err == nil && len(status) == 6
	})
}

func TestAcknowledgedMailSurvivesTheDeathOfAllProcesses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, conf string }{
		{"plain", ""},
		{"compressed", "queue compression zstd\n"},
		{"encrypted", "queue encryption \"0123456789abcdef0123456789abcdef\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, tt.conf+listen+toMaildir, "-P", "mda") // all is in the queue when death comes
			for range 2 {
				l := d.startLoad(8, 20, "alice@example.org")
				l.more(300)
				d.killAll()
				l.end()
				d.args = nil // the second time, some is being delivered
				d.start()
				duplicates := l.verify("alice")
				t.Logf("%d messages acknowledged, %d delivered twice", l.count(), duplicates)
			}
		})
	}
}

// killAll kills all of the daemon's processes.
func (d *daemon) killAll() {
	d.t.Helper()
	for _, p := range d.family() {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			d.t.Fatal(err)
		}
	}
	d.ended()
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
	roles, err := d.askStatus()
	if err != nil {
		d.t.Fatal(err)
	}
	return roles
}

func (d *daemon) askStatus() (map[string]roleStatus, error) {
	out, err := d.command("", "smtpctl", "-j", "show", "status").Output()
	if err != nil {
		return nil, fmt.Errorf("smtpctl show status: %w: %s", err, out)
	}
	var reply struct{ Roles []roleStatus }
	if err := json.Unmarshal(out, &reply); err != nil {
		return nil, fmt.Errorf("%w in %s", err, out)
	}
	roles := map[string]roleStatus{}
	for _, r := range reply.Roles {
		roles[r.Role] = r
	}
	return roles, nil
}

func TestOrderlyEndUnderLoadLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	for range 2 {
		l := d.startLoad(8, 20, "alice@example.org")
		l.more(100)
		d.stop()
		l.end()
		d.start()
		if duplicates := l.verify("alice"); duplicates > 0 {
			t.Errorf("%d of %d messages were delivered twice", duplicates, l.count())
		}
	}
}
