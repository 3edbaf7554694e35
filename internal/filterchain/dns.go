package filterchain

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opensmtpd/opensmtpd/filter/wire"
)

// Bounds of the questions of a filter to the DNS.
const (
	maxAsking    = 64   // that are being asked; others wait
	maxQuestions = 1024 // that are open; more are answered at once: not now
	maxAnswering = 4096 // whose answers the filter does not read; more are nonsense
	maxName      = 255  // bytes of a name (RFC 1035 section 2.3.4)
	dnsTimeout   = 30 * time.Second
)

// questions are those of one life.
type questions struct {
	asking    chan struct{}  // a slot for each that is being asked
	answering atomic.Int64   // whose answers are not sent yet
	wg        sync.WaitGroup // of what answers them

	mu   sync.Mutex
	open map[uint64]context.CancelFunc // guarded by mu; by their ids
}

// begin notes a question. The context ends when the filter gives it up. full says that
// there are too many; ok is false when the id is in use.
func (q *questions) begin(ctx context.Context, id uint64) (_ context.Context, full, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open[id] != nil {
		return nil, false, false
	}
	full = len(q.open) >= maxQuestions
	ctx, q.open[id] = context.WithCancel(ctx)
	return ctx, full, true
}

// end forgets a question. It may have come to its end before.
func (q *questions) end(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cancel := q.open[id]; cancel != nil {
		cancel()
		delete(q.open, id)
	}
}

// cancel has a question come to its end.
func (q *questions) cancel(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cancel := q.open[id]; cancel != nil {
		cancel()
	}
}

// question answers a question to the DNS. The reader never waits for a write: the
// program may not be reading before it has written.
func (r *reading) question(d *wire.ToDaemon, line []byte) error {
	l, session, id, query, name := r.life, d.Session, d.ID, d.Query, ""
	if d.Cancel {
		l.dns.cancel(id) // if its answer is not on the way already
		return nil
	}
	if l.dns.answering.Load() >= maxAnswering {
		return nonsense("too many questions at a time", line)
	}
	ctx, full, ok := l.dns.begin(r.ctx, id)
	if !ok {
		return nonsense("question under the id of one that is open", line)
	}
	if len(d.Text) <= maxName {
		name = string(d.Text)
	}
	l.dns.answering.Add(1)
	l.dns.wg.Go(func() {
		defer l.dns.answering.Add(-1)
		var values []string
		status := wire.StatusTempFail
		if !full {
			values, status = l.resolve(ctx, query, name)
		}
		l.dns.end(id)                                                   // the filter may use it again once it has read the answer
		_ = l.send(wire.AppendAnswer(nil, session, id, values, status)) // it has ended the life, if it failed
	})
	return nil
}

// resolve asks the DNS.
func (l *life) resolve(ctx context.Context, q wire.Query, name string) ([]string, wire.Status) {
	if q == 0 || name == "" {
		return nil, wire.StatusRefused
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	select {
	case l.dns.asking <- struct{}{}:
		defer func() { <-l.dns.asking }()
	case <-ctx.Done():
		return nil, wire.StatusTempFail
	}
	values, found, err := l.p.Resolve(ctx, q, name)
	switch {
	case err != nil:
		return nil, wire.StatusTempFail
	case !found:
		return nil, wire.StatusNotFound
	}
	return values, wire.StatusOK
}
