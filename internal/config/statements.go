package config

import (
	"errors"
	"strings"
	"unicode"

	"github.com/opensmtpd/opensmtpd/internal/smtp"
)

// admd reads "admd STRING".
func (p *parser) admd(token) {
	t := p.peek()
	s := p.str("the administrative domain")
	if p.failed {
		return
	}
	if s == "" || strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		p.errorf(t.pos, "not a valid admd: %s: only printable ASCII is allowed", t.describe())
		return
	}
	p.cfg.AdminDomain = s
}

// maxWarnIntervals is how many delayed notices a message may cause.
const maxWarnIntervals = 4

// bounce reads "bounce warn-interval DELAY, ...", "bounce limit KEY NUMBER ..." and
// "bounce postmaster ADDRESS".
func (p *parser) bounce(token) {
	switch {
	case p.accept("limit"):
		p.limits("bounce", func(key string) (*int, int64) {
			if key == "max-messages-per-minute" {
				return &p.cfg.Bounce.MaxPerMinute, 0
			}
			return nil, 0
		})
		return
	case p.acceptBare("postmaster"):
		at := p.peek()
		address := p.str("an address in quotes")
		if p.failed {
			return
		}
		path, rest, err := smtp.ParsePath("<" + address + ">")
		if err != nil || rest != "" || path.Local == "" || path.Domain == "" {
			p.errorf(at.pos, "invalid address of a postmaster: %s", cut(address))
			return
		}
		p.cfg.Bounce.Postmaster = path
		return
	case !p.accept("warn-interval"):
		p.syntaxError("expected warn-interval, limit or postmaster")
		return
	}
	p.cfg.Bounce.WarnIntervals = nil
	for {
		pos := p.peek().pos
		d := p.delay("invalid bounce delay: %s")
		if p.failed {
			return
		}
		if len(p.cfg.Bounce.WarnIntervals) == maxWarnIntervals {
			p.errorf(pos, "at most %d bounce delays may be given", maxWarnIntervals)
			p.failed = true
			return
		}
		p.cfg.Bounce.WarnIntervals = append(p.cfg.Bounce.WarnIntervals, d)
		if !p.acceptPunct(",") {
			return
		}
	}
}

// ca reads "ca NAME cert FILE".
func (p *parser) ca(kw token) {
	name := p.domainName()
	if !p.failed {
		p.broken["ca "+name] = true
	}
	p.expect("cert")
	file := p.filePath()
	if p.failed {
		return
	}
	delete(p.broken, "ca "+name)
	if c := p.cas[name]; c != nil {
		c.Cert = file
		return
	}
	c := &CA{Pos: kw.pos, Name: name, Cert: file}
	p.cas[name] = c
	p.cfg.CAs = append(p.cfg.CAs, c)
}

// pki reads "pki NAME" with any number of cert, key and dhe. Statements with one
// name add up.
func (p *parser) pki(kw token) {
	name := p.domainName()
	if p.failed {
		return
	}
	k := p.pkis[name]
	if k == nil {
		k = &PKI{Pos: kw.pos, Name: name, DHE: "none"}
		p.pkis[name] = k
		p.cfg.PKIs = append(p.cfg.PKIs, k)
	}
	for !p.atEnd() {
		switch {
		case p.accept("cert"):
			k.Cert = p.filePath()
		case p.accept("key"):
			k.Key = p.filePath()
		case p.accept("dhe"):
			t := p.peek()
			switch s := p.str("none, auto or legacy"); s {
			case "none", "auto", "legacy":
				k.DHE = s
			default:
				if !p.failed {
					p.errorf(t.pos, "invalid DHE keyword: %s: write none, auto or legacy", cut(s))
				}
			}
		default:
			p.syntaxError("expected cert, key or dhe")
		}
	}
	if p.failed {
		p.broken["pki "+name] = true
	}
}

// builtinBackends are table backends that need no check for existence. static
// is another name for file when a path follows.
var builtinBackends = map[string]bool{"static": true, "file": true, "db": true, "passwd": true, "getpwnam": true}

// maxTableName bounds the name of a table, in bytes.
const maxTableName = 2047

