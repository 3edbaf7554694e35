// Package ruleset decides what happens to an envelope: the first match line whose
// conditions all hold names an action or refuses. It asks tables through an
// interface and does no I/O of its own.
package ruleset

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/smtp"
	"github.com/opensmtpd/opensmtpd/table"
)

// Tables returns the table of a name, or nil when there is none. It may be called
// at the same time from many goroutines.
type Tables func(name string) table.Table

// TableError says that a condition could not be decided because its table failed.
// It is always temporary.
type TableError struct {
	Pos   policy.Position // of the rule
	Table string
	Err   error
}

// Error names the rule, the table and the cause.
func (e *TableError) Error() string {
	return fmt.Sprintf("%s: table %s: %v", e.Pos, e.Table, e.Err)
}

// Unwrap returns the cause.
func (e *TableError) Unwrap() error { return e.Err }

// Rule returns FILE:LINE of the rule.
func (e *TableError) Rule() string { return e.Pos.String() }

// errNoTable is the cause when a rule names a table that was not opened.
var errNoTable = errors.New("no such table")

// Match returns the first rule whose conditions all hold, or nil when none does.
// Conditions are tested in the order they stand in the rule, up to the first that
// fails. A failing table ends the search with a *TableError, negated or not.
func Match(ctx context.Context, rules []*policy.Rule, tables Tables, f *policy.Facts) (*policy.Rule, error) {
	k := keys{facts: f}
	for _, r := range rules {
		ok, err := matchRule(ctx, r, tables, &k)
		if err != nil {
			return nil, err
		}
		if ok {
			return r, nil
		}
	}
	return nil, nil
}

// Holds decides one condition, outside of a rule. The error is that of its table.
func Holds(ctx context.Context, c *policy.Condition, tables Tables, f *policy.Facts) (bool, error) {
	ok, err := matchCondition(ctx, c, tables, &keys{facts: f})
	if err != nil {
		return false, fmt.Errorf("table %s: %w", c.Table, err)
	}
	return ok, nil
}

func matchRule(ctx context.Context, r *policy.Rule, tables Tables, k *keys) (bool, error) {
	for i := range r.Conditions {
		c := &r.Conditions[i]
		ok, err := matchCondition(ctx, c, tables, k)
		if err != nil {
			return false, &TableError{Pos: r.Pos, Table: c.Table, Err: err}
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// matchCondition decides one condition, its negation included.
func matchCondition(ctx context.Context, c *policy.Condition, tables Tables, k *keys) (bool, error) {
	q := query{name: c.Table}
	switch c.Kind {
	case policy.Tag:
		q.service, q.key = table.String, k.facts.Tag
	case policy.From:
		return matchFrom(ctx, c, tables, k)
	case policy.For:
		q.service, q.key = table.Domain, k.domain()
		if c.How == policy.IsAny || c.Table == "" && c.How != policy.IsLocal {
			return (q.key != "") != c.Not, nil
		}
		if c.How == policy.IsLocal && c.Table == "" {
			q.name = "<localnames>"
		}
	case policy.HELO:
		q.service, q.key = table.Domain, trimDot(k.facts.HELO)
	case policy.Auth:
		if !k.facts.Authenticated || c.Table == "" {
			return k.facts.Authenticated != c.Not, nil
		}
		q.service, q.key = table.String, k.facts.Username
		if strings.Contains(q.key, "@") {
			q.service = table.MailAddr
		}
	case policy.TLS:
		return k.facts.TLS != c.Not, nil
	case policy.MailFrom:
		q.service, q.key = table.MailAddr, k.senderKey()
	case policy.RcptTo:
		q.service, q.key = table.MailAddr, k.rcptKey()
	default:
		return false, fmt.Errorf("unknown condition %d", c.Kind)
	}
	return q.decide(ctx, c, tables)
}

// matchFrom decides a condition on where the mail comes from.
func matchFrom(ctx context.Context, c *policy.Condition, tables Tables, k *keys) (bool, error) {
	f := k.facts
	source := f.Source
	if f.Internal {
		source = "local"
	}
	switch {
	case c.How == policy.IsAny:
		return !c.Not, nil
	case c.How == policy.IsSocket:
		return (f.Source == "local" && !f.Internal) != c.Not, nil
	case c.RDNS || c.How == policy.HasRDNS:
		name := trimDot(f.RDNS)
		if f.Internal {
			name = source
		}
		known := name != "" && name != unknownHost
		if c.Table == "" {
			return known != c.Not, nil
		}
		if !known { // false, and so is its negation
			return false, nil
		}
		q := query{name: c.Table, service: table.Domain, key: name}
		return q.decide(ctx, c, tables)
	}
	q := query{name: c.Table, service: table.NetAddr, key: source}
	if q.name == "" {
		q.name = "<localhost>"
	}
	return q.decide(ctx, c, tables)
}

// unknownHost stands for a client without a reverse name.
const unknownHost = "<unknown>"

// query is a question to a table.
type query struct {
	name    string
	service table.Service
	key     string
}

// decide asks the table and applies the condition's way to compare and negation.
func (q *query) decide(ctx context.Context, c *policy.Condition, tables Tables) (bool, error) {
	if c.How == policy.RegexIn {
		q.service = table.Regex
	}
	t := tables(q.name)
	if t == nil {
		return false, errNoTable
	}
	switch _, err := t.Lookup(ctx, q.service, q.key); {
	case err == nil:
		return !c.Not, nil
	case errors.Is(err, table.ErrNotFound):
		return c.Not, nil
	default:
		return false, err
	}
}

// keys makes the keys that need joining, once for all rules.
type keys struct {
	facts        *policy.Facts
	sender, rcpt string
}

func (k *keys) domain() string { return trimDot(k.facts.Rcpt.Domain) }

func (k *keys) senderKey() string {
	if k.sender == "" {
		k.sender = addrKey(k.facts.Sender)
	}
	return k.sender
}

func (k *keys) rcptKey() string {
	if k.rcpt == "" {
		k.rcpt = addrKey(k.facts.Rcpt)
	}
	return k.rcpt
}

// addrKey is user@domain, without quotes; the null path is "@".
func addrKey(p smtp.Path) string { return p.Local + "@" + trimDot(p.Domain) }

// trimDot drops the dot that ends a fully qualified name.
func trimDot(s string) string {
	if len(s) > 1 && s[len(s)-1] == '.' {
		return s[:len(s)-1]
	}
	return s
}
