package dsn

import (
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func TestSenderHearsWhatNotifyAsksFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                    string
		e                       envelope.Envelope
		failure, success, delay bool
	}{
		{"default", envelope.Envelope{Sender: ann}, true, false, true},
		{"never", envelope.Envelope{Sender: ann, Notify: envelope.NotifyNever}, false, false, false},
		{"success only", envelope.Envelope{Sender: ann, Notify: envelope.NotifySuccess}, false, true, false},
		{"failure only", envelope.Envelope{Sender: ann, Notify: envelope.NotifyFailure}, true, false, false},
		{"delay only", envelope.Envelope{Sender: ann, Notify: envelope.NotifyDelay}, false, false, true},
		{"null sender", envelope.Envelope{Notify: envelope.NotifySuccess | envelope.NotifyFailure}, false, false, false},
		{"our own notification", envelope.Envelope{Sender: ann, Flags: envelope.IsBounce}, false, false, false},
		{"an envelope that is one", envelope.Envelope{Sender: ann, Type: envelope.Bounce}, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.e.TTL, tt.e.Created = 96*time.Hour, now.Add(-5*time.Hour)
			_, delay := DelayDue(&tt.e, []time.Duration{4 * time.Hour}, now)
			if f, s := WantsFailure(&tt.e), WantsSuccess(&tt.e); f != tt.failure || s != tt.success || delay != tt.delay {
				t.Errorf("failure %v, success %v, delay %v; want %v, %v, %v", f, s, delay, tt.failure, tt.success, tt.delay)
			}
		})
	}
}

func TestDelayIsReportedOnceAfterEachInterval(t *testing.T) {
	t.Parallel()
	e := &envelope.Envelope{Sender: ann, Created: now, TTL: 48 * time.Hour}
	intervals := []time.Duration{24 * time.Hour, 4 * time.Hour}
	for _, step := range []struct {
		after, want time.Duration
	}{
		{time.Hour, 0},
		{4*time.Hour - time.Second, 0}, // not before the interval has passed
		{4 * time.Hour, 4 * time.Hour},
		{5 * time.Hour, 0},
		{30 * time.Hour, 24 * time.Hour},
		{31 * time.Hour, 0},
		{48 * time.Hour, 0}, // expired: that is reported instead
	} {
		at := now.Add(step.after)
		got, ok := DelayDue(e, intervals, at)
		if got != step.want || ok != (step.want > 0) {
			t.Errorf("after %v: %v, %v; want %v", step.after, got, ok, step.want)
		}
		if ok {
			e.LastBounce = at
		}
	}
}

func TestOneNoticeForAllIntervalsMissed(t *testing.T) {
	t.Parallel()
	e := &envelope.Envelope{Sender: ann, Created: now, TTL: 96 * time.Hour}
	at := now.Add(30 * time.Hour)
	intervals := []time.Duration{time.Hour, 4 * time.Hour, 24 * time.Hour}
	if got, ok := DelayDue(e, intervals, at); !ok || got != 24*time.Hour {
		t.Errorf("got %v, %v, want the longest", got, ok)
	}
	e.LastBounce = at
	if got, ok := DelayDue(e, intervals, at.Add(time.Minute)); ok {
		t.Errorf("a second notice for %v", got)
	}
}

func notice(msg envelope.MsgID, n uint32, sender smtp.Path) Notice {
	return Notice{
		Envelope: &envelope.Envelope{ID: envelope.NewID(msg, n), Sender: sender, SMTPName: "mx"},
		Type:     envelope.BounceFailed,
	}
}

func TestThousandFailuresMakeOneGroup(t *testing.T) {
	t.Parallel()
	c := NewCollector(0, 0)
	at := now
	for n := range uint32(999) {
		if got := c.Add(notice(1, n+1, ann), at); !got.Equal(now.Add(time.Second)) {
			t.Fatalf("notice %d: look again at %v, want a second after the first", n, got)
		}
		at = at.Add(time.Millisecond)
	}
	if g, wake := c.Take(at); len(g) != 0 || !wake.Equal(at.Add(999*time.Millisecond)) {
		t.Fatalf("%d groups before the window, wake %v", len(g), wake)
	}
	if got := c.Add(notice(1, 1000, ann), at); !got.Equal(at) {
		t.Errorf("a full group is ready at %v, want at once", got)
	}
	g, wake := c.Take(at)
	if len(g) != 1 || len(g[0].Notices) != 1000 || !wake.IsZero() || c.Len() != 0 {
		t.Errorf("%d groups, wake %v, %d left; want one of 1000", len(g), wake, c.Len())
	}
}

// A caller that always waits for the time Add returned last misses no group.
func TestOtherGroupsDoNotPutOffTheFirst(t *testing.T) {
	t.Parallel()
	c := NewCollector(time.Second, 1000)
	at := now
	for n := range envelope.MsgID(100) {
		wake := c.Add(notice(n+1, 1, ann), at)
		if wake.After(now.Add(time.Second)) {
			t.Fatalf("after %v: look again at %v, but the first group is ready after 1 s", at.Sub(now), wake)
		}
		at = at.Add(5 * time.Millisecond)
	}
	g, wake := c.Take(now.Add(time.Second))
	if len(g) != 1 || !wake.Equal(now.Add(1005*time.Millisecond)) {
		t.Errorf("%d groups, wake %v; want one, and the second 5 ms later", len(g), wake.Sub(now))
	}
}

func TestWhatDiffersIsNotGrouped(t *testing.T) {
	t.Parallel()
	c := NewCollector(time.Second, 10)
	c.Add(notice(1, 1, ann), now)
	c.Add(notice(2, 1, ann), now)
	c.Add(notice(1, 2, bob), now)
	d := notice(1, 3, ann)
	d.Type = envelope.BounceDelayed
	c.Add(d, now)
	f := notice(1, 4, ann)
	f.Envelope.Ret = "FULL"
	c.Add(f, now)
	c.Add(notice(1, 5, ann), now)
	g, _ := c.Take(now.Add(time.Second))
	if len(g) != 5 || len(g[0].Notices) != 2 {
		t.Errorf("%d groups, want 5, the first with two notices", len(g))
	}
}

func TestDripDoesNotDeferForEver(t *testing.T) {
	t.Parallel()
	c := NewCollector(time.Second, 1000)
	at := now
	for n := range uint32(100) {
		c.Add(notice(1, n+1, ann), at)
		if g, _ := c.Take(at); len(g) > 0 {
			if d := at.Sub(now); d != 10*time.Second {
				t.Errorf("group ready after %v, want 10 s", d)
			}
			return
		}
		at = at.Add(500 * time.Millisecond)
	}
	t.Error("the group never became ready")
}
