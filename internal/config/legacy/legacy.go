// Package legacy translates configurations of OpenSMTPD before 6.4 into the
// language of today: the rules that begin with accept and reject of 5.3 to 6.3, and
// the older ones whose tables are called maps.
//
//	map rmap source plain "/etc/mail/rmap"      table rmap file:/etc/mail/rmap
//	accept for any relay via map rmap           action "relay" relay host <rmap>
//	                                            match from local for any action "relay"
//
// A Translation is text of today, readable, with the comments and macros of the
// original, and for each of its lines the place it came from. Package config reads
// it and reports mistakes by the lines of the original. What cannot be translated
// is an error that says what to write instead; nothing is left out in silence.
//
// Whose meaning changed most between the languages is "from local", which held
// for authenticated clients too, whatever their address. Where a listener offers
// authentication, a rule becomes two lines if that makes a difference.
package legacy

import (
	"fmt"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// Translation is a configuration in the language of today.
type Translation struct {
	Text    string
	Origins []policy.Position // of each line of Text

	// Notes tell what has no counterpart and was left out, and where the meaning may
	// differ.
	Notes []*config.Error
}

// Options returns opts for reading the translation in place of the original.
func (t *Translation) Options(opts config.Options) config.Options {
	path, read := opts.Path, opts.ReadFile
	opts.ReadFile = func(name string) ([]byte, error) {
		if name == path {
			return []byte(t.Text), nil
		}
		return read(name)
	}
	opts.Origin = func(line int) policy.Position {
		if line < 1 || line > len(t.Origins) {
			line = len(t.Origins)
		}
		return t.Origins[line-1]
	}
	return opts
}

// Parse reads a configuration of any version. t is nil when it is in the language of
// today; otherwise the notes of the translation stand before the warnings.
func Parse(opts config.Options) (c *config.Config, t *Translation, errs []*config.Error) {
	t, errs = Translate(opts)
	switch {
	case len(errs) > 0:
		return nil, nil, errs
	case t != nil:
		opts = t.Options(opts)
	}
	if c, errs = config.Parse(opts); len(errs) > 0 {
		return nil, t, errs
	}
	if t != nil {
		c.Warnings = slices.Concat(t.Notes, c.Warnings)
	}
	return c, t, nil
}

// Translate reads the configuration opts.Path and what it includes. When it is not
// of before 6.4, or cannot be read, it returns neither a translation nor errors.
func Translate(opts config.Options) (*Translation, []*config.Error) {
	why := old(opts)
	if why.File == "" {
		return nil, nil
	}
	tr := &translator{
		source:  newSource(opts),
		opts:    opts,
		why:     why,
		tables:  make(map[string]table),
		pkis:    make(map[string]bool),
		actions: make(map[string]string),
		names:   make(map[string]bool),
		onTags:  make(map[string]bool),
		ttl:     defaultTTL,
	}
	tr.read(opts.Path, tr.statement)
	if len(tr.errs) == 0 {
		tr.out.add(policy.Position{File: opts.Path, Line: 1}, "# Translated from the language of OpenSMTPD before 6.4.")
		for _, emit := range tr.items {
			emit()
		}
		tr.socketListener()
		for _, l := range tr.held {
			tr.out.add(tr.why, l)
		}
	}
	if len(tr.errs) > 0 {
		return nil, tr.errs
	}
	t := tr.out.translation(tr.macros)
	t.Notes = tr.notes
	return t, nil
}

// oldWords begin statements that only the languages of before 6.4 have.
const oldWords = `accept reject map bounce-warn expire limit max-message-size max-mta-deferred ciphers
	subaddressing-delimiter enqueuer filterchain size hostname`

// newWords begin statements that only today's language has and that every
// configuration needs.
const newWords = "action match"

// old returns where the first statement of before 6.4 stands; nowhere if there is
// none, or if one of today is there too.
func old(opts config.Options) policy.Position {
	var first policy.Position
	s, modern := newSource(opts), false
	s.read(opts.Path, func(st *statement) {
		t := st.toks[0]
		if t.Kind != config.Word || len(st.toks) > 1 && st.toks[1].is("=") {
			return
		}
		switch {
		case among(t.Text, newWords):
			modern = true
		case among(t.Text, oldWords) && first.File == "":
			first = t.Pos
		}
	})
	if modern {
		return policy.Position{}
	}
	return first
}

// translator makes the translation in two rounds: each statement is understood,
// then, when everything is known, written.
type translator struct {
	*source
	opts  config.Options
	why   policy.Position // what makes the file an old one
	items []func()        // write the statements
	out   output
	notes []*config.Error

	tables  map[string]table
	pkis    map[string]bool // declared
	actions map[string]string
	names   map[string]bool // of actions

	maps     bool            // the language is that of before 5.3, with maps
	certs    bool            // certificates were named by listeners: before 5.4
	auth     bool            // some listener offers authentication
	onTags   map[string]bool // what stands behind "on" in rules
	localTag bool            // a rule asks for the tag of the local socket
	socket   bool            // there is a listener for it
	hostname string          // of the hostname statement, as written
	ttl      string          // of the expire statements so far
}

// defaultTTL is how long mail was tried when nothing was said.
const defaultTTL = "4d"

// note records what the operator should look at.
func (tr *translator) note(pos policy.Position, format string, args ...any) {
	tr.notes = append(tr.notes, &config.Error{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

// write adds lines to the translation. The comments around the statement go with
// them.
func (tr *translator) write(st *statement, lines ...string) {
	tr.comments(st)
	pos := st.toks[0].Pos
	if st.after != "" && len(lines) == 1 {
		lines[0] += " " + st.after
	} else if st.after != "" {
		tr.out.add(pos, st.after)
	}
	for _, l := range lines {
		tr.out.add(pos, l)
	}
}

// comments writes the lines before a statement.
func (tr *translator) comments(st *statement) {
	for _, l := range append(st.before, st.inside...) {
		tr.out.add(st.toks[0].Pos, l)
	}
}

// keep writes a statement as it stands.
func (tr *translator) keep(st *statement) {
	st.inside = nil
	tr.comments(st)
	for _, t := range st.toks {
		t.render(nil) // its macro is used
	}
	pos, text := st.toks[0].Pos, st.text
	if st.after != "" {
		text += " " + st.after
	}
	for _, l := range splitLines(text) {
		tr.out.add(pos, l)
		pos.Line++
	}
}

// drop leaves a statement out, but for its comments, and says so.
func (tr *translator) drop(st *statement, why string) {
	tr.note(st.toks[0].Pos, "%s", why)
	tr.write(st, "# left out: "+st.toks[0].Text+": "+why)
}

// later keeps what writes a statement for the second round.
func (tr *translator) later(emit func()) { tr.items = append(tr.items, emit) }

// statement understands one statement.
func (tr *translator) statement(st *statement) {
	r := &reader{tr: tr, st: st}
	first := r.take()
	if r.peek().is("=") {
		tr.macro(st)
		return
	}
	if first.Kind != config.Word {
		r.fail(first.Pos, "syntax error near %q: a statement begins with a word like listen or accept", cut(first.Text))
		return
	}
	switch first.Text {
	case "accept", "reject":
		r.rule(first.Text == "accept")
	case "listen":
		r.listen()
	case "map":
		r.mapDeclaration()
	case "table":
		r.tableDeclaration()
	case "pki":
		r.pki()
	case "ca":
		r.ca()
	case "filter", "filterchain":
		r.fail(first.Pos, `%s cannot be translated: filters of before 6.4 spoke another protocol. Remove the line and what refers to it, or write "filter NAME proc-exec COMMAND" for a filter of today in a converted file`, first.Text)
	default:
		r.setting(first)
	}
}

// macro keeps a definition. It is written when something uses it.
func (tr *translator) macro(st *statement) {
	if len(st.toks) != 3 {
		tr.errorf(st.toks[0].Pos, "syntax error: a macro is written name = \"value\"")
		return
	}
	name := st.toks[0].Text
	text := config.Quote(name) + " = " + st.toks[2].render(nil)
	tr.later(func() {
		tr.comments(st)
		if st.after != "" {
			text += " " + st.after
		}
		tr.out.macro(st.toks[0].Pos, name, text)
	})
}

// socketListener adds the listener of the local socket if only its tag asks for it.
func (tr *translator) socketListener() {
	if tr.localTag && !tr.socket {
		tr.out.add(tr.why, `listen on socket tag "local"`)
	}
}

// actionName returns the name of the action whose text is given, and whether it is
// new. Equal actions are one.
func (tr *translator) actionName(base, text string) (name string, fresh bool) {
	if name, ok := tr.actions[text]; ok {
		return name, false
	}
	name = base
	for n := 2; tr.names[name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	tr.names[name], tr.actions[text] = true, name
	return name, true
}

// output collects the lines of the translation.
type output struct {
	lines []line
}

type line struct {
	text  string
	pos   policy.Position
	macro string // the line defines it
}

func (o *output) add(pos policy.Position, text string) {
	if text == "" && len(o.lines) > 0 && o.lines[len(o.lines)-1].text == "" {
		return // one empty line is enough
	}
	o.lines = append(o.lines, line{text: text, pos: pos})
}

func (o *output) macro(pos policy.Position, name, text string) {
	o.lines = append(o.lines, line{text: text, pos: pos, macro: name})
}

// translation joins the lines. Macros that nothing uses any more are left out.
func (o *output) translation(macros map[string]*macro) *Translation {
	t := &Translation{}
	o.lines = slices.DeleteFunc(o.lines, func(l line) bool {
		return l.macro != "" && !macros[l.macro].used
	})
	for _, l := range o.lines {
		t.Text += l.text + "\n"
		t.Origins = append(t.Origins, l.pos)
	}
	return t
}
