package file

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
)

// Bounds of a table file, in bytes.
const (
	MaxSize = 256 << 20
	MaxLine = 64 << 10
)

// Error is a mistake in a table file.
type Error struct {
	Path    string
	Line    int // from 1; 0 when it concerns the whole file
	Message string
}

// Error returns "PATH:LINE: message".
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Message)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Message)
}

// read returns the content of a regular file within the bounds.
func read(path string, o static.Options) (string, error) {
	f, err := o.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if st.IsDir() {
		return "", &Error{Path: path, Message: "is a directory"}
	}
	if st.Size() > MaxSize {
		return "", &Error{Path: path, Message: fmt.Sprintf("%d bytes are too much for a table file, at most %d are read; make a db of it with makemap", st.Size(), MaxSize)}
	}
	var b strings.Builder
	if st.Mode().IsRegular() {
		b.Grow(int(st.Size()) + 1)
	}
	n, err := io.Copy(&b, io.LimitReader(f, MaxSize+1))
	if err != nil {
		return "", err
	}
	if n > MaxSize {
		return "", &Error{Path: path, Message: "grew beyond the size of a table file while it was read"}
	}
	return b.String(), nil
}

// Parse reads the text of a table file. path is used in messages only.
//
// Each line is an entry; blank lines and lines that begin with "#" are skipped. In
// a list the whole line is the key. In a map the key ends at the first space, tab
// or colon, or behind the bracket that closes a leading one, and the rest is the
// value; the colons of a key that begins like a URL, as in smtp://host:25, are part
// of it. The first entry decides which of the two it is, unless a "# @list" comment
// before it says list.
func Parse(path, text string) (static.Kind, []static.Entry, error) {
	p := parser{path: path, entries: make([]static.Entry, 0, strings.Count(text, "\n")+1)}
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		p.line++
		if err := p.add(line); err != nil {
			return 0, nil, &Error{Path: path, Line: p.line, Message: err.Error()}
		}
	}
	return p.kind, p.entries, nil
}

type parser struct {
	path    string
	line    int
	kind    static.Kind
	decided int // line that decided the kind
	entries []static.Entry
}

func (p *parser) add(line string) error {
	if len(line) > MaxLine {
		return fmt.Errorf("line of %d bytes, at most %d are allowed", len(line), MaxLine)
	}
	if strings.IndexByte(line, 0) >= 0 {
		return errors.New("NUL byte: this is no text file")
	}
	line = strings.TrimSpace(line)
	if line == "" {
		return nil
	}
	if line[0] == '#' {
		if p.kind == static.Empty && strings.TrimSpace(line[1:]) == "@list" {
			p.kind, p.decided = static.List, p.line
		}
		return nil
	}
	end, err := keyEnd(line)
	if err != nil {
		return err
	}
	if p.kind == static.Empty {
		p.kind, p.decided = static.Map, p.line
		if end == len(line) {
			p.kind = static.List
		}
	}
	if p.kind == static.List {
		p.entries = append(p.entries, static.Entry{Key: line, Line: p.line})
		return nil
	}
	if end == len(line) {
		return p.noValue(line)
	}
	key, value := line[:end], strings.TrimLeft(line[end+1:], " \t")
	if value == "" {
		return p.noValue(key)
	}
	if key == "" {
		return errors.New("no key before the colon")
	}
	p.entries = append(p.entries, static.Entry{Key: key, Value: value, Line: p.line})
	return nil
}

// noValue is the error of a map entry without a value.
func (p *parser) noValue(key string) error {
	return fmt.Errorf(`invalid map entry: %q has no value, but the file is a map since line %d; give it one, or put the comment "# @list" first if the file is a list`, key, p.decided)
}

// keyEnd returns where the key of a line ends.
func keyEnd(line string) (int, error) {
	from := 0
	if line[0] == '[' {
		from = strings.IndexByte(line, ']') + 1
		if from == 0 {
			return 0, errors.New(`"[" without "]"`)
		}
		if from < len(line) && line[from] != '/' { // [2001:db8::]/32 is one key
			return from, nil
		}
	}
	i := strings.IndexAny(line[from:], " \t:")
	if i >= 0 && strings.HasPrefix(line[from+i:], "://") { // a relay URL, with its port, is one key
		i = strings.IndexAny(line[from:], " \t")
	}
	if i >= 0 {
		return from + i, nil
	}
	return len(line), nil
}
