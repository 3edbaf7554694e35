package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/keep"
)

// The summaries of a day are one record, named like 2026-01-02: a JSON array,
// compressed by gzip.

// maxStored bounds the record of a day once it is unpacked, in bytes.
const maxStored = 256 << 20

// encode returns the record of a day.
func encode(list []Summary) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err == nil {
		err = json.NewEncoder(z).Encode(list)
	}
	if err == nil {
		err = z.Close()
	}
	return b.Bytes(), err
}

// decode is the inverse of encode, for the record of a day. What cannot have been
// counted is left out.
func decode(record []byte, day time.Time) ([]Summary, error) {
	z, err := gzip.NewReader(bytes.NewReader(record))
	if err != nil {
		return nil, err
	}
	var list, out []Summary
	if err := json.NewDecoder(io.LimitReader(z, maxStored)).Decode(&list); err != nil {
		return nil, err
	}
	for _, s := range list {
		if len(out) < maxDomains && countable(s.Domain) && s.Day.Equal(day) && len(s.Policies) <= maxPolicies {
			s.Day = day
			out = append(out, s)
		}
	}
	return out, nil
}

// Load adds what the store has, to be called once, before the first Save. What was
// counted meanwhile stays; a domain and day in both is that of the store and the
// counts of this life together.
func (c *Counter) Load(ctx context.Context) error {
	if c.store == nil {
		return nil
	}
	names, err := c.store.Names(ctx)
	if err != nil {
		return err
	}
	oldest := c.today().Add(-maxDays * 24 * time.Hour)
	var errs []error
	for _, name := range names {
		day, err := time.Parse(time.DateOnly, name)
		if err != nil || day.Before(oldest) {
			errs = append(errs, c.store.Delete(ctx, name))
			continue
		}
		record, err := c.store.Get(ctx, name)
		var list []Summary
		if err == nil {
			list, err = decode(record, day)
		}
		if err != nil && !errors.Is(err, keep.ErrNotFound) {
			errs = append(errs, fmt.Errorf("counts of %s: %w", name, err))
		}
		for i := range list {
			c.merge(&list[i])
		}
	}
	return errors.Join(errs...)
}

// merge adds a stored summary.
func (c *Counter) merge(s *Summary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := period{s.Domain, s.Day.Unix()}
	known := c.counts[k]
	if known == nil && len(c.counts) >= maxDomains {
		return
	}
	c.counts[k] = s
	c.size += s.size()
	if known == nil {
		return
	}
	for i := range known.Policies {
		from := &known.Policies[i]
		p := c.policy(s, from.Policy)
		if p == nil {
			continue
		}
		p.Success += from.Success
		p.Failure += from.Failure
		for _, d := range from.Failures {
			c.detail(p, d)
		}
	}
	c.dirty[k.day] = true
}

// Save puts the days that have changed since the last Save into the store.
func (c *Counter) Save(ctx context.Context) error {
	if c.store == nil {
		return nil
	}
	c.mu.Lock()
	days := make(map[int64][]Summary, len(c.dirty))
	for day := range c.dirty {
		days[day] = nil
	}
	for k, s := range c.counts {
		if c.dirty[k.day] {
			days[k.day] = append(days[k.day], s.clone())
		}
	}
	clear(c.dirty)
	c.mu.Unlock()
	var errs []error
	for day, list := range days {
		name := time.Unix(day, 0).UTC().Format(time.DateOnly)
		record, err := encode(list)
		if err == nil {
			err = c.store.Put(ctx, name, record)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("counts of %s: %w", name, err))
			c.mu.Lock()
			c.dirty[day] = true
			c.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// Expire drops what is a week old, so that it does not keep new domains from being
// counted.
func (c *Counter) Expire(ctx context.Context) error {
	limit := c.today().Add(-maxDays * 24 * time.Hour)
	old := make(map[int64]bool)
	c.mu.Lock()
	c.size = 0
	for k, s := range c.counts {
		if s.Day.Before(limit) {
			old[k.day] = true
			delete(c.counts, k)
			delete(c.dirty, k.day)
			continue
		}
		c.size += s.size()
	}
	c.mu.Unlock()
	var errs []error
	for day := range old {
		if c.store != nil {
			errs = append(errs, c.store.Delete(ctx, time.Unix(day, 0).UTC().Format(time.DateOnly)))
		}
	}
	return errors.Join(errs...)
}
