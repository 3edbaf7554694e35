package lookup

import (
	"context"
	"fmt"
	"os"

	"github.com/opensmtpd/opensmtpd/internal/expand"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/srs"
	"github.com/opensmtpd/opensmtpd/table"
)

// generation is one configuration: its rules and its open tables.
type generation struct {
	l        *Lookup
	number   uint32
	tables   map[string]table.Table
	watched  []*watched // those of the tables that have a file
	expander *expand.Expander

	finder        Finder
	serverName    string
	tlsReport     proto.TLSReport
	defaultLimits proto.RouteLimits
	domainLimits  []proto.DomainLimits

	uses    int  // questions being answered; guarded by Lookup.mu, like what follows
	retired bool // no session has it any more
}

// systemUsers is the backend of the built-in table of the system's users.
const systemUsers = "getpwnam"

func (l *Lookup) newGeneration(ctx context.Context, c *proto.LookupConfig) (*generation, error) {
	g := &generation{
		l: l, number: c.Generation, tables: map[string]table.Table{}, serverName: c.ServerName, tlsReport: c.TLSReport, finder: l.Finder(c.ServerName),
		defaultLimits: c.RelayLimits, domainLimits: c.DomainLimits,
	}
	for _, t := range c.Tables {
		if t.Backend == systemUsers {
			g.tables[t.Name] = l.Users
			continue
		}
		w := &watched{name: t.Name, path: t.Path, access: l.access(c.Generation, t.Name)}
		if t.Path != "" { // before it is read: a change that comes in between is seen
			w.used = w.stat(ctx)
			w.now = w.used
			g.watched = append(g.watched, w)
		}
		opened, err := l.Open(ctx, t, w.access)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("%s:%d: table %s: %w", t.File, t.Line, t.Name, err)
		}
		w.Table = opened
		g.tables[t.Name] = traced{opened, t.Name, l.p.Log}
	}
	actions := map[string]*policy.Action{}
	for _, a := range c.Actions {
		actions[a.Name] = a
	}
	g.expander = &expand.Expander{
		Rules: c.Rules, Actions: actions, Users: l.Users, Delim: c.SubAddrDelim,
		Tables:  func(name string) table.Table { return g.tables[name] },
		Forward: l.forward, ReadFile: l.readFile,
		Warn: func(err error) { l.p.Log.Warnf("%v", err) },
	}
	if c.SRSKey != "" {
		r, err := srs.New(c.SRSKey, c.SRSBackup, c.SRSTTLDays, nil)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("srs: %w", err)
		}
		g.expander.SRS = r
	}
	return g, nil
}

// traced logs the questions to a table, when asked for by -T lookup.
type traced struct {
	table.Table
	name string
	log  *proc.Log
}

// Lookup implements table.Table. The key of a password check is a secret.
func (t traced) Lookup(ctx context.Context, s table.Service, key string) (string, error) {
	value, err := t.Table.Lookup(ctx, s, key)
	if t.log.Tracing("lookup") {
		if s == table.Auth || s == table.Credentials {
			key, value = "...", "..."
		}
		t.log.Tracef("lookup", "table %s: %s %q = %q, %v", t.name, s, key, value, err)
	}
	return value, err
}

// List implements table.Lister for a table that does.
func (t traced) List(ctx context.Context, s table.Service) ([]string, error) {
	l, ok := t.Table.(table.Lister)
	if !ok {
		return nil, fmt.Errorf("%w: list %s", table.ErrUnsupported, s)
	}
	entries, err := l.List(ctx, s)
	t.log.Tracef("lookup", "table %s: %s, all = %q, %v", t.name, s, entries, err)
	return entries, err
}

// close closes the tables; the system's users are not the generation's own.
func (g *generation) close() {
	for name, t := range g.tables {
		if t == g.l.Users {
			continue
		}
		if err := t.Close(); err != nil {
			g.l.p.Log.Warnf("close table %s: %v", name, err)
		}
	}
}

func (g *generation) lookup(ctx context.Context, name string, s table.Service, key string) (string, error) {
	t := g.tables[name]
	if t == nil {
		return "", noSuchTable(name)
	}
	return t.Lookup(ctx, s, key)
}

// forward has the parent read a user's .forward.
func (l *Lookup) forward(ctx context.Context, req expand.ForwardRequest) ([]byte, bool, error) {
	r, err := proc.Ask(ctx, l.p.Links, proto.Parent, proto.ReadForward, proto.ForwardRequest{UID: req.UID, Home: req.Home})
	if err != nil {
		if e := proto.SMTPError(err); e != nil {
			return nil, false, e
		}
		return nil, false, err
	}
	return r.Content, r.Found, nil
}

// maxInclude bounds a file of addresses named by :include:, in bytes.
const maxInclude = 4 << 20

// readFile reads a file named by :include:, with this process's own rights.
func (l *Lookup) readFile(_ context.Context, path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxInclude {
		return nil, fmt.Errorf("%s: not a plain file of at most %d bytes", path, maxInclude)
	}
	return os.ReadFile(path)
}