// table reads "table NAME { ... }", "table NAME [TYPE:]PATH" and
// "table NAME proc-exec COMMAND"; the last two may end in "ttl DELAY".
func (p *parser) table(kw token) {
	at := p.peek()
	name := p.str("a name of a table")
	if p.failed {
		return
	}
	t := &Table{Pos: kw.pos, Name: name, Backend: "static"}
	duplicate := p.tables[name]
	source := p.peek()
	switch {
	case source.is("{"):
		t.Kind, t.Entries = p.entries()
	case source.kind == tokString:
		p.take()
		p.tableSource(t, source)
		p.tableTTL(t)
	case source.word(CommandBackend):
		p.take()
		t.Backend, t.Kind, t.Command = CommandBackend, Dynamic, p.str("a command in quotes")
		p.tableTTL(t)
	default:
		p.syntaxError("expected { ... }, [TYPE:]PATH or proc-exec \"COMMAND\"")
	}
	if t.Program() && strings.ContainsFunc(name, func(r rune) bool { return r == '|' || r < ' ' }) {
		p.errorf(at.pos, "the name of a table that a program answers may hold neither \"|\" nor control characters: %s", cut(name))
	}
	switch {
	case duplicate != nil && p.failed:
	case duplicate != nil && duplicate.builtin():
		p.errorf(at.pos, "table %q is built in", cut(name))
	case duplicate != nil:
		p.errorf(at.pos, "table %q already defined in %s:%d", cut(name), duplicate.Pos.File, duplicate.Pos.Line)
	case strings.HasPrefix(name, "<"):
		p.errorf(at.pos, "a table's name may not begin with \"<\": %s", cut(name))
	case len(name) > maxTableName || name == "":
		p.errorf(at.pos, "table names have 1 to %d bytes", maxTableName)
	case p.failed || t.Kind == 0:
		p.broken["table "+name] = true
	default:
		p.tables[name] = t
		p.cfg.Tables = append(p.cfg.Tables, t)
	}
}

// tableTTL reads how long answers are kept.
func (p *parser) tableTTL(t *Table) {
	if !p.failed && p.accept("ttl") {
		t.TTL = p.delay("ttl delay %q is invalid")
	}
}

// tableSource sets backend, path and kind of t from "[TYPE:]PATH". The kind
// stays 0 after a mistake.
func (p *parser) tableSource(t *Table, source token) {
	backend, path, hasPath := strings.Cut(source.text, ":")
	if strings.HasPrefix(source.text, "/") || strings.HasPrefix(source.text, credentialPrefix) {
		backend, path, hasPath = "file", source.text, true
	}
	if mistakes := len(p.errs); hasPath {
		if path = p.credential(source, path); len(p.errs) > mistakes {
			return
		}
	}
	if hasPath && backend == "static" {
		backend = "file"
	}
	if hasPath && backend == CommandBackend {
		t.Backend, t.Kind, t.Command = backend, Dynamic, path
		return
	}
	t.Backend, t.Path = backend, path
	switch {
	case hasPath && !strings.HasPrefix(path, "/"):
		p.errorf(source.pos, "invalid backend parameter for table: %s: the path in %s must begin with \"/\"", cut(t.Name), source.describe())
		return
	case hasPath && len(path) > 4095:
		p.errorf(source.pos, "invalid backend parameter for table: %s: the path is longer than 4095 bytes", cut(t.Name))
		return
	case backend == "getpwnam" && hasPath:
		p.errorf(source.pos, "invalid backend parameter for table: %s: getpwnam takes no path", cut(t.Name))
		return
	case builtinBackends[backend] && backend != "getpwnam" && !hasPath:
		p.errorf(source.pos, "invalid backend parameter for table: %s: write %s:/path, or { ... } for a table in place", cut(t.Name), backend)
		return
	case !builtinBackends[backend] && !p.backendExists(backend):
		p.errorf(source.pos, "table backend %q does not exist: there is no program table-%s among the helper programs", cut(backend), cut(backend))
		return
	}
	t.Kind = Dynamic
	if hasPath && p.opts.TableKind != nil {
		kind, err := p.opts.TableKind(backend, path)
		if err == nil && (kind < List || kind > Empty) {
			err = errors.New("neither a list nor a map")
		}
		if err != nil {
			p.errorf(source.pos, "invalid configuration file %s for table %s: %v", path, cut(t.Name), err)
			kind = 0
		}
		t.Kind = kind
	}
}

