package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// Bounds of a configuration.
const (
	MaxSize         = 16 << 20 // bytes of all files and macro expansions together
	maxIncludeDepth = 16
	maxErrors       = 100
)

// Options say what to read and what Parse may know of the host. A function that
// is nil is never called and its check passes.
type Options struct {
	Path   string   // the configuration file
	Macros []string // "name=value" from the command line; they beat the file's

	// ReadFile returns the content of a configuration file. It should refuse what
	// is larger than MaxSize before it reads it. It must not be nil.
	ReadFile func(path string) ([]byte, error)

	// Credentials is the directory with the secrets that the service manager passes;
	// empty: it passes none.
	Credentials string

	// ServerName is the name of this host; empty: "localhost".
	ServerName string

	// Addresses are those of the host's interfaces: they make up <localhost> and
	// <localnames>.
	Addresses []netip.Addr

	// TableKind looks at the content of a table and tells what it is. It is called
	// for every table declared with a path; nil: such tables are Dynamic.
	TableKind func(backend, path string) (TableKind, error)

	// HasLabel tells whether a table declared with a path, and answered by no program,
	// has credentials for a label. After an error that is not known.
	HasLabel func(backend, path, label string) (bool, error)

	// BackendExists tells whether a table backend other than static, file, db and
	// getpwnam is there: one that is built in, or a program.
	BackendExists func(name string) bool

	// ResolveTarget tells why a listener could not be bound to a target: no such
	// interface, no such host. It is not called for "all" and "egress".
	ResolveTarget func(target string) error

	// Origin tells, for a text that was made from another one, where a line of Path
	// came from; nil: it is what it is. Errors and declarations name that place.
	Origin func(line int) policy.Position

	// LookupService returns the port of a TCP service that is not one of smtp,
	// smtps, submission, submissions and lmtp, which are known.
	LookupService func(name string) (uint16, error)
}

// Parse reads a configuration. It returns either the configuration or every
// mistake found in it, in the order of files and lines. It never returns both.
func Parse(opts Options) (*Config, []*Error) {
	p := newParser(opts)
	p.commandLineMacros()
	p.readFile(policy.Position{File: opts.Path, Line: 1}, opts.Path)
	if !p.stopped {
		p.finish()
	}
	if len(p.errs) > 0 {
		p.sortByPosition(p.errs)
		return nil, p.errs
	}
	p.sortByPosition(p.cfg.Warnings)
	return p.cfg, nil
}

// macro is a defined macro.
type macro struct {
	value   string
	pos     policy.Position
	persist bool // from the command line
	used    bool
}

// parser reads statements into cfg. After a syntax error failed is set: from
// then on every token of the statement reads as the end of the line, so that
// callers unwind without checks of their own.
type parser struct {
	opts Options
	cfg  *Config
	errs []*Error

	lex     *lexer
	ahead   token
	looked  bool // ahead is valid
	failed  bool
	depth   int      // braces open in this statement
	fresh   bool     // the last token taken was a newline
	stopped bool     // too much: no more is read
	files   []string // being read, outermost first
	order   []string // every file, in order of first appearance
	size    int      // bytes read and expanded so far

	macros  map[string]*macro
	tables  map[string]*Table
	pkis    map[string]*PKI
	cas     map[string]*CA
	actions map[string]*policy.Action
	filters map[string]*Filter
	procs   map[string]*Proc
	// broken holds "KIND NAME" of declarations with mistakes: uses of these names
	// are not reported.
	broken map[string]bool

	sawMatch  bool
	lastLine  policy.Position // of the main file
	anonymous int             // tables without a name so far
	socket    bool
	later     []func() // checks that need the whole configuration
}

func newParser(opts Options) *parser {
	if opts.ServerName == "" {
		opts.ServerName = "localhost"
	}
	p := &parser{
		opts:    opts,
		cfg:     defaults(opts.ServerName),
		macros:  make(map[string]*macro),
		tables:  make(map[string]*Table),
		pkis:    make(map[string]*PKI),
		cas:     make(map[string]*CA),
		actions: make(map[string]*policy.Action),
		filters: make(map[string]*Filter),
		procs:   make(map[string]*Proc),
		broken:  make(map[string]bool),
	}
	p.cfg.Tables = builtinTables(opts.ServerName, opts.Addresses)
	for _, t := range p.cfg.Tables {
		p.tables[t.Name] = t
	}
	return p
}

