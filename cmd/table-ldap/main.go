// Command table-ldap answers tables of smtpd from an LDAP directory; see
// table-ldap(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/opensmtpd/opensmtpd/internal/tables/remote"
	"github.com/opensmtpd/opensmtpd/table"
)

func main() { remote.Main(open) }

// maxEntries bounds the entries of an answer.
const maxEntries = 1000

// query is a search: a filter in which %u and %s stand for the key and %h for the
// name of the table, and the attributes that make the value.
type query struct {
	filter     string
	attributes []string
}

// directory is the table.
type directory struct {
	name     string // of the table
	dialer   *dialer
	basedn   string
	timeout  time.Duration
	services []table.Service
	queries  map[table.Service]query
	fetches  map[table.Service]*remote.Rotation
}

func open(name string, c *remote.Conf) (remote.Source, error) {
	d := &directory{name: name, basedn: c.Get("basedn"), timeout: c.Delay("timeout", 10*time.Second),
		queries: map[table.Service]query{}, fetches: map[table.Service]*remote.Rotation{}}
	for _, s := range remote.Services() {
		filter, list := c.Get(string(s)+"_filter"), c.Get(string(s)+"_attributes")
		if filter == "" && list == "" {
			continue
		}
		q, err := parseQuery(s, filter, list)
		if err != nil {
			return nil, err
		}
		d.queries[s] = q
		d.services = append(d.services, s)
	}
	for _, s := range []table.Service{table.Source, table.RelayHost} {
		if err := d.addFetch(s, c); err != nil {
			return nil, err
		}
	}
	slices.Sort(d.services)
	var err error
	if d.dialer, err = newDialer(c); err != nil {
		return nil, err
	}
	d.dialer.timeout = d.timeout
	return d, c.Err()
}

// addFetch reads the search whose results are fetched in turn, if there is one.
func (d *directory) addFetch(s table.Service, c *remote.Conf) error {
	key := "fetch_" + string(s)
	filter, list := c.Get(key+"_filter"), c.Get(key+"_attributes")
	expire := c.Delay(key+"_expire", time.Minute)
	if filter == "" && list == "" {
		return nil
	}
	q, err := parseQuery(s, filter, list)
	if err != nil {
		return fmt.Errorf("fetch_%w", err)
	}
	d.fetches[s] = &remote.Rotation{Expire: expire, Refresh: 1000, Load: func(ctx context.Context) ([]string, error) {
		entries, err := d.search(ctx, q, "")
		if err != nil {
			return nil, err
		}
		return valuesOf(q, entries), nil
	}}
	if _, both := d.queries[s]; !both {
		d.services = append(d.services, s)
	}
	return nil
}

// valuesOf returns all values of the one attribute, in the order of the entries.
func valuesOf(q query, entries []*ldap.Entry) []string {
	var out []string
	for _, e := range entries {
		for _, v := range e.GetEqualFoldAttributeValues(q.attributes[0]) {
			if v != "" {
				out = append(out, v)
			}
		}
	}
	return out
}

// parseQuery checks the two keys of a service. auth needs no attributes: the entry
// that is found is bound to.
func parseQuery(s table.Service, filter, list string) (query, error) {
	q := query{filter: filter}
	for a := range strings.SplitSeq(list, ",") {
		if a = strings.TrimSpace(a); a != "" {
			q.attributes = append(q.attributes, a)
		}
	}
	if s == table.Auth && len(q.attributes) == 0 {
		q.attributes = []string{"1.1"} // none, RFC 4511 section 4.5.1.8
	}
	switch n := remote.Columns(s); {
	case filter == "":
		return q, fmt.Errorf("%s_filter is missing", s)
	case len(q.attributes) == 0:
		return q, fmt.Errorf("%s_attributes is missing", s)
	case s != table.Auth && len(q.attributes) != n:
		return q, fmt.Errorf("%s_attributes: %d attributes, want %d", s, len(q.attributes), n)
	}
	text, err := expand(filter, "t", "k")
	if err == nil {
		_, err = ldap.CompileFilter(text)
	}
	if err != nil {
		return q, fmt.Errorf("%s_filter: %w", s, err)
	}
	return q, nil
}

// expand puts the table's name and the key into a filter, escaped as RFC 4515
// section 3 asks for.
func expand(filter, name, key string) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(filter, "%")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if after == "" {
			return "", errors.New(`a "%" at the end`)
		}
		switch after[0] {
		case 'u', 's':
			b.WriteString(ldap.EscapeFilter(key))
		case 'h':
			b.WriteString(ldap.EscapeFilter(name))
		case '%':
			b.WriteByte('%')
		default:
			return "", fmt.Errorf(`unknown "%%%c"`, after[0])
		}
		filter = after[1:]
	}
}

// Services implements remote.Source.
func (d *directory) Services() []table.Service { return d.services }

// Lookup implements table.Table.
func (d *directory) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	q, ok := d.queries[s]
	if !ok {
		return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
	}
	if s == table.Auth {
		return key, d.authenticate(ctx, q, key)
	}
	entries, err := d.search(ctx, q, key)
	if err != nil {
		return "", err
	}
	return remote.Value(s, rowsOf(s, q, entries))
}

// rowsOf makes a row of each entry: the first value of each attribute. An alias or
// address list takes all values, a row for each. What only asks for membership
// needs no attribute.
func rowsOf(s table.Service, q query, entries []*ldap.Entry) [][]string {
	var rows [][]string
	for _, e := range entries {
		switch s {
		case table.Alias, table.MailAddrMap:
			for _, v := range valuesOf(q, []*ldap.Entry{e}) {
				rows = append(rows, []string{v})
			}
		case table.Domain, table.MailAddr, table.NetAddr, table.String, table.Regex:
			rows = append(rows, []string{e.DN})
		default:
			row := make([]string, len(q.attributes))
			for i, a := range q.attributes {
				row[i] = e.GetEqualFoldAttributeValue(a)
			}
			if !slices.Contains(row, "") { // an entry that lacks one does not count
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// search returns the entries that a filter finds.
func (d *directory) search(ctx context.Context, q query, key string) ([]*ldap.Entry, error) {
	filter, err := expand(q.filter, d.name, key)
	if err != nil {
		return nil, err
	}
	conn, err := d.dialer.get(ctx)
	if err != nil {
		return nil, err
	}
	r, err := conn.Search(ldap.NewSearchRequest(d.basedn, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, maxEntries,
		int(d.timeout/time.Second), false, filter, q.attributes, nil))
	if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, nil
	}
	if err != nil {
		d.dialer.failed(conn, err)
		return nil, err
	}
	return r.Entries, nil
}

// authenticate checks "user:password" by binding as the one entry that the filter
// finds for the user.
func (d *directory) authenticate(ctx context.Context, q query, key string) error {
	user, password, _ := strings.Cut(key, ":")
	if user == "" || password == "" { // an empty password binds as nobody, RFC 4513 section 5.1.2
		return table.ErrNotFound
	}
	entries, err := d.search(ctx, q, user)
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return table.ErrNotFound
	}
	conn, err := d.dialer.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Bind(entries[0].DN, password)
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication) {
		return table.ErrNotFound
	}
	return err
}

// Fetch implements table.Table.
func (d *directory) Fetch(ctx context.Context, s table.Service) (string, error) {
	r := d.fetches[s]
	if r == nil {
		return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
	}
	return r.Next(ctx)
}

// Update implements table.Table.
func (d *directory) Update(context.Context) error { return nil }

// Close implements table.Table.
func (d *directory) Close() error { return d.dialer.close() }
