// Package sqltable is a table that an SQL database answers. Its configuration has
// a statement for each service, query_alias, query_domain and so on, with the key as
// parameter, and fetch_source and fetch_relayhost without one:
//
//	query_alias        SELECT target FROM aliases WHERE name = ?
//	query_credentials  SELECT login, password FROM users WHERE login = ?
//	query_userinfo     SELECT uid, gid, home FROM users WHERE login = ?
//	fetch_source       SELECT address FROM sources
//
// Rows become values by the rules of remote.Value.
package sqltable

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

// maxRows bounds the rows of an answer, and maxList those of a fetched list.
const (
	maxRows = 1000
	maxList = 10000
)

// Table is the table.
type Table struct {
	db       *sql.DB
	guard    remote.Guard
	timeout  time.Duration
	services []table.Service
	queries  map[table.Service]query
	fetches  map[table.Service]*remote.Rotation
}

// query is a statement and how often it names its parameter.
type query struct {
	text   string
	params int
}

// Options tell databases apart.
type Options struct {
	// Numbered says that the parameter is written $1, however often; otherwise each
	// question mark stands for it.
	Numbered bool
}

// New returns a table over db, which it closes, with what c says beyond how to
// connect: the statements, "connections" (8) and "timeout" (10 s).
func New(db *sql.DB, c *remote.Conf, o Options) (*Table, error) {
	t := &Table{
		db: db, timeout: c.Delay("timeout", 10*time.Second),
		queries: map[table.Service]query{}, fetches: map[table.Service]*remote.Rotation{},
	}
	n := c.Int("connections", 1, 8)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	db.SetConnMaxIdleTime(5 * time.Minute)
	for _, s := range remote.Services() {
		if text := c.Get("query_" + string(s)); text != "" {
			q := query{text: text}
			if o.Numbered {
				q.params = min(1, strings.Count(text, "$1"))
			} else {
				q.params = questionMarks(text)
			}
			t.queries[s] = q
			t.services = append(t.services, s)
		}
	}
	for _, s := range []table.Service{table.Source, table.RelayHost} {
		text := c.Get("fetch_" + string(s))
		expire, refresh := c.Delay("fetch_"+string(s)+"_expire", time.Minute), c.Int("fetch_"+string(s)+"_refresh", 1, 1000)
		if text == "" {
			continue
		}
		t.fetches[s] = &remote.Rotation{Expire: expire, Refresh: refresh, Load: func(ctx context.Context) ([]string, error) { return t.list(ctx, text) }}
		if _, both := t.queries[s]; !both {
			t.services = append(t.services, s)
		}
	}
	slices.Sort(t.services)
	return t, c.Err()
}

// questionMarks counts the parameters of a statement: those outside of quotes.
func questionMarks(text string) int {
	n := 0
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"' || c == '`':
			quote = c
		case c == '?':
			n++
		}
	}
	return n
}

// Services implements remote.Source.
func (t *Table) Services() []table.Service { return t.services }

// Lookup implements table.Table.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	q, ok := t.queries[s]
	if !ok {
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
	}
	args := make([]any, q.params)
	for i := range args {
		args[i] = key
	}
	rows, err := t.query(ctx, maxRows, q.text, args...)
	if err != nil {
		return "", fmt.Errorf("query_%s: %w", s, err)
	}
	return remote.Value(s, rows)
}

// Fetch implements table.Table.
func (t *Table) Fetch(ctx context.Context, s table.Service) (string, error) {
	r := t.fetches[s]
	if r == nil {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return r.Next(ctx)
}

// list returns the first column of all rows.
func (t *Table) list(ctx context.Context, text string) ([]string, error) {
	rows, err := t.query(ctx, maxList, text)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	var out []string
	for _, r := range rows {
		if len(r) > 0 && r[0] != "" {
			out = append(out, r[0])
		}
	}
	return out, nil
}

// query returns the rows of a statement as text.
func (t *Table) query(ctx context.Context, most int, text string, args ...any) ([][]string, error) {
	if err := t.guard.Away(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	conn, err := t.db.Conn(ctx)
	t.guard.Tried(err)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	rows, err := read(ctx, conn, most, text, args)
	return rows, errors.Join(err, conn.Close())
}

func read(ctx context.Context, conn *sql.Conn, most int, text string, args []any) ([][]string, error) {
	rows, err := conn.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	cells := make([]sql.NullString, len(columns))
	into := make([]any, len(columns))
	for i := range cells {
		into[i] = &cells[i]
	}
	var out [][]string
	for rows.Next() {
		if len(out) == most {
			return nil, fmt.Errorf("more than %d rows", most)
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]string, len(cells))
		for i := range cells {
			row[i] = cells[i].String // "" when NULL
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// Update implements table.Table.
func (t *Table) Update(context.Context) error { return nil }

// Close implements table.Table.
func (t *Table) Close() error { return t.db.Close() }
