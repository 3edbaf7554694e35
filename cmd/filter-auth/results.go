package main

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/opensmtpd/opensmtpd/filter"
)

// resultsField is the name of the field that results are written into.
const resultsField = "Authentication-Results"

// mayBeOf tells whether an Authentication-Results field claims to be of the server of
// that name, or cannot be read, so that others may read it as one of that server (RFC
// 8601 sections 2.2 and 5).
func mayBeOf(value, id string) bool {
	got, rest, ok := authserv(value)
	if !ok {
		return true
	}
	if rest, ok = skipCFWS(strings.TrimLeft(rest, "0123456789")); !ok || rest != "" && rest[0] != ';' {
		return true
	}
	return strings.EqualFold(strings.TrimSuffix(got, "."), strings.TrimSuffix(id, "."))
}

// authserv reads the name of the server in front of its results, a token or a string
// in quotes. The rest is what is behind it and white space.
func authserv(value string) (id, rest string, ok bool) {
	if value, ok = skipCFWS(value); !ok || value == "" {
		return "", "", false
	}
	if value[0] == '"' {
		id, rest, ok = unquote(value)
		if !ok || rest != "" && !strings.ContainsRune(" \t\r\n(;", rune(rest[0])) {
			return "", "", false
		}
	} else {
		end := strings.IndexAny(value, " \t\r\n(;")
		if end < 0 {
			end = len(value)
		}
		id, rest = value[:end], value[end:]
		if id == "" || strings.ContainsAny(id, `)<>@,"=\`) {
			return "", "", false
		}
	}
	rest, ok = skipCFWS(rest)
	return id, rest, ok
}

// skipCFWS takes white space and comments off the front (RFC 5322 section 3.2.2). It is
// not ok when a comment has no end.
func skipCFWS(s string) (rest string, ok bool) {
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" || s[0] != '(' {
			return s, true
		}
		n := commentLen(s)
		if n == 0 {
			return s, false
		}
		s = s[n:]
	}
}

// commentLen returns the length of the comment at the front; 0 when it has no end.
func commentLen(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// unquote reads the string in quotes at the front (RFC 5322 section 3.2.4). It is not
// ok when it has no end.
func unquote(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:], true
		case '\r', '\n': // of a folded line
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}

// maxHeader bounds the header that is looked at, in bytes.
const maxHeader = 1 << 20

// header returns the lines of a message before the first that is empty, as fields: each
// with its continuations and line ends. Unlike Message.Header it goes on behind a line
// that is no field, since mail programs do; it returns that as a field without a name.
// A header of more than maxHeader bytes is filter.ErrTooBig.
func header(m *filter.Message) (fields []string, body *io.SectionReader, err error) {
	r := bufio.NewReader(m.Reader())
	var text []byte
	var starts []int // of fields in text
	for begin := true; ; {
		part, err := r.ReadSlice('\n')
		whole := !errors.Is(err, bufio.ErrBufferFull)
		if err != nil && whole && !errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		if begin && (len(part) == 0 || string(part) == "\r\n") {
			start := int64(len(text) + len(part))
			return slicesAt(string(text), starts), io.NewSectionReader(m.Reader(), start, m.Size()-start), nil
		}
		if len(text)+len(part) > maxHeader {
			return nil, nil, filter.ErrTooBig
		}
		if begin && (len(text) == 0 || part[0] != ' ' && part[0] != '\t') {
			starts = append(starts, len(text))
		}
		text = append(text, part...)
		begin = whole
	}
}

// slicesAt cuts a text at each of the places, the first of which is its start.
func slicesAt(text string, starts []int) []string {
	list := make([]string, len(starts))
	for i, start := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		list[i] = text[start:end]
	}
	return list
}

// dropForged removes the Authentication-Results fields that may be of the server of
// that name, also those that Message.Remove does not reach: behind a line that is no
// field.
func dropForged(m *filter.Message, id string) error {
	forged := func(value string) bool { return mayBeOf(value, id) }
	m.Remove(resultsField, forged)
	fields, body, err := header(m)
	if err != nil {
		return err
	}
	isForged := func(f string) bool { return fieldName(f) == strings.ToLower(resultsField) && forged(fieldValue(f)) }
	odd := slices.IndexFunc(fields, func(f string) bool { return strings.IndexByte(f, ':') <= 0 })
	if odd < 0 || !slices.ContainsFunc(fields[odd:], isForged) {
		return nil
	}
	head := strings.Join(slices.DeleteFunc(fields, isForged), "")
	return m.Replace(io.MultiReader(strings.NewReader(head), strings.NewReader("\r\n"), body))
}
