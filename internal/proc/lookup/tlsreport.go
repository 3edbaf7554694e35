package lookup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/dns"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/internal/tlsrpt"
)

const (
	saveEvery   = time.Minute // how often counts are stored
	reportEvery = 10 * time.Minute
	// reportSpread is the time after midnight, UTC, over which reports are spread, so
	// that not all of the world sends them at once (RFC 8460 section 4.1).
	reportSpread = 4 * time.Hour
	listPage     = 4 << 20 // bytes, about
)

func (l *Lookup) countTLS(_ context.Context, req proto.CountTLSRequest) (proto.Empty, error) {
	for _, e := range req.Events {
		l.Counter.Add(e)
	}
	return proto.Empty{}, nil
}

func (l *Lookup) listTLS(_ context.Context, req proto.ListTLSRequest) (proto.ListTLSReply, error) {
	return proto.ListTLSReply{Summaries: l.Counter.List(req.After, listPage)}, nil
}

// keepCounts reads what an earlier life has counted, stores the counts now and then,
// and sends reports, until ctx ends.
func (l *Lookup) keepCounts(ctx context.Context) {
	// Counts that cannot be read are lost; new ones are worth more than an end.
	if err := l.Counter.Load(ctx); err != nil && ctx.Err() == nil {
		l.p.Log.Warnf("read the counts for TLS reports: %v", err)
	}
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	report := time.NewTimer(0)
	defer report.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-save.C:
			l.saveCounts(ctx)
		case <-report.C:
			l.sendReports(ctx, time.Now())
			report.Reset(reportEvery)
		}
	}
}

func (l *Lookup) saveCounts(ctx context.Context) {
	if err := errors.Join(l.Counter.Expire(ctx), l.Counter.Save(ctx)); err != nil && ctx.Err() == nil {
		l.p.Log.Warnf("keep the counts for TLS reports: %v", err)
	}
}

// sendReports sends the reports that are due.
func (l *Lookup) sendReports(ctx context.Context, now time.Time) {
	g, done := l.use(0)
	defer done()
	c := g.tlsReport
	from, err := smtp.ParseMailbox(c.From)
	if c.From == "" || err != nil {
		return
	}
	r := tlsrpt.Reporter{
		Organization: cmp.Or(c.Organization, g.serverName), Contact: cmp.Or(c.Contact, c.From), Host: g.serverName,
	}
	for _, s := range l.Counter.Finished() {
		if ctx.Err() != nil {
			return
		}
		if now.Before(s.Day.Add(24*time.Hour + spread(s.Domain+" "+g.serverName))) {
			continue
		}
		if err := l.sendReport(ctx, r, from, &s); err != nil {
			l.p.Log.Infof("tls-report domain=%s: not sent now: %v", s.Domain, err)
			continue
		}
		l.Counter.Reported(s.Domain, s.Day)
	}
	l.saveCounts(ctx)
}

// spread returns a time within reportSpread, always the same for a key.
func spread(key string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // it cannot fail
	return time.Duration(h.Sum64() % uint64(reportSpread))
}

// sendReport sends the report on s to all who want it by mail. It returns nil when
// there is nothing left to do.
func (l *Lookup) sendReport(ctx context.Context, r tlsrpt.Reporter, from smtp.Path, s *tlsrpt.Summary) error {
	a, err := l.Resolver.TXT(ctx, tlsrpt.RecordName(s.Domain))
	if errors.Is(err, dns.ErrNoName) || errors.Is(err, dns.ErrNoRecord) || errors.Is(err, dns.ErrBadName) {
		return nil
	}
	if err != nil {
		return err
	}
	want, err := tlsrpt.ParseRecord(a.Text)
	if err != nil {
		return nil // nobody can be told
	}
	var errs []error
	for _, to := range want.Mail {
		text, err := r.Message(s, from, to, time.Now())
		if err != nil {
			return err
		}
		_, err = proc.Ask(ctx, l.p.Links, proto.Queue, proto.SubmitMessage, proto.SubmitMessageRequest{
			Sender: from, Rcpt: to, Body: bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")),
		})
		if refused := proto.SMTPError(err); refused != nil && refused.Permanent() {
			l.p.Log.Warnf("tls-report domain=%s to=<%s>: %s", s.Domain, to, refused.Reply())
			continue
		}
		if err == nil {
			l.p.Log.Infof("tls-report domain=%s day=%s to=<%s> policies=%d", s.Domain, s.Day.Format(time.DateOnly), to, len(s.Policies))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
