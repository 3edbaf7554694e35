package config

import "github.com/opensmtpd/opensmtpd/internal/policy"

// TokenKind says what a Token is.
type TokenKind uint8

// The kinds of token.
const (
	EOF     TokenKind = iota
	Newline           // the end of a statement
	Word              // an unquoted string, keyword or not
	Quoted            // a string that was in quotes
	Number
	Punct // one of ( ) { } < > ! , = and =>
	Other // text that can begin no token
	Bad   // a mistake inside a token; Text is the message
)

// Token is one token of a configuration, for who translates a text rather than
// reading what it means. Text is the value: without quotes, macros resolved.
type Token struct {
	Kind  TokenKind
	Text  string
	Macro string // the macro it came from, or began in
	Pos   policy.Position

	Keyword bool // a Word that is reserved, so no string

	// Start and End are the bytes of the source that hold it. What came from a macro
	// is held by none: both are the offset behind the macro's name.
	Start, End int
}

// Scanner cuts the text of one file into tokens by the lexical rules of
// smtpd.conf.
type Scanner struct{ lex *lexer }

// NewScanner returns a Scanner at the start of src. file is for positions. expand
// returns the value of a macro, or what is wrong with it.
func NewScanner(file, src string, expand func(name string) (value, problem string)) *Scanner {
	return &Scanner{newLexer(file, src, expand)}
}

// Next returns the next token; at the end EOF, again and again.
func (s *Scanner) Next() Token {
	t := s.lex.next()
	out := Token{Text: t.text, Macro: t.macro, Pos: t.pos, Start: t.start, End: s.lex.off}
	switch t.kind {
	case tokEOF:
		out.Kind = EOF
	case tokNewline:
		out.Kind = Newline
	case tokWord:
		out.Kind, out.Keyword = Word, true
	case tokString:
		if out.Kind = Word; t.quoted {
			out.Kind = Quoted
		}
	case tokNumber:
		out.Kind = Number
	case tokPunct:
		out.Kind = Punct
	case tokOther:
		out.Kind = Other
	case tokError:
		out.Kind = Bad
	}
	return out
}

// Quote prints a string as it must stand in a configuration to be read as this
// string: in quotes where it needs them.
func Quote(s string) string { return quote(s) }
