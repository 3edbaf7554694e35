package legacy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/policy"
)

// Bounds of what is read.
const (
	maxIncludeDepth = 16
	maxErrors       = 100
	tooLarge        = "configuration too large: its files and macros exceed 16 MiB"
)

// tok is a token with how it was written.
type tok struct {
	config.Token
	raw    string // in quotes, when it was; empty when it came from a macro
	macros map[string]*macro
}

// is tells whether t is the given punctuation.
func (t tok) is(punct string) bool { return t.Kind == config.Punct && t.Text == punct }

// word tells whether t is one of the words, unquoted.
func (t tok) word(words ...string) bool {
	return t.Kind == config.Word && slices.Contains(words, t.Text)
}

// str tells whether t is a string.
func (t tok) str() bool { return t.Kind == config.Word || t.Kind == config.Quoted }

// render returns what to write for t: the macro it came from if that is the same
// today, else its text, in quotes as it was or as it must be. to, when it is not
// nil, changes the text first.
func (t tok) render(to func(string) string) string {
	text := t.Text
	if to != nil {
		text = to(text)
	}
	if text == t.Text {
		if m := t.macros[t.Macro]; t.Macro != "" && m != nil && m.whole == t.Text && !t.Keyword {
			m.used = true
			return "$" + t.Macro
		}
		if t.Kind == config.Number {
			return t.Text
		}
		if t.Kind == config.Quoted && t.raw != "" && !strings.Contains(t.raw, "\n") {
			return t.raw
		}
	}
	return config.Quote(text)
}

// name returns what to write for a name: without quotes where it needs none.
func (t tok) name() string {
	t.raw = ""
	return t.render(nil)
}

// statement is one statement of the original.
type statement struct {
	before []string // comments and empty lines that stand before it
	inside []string // comments within
	after  string   // comment behind it
	toks   []tok    // at least one
	text   string   // as written
}

// macro is a macro of the original.
type macro struct {
	value   string
	whole   string // its only string; empty when it holds more or something else
	persist bool   // from the command line
	used    bool   // by the translation
}

// source reads the statements of a configuration with its includes and macros.
type source struct {
	opts   config.Options
	macros map[string]*macro
	files  []string // being read, outermost first
	size   int
	errs   []*config.Error
	full   bool     // too much: no more is read
	held   []string // comments that wait for the next statement
}

func newSource(opts config.Options) *source {
	s := &source{opts: opts, macros: make(map[string]*macro)}
	for _, def := range opts.Macros {
		if at := strings.LastIndexByte(def, '='); at > 0 {
			s.macros[def[:at]] = newMacro(def[at+1:], true)
		}
	}
	return s
}

func newMacro(value string, persist bool) *macro {
	m := &macro{value: value, persist: persist}
	sc := config.NewScanner("", value, func(string) (string, string) { return "", "nested" })
	if t := sc.Next(); (t.Kind == config.Word || t.Kind == config.Quoted) && sc.Next().Kind == config.EOF {
		m.whole = t.Text
	}
	return m
}

// errorf records a mistake.
func (s *source) errorf(pos policy.Position, format string, args ...any) {
	if s.full {
		return
	}
	s.errs = append(s.errs, &config.Error{Pos: pos, Message: fmt.Sprintf(format, args...)})
	s.full = len(s.errs) >= maxErrors
}

// read calls f with each statement of a file and its includes, in order.
func (s *source) read(path string, f func(*statement)) {
	b, err := s.opts.ReadFile(path)
	if err != nil {
		s.errorf(policy.Position{File: path, Line: 1}, "cannot be read: %v", err)
		return
	}
	if s.size += len(b); s.size > config.MaxSize {
		s.errorf(policy.Position{File: path, Line: 1}, tooLarge)
		s.full = true
		return
	}
	s.files = append(s.files, path)
	defer func() { s.files = s.files[:len(s.files)-1] }()
	c := cutter{s: s, src: string(b), scan: config.NewScanner(path, string(b), s.expand)}
	for !s.full {
		st, more := c.next()
		if st != nil {
			s.take(st, f)
		}
		if !more {
			s.held = append(s.held, c.held...)
			return
		}
	}
}

