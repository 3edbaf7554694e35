package scheduler

import (
	"math"
	"testing"
	"testing/quick"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
)

var created = time.Unix(1_800_000_000, 0)

func TestRetryTimes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		backoff Backoff
		typ     envelope.Type
		want    []time.Duration // after creation, in seconds
	}{
		{"relay", Backoff{}, envelope.MTA, []time.Duration{400, 1600, 3600, 6400, 10000}},
		{"local", Backoff{}, envelope.MDA, []time.Duration{10, 40, 90, 160}},
		{"report", Backoff{}, envelope.Bounce, []time.Duration{10, 40, 90, 160}},
		{"configured", Backoff{Relay: time.Minute, Local: time.Second}, envelope.MTA, []time.Duration{60, 240, 540}},
		{"configured local", Backoff{Relay: time.Minute, Local: time.Second}, envelope.MDA, []time.Duration{1, 4, 9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := created
			for n, want := range tt.want {
				now = tt.backoff.Next(tt.typ, created, uint32(n+1), now)
				if got := now.Sub(created); got != want*time.Second {
					t.Fatalf("retry %d after %v, want %v s", n+1, got, int64(want))
				}
			}
		})
	}
}

func TestRetryTimeIsNeverPast(t *testing.T) {
	t.Parallel()
	b := Backoff{}
	for _, tt := range []struct {
		name  string
		retry uint32
		age   time.Duration
		want  time.Duration
	}{
		{"missed attempts are not made up for", 1, 4000 * time.Second, 6400 * time.Second},
		{"exactly at a retry time", 1, 1600 * time.Second, 3600 * time.Second},
		{"just before one", 1, 1600*time.Second - 1, 1600 * time.Second},
		{"the clock was set back", 2, -time.Hour, 1600 * time.Second},
		{"no failure counted", 0, 0, 400 * time.Second},
	} {
		if got := b.Next(envelope.MTA, created, tt.retry, created.Add(tt.age)).Sub(created); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	future := func(retry uint32, base uint16, age uint32) bool {
		b := Backoff{Relay: time.Duration(base) * time.Millisecond}
		now := created.Add(time.Duration(age) * time.Second)
		return b.Next(envelope.MTA, created, retry, now).After(now)
	}
	if err := quick.Check(future, nil); err != nil {
		t.Error(err)
	}
	if got := b.Next(envelope.MTA, created, math.MaxUint32, created); !got.After(created) {
		t.Errorf("after very many failures: %v", got)
	}
}

func TestStoredTimeOfTheNextAttemptCounts(t *testing.T) {
	t.Parallel()
	now := created.Add(9 * time.Hour)
	stored := created.Add(10 * time.Hour)
	for _, tt := range []struct {
		name string
		e    envelope.Envelope
		want time.Time
	}{
		{"stored", envelope.Envelope{Retry: 2, NextTry: stored}, stored},
		{"failed, nothing stored: overdue", envelope.Envelope{Retry: 2}, created.Add(1600 * time.Second)},
		{"never tried: since creation", envelope.Envelope{}, created},
	} {
		tt.e.ID, tt.e.Type, tt.e.Created, tt.e.TTL = 7, envelope.MTA, created, time.Hour
		it := Backoff{}.Item(&tt.e, now)
		if !it.Next.Equal(tt.want) {
			t.Errorf("%s: next %v, want %v", tt.name, it.Next, tt.want)
		}
		if it.ID != 7 || it.Type != envelope.MTA || it.Retry != tt.e.Retry || !it.Expires.Equal(created.Add(time.Hour)) {
			t.Errorf("%s: item %+v", tt.name, it)
		}
	}
	// The clock was set back: not an hour from now, but now.
	e := envelope.Envelope{Created: now.Add(time.Hour)}
	if it := (Backoff{}).Item(&e, now); !it.Next.Equal(now) {
		t.Errorf("created in the future: next %v, want now", it.Next)
	}
}
