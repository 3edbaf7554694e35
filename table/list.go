package table

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a comma list, in bytes.
const (
	maxList = 1 << 20
	maxItem = 2047
)

// Errors of SplitList.
var (
	ErrQuote     = errors.New("unbalanced quote")
	ErrBackslash = errors.New("backslash at the end")
	ErrControl   = errors.New("control character")
)

// SplitList parts a value that is a comma list: aliases and address lists. Commas
// inside double quotes do not separate; the quotes are kept. A backslash takes the
// next character as it is and is dropped. White space around items is trimmed,
// empty items are left out. Control characters but tab are refused.
func SplitList(s string) ([]string, error) {
	if len(s) > maxList {
		return nil, fmt.Errorf("list longer than %d bytes", maxList)
	}
	if !strings.ContainsAny(s, ",\"\\") { // one plain item, the usual case
		item := strings.Trim(s, " \t")
		if item == "" {
			return nil, nil
		}
		return []string{item}, checkItem(item)
	}
	var items []string
	var b strings.Builder
	flush := func() error {
		item := strings.Trim(b.String(), " \t")
		b.Reset()
		if item == "" {
			return nil
		}
		items = append(items, item)
		return checkItem(item)
	}
	quoted := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\':
			if i++; i == len(s) {
				return nil, ErrBackslash
			}
			c = s[i]
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			if err := flush(); err != nil {
				return nil, err
			}
			continue
		}
		b.WriteByte(c)
	}
	if quoted {
		return nil, ErrQuote
	}
	return items, flush()
}

func checkItem(item string) error {
	if len(item) > maxItem {
		return fmt.Errorf("item longer than %d bytes", maxItem)
	}
	for i := 0; i < len(item); i++ {
		if c := item[i]; c < ' ' && c != '\t' || c == 0x7f {
			return ErrControl
		}
	}
	return nil
}
