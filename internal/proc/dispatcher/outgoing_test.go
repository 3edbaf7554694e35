package dispatcher

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opensmtpd/opensmtpd/filter"
	"github.com/opensmtpd/opensmtpd/filter/wire"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/filterchain"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/relay"
	"github.com/opensmtpd/opensmtpd/internal/report"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// outProcess keeps a filter for outgoing mail running. life is called for each of its
// lives, with what ends it.
func outProcess(t *testing.T, name string, life func(n int64, die func()) *filter.Filter) *filterchain.Process {
	t.Helper()
	var lives atomic.Int64
	p := &filterchain.Process{
		Name: name, Hello: filterchain.Hello{Version: "7.8.0", SessionTimeout: time.Minute, Outgoing: true}, Warnf: t.Logf,
		Start: func(ctx context.Context) (net.Conn, int, error) {
			ours, theirs := net.Pipe()
			f := life(lives.Add(1), func() { theirs.Close() })
			go func() { // ends with the pipe
				defer theirs.Close()
				_ = (&filter.Filter{Out: f}).Serve(ctx, theirs, theirs)
			}()
			return ours, 1, nil
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

type text struct{ *strings.Reader }

func (text) Close() error { return nil }

// A filter that dies within a transaction is not replaced by its next life, which has
// seen nothing of it: the mail waits.
func TestMailDoesNotLeaveWithoutAFilterThatDied(t *testing.T) {
	t.Parallel()
	again := make(chan struct{})
	died := make(chan func(), 1)
	sign := outProcess(t, "sign", func(n int64, die func()) *filter.Filter {
		f := &filter.Filter{DataEnd: func(_ *filter.Session, out *filter.Lines) { out.String("signed") }}
		if n == 1 {
			died <- die
			return f
		}
		if n == 2 {
			close(again)
		}
		return f
	})
	slow := outProcess(t, "slow", func(int64, func()) *filter.Filter {
		return &filter.Filter{
			RcptTo: func(*filter.Session, string) filter.Verdict {
				(<-died)()
				<-again
				return filter.Proceed()
			},
			// That this comes late gives the next life of sign the time to register.
			DataEnd: func(_ *filter.Session, out *filter.Lines) {
				for sign.Status().State != filterchain.Ready {
					time.Sleep(time.Millisecond)
				}
				out.String("slow")
			},
		}
	})
	chain := &filterchain.Chain{Direction: wire.Out, Events: report.Sinks{}, Warn: func(err error) { t.Log(err) },
		Filters: []*filterchain.Filter{{Name: "sign", Process: sign}, {Name: "slow", Process: slow}}}
	connect := wire.LinkConnect{RDNS: "mx.example.org", FCrDNS: wire.Pass, Source: "192.0.2.1:1", Destination: "192.0.2.2:25"}
	o := &outgoing{g: &generation{}, session: chain.Open(t.Context(), 1, policy.Facts{Source: "192.0.2.2"}, connect)}
	defer o.Close()
	path, _, err := smtp.ParsePath("<a@example.org>")
	if err != nil {
		t.Fatal(err)
	}
	changed, refused := o.Begin(t.Context(), &relay.Transaction{MsgID: 1, Sender: path, Rcpts: []*envelope.Envelope{{Dest: path}},
		Body: text{strings.NewReader("Subject: x\n\nx\n")}})
	defer o.Finish()
	if refused[0] == nil || refused[0].Code != 451 {
		b := make([]byte, changed.Body.Size())
		_, _ = changed.Body.ReadAt(b, 0)
		t.Errorf("answered %v, and the text that would be sent is %q", refused[0], b)
	}
}
