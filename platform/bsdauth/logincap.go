package bsdauth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of a file of classes.
const (
	maxClasses = 1 << 20 // bytes of the file
	maxDepth   = 32      // classes that refer to each other by tc=
)

// What holds where login.conf(5) says nothing.
const (
	defaultClass = "default"
	defaultStyle = "passwd"
)

// Style returns the authentication style of a login class (empty: the default one)
// for a kind of service: the first word of the class's "auth-KIND", else of its
// "auth", else "passwd". It is read anew each time: from the file of that name in
// dir, /etc/login.conf.d, else from file, /etc/login.conf.
func Style(file, dir, class, kind string) (string, error) {
	if class == "" {
		class = defaultClass
	}
	if strings.ContainsAny(class, "/\x00") || class == "." || class == ".." {
		return "", fmt.Errorf("login class %.40q: not a name", class)
	}
	text, err := readBounded(filepath.Join(dir, class))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = nil, nil
	}
	if err != nil {
		return "", err
	}
	whole, err := readBounded(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	records := parseClasses(string(text) + "\n" + string(whole))
	if _, ok := records[class]; !ok {
		class = defaultClass
	}
	for _, name := range []string{"auth-" + kind, "auth"} {
		list, ok, err := capability(records, class, name, 0)
		if err != nil {
			return "", err
		}
		if first, _, _ := strings.Cut(list, ","); ok && first != "" {
			return strings.TrimSpace(first), nil
		}
	}
	return defaultStyle, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxClasses+1))
	if err == nil && len(text) > maxClasses {
		err = fmt.Errorf("%s: longer than %d bytes", path, maxClasses)
	}
	return text, err
}

// parseClasses reads records as getcap(3) has them: a name, or several with '|'
// between them, and capabilities, all with ':' between them; a '\' at the end of a line
// joins it with the next. The first record of a name counts.
func parseClasses(text string) map[string][]string {
	records := make(map[string][]string)
	var record strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if record.Len() == 0 && strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		part, goesOn := strings.CutSuffix(line, `\`)
		record.WriteString(part)
		if goesOn {
			continue
		}
		fields := strings.Split(record.String(), ":")
		record.Reset()
		for name := range strings.SplitSeq(fields[0], "|") {
			if name = strings.TrimSpace(name); name != "" && records[name] == nil {
				records[name] = fields[1:]
			}
		}
	}
	return records
}

// capability returns the value of a capability of a class: NAME=VALUE in its record,
// or in that of the class that the record's tc=CLASS names; NAME@ hides that one.
func capability(records map[string][]string, class, name string, depth int) (value string, ok bool, err error) {
	if depth > maxDepth {
		return "", false, fmt.Errorf("login class %.40q: tc= without end", class)
	}
	for _, field := range records[class] {
		field = strings.TrimSpace(field)
		if field == name+"@" {
			return "", false, nil
		}
		if value, ok := strings.CutPrefix(field, name+"="); ok {
			return value, true, nil
		}
		if next, isRef := strings.CutPrefix(field, "tc="); isRef { // the last of a record
			return capability(records, next, name, depth+1)
		}
	}
	return "", false, nil
}
