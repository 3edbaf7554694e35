//go:build system

package system

import (
	"fmt"
	"testing"
)

func TestMailFlowsBesideAThousandIdleConnections(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "smtp limit max-session 2000\n"+listen+toMaildir)
	var idle []*conn
	for i := range 1000 {
		c := d.connectFrom(fmt.Sprintf("127.0.0.%d", 10+i%20))
		if i%2 == 0 {
			c.talk("EHLO idle.example.net", "^250")
		}
		idle = append(idle, c)
	}
	l := d.startLoad(4, 10, "alice@example.org")
	l.more(200)
	l.verify("alice")
	if l.unheard > 0 || l.broken > 0 || len(l.refused) > 0 {
		t.Errorf("%d connections refused, %d sessions broken, refusals %v", l.unheard, l.broken, l.refused)
	}
	t.Logf("the dispatcher took %s at most", d.role("dispatcher").status["VmHWM"])
	for i, c := range idle {
		if i%2 == 0 {
			c.talk("NOOP", "^250")
		} else {
			c.talk("HELO idle.example.net", "^250")
		}
	}
}

func TestSourceWithTooManyConnectionsIsTurnedAway(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "smtp limit max-session-per-source 3\n"+listen+toMaildir)
	for range 3 {
		d.connectFrom("127.0.0.9")
	}
	c := d.dialFrom("127.0.0.9")
	c.expect("the fourth connection", "^421 4")
	c.closed()
	d.connectFrom("127.0.0.8").talk("EHLO other.example.net", "^250")
}
