package main

import (
	"io"
	"slices"
	"strings"

	"github.com/emersion/go-milter"
)

// split returns a field's name, and its value as milters have it: lines end with LF.
func split(f string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(strings.TrimRight(f, "\r\n"), ":")
	value = strings.ReplaceAll(value, "\r\n", "\n")
	return strings.TrimRight(name, " \t"), strings.TrimPrefix(value, " "), ok && name != ""
}

// field is the opposite of split.
func field(name, value string) string {
	value = strings.ReplaceAll(strings.TrimRight(value, "\r\n"), "\r\n", "\n")
	lines := strings.Split(value, "\n")
	for i, l := range lines[1:] {
		if l == "" || l[0] != ' ' && l[0] != '\t' {
			lines[i+1] = "\t" + l
		}
	}
	return name + ": " + strings.Join(lines, "\r\n") + "\r\n"
}

// draft is a message under change.
type draft struct {
	fields  []string
	own     int // where the Received field of this server is, which the milter does not see; -1: there is none
	body    *io.SectionReader
	newBody []io.Reader // nil: the body stays
}

// newDraft returns a message without changes. This server's Received field is the
// first: filters that were asked before may have put theirs in front of it.
func newDraft(fields []string, body *io.SectionReader) *draft {
	own := slices.IndexFunc(fields, func(f string) bool {
		name, _, _ := split(f)
		return strings.EqualFold(name, "Received")
	})
	return &draft{fields: fields, own: own, body: body}
}

// reader returns the whole message.
func (x *draft) reader() io.Reader {
	head := strings.NewReader(strings.Join(x.fields, "") + "\r\n")
	if x.newBody != nil {
		return io.MultiReader(head, io.MultiReader(x.newBody...))
	}
	return io.MultiReader(head, io.NewSectionReader(x.body, 0, x.body.Size())) // from its start
}

// change adds, changes or removes a field. A change of one that is not there adds it.
func (x *draft) change(c milter.ModifyAction) {
	if c.HeaderName == "" || strings.ContainsAny(c.HeaderName, ": \t\r\n") {
		return
	}
	switch c.Code {
	case milter.ActAddHeader:
		x.fields = append(x.fields, field(c.HeaderName, c.HeaderValue))
	case milter.ActInsertHeader:
		x.insert(c)
	case milter.ActChangeHeader:
		switch i := x.find(c); {
		case c.HeaderValue == "" && i >= 0:
			x.fields = slices.Delete(x.fields, i, i+1)
			if i < x.own {
				x.own--
			}
		case c.HeaderValue == "":
		case i >= 0:
			x.fields[i] = field(c.HeaderName, c.HeaderValue)
		default:
			x.fields = append(x.fields, field(c.HeaderName, c.HeaderValue))
		}
	}
}

// insert puts a field at a place among those that the milter knows, counted from 1; 0
// is the place in front, too. This server's own field goes behind it, if it is there.
func (x *draft) insert(c milter.ModifyAction) {
	i := int(min(max(c.HeaderIndex, 1)-1, uint32(len(x.fields))))
	if i <= x.own {
		x.own++
	} else if x.own >= 0 {
		i++
	}
	x.fields = slices.Insert(x.fields, min(i, len(x.fields)), field(c.HeaderName, c.HeaderValue))
}

// find returns where the field of that name and number is, or -1.
func (x *draft) find(c milter.ModifyAction) int {
	n := uint32(0)
	for i, f := range x.fields {
		name, _, ok := split(f)
		if !ok || i == x.own || !strings.EqualFold(name, c.HeaderName) {
			continue
		}
		if n++; n >= max(c.HeaderIndex, 1) {
			return i
		}
	}
	return -1
}
