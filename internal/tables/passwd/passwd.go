// Package passwd is a table over a file in the form of passwd(5), for mail users
// that are not users of the system:
//
//	alice:$2b$10$…:1000:1000:Alice:/home/alice:/bin/sh
//	bob@example.org:$6$…:2000:2000::/var/vmail/bob:
//
// It answers Credentials (name and password hash), UserInfo (uid, gid and home) and
// membership by String and MailAddr. Lines of two fields hold a password only,
// those of seven all, those of ten follow master.passwd(5); what a passwd-file of
// Dovecot has behind the seventh field is left alone. Blank lines, "#" comments and
// the "+" and "-" lines of NIS are skipped. A user whose hash is empty can never log
// in.
package passwd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/table"
)

// Bounds of the file, in bytes.
const (
	maxSize = 64 << 20
	maxLine = 4096
)

// user is a line of the file.
type user struct {
	name, hash string
	info       string // uid:gid:home; empty when the line has none
}

// Table is an open passwd file.
type Table struct {
	path    string
	opts    static.Options
	content atomic.Pointer[content]
}

type content struct {
	users map[string]user // by name as written
	lower map[string]user // by name in lower case
	names *static.Table
}

var _ table.Table = (*Table)(nil)

// Open reads the file at path. Errors name its line.
func Open(path string, o static.Options) (*Table, error) {
	o.Regex = false
	t := &Table{path: path, opts: o}
	if err := t.Update(context.Background()); err != nil {
		return nil, err
	}
	return t, nil
}

// Update implements table.Table.
func (t *Table) Update(context.Context) error {
	f, err := t.opts.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return err
	}
	if len(b) > maxSize {
		return fmt.Errorf("%s: larger than %d bytes", t.path, maxSize)
	}
	users, err := parse(string(b))
	if err != nil {
		return fmt.Errorf("%s:%w", t.path, err)
	}
	c := &content{users: make(map[string]user, len(users)), lower: make(map[string]user, len(users))}
	names := make([]static.Entry, 0, len(users))
	for _, u := range users {
		if _, dup := c.users[u.name]; dup { // the first line counts, as in getpwnam(3)
			continue
		}
		c.users[u.name] = u
		if low := strings.ToLower(u.name); c.lower[low].name == "" {
			c.lower[low] = u
		}
		names = append(names, static.Entry{Key: u.name})
	}
	if c.names, err = static.New(static.List, names, t.opts); err != nil {
		return err
	}
	t.content.Store(c)
	return nil
}

// parse reads the lines. Its error begins with the line number.
func parse(text string) ([]user, error) {
	var users []user
	for n := 1; text != ""; n++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSpace(line)
		if line == "" || strings.IndexByte("#+-", line[0]) >= 0 {
			continue
		}
		u, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		users = append(users, u)
	}
	return users, nil
}

func parseLine(line string) (user, error) {
	if len(line) > maxLine || strings.IndexByte(line, 0) >= 0 {
		return user{}, fmt.Errorf("not a text line of at most %d bytes", maxLine)
	}
	f := strings.Split(line, ":")
	var uid, gid, home string
	switch {
	case len(f) == 2:
	case len(f) == 10 && number(f[5]) && number(f[6]): // name:hash:uid:gid:class:change:expire:gecos:home:shell
		uid, gid, home = f[2], f[3], f[8]
	case len(f) >= 7: // name:hash:uid:gid:gecos:home:shell; a passwd-file of Dovecot has more behind it
		uid, gid, home = f[2], f[3], f[5]
	default:
		return user{}, fmt.Errorf("%d fields, want 7 (name:hash:uid:gid:gecos:home:shell) or 2 (name:hash)", len(f))
	}
	u := user{name: f[0], hash: f[1]}
	if u.name == "" {
		return user{}, errors.New("empty user name")
	}
	if uid == "" && gid == "" {
		return u, nil
	}
	for _, id := range []string{uid, gid} {
		if n, err := strconv.ParseUint(id, 10, 32); err != nil || n == 1<<32-1 {
			return user{}, fmt.Errorf("user %q: bad uid or gid %q", u.name, id)
		}
	}
	if !strings.HasPrefix(home, "/") {
		return user{}, fmt.Errorf("user %q: the home directory %q is not an absolute path", u.name, home)
	}
	u.info = uid + ":" + gid + ":" + home
	return u, nil
}

// number tells whether a field of master.passwd(5) holds a time.
func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 63)
	return err == nil
}

// Lookup implements table.Table.
func (t *Table) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	c := t.content.Load()
	switch s {
	case table.Credentials:
		if u, ok := c.find(key); ok && u.hash != "" {
			return u.name + ":" + u.hash, nil
		}
		return "", table.ErrNotFound
	case table.UserInfo:
		if u, ok := c.find(key); ok && u.info != "" {
			return u.info, nil
		}
		return "", table.ErrNotFound
	case table.String, table.MailAddr:
		return c.names.Lookup(ctx, s, key)
	}
	return "", fmt.Errorf("%w: %s", table.ErrUnsupported, s)
}

// find looks for the name as it is, then without regard to case.
func (c *content) find(name string) (user, bool) {
	if u, ok := c.users[name]; ok {
		return u, true
	}
	u, ok := c.lower[strings.ToLower(name)]
	return u, ok
}

// Fetch implements table.Table; there is nothing to fetch.
func (t *Table) Fetch(_ context.Context, s table.Service) (string, error) {
	return "", fmt.Errorf("%w: fetch %s", table.ErrUnsupported, s)
}

// Close implements table.Table.
func (t *Table) Close() error { return nil }
