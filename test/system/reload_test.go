//go:build system

package system

import (
	"fmt"
	"strings"
	"testing"
)

func TestFiftyReloadsUnderLoadDisturbNoSession(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	l := d.startLoad(6, 5, "alice@example.org")
	for i := range 50 {
		// Each configuration differs: a listener comes and goes, a rule with it.
		conf := listen + toMaildir
		if i%2 == 0 {
			conf += fmt.Sprintf("listen on $host port %d\nmatch from any for domain \"example.com\" action \"deliver\"\n", 2500+i)
		}
		d.configure(conf)
		l.more(5)
		if i%5 == 4 {
			d.run("", "", "smtpctl", "reload")
			d.wait(`configuration reloaded`)
		} else {
			d.reload()
		}
	}
	duplicates := l.verify("alice")
	t.Logf("%d messages acknowledged", l.count())
	if l.unheard > 0 || l.broken > 0 || len(l.refused) > 0 || duplicates > 0 {
		t.Errorf("%d connections refused, %d sessions broken, refusals %v, %d messages delivered twice", l.unheard, l.broken, l.refused, duplicates)
	}
	if got := d.status()["dispatcher"].Restarts; got != 0 {
		t.Errorf("the dispatcher was restarted %d times", got)
	}
}

func TestBrokenConfigurationIsRefusedWithItsMistakes(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, listen+toMaildir)
	l := d.startLoad(2, 5, "alice@example.org")
	for _, conf := range []string{"listen on nonsense {\n", listen + "match from any for any action \"missing\"\n", listen + "table x file:/nonexistent/x\n" + toMaildir} {
		d.configure(conf)
		out, err := d.command("", "smtpctl", "reload").CombinedOutput()
		if err == nil {
			t.Errorf("smtpctl reload succeeded with %q: %s", conf, out)
		}
		if !strings.Contains(string(out), "smtpd.conf:") {
			t.Errorf("smtpctl reload with %q says %q, want the place of the mistake", conf, out)
		}
		d.wait(`reload: configuration unchanged: .*smtpd\.conf:\d`)
		d.signal(hangUp)
		d.wait(`reload: configuration unchanged: .*smtpd\.conf:\d`)
		l.more(10)
	}
	l.verify("alice")
	if l.unheard > 0 || l.broken > 0 || len(l.refused) > 0 {
		t.Errorf("%d connections refused, %d sessions broken, refusals %v", l.unheard, l.broken, l.refused)
	}
}