// backendExists tells whether a program or backend answers for a table. The name
// becomes part of a file name, so it may hold no more than a plain word.
func (p *parser) backendExists(name string) bool {
	if name == "" || len(name) > 255 || name[0] == '.' {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := int(name[i]); !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return p.opts.BackendExists == nil || p.opts.BackendExists(name)
}

// proc reads "proc NAME COMMAND" with its options.
func (p *parser) proc(kw token) {
	at := p.peek()
	name := p.str("a name of a process")
	pr := &Proc{Pos: kw.pos, Name: name, Command: p.str("a command in quotes")}
	p.procOptions(pr)
	p.addProc(at, pr)
}

// procOptions reads user, group and chroot of a process.
func (p *parser) procOptions(pr *Proc) {
	for !p.atEnd() && !p.failed {
		if !p.procOption(pr) {
			p.syntaxError("expected user, group or chroot")
		}
	}
}

// procOption reads one option of a process, if the next word is one.
func (p *parser) procOption(pr *Proc) bool {
	t := p.peek()
	var field *string
	switch {
	case t.word("user"):
		field = &pr.User
	case t.word("group"):
		field = &pr.Group
	case t.word("chroot"):
		field = &pr.Chroot
	default:
		return false
	}
	p.take()
	value := p.str("a value of " + t.text)
	switch {
	case p.failed:
	case *field != "":
		p.errorf(t.pos, "%s already specified for this proc", t.text)
	case value == "":
		p.errorf(t.pos, "%s of a proc may not be empty", t.text)
	default:
		*field = value
	}
	return true
}

// addProc declares a process. It reports whether that was possible.
func (p *parser) addProc(at token, pr *Proc) bool {
	first := p.procs[pr.Name]
	switch {
	case p.failed:
		p.broken["proc "+pr.Name] = true
	case first != nil:
		p.errorf(at.pos, "proc %q already declared in %s:%d", cut(pr.Name), first.Pos.File, first.Pos.Line)
	default:
		p.procs[pr.Name] = pr
		p.cfg.Procs = append(p.cfg.Procs, pr)
		return true
	}
	return false
}

// report reads "report tls from ADDRESS [organization TEXT] [contact TEXT]".
func (p *parser) report(token) {
	if !p.expect("tls") || !p.expect("from") {
		return
	}
	at := p.peek()
	r := &p.cfg.TLSReport
	*r = TLSReportConfig{From: p.str("an address in quotes")}
	for !p.failed && !p.atEnd() {
		t := p.peek()
		var field *string
		switch {
		case p.acceptBare("organization"):
			field = &r.Organization
		case p.acceptBare("contact"):
			field = &r.Contact
		default:
			p.syntaxError("expected organization or contact")
			return
		}
		if *field = p.str("a text in quotes"); !p.failed && (*field == "" || strings.IndexFunc(*field, unicode.IsControl) >= 0) {
			p.errorf(t.pos, "%s must be a text without control characters", t.text)
		}
	}
	if a, err := smtp.ParseMailbox(r.From); !p.failed && (err != nil || a.Domain == "" || !a.ASCII()) {
		p.errorf(at.pos, "%q is no address that reports can come from", cut(r.From))
	}
}

// srs reads "srs key [backup] STRING" and "srs ttl DELAY".
func (p *parser) srs(token) {
	switch {
	case p.accept("key"):
		if p.accept("backup") {
			p.cfg.SRS.BackupKey = p.str("a key in quotes")
		} else {
			p.cfg.SRS.Key = p.str("a key in quotes")
		}
	case p.accept("ttl"):
		pos := p.peek().pos
		d := p.delay("ttl delay %q is invalid")
		p.cfg.SRS.TTLDays = int(d.Hours()) / 24
		if d > 0 && p.cfg.SRS.TTLDays == 0 {
			p.errorf(pos, "ttl delay %q is too short: it is kept in whole days", formatDelay(d))
		}
	default:
		p.syntaxError("expected key or ttl")
	}
}
