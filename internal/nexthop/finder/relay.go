package finder

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/nexthop"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// Tables returns a table by its name, nil for one that does not exist.
type Tables = func(name string) table.Table

// Request asks for the way of a message.
type Request struct {
	Options *policy.RelayOptions
	Family  nexthop.Family // where the action does not say
	Domain  string         // of the recipient
	// RequireTLS is REQUIRETLS, TLSOptional the field "TLS-Required: No" of a message
	// (RFC 8689). The former wins.
	RequireTLS, TLSOptional bool
}

// demand returns what the action and the message ask of TLS together. A message
// never weakens what the action asks for, it only makes what domains ask for of no
// account (RFC 8689 section 5).
func (r *Request) demand() Demand {
	d := Verify // "required"
	switch r.Options.TLS {
	case "":
		d = AsOffered
	case "opportunistic":
		d = Indifferent
	case "no-verify":
		d = NoVerify
	case "sts":
		d = Vouched
	case "dane":
		return ByDANE
	}
	switch {
	case r.RequireTLS:
		return Vouched
	case r.TLSOptional && d == AsOffered:
		return Indifferent
	}
	return d
}

// FamilyOf returns the family that an action asks for, otherwise if it asks for
// none.
func FamilyOf(o *policy.RelayOptions, otherwise nexthop.Family) nexthop.Family {
	switch o.Family {
	case "prefer inet4":
		return nexthop.Prefer4
	case "prefer inet6":
		return nexthop.Prefer6
	case "only inet4":
		return nexthop.Only4
	case "only inet6":
		return nexthop.Only6
	}
	return otherwise
}

// Resolve returns where mail for a domain goes under a relay action, with the
// credentials that the hosts want. Its errors are as those of Find.
func (f *Finder) Resolve(ctx context.Context, r Request, tables Tables) (*nexthop.Hops, error) {
	o, domain := r.Options, r.Domain
	q := Query{
		Domain: domain, Family: FamilyOf(o, r.Family), Backup: o.Backup, BackupName: o.BackupName,
		TLS: r.demand(), RequireTLS: r.RequireTLS,
	}
	var err error
	if q.Smarthosts, err = smarthostsOf(ctx, o, domain, tables); err != nil {
		return nil, err
	}
	for _, rank := range q.Smarthosts {
		for _, u := range rank {
			if u.Label != "" && o.Auth == "" {
				return nil, temporary(3, 5, "No auth table for relaying", nil)
			}
		}
	}
	hops, err := f.Find(ctx, q)
	if err != nil {
		return hops, err
	}
	if err := authorize(ctx, hops, o.Auth, tables); err != nil {
		return nil, err
	}
	return hops, nil
}

// smarthostsOf returns the smarthosts of an action, nil for none.
func smarthostsOf(ctx context.Context, o *policy.RelayOptions, domain string, tables Tables) ([][]nexthop.URL, error) {
	name := o.Host
	if name == "" {
		name = o.Domain
	}
	if name == "" {
		return nil, nil
	}
	t := tables(name)
	if t == nil {
		return nil, temporary(3, 5, "Cannot retrieve smarthost", fmt.Errorf("no table %q", name))
	}
	var entries []string
	var err error
	if o.Host != "" {
		entries, err = hosts(ctx, t)
	} else {
		var one string
		one, err = t.Lookup(ctx, table.RelayHost, strings.ToLower(domain))
		entries = []string{one}
	}
	if err != nil {
		return nil, temporary(3, 5, "Cannot retrieve smarthost", err)
	}
	ranks, err := Ranks(entries)
	if err != nil {
		return nil, temporary(3, 5, "Cannot parse smarthost", err)
	}
	return ranks, nil
}

// hosts returns the entries of a relay host table: all of one that can list them,
// else the next.
func hosts(ctx context.Context, t table.Table) ([]string, error) {
	if l, ok := t.(table.Lister); ok {
		entries, err := l.List(ctx, table.RelayHost)
		if !errors.Is(err, table.ErrUnsupported) {
			return entries, err
		}
	}
	one, err := t.Fetch(ctx, table.RelayHost)
	return []string{one}, err
}

// maxEntries bounds the entries of a relay host table that are used.
const maxEntries = 64

// Ranks returns the smarthosts of the entries of a table. The entries are equally
// good; within one, URLs parted by commas are to be tried one after another.
//
//	a          first rank: a, c, e
//	c, d       second:     d, f
//	e, f
func Ranks(entries []string) ([][]nexthop.URL, error) {
	if len(entries) == 0 {
		return nil, table.ErrNotFound
	}
	var ranks [][]nexthop.URL
	for _, e := range entries[:min(len(entries), maxEntries)] {
		urls, err := nexthop.ParseURLs(e)
		if err != nil {
			return nil, err
		}
		for i, u := range urls {
			if i == len(ranks) {
				ranks = append(ranks, nil)
			}
			ranks[i] = append(ranks[i], u)
		}
	}
	return ranks, nil
}

// authorize gives the hosts the credentials of their labels. A host whose
// credentials cannot be had is an error: another smarthost would hide it.
func authorize(ctx context.Context, hops *nexthop.Hops, auth string, tables Tables) error {
	known := make(map[string]*nexthop.Credentials)
	for _, g := range hops.Groups {
		for i := range g {
			label := g[i].Label
			if label == "" {
				continue
			}
			if known[label] == nil {
				c, err := Credentials(ctx, tables(auth), label)
				if err != nil {
					return &smtp.Error{Code: 451, Enhanced: smtp.EnhancedCode{4, 3, 5},
						Text: "Could not retrieve credentials", Err: err}
				}
				known[label] = &c
			}
			g[i].Auth = known[label]
		}
	}
	return nil
}

// maxCredentials bounds a row of a credentials table, in bytes.
const maxCredentials = 2047

// Credentials returns what a table has for a label: "user:password", or the
// password alone of a user called like the label. The errors hold neither.
func Credentials(ctx context.Context, t table.Table, label string) (nexthop.Credentials, error) {
	if t == nil {
		return nexthop.Credentials{}, errors.New("no such table of credentials")
	}
	row, err := t.Lookup(ctx, table.Credentials, label)
	if err != nil {
		return nexthop.Credentials{}, fmt.Errorf("credentials of %q: %w", label, err)
	}
	user, password, ok := strings.Cut(row, ":")
	if !ok {
		user, password = label, row
	}
	if user == "" || password == "" || len(row) > maxCredentials || strings.ContainsAny(row, "\x00\r\n") {
		return nexthop.Credentials{}, fmt.Errorf("malformed credentials of %q", label)
	}
	return nexthop.Credentials{User: user, Password: password}, nil
}
