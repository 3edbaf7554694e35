package remote

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxConf bounds a configuration file, in bytes.
const maxConf = 1 << 20

// Conf is the configuration of a table program: lines of a key and a value, parted
// by blanks or a colon. Blank lines and those that begin with "#" are skipped.
//
//	# where the users are
//	url: ldaps://ldap.example.org
//	query_alias SELECT target FROM aliases WHERE name = ?
type Conf struct {
	values map[string]line
	used   map[string]bool
	err    error // the first mistake in a value
}

type line struct {
	value string
	n     int
}

// ReadConf reads the file at path.
func ReadConf(path string) (*Conf, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConf {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxConf)
	}
	c, err := parseConf(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	return c, nil
}

// parseConf reads the lines. Its error begins with a line number.
func parseConf(text string) (*Conf, error) {
	c := &Conf{values: map[string]line{}, used: map[string]bool{}}
	for n := 1; text != ""; n++ {
		var s string
		s, text, _ = strings.Cut(text, "\n")
		s = strings.TrimSpace(s)
		if s == "" || s[0] == '#' {
			continue
		}
		i := strings.IndexAny(s, " \t:")
		if i <= 0 {
			return nil, fmt.Errorf("%d: %.40q has no value", n, s)
		}
		key, value := s[:i], strings.TrimLeft(s[i:], " \t")
		if strings.HasPrefix(value, ":") { // "key: value" and "key : value"
			value = strings.TrimLeft(value[1:], " \t")
		}
		if value == "" {
			return nil, fmt.Errorf("%d: %.40q has no value", n, key)
		}
		if first, dup := c.values[key]; dup {
			return nil, fmt.Errorf("%d: %.40q was given a value in line %d", n, key, first.n)
		}
		c.values[key] = line{value, n}
	}
	return c, nil
}

// Get returns the value of a key, or "".
func (c *Conf) Get(key string) string {
	c.used[key] = true
	return c.values[key].value
}

// Or returns the value of a key, or other when there is none.
func (c *Conf) Or(key, other string) string {
	if v := c.Get(key); v != "" {
		return v
	}
	return other
}

// Int returns the value of a key, a number from least on, or other when there is
// none. A mistake is reported by Err.
func (c *Conf) Int(key string, least, other int) int {
	v := c.Get(key)
	if v == "" {
		return other
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least {
		c.fail(key, fmt.Errorf("want a number from %d on", least))
		return other
	}
	return n
}

// Delay returns the value of a key, in seconds or as Go writes durations, or other
// when there is none.
func (c *Conf) Delay(key string, other time.Duration) time.Duration {
	v := c.Get(key)
	if v == "" {
		return other
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		c.fail(key, fmt.Errorf("want a number of seconds, or a time such as 5m"))
		return other
	}
	return d
}

func (c *Conf) fail(key string, err error) {
	if c.err == nil {
		c.err = fmt.Errorf("line %d: %s: %w", c.values[key].n, key, err)
	}
}

// Err returns the first mistake in a value that was asked for.
func (c *Conf) Err() error { return c.err }

// unused returns an error when a key has not been asked for: it is unknown.
func (c *Conf) unused() error {
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		if !c.used[key] {
			return fmt.Errorf("line %d: unknown key %.40q", c.values[key].n, key)
		}
	}
	return c.err
}
