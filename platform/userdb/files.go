package userdb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opensmtpd/opensmtpd/platform"
)

// maxLine bounds a line of a database file, in bytes. Groups with thousands of
// members make long ones.
const maxLine = 1 << 20

// maxGroups bounds the groups of one user; Linux allows 65536.
const maxGroups = 65536

// eachLine calls f with each line of the file called path until f returns false.
// The bytes are valid during the call only.
func eachLine(path string, f func(line []byte) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	for s.Scan() {
		if !f(s.Bytes()) {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// findPasswd returns the user called name from a passwd(5) file, nil when it has
// none; plus tells whether a line of the file refers to YP.
func findPasswd(path, name string) (u *platform.User, plus bool, err error) {
	var bad error
	err = eachLine(path, func(line []byte) bool {
		if len(line) > 0 && (line[0] == '+' || line[0] == '-') {
			plus = true
			return true
		}
		if len(line) <= len(name) || line[len(name)] != ':' || string(line[:len(name)]) != name {
			return true
		}
		u, bad = parsePasswd(string(line))
		return false
	})
	if err == nil && bad != nil {
		err = fmt.Errorf("%s: %w", path, bad)
	}
	return u, plus, err
}

// parsePasswd reads one line of passwd(5): name:password:uid:gid:gecos:home:shell.
func parsePasswd(line string) (*platform.User, error) {
	f := strings.Split(line, ":")
	if len(f) != 7 {
		return nil, fmt.Errorf("passwd line of %d fields instead of 7", len(f))
	}
	uid, err := parseID(f[2])
	if err != nil {
		return nil, fmt.Errorf("uid of user %q: %w", f[0], err)
	}
	gid, err := parseID(f[3])
	if err != nil {
		return nil, fmt.Errorf("gid of user %q: %w", f[0], err)
	}
	if f[0] == "" {
		return nil, errors.New("passwd line without a name")
	}
	u := &platform.User{Name: f[0], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]}
	if u.Shell == "" {
		u.Shell = "/bin/sh" // passwd(5)
	}
	return u, nil
}

// parseID reads a user or group id. The highest value means "none" to the system
// calls that take one, so it is no id.
func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 || s[0] == '+' {
		return 0, fmt.Errorf("bad id %q", s)
	}
	return int(n), nil
}

// findGroups returns the ids of the groups of the user called name from a group(5)
// file, gid first; plus tells whether a line of the file refers to YP. A line that
// does not parse names no group of the user.
func findGroups(path, name string, gid int) (groups []int, plus bool, err error) {
	groups = []int{gid}
	want := []byte(name)
	err = eachLine(path, func(line []byte) bool {
		if len(line) > 0 && (line[0] == '+' || line[0] == '-') {
			plus = true
			return true
		}
		if !bytes.Contains(line, want) {
			return true
		}
		f := strings.Split(string(line), ":")
		if len(f) != 4 || !hasMember(f[3], name) {
			return true
		}
		if id, err := parseID(f[2]); err == nil {
			groups = addGroup(groups, id)
		}
		return len(groups) < maxGroups
	})
	return groups, plus, err
}

// hasMember tells whether name is in a comma-separated list.
func hasMember(list, name string) bool {
	for m := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(m) == name {
			return true
		}
	}
	return false
}

// addGroup adds id to groups unless it is there.
func addGroup(groups []int, id int) []int {
	for _, g := range groups {
		if g == id {
			return groups
		}
	}
	return append(groups, id)
}

// sourcesOf returns the sources of a database by the text of nsswitch.conf(5), in
// order, without the [status=action] criteria; ok is false when the text does not
// speak of it.
func sourcesOf(text, database string) (sources []string, ok bool) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		db, rest, found := strings.Cut(line, ":")
		if !found || strings.TrimSpace(db) != database {
			continue
		}
		for rest != "" {
			before, after, bracket := strings.Cut(rest, "[")
			sources = append(sources, strings.Fields(before)...)
			if !bracket {
				break
			}
			_, rest, _ = strings.Cut(after, "]")
		}
		return sources, true
	}
	return nil, false
}
