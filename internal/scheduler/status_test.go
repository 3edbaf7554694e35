package scheduler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

func queued() *envelope.Envelope {
	return &envelope.Envelope{
		ID: 0x5b1f0c4a9d8e7f60, Type: envelope.MTA, Source: "192.0.2.1", Flags: envelope.Authenticated,
		Sender: smtp.Path{Local: "a", Domain: "x.example"}, Rcpt: smtp.Path{Local: "b", Domain: "y.example"},
		Dest:    smtp.Path{Local: "c", Domain: "z.example"},
		Created: created, TTL: 96 * time.Hour, LastTry: created.Add(time.Second), Retry: 1,
		ErrorLine: "451 4.7.1 later", Status: smtp.EnhancedCode{4, 7, 1}, Action: "relay",
	}
}

func TestLineOfTheQueueListing(t *testing.T) {
	t.Parallel()
	now := created.Add(10 * time.Second)
	for _, tt := range []struct {
		name   string
		status Status
		edit   func(*envelope.Envelope)
		want   string
	}{
		{"pending", Status{Item: Item{Next: created.Add(400 * time.Second)}, State: Pending}, nil,
			"5b1f0c4a9d8e7f60|inet4|mta|auth|a@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|pending|390|451 4.7.1 later"},
		{"overdue", Status{Item: Item{Next: created}, State: Scheduled}, nil,
			"5b1f0c4a9d8e7f60|inet4|mta|auth|a@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|pending|0|451 4.7.1 later"},
		{"in flight", Status{State: InFlight}, nil,
			"5b1f0c4a9d8e7f60|inet4|mta|auth|a@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|inflight|9|451 4.7.1 later"},
		{"relay and what held it back", Status{State: Pending}, func(e *envelope.Envelope) {
			e.ErrorLine, e.Relay, e.Held = "451 later", "192.0.2.2 (mx|.example)", "limit of 10 messages a minute"
		}, `5b1f0c4a9d8e7f60|inet4|mta|auth|a@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|pending|0|451 later [192.0.2.2 (mx\174.example); limit of 10 messages a minute]`},
		{"held and suspended", Status{State: Held, Suspended: true}, func(e *envelope.Envelope) { e.Flags |= envelope.Internal },
			"5b1f0c4a9d8e7f60|inet4|mta|auth,internal,suspend,hold|a@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|pending|0|451 4.7.1 later"},
		{"offline, null sender, never tried", Status{}, func(e *envelope.Envelope) {
			e.Sender, e.LastTry, e.Retry, e.ErrorLine = smtp.Path{}, time.Time{}, 0, ""
			e.Flags, e.Source, e.Type = envelope.IsBounce, "[2001:db8::1]", envelope.Bounce
		}, "5b1f0c4a9d8e7f60|inet6|bounce|bounce|@|b@y.example|c@z.example|1800000000|1800345600|0|0|offline||"},
		{"separators in foreign text", Status{State: Pending}, func(e *envelope.Envelope) {
			e.Sender.Local, e.ErrorLine, e.Source, e.Flags = "a|b", "x|y\\\n\x1b[1m \u00e9\xff", "local", 0
		}, `5b1f0c4a9d8e7f60|local|mta||a\174b@x.example|b@y.example|c@z.example|1800000000|1800345600|1800000001|1|pending|0|x\174y\134\012\033[1m é\377`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := queued()
			if tt.edit != nil {
				tt.edit(e)
			}
			got := Line(tt.status, e, now)
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if n := strings.Count(got, "|"); n != 13 {
				t.Errorf("%d fields, want 14", n+1)
			}
		})
	}
}

func TestDescribeInJSON(t *testing.T) {
	t.Parallel()
	e := queued()
	e.Held = "limit of connections to y.example"
	b, err := json.Marshal(Describe(Status{Item: Item{Next: created.Add(400 * time.Second)}, State: Pending}, e))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"evpid":"5b1f0c4a9d8e7f60","msgid":"5b1f0c4a","source":"inet4","type":"mta","flags":["auth"],` +
		`"sender":"a@x.example","rcpt":"b@y.example","dest":"c@z.example","action":"relay",` +
		`"created":"2027-01-15T08:00:00Z","expires":"2027-01-19T08:00:00Z","last_try":"2027-01-15T08:00:01Z",` +
		`"next_try":"2027-01-15T08:06:40Z","retry":1,"state":"pending","reason":"limit of connections to y.example",` +
		`"status":"4.7.1","error":"451 4.7.1 later"}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	for state, want := range map[State]string{0: "offline", Scheduled: "pending", InFlight: "inflight", Held: "held"} {
		if got := Describe(Status{State: state, Hold: "q"}, e); got.State != want || got.Hold != "q" {
			t.Errorf("state %d: %+v, want %s", state, got, want)
		}
	}
}

func BenchmarkLine(b *testing.B) {
	e := queued()
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendLine(buf[:0], Status{State: Pending}, e, created)
	}
}
