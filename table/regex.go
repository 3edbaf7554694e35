package table

import (
	"fmt"
	"regexp"
	"strings"
)

// maxRegex bounds the source of one pattern, in bytes.
const maxRegex = 4096

// Pattern is a compiled regular expression of a table.
type Pattern struct{ re *regexp.Regexp }

// CompileRegex compiles a pattern in the syntax of Go's regexp package, which
// holds POSIX extended expressions but for what docs/regex.md lists. The word
// edges of the C libraries, \< \> [[:<:]] [[:>:]], are understood as well.
func CompileRegex(s string) (*Pattern, error) {
	if len(s) > maxRegex {
		return nil, fmt.Errorf("regular expression of %d bytes, at most %d are allowed", len(s), maxRegex)
	}
	if strings.Contains(s, "[[.") && strings.Contains(s, ".]") || strings.Contains(s, "[[=") && strings.Contains(s, "=]") {
		return nil, fmt.Errorf("regular expression %q: collating elements [. .] and [= =] are not understood", s)
	}
	re, err := regexp.Compile(wordEdges(s))
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", s, err)
	}
	return &Pattern{re}, nil
}

// Match tells whether the pattern is found anywhere in key, as it stands or in
// lower case. So patterns in small letters match whatever case a client uses,
// and patterns with capital letters see what the client really sent.
func (p *Pattern) Match(key string) bool {
	if p.re.MatchString(key) {
		return true
	}
	low := strings.ToLower(key)
	return low != key && p.re.MatchString(low)
}

// wordEdges replaces the word edges of the C libraries by \b.
func wordEdges(s string) string {
	if !strings.Contains(s, `\<`) && !strings.Contains(s, `\>`) && !strings.Contains(s, "[[:") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		switch rest := s[i:]; {
		case strings.HasPrefix(rest, `\<`), strings.HasPrefix(rest, `\>`):
			b.WriteString(`\b`)
			i += 2
		case strings.HasPrefix(rest, "[[:<:]]"), strings.HasPrefix(rest, "[[:>:]]"):
			b.WriteString(`\b`)
			i += 7
		case rest[0] == '\\' && len(rest) > 1:
			b.WriteString(rest[:2])
			i += 2
		default:
			b.WriteByte(rest[0])
			i++
		}
	}
	return b.String()
}
