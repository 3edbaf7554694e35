package dsn

import (
	"fmt"
	"testing"
	"time"
)

func TestLimiterLetsAMinutesWorthThroughAndSpreadsTheRest(t *testing.T) {
	t.Parallel()
	l, now := NewLimiter(), time.Unix(1800000000, 0)
	sent := 0
	var last time.Time
	for range 100 {
		at, ok := l.Allow("Victim.example", 10, now)
		switch {
		case ok:
			sent++
		case !at.After(now) || !at.After(last):
			t.Fatalf("turned away until %v after %v", at, last)
		default:
			last = at
		}
	}
	if sent != 10 || last.Sub(now) != 90*6*time.Second {
		t.Errorf("%d of 100 let through at once, the last one comes after %v", sent, last.Sub(now))
	}
	if _, ok := l.Allow("other.example", 10, now); !ok {
		t.Error("another domain is held up")
	}
	// Those that come at their times find a place.
	for i := 1; i <= 90; i++ {
		if _, ok := l.Allow("victim.example", 10, now.Add(time.Duration(i)*6*time.Second)); !ok {
			t.Fatalf("number %d is turned away again", i)
		}
	}
	if _, ok := l.Allow("victim.example", 0, now); !ok {
		t.Error("no limit, and one is turned away")
	}
}

func TestLimiterForgets(t *testing.T) {
	t.Parallel()
	l, now := NewLimiter(), time.Unix(1800000000, 0)
	for i := range maxDomains + 50 {
		now = now.Add(time.Millisecond)
		if _, ok := l.Allow(fmt.Sprintf("d%d.example", i), 10, now); !ok {
			t.Fatal("turned away at once")
		}
		if len(l.domains) > maxDomains {
			t.Fatalf("%d domains are remembered", len(l.domains))
		}
	}
}
