package legacy

import (
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// reader reads the tokens of one statement. After a mistake every token reads as
// the end of the statement.
type reader struct {
	tr     *translator
	st     *statement
	at     int
	failed bool
}

// peek returns the next token without taking it.
func (r *reader) peek() tok {
	if r.failed || r.at >= len(r.st.toks) {
		return tok{Token: config.Token{Kind: config.EOF, Pos: r.st.toks[len(r.st.toks)-1].Pos}}
	}
	return r.st.toks[r.at]
}

// take returns the next token and moves on.
func (r *reader) take() tok {
	t := r.peek()
	r.at++
	return t
}

// atEnd tells whether nothing follows.
func (r *reader) atEnd() bool { return r.peek().Kind == config.EOF }

// accept takes the next token if it is one of the words, unquoted.
func (r *reader) accept(words ...string) bool {
	if r.peek().word(words...) {
		r.at++
		return true
	}
	return false
}

// acceptPunct takes the next token if it is the punctuation.
func (r *reader) acceptPunct(punct string) bool {
	if r.peek().is(punct) {
		r.at++
		return true
	}
	return false
}

// fail reports a mistake and gives the statement up.
func (r *reader) fail(pos policy.Position, format string, args ...any) {
	if !r.failed {
		r.tr.errorf(pos, format, args...)
		r.failed = true
	}
}

// unexpected reports the next token.
func (r *reader) unexpected(wanted string) {
	t := r.peek()
	what := "end of line"
	if t.Kind != config.EOF {
		what = `"` + cut(t.Text) + `"`
	}
	r.fail(t.Pos, "syntax error near %s: expected %s (the file is read as one of before OpenSMTPD 6.4, for line %d of %s)",
		what, wanted, r.tr.why.Line, r.tr.why.File)
}

// str takes a string that must come next.
func (r *reader) str(what string) tok {
	if !r.peek().str() {
		r.unexpected(what)
		return r.peek()
	}
	return r.take()
}

// end reports what stands where the statement must end.
func (r *reader) end() bool {
	if !r.atEnd() {
		r.unexpected("the end of the line")
	}
	return !r.failed
}

// once reports the second use of what is set only once.
func (r *reader) once(seen map[string]bool, at tok, what string) {
	if seen[what] {
		r.fail(at.Pos, "%s specified multiple times", what)
	}
	seen[what] = true
}

// table is a table or map that is used or declared.
type table struct {
	text string // what to write where it is used
	kind config.TableKind
	keys []string // of an inline one
	pos  policy.Position
}

// holds tells whether an inline table has a key.
func (t table) holds(key string) bool {
	for _, k := range t.keys {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}

// named returns a table that is used by its name.
func (r *reader) named(t tok) table {
	declared := r.tr.tables[t.Text]
	declared.text, declared.pos = "<"+t.name()+">", t.Pos
	if declared.kind == 0 {
		declared.kind = config.Dynamic // unknown; reported by who reads the translation
	}
	return declared
}

// tableAhead tells whether a table comes next.
func (r *reader) tableAhead() bool {
	t := r.peek()
	return t.is("<") || t.is("{") || t.is("(") || t.Kind == config.Quoted || t.word("map") ||
		t.Kind == config.Word && !among(t.Text, optionWords)
}

// optionWords may follow where a table or a string may be left out.
const optionWords = `accept alias any as auth auth-optional authenticated backup ca certificate deliver domain
	expire filter for forward-only from hostname hostnames inet4 inet6 lmtp local maildir mask-source
	masquerade mbox mda no-dsn pki port rcpt-to received-auth recipient relay secure sender senders
	smtps socket source ssl tag tagged tls tls-require to userbase users verify via virtual enable helo`

// table takes a table: "<name>", "map name", a list or map in braces, a list in
// parentheses, or a string. The string is the name of a map where byName says so,
// else a list of one.
func (r *reader) table(what string, byName bool) table {
	t := r.peek()
	switch {
	case r.accept("map"):
		r.tr.maps = true
		return r.named(r.str("a name of a map"))
	case r.acceptPunct("<"):
		name := r.str("a name of a table")
		if !r.acceptPunct(">") {
			r.unexpected(`">"`)
		}
		return r.named(name)
	case r.acceptPunct("{"):
		return r.inline(t, "}")
	case r.acceptPunct("("):
		r.tr.maps = true
		return r.inline(t, ")")
	case t.str() && byName:
		return r.named(r.take())
	case t.str():
		r.take()
		return table{text: t.render(nil), kind: config.List, keys: []string{t.Text}, pos: t.Pos}
	}
	r.unexpected(what)
	return table{}
}

// inline reads the elements of a table up to the bracket that closes it.
func (r *reader) inline(open tok, closing string) table {
	t := table{kind: config.List, pos: open.Pos}
	var elements []string
	for !r.acceptPunct(closing) && !r.failed {
		key := r.str("a value or \"" + closing + "\"")
		element := key.render(nil)
		if r.acceptPunct("=") || r.acceptPunct("=>") {
			t.kind = config.Map
			element += " = " + r.str("a value").render(nil)
		}
		elements, t.keys = append(elements, element), append(t.keys, key.Text)
		for r.acceptPunct(",") {
		}
	}
	if len(elements) == 0 && !r.failed {
		r.fail(open.Pos, "empty braces: at least one element is needed")
	}
	t.text = "{ " + strings.Join(elements, ", ") + " }"
	return t
}