// errorf records a mistake. The statement goes on being read.
func (p *parser) errorf(pos policy.Position, format string, args ...any) {
	if p.stopped {
		return
	}
	p.errs = append(p.errs, &Error{Pos: pos, Message: fmt.Sprintf(format, args...)})
	if len(p.errs) >= maxErrors {
		p.stop(pos, "too many errors, the rest is not read")
	}
}

// stop ends the reading for good.
func (p *parser) stop(pos policy.Position, message string) {
	if !p.stopped {
		p.stopped, p.failed = true, true
		p.errs = append(p.errs, &Error{Pos: pos, Message: message})
	}
}

// warnf records a doubt.
func (p *parser) warnf(pos policy.Position, format string, args ...any) {
	p.cfg.Warnings = append(p.cfg.Warnings, &Error{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

// sortByPosition puts errors in the order of files and lines; those of one line
// stay in the order found.
func (p *parser) sortByPosition(errs []*Error) {
	slices.SortStableFunc(errs, func(a, b *Error) int {
		if d := slices.Index(p.order, a.Pos.File) - slices.Index(p.order, b.Pos.File); d != 0 {
			return d
		}
		return a.Pos.Line - b.Pos.Line
	})
}

// commandLineMacros defines the macros of the options. The name ends at the first
// "=": names hold none, values may.
func (p *parser) commandLineMacros() {
	const source = "command line"
	if len(p.opts.Macros) > 0 {
		p.order = append(p.order, source)
	}
	for i, def := range p.opts.Macros {
		pos := policy.Position{File: source, Line: i + 1}
		at := strings.IndexByte(def, '=')
		if at <= 0 {
			p.errorf(pos, "invalid macro %q: write name=value", cut(def))
			continue
		}
		name, value := def[:at], def[at+1:]
		if strings.ContainsAny(name, " \t\n") {
			p.errorf(pos, "macro name cannot contain whitespace: %q", cut(name))
			continue
		}
		p.macros[name] = &macro{value: value, pos: pos, persist: true, used: true}
	}
}

// expandMacro gives the lexer the value of a macro.
func (p *parser) expandMacro(name string) (value, problem string) {
	m := p.macros[name]
	if m == nil {
		return "", fmt.Sprintf("macro '%s' not defined: define it above with %s = \"...\"", cut(name), cut(name))
	}
	m.used = true
	p.size += len(m.value)
	if p.size > MaxSize {
		return "", tooLarge
	}
	return m.value, ""
}

const tooLarge = "configuration too large: its files and macros exceed 16 MiB"

// readFile reads the statements of one file. pos is what names it: the include
// line, or the file itself.
func (p *parser) readFile(pos policy.Position, path string) {
	if !slices.Contains(p.order, path) {
		p.order = append(p.order, path)
	}
	data, err := p.load(path)
	if err != nil {
		if len(p.files) > 0 {
			if pe, ok := errors.AsType[*fs.PathError](err); ok {
				err = pe.Err // the path is said already
			}
			p.errorf(pos, "failed to include file %s: %v", path, err)
		} else {
			p.errorf(pos, "cannot read the configuration: %v", err)
			p.sawMatch = true // no second message about missing rules
		}
		return
	}
	p.size += len(data)
	if p.size > MaxSize {
		p.stop(pos, tooLarge)
		return
	}
	outer, outerAhead, outerLooked := p.lex, p.ahead, p.looked
	p.lex, p.looked = newLexer(path, string(data), p.expandMacro), false
	if path == p.opts.Path {
		p.lex.origin = p.opts.Origin
	}
	p.files = append(p.files, path)
	for !p.stopped && p.statement() {
	}
	p.files, p.lastLine = p.files[:len(p.files)-1], p.lex.position(max(1, p.lex.line-1))
	p.lex, p.ahead, p.looked = outer, outerAhead, outerLooked
}

func (p *parser) load(path string) ([]byte, error) {
	if p.opts.ReadFile == nil {
		return nil, fmt.Errorf("%s: no way to read files was given", path)
	}
	return p.opts.ReadFile(path)
}

// include reads another file in place of the statement. Paths are relative to
// the working directory, not to the including file.
func (p *parser) include(token) {
	t := p.peek()
	path := p.str("the path of a file in quotes")
	if !p.endStatement() {
		return
	}
	clean := filepath.Clean(path)
	for i, f := range p.files {
		if filepath.Clean(f) == clean {
			cycle := strings.Join(append(slices.Clone(p.files[i:]), path), " includes ")
			p.errorf(t.pos, "include cycle: %s", cycle)
			return
		}
	}
	if len(p.files) > maxIncludeDepth {
		p.errorf(t.pos, "failed to include file %s: files are nested more than %d deep", path, maxIncludeDepth)
		return
	}
	p.readFile(t.pos, path)
	p.failed, p.depth = p.stopped, 0
}

// peek returns the next token without taking it. After a mistake in the
// statement it is the end of the line.
func (p *parser) peek() token {
	if p.failed {
		return token{kind: tokNewline}
	}
	if !p.looked {
		p.ahead, p.looked = p.lex.next(), true
		if p.ahead.kind == tokError {
			t := p.ahead
			if t.text == tooLarge {
				p.stop(t.pos, tooLarge)
			} else {
				p.errorf(t.pos, "%s", t.text)
			}
			p.failed = true
			return token{kind: tokNewline, pos: t.pos}
		}
	}
	return p.ahead
}

// take returns the next token and moves on. It does not move past the end of a
// line after a mistake.
func (p *parser) take() token {
	t := p.peek()
	if p.failed {
		return t
	}
	p.looked, p.fresh = false, t.kind == tokNewline
	switch {
	case t.is("{"):
		p.depth++
	case t.is("}"):
		p.depth--
	}
	return t
}

// atEnd tells whether the statement has no more tokens.
func (p *parser) atEnd() bool {
	k := p.peek().kind
	return k == tokNewline || k == tokEOF
}

// accept takes the next token if it is the keyword.
func (p *parser) accept(word string) bool {
	if p.peek().word(word) {
		p.take()
		return true
	}
	return false
}

// acceptBare takes the next token if it is the unreserved word without quotes.
func (p *parser) acceptBare(word string) bool {
	if p.peek().bare(word) {
		p.take()
		return true
	}
	return false
}

// acceptPunct takes the next token if it is the punctuation.
func (p *parser) acceptPunct(punct string) bool {
	if p.peek().is(punct) {
		p.take()
		return true
	}
	return false
}

// expect takes a keyword that must come next.
func (p *parser) expect(word string) bool {
	if p.accept(word) {
		return true
	}
	p.syntaxError(fmt.Sprintf("expected %q", word))
	return false
}

// str takes a string that must come next. what says which, for the message.
func (p *parser) str(what string) string {
	t := p.peek()
	if t.kind != tokString {
		p.syntaxError("expected " + what + whyNoString(t))
		return ""
	}
	p.take()
	return t.text
}

// name takes the name of a pki or ca that must come next. A keyword will do: where
// the name stands, nothing else could.
func (p *parser) name(what string) string {
	if t := p.peek(); t.kind == tokWord {
		p.take()
		return t.text
	}
	return p.str(what)
}

// whyNoString completes a message about a token that is not the string it might
// look like.
func whyNoString(t token) string {
	switch {
	case t.kind == tokNumber:
		return fmt.Sprintf("; quote the number: %q", t.text)
	case t.kind == tokWord:
		return fmt.Sprintf("; quote the keyword to use it as a value: %q", t.text)
	case t.is("<"):
		return "; <...> stands for a table, which cannot be used here"
	}
	return ""
}

// num takes a number that must come next.
func (p *parser) num(what string) int64 {
	t := p.peek()
	if t.kind != tokNumber {
		p.syntaxError("expected " + what)
		return 0
	}
	p.take()
	return t.num
}

// syntaxError reports the next token and gives the statement up. Where the
// token would have been right in quotes, that is the remedy; else hint is.
func (p *parser) syntaxError(hint string) {
	t := p.peek()
	if p.failed {
		return
	}
	switch {
	case t.kind == tokOther && t.text[0] == '$':
		hint = "macros are not expanded within macros"
	case t.kind == tokOther && t.text[0] == '\r':
		hint = "lines must end in LF, not CR LF"
	case t.kind == tokOther && t.text[0] > ' ' && t.text[0] < 0x7f:
		hint = fmt.Sprintf("quote values that start with %q", t.text[:1])
	case t.kind == tokOther:
		hint = "this byte may only stand in quotes"
	}
	p.errorf(t.pos, "syntax error near %s: %s", t.describe(), hint)
	p.failed = true
}

// endStatement takes the end of the statement, or reports what stands there
// instead.
func (p *parser) endStatement() bool {
	if !p.failed && !p.atEnd() {
		p.syntaxError("expected the end of the line")
	}
	return !p.failed
}

// legacyWords are first words of the grammar before version 6.4, or of common
// mistakes, with what to do.
var legacyWords = map[string]string{
	"accept":                  `this is the grammar from before OpenSMTPD 6.4: write an "action" and a "match" line`,
	"reject":                  `write "match ... reject"`,
	"deliver":                 `write an "action" line`,
	"expire":                  `write "queue ttl DELAY"`,
	"limit":                   `write "smtp limit", "mta limit", "mda limit" or "scheduler limit"`,
	"max-message-size":        `write "smtp max-message-size SIZE"`,
	"bounce-warn":             `write "bounce warn-interval DELAY"`,
	"ciphers":                 `write "smtp ciphers STRING"`,
	"compression":             `write "queue compression"`,
	"encryption":              `write "queue encryption"`,
	"subaddressing-delimiter": `write "smtp sub-addr-delim CHAR"`,
	"sub-addr-delim":          `write "smtp sub-addr-delim CHAR"`,
}

// statement reads one statement with its end of line. It returns false at the
// end of the file.
func (p *parser) statement() bool {
	p.failed, p.depth = false, 0
	t := p.peek()
	switch {
	case t.kind == tokEOF && !p.failed:
		return false
	case t.kind == tokNewline && !p.failed:
		p.take()
		return true
	}
	if parse := p.statementFor(t); parse != nil {
		p.take()
		parse(t)
	} else if t.kind == tokString {
		p.define()
	} else {
		hint := legacyWords[t.text]
		if hint == "" {
			hint = "a statement begins with a word like listen, action or match"
		}
		p.syntaxError(hint)
	}
	p.endStatement()
	if p.stopped {
		return false
	}
	if p.failed {
		p.recover()
	}
	return true
}

// statementFor returns what reads the statement that begins with t.
func (p *parser) statementFor(t token) func(token) {
	if t.kind != tokWord {
		return nil
	}
	switch t.text {
	case "action":
		return p.action
	case "admd":
		return p.admd
	case "bounce":
		return p.bounce
	case "ca":
		return p.ca
	case "filter":
		return p.filter
	case "include":
		return p.include
	case "listen":
		return p.listen
	case "match":
		return p.match
	case "mda":
		return p.mda
	case "mta":
		return p.mta
	case "pki":
		return p.pki
	case "proc":
		return p.proc
	case "queue":
		return p.queue
	case "report":
		return p.report
	case "scheduler":
		return p.scheduler
	case "smtp":
		return p.smtp
	case "srs":
		return p.srs
	case "table":
		return p.table
	}
	return nil
}

// define reads a macro definition.
func (p *parser) define() {
	t := p.take()
	if !p.peek().is("=") {
		hint := legacyWords[t.text]
		if hint == "" || t.quoted {
			hint = `no statement begins with this word, and no "=" of a macro follows it`
		}
		p.errorf(t.pos, "syntax error near %s: %s", t.describe(), hint)
		p.failed = true
		return
	}
	p.take()
	value := p.str("the value of the macro")
	if !p.endStatement() {
		return
	}
	if strings.ContainsAny(t.text, " \t") {
		p.errorf(t.pos, "macro name cannot contain whitespace: %q", cut(t.text))
		return
	}
	m := &macro{value: value, pos: t.pos}
	if strings.IndexFunc(t.text, func(r rune) bool { return !isAlnum(int(r)) && r != '_' }) >= 0 || t.text == "" {
		p.warnf(t.pos, `macro %q cannot be used: only letters, digits and "_" follow a "$"`, cut(t.text))
		m.used = true // one warning is enough
	}
	if before := p.macros[t.text]; before != nil {
		if before.persist {
			return
		}
		m.used = m.used || before.used
	}
	p.macros[t.text] = m
}

// recover goes to the end of the broken statement: the next newline, or the
// brace that closes what the statement opened, unless a line before it begins a
// new statement.
func (p *parser) recover() {
	if p.looked && p.depth > 0 && p.fresh && p.ahead.kind == tokWord && statementWords[p.ahead.text] {
		return
	}
	for {
		if !p.looked {
			p.ahead, p.looked = p.lex.next(), true
		}
		switch t := p.ahead; {
		case t.kind == tokEOF:
			return
		case t.is("{"):
			p.depth++
		case t.is("}"):
			p.depth--
		case t.kind == tokNewline:
			p.looked = false
			if p.depth <= 0 {
				return
			}
			p.ahead, p.looked = p.lex.next(), true
			if p.ahead.kind == tokWord && statementWords[p.ahead.text] {
				return
			}
			continue
		}
		p.looked = false
	}
}