// expand returns the value of a macro.
func (s *source) expand(name string) (value, problem string) {
	m := s.macros[name]
	if m == nil {
		return "", fmt.Sprintf("macro '%s' not defined", cut(name))
	}
	if s.size += len(m.value); s.size > config.MaxSize {
		return "", tooLarge
	}
	return m.value, ""
}

// take follows includes, learns macros, and hands everything else to f.
func (s *source) take(st *statement, f func(*statement)) {
	st.before, s.held = append(s.held, st.before...), nil
	first := st.toks[0]
	switch {
	case first.word("include") && len(st.toks) == 2 && st.toks[1].str():
		if s.mayInclude(st.toks[1]) {
			s.held = append(st.before, "# "+st.toks[1].Text+":")
			s.read(st.toks[1].Text, f)
		}
		return
	case len(st.toks) == 3 && st.toks[1].is("=") && first.str() && st.toks[2].str():
		if m := s.macros[first.Text]; m == nil || !m.persist {
			fresh := newMacro(st.toks[2].Text, false)
			fresh.used = m != nil && m.used
			s.macros[first.Text] = fresh
		}
	}
	f(st)
}

// mayInclude reports what stands against including a file.
func (s *source) mayInclude(t tok) bool {
	clean := filepath.Clean(t.Text)
	for _, open := range s.files {
		if filepath.Clean(open) == clean {
			s.errorf(t.Pos, "include cycle: %s", cut(t.Text))
			return false
		}
	}
	if len(s.files) > maxIncludeDepth {
		s.errorf(t.Pos, "failed to include file %s: files are nested more than %d deep", cut(t.Text), maxIncludeDepth)
		return false
	}
	return true
}

// cutter cuts one file into statements.
type cutter struct {
	s    *source
	src  string
	scan *config.Scanner
	end  int // of the last token
	held []string
}

// next returns the next statement, nil for an empty line or after a mistake, and
// whether there is more.
func (c *cutter) next() (st *statement, more bool) {
	st = &statement{}
	depth, bad := 0, false
	for {
		t := c.scan.Next()
		comment := c.comment(t)
		c.end = t.End
		switch {
		case t.Kind == config.EOF || t.Kind == config.Newline && depth <= 0:
			if len(st.toks) == 0 {
				if comment != "" || t.Kind == config.Newline {
					c.held = append(c.held, comment)
				}
				return nil, t.Kind == config.Newline
			}
			if depth > 0 && !bad {
				c.s.errorf(st.toks[0].Pos, "the brace opened here is not closed")
				bad = true
			}
			st.before, c.held = c.held, nil
			st.after = comment
			if bad {
				st = nil
			} else {
				st.text = c.src[st.toks[0].Start:st.toks[len(st.toks)-1].End]
			}
			return st, t.Kind == config.Newline
		case comment != "":
			st.inside = append(st.inside, comment)
		}
		switch {
		case t.Kind == config.Newline:
			continue // between braces
		case t.Kind == config.Bad:
			c.s.errorf(t.Pos, "%s", t.Text)
			bad, depth = true, 0
		case t.Kind == config.Punct && (t.Text == "{" || t.Text == "("):
			depth++
		case t.Kind == config.Punct && (t.Text == "}" || t.Text == ")"):
			depth--
		}
		one := tok{Token: t, macros: c.s.macros}
		if t.Macro == "" {
			one.raw = c.src[t.Start:t.End]
		}
		st.toks = append(st.toks, one)
	}
}

// comment returns the comment between the last token and t.
func (c *cutter) comment(t config.Token) string {
	if t.Start <= c.end {
		return ""
	}
	gap := c.src[c.end:t.Start]
	at := strings.IndexByte(gap, '#')
	if at < 0 {
		return ""
	}
	text := strings.ReplaceAll(gap[at:], "\\\n", " ")
	text = strings.TrimRight(strings.ReplaceAll(text, "\n", " "), " \t\r\\")
	return text
}

// among tells whether word is one of those in list.
func among(word, list string) bool { return slices.Contains(strings.Fields(list), word) }

// splitLines parts text into lines, one at least.
func splitLines(text string) []string { return strings.Split(text, "\n") }

// cut shortens text for a message.
func cut(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
