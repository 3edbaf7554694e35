package stats

import (
	"maps"
	"sync"
	"testing"

	"github.com/opensmtpd/opensmtpd/internal/report"
)

func TestEveryKeyHasItsOwnName(t *testing.T) {
	t.Parallel()
	seen := map[string]Key{}
	for k := range keys {
		name := k.String()
		if name == "" {
			t.Errorf("key %d has no name", k)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("keys %d and %d are both %q", k, other, name)
		}
		seen[name] = k
	}
	if got := keys.String(); got != "invalid" {
		t.Errorf("a key out of range is %q", got)
	}
}

func TestEventsAreCounted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		events []report.Event
		want   map[string]int64
	}{
		{"nothing", nil, map[string]int64{}},
		{"sessions", []report.Event{
			report.Connected{Address: "192.0.2.1"}, report.Connected{Address: "[2001:db8::1]"},
			report.Connected{Address: "local"}, report.Disconnected{Reason: "quit"},
		}, map[string]int64{
			"smtp.session": 2, "smtp.session.inet4": 1, "smtp.session.inet6": 1, "smtp.session.local": 1,
			"smtp.connected": 3, "smtp.disconnected": 1,
		}},
		{"mail comes in", []report.Event{report.Envelope{}, report.Envelope{}, report.Message{}},
			map[string]int64{"scheduler.envelope.incoming": 2, "smtp.message": 1}},
		{"refusals", []report.Event{
			report.FailedCommand{Result: "451 later"}, report.FailedCommand{Result: "550 no"}, report.BadInput{},
		}, map[string]int64{"smtp.refused.4xx": 1, "smtp.refused.5xx": 1, "smtp.bad-input": 1}},
		{"authentication", []report.Event{
			report.Authentication{Result: "ok"}, report.Authentication{Result: "permfail"}, report.Authentication{Result: "tempfail"},
		}, map[string]int64{"smtp.auth.ok": 1, "smtp.auth.permfail": 1, "smtp.auth.tempfail": 1}},
		{"deliveries", []report.Event{
			report.Delivery{Result: report.OK}, report.Delivery{Result: report.TempFail},
			report.Delivery{Result: report.PermFail}, report.Delivery{Result: report.PermFail, Stat: report.LoopDetected},
		}, map[string]int64{
			"scheduler.delivery.ok": 1, "scheduler.delivery.tempfail": 1, "scheduler.delivery.permfail": 1, "scheduler.delivery.loop": 1,
		}},
		{"ends without an attempt", []report.Event{
			report.QueueEnd{Verb: "Expire"}, report.QueueEnd{Verb: "Remove"}, report.QueueEnd{Verb: "Remove"},
		}, map[string]int64{"scheduler.envelope.expired": 1, "scheduler.envelope.removed": 2}},
		{"outgoing sessions", []report.Event{report.RelayConnected{}}, map[string]int64{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s Set
			for _, ev := range tt.events {
				s.Report(ev)
			}
			if got := s.Snapshot(); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGaugeThatWentBackToZeroIsShown(t *testing.T) {
	t.Parallel()
	var s Set
	s.Set(MTASession, 3)
	s.Add(MTASession, -3)
	if v, ok := s.Snapshot()["mta.session"]; !ok || v != 0 || s.Get(MTASession) != 0 {
		t.Errorf("mta.session = %d, shown %v; want 0, true", v, ok)
	}
}

func TestMergeAddsProcesses(t *testing.T) {
	t.Parallel()
	var a, b Set
	a.Add(SMTPSession, 2)
	b.Add(SMTPSession, 3)
	b.Add(SMTPS, 1)
	m := a.Snapshot()
	Merge(m, b.Snapshot())
	if want := map[string]int64{"smtp.session": 5, "smtp.smtps": 1}; !maps.Equal(m, want) {
		t.Errorf("got %v, want %v", m, want)
	}
}

func TestNoCountIsLost(t *testing.T) {
	t.Parallel()
	var s Set
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.Report(report.Message{})
			}
		})
	}
	wg.Wait()
	if got := s.Get(SMTPMessage); got != 8000 {
		t.Errorf("got %d, want 8000", got)
	}
}
