package userdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/opensmtpd/opensmtpd/platform"
)

// maxHelperOutput bounds what is kept of a helper's output, in bytes.
const maxHelperOutput = 1 << 20

// getentUnknown is the exit status by which getent(1) says that a key is not in
// the database.
const getentUnknown = 2

// getent asks all configured sources for the user called name.
func (db *DB) getent(ctx context.Context, name string) (*platform.User, error) {
	out, status, err := db.run(ctx, db.cfg.Getent, "passwd", name)
	if err != nil {
		return nil, err
	}
	if status == getentUnknown {
		return nil, platform.ErrNoUser
	}
	if status != 0 {
		return nil, fmt.Errorf("%s: exit status %d", db.cfg.Getent, status)
	}
	line, rest, _ := strings.Cut(out, "\n")
	if rest != "" {
		return nil, fmt.Errorf("%s: more than one answer", db.cfg.Getent)
	}
	u, err := parsePasswd(line)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", db.cfg.Getent, err)
	}
	// A name of digits is taken for a uid. A directory may well answer another
	// spelling of the name: the one it answers is the user's.
	if u.Name != name && isNumber(name) {
		return nil, platform.ErrNoUser
	}
	return u, nil
}

// isNumber tells whether getent would take name for a number.
func isNumber(name string) bool {
	return strings.Trim(name, "0123456789") == ""
}

// idGroups asks all configured sources for the groups of a user known to exist.
func (db *DB) idGroups(ctx context.Context, name string, gid int) ([]int, error) {
	out, status, err := db.run(ctx, db.cfg.ID, "-G", name)
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, fmt.Errorf("%s: exit status %d", db.cfg.ID, status)
	}
	groups := []int{gid}
	for f := range strings.FieldsSeq(out) {
		id, err := parseID(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", db.cfg.ID, err)
		}
		groups = addGroup(groups, id)
		if len(groups) > maxGroups {
			return nil, fmt.Errorf("%s: too many groups", db.cfg.ID)
		}
	}
	return groups, nil
}

// run runs a helper program and returns its standard output and exit status. At
// most maxHelpers run at once; it waits for its turn as long as ctx lasts.
func (db *DB) run(ctx context.Context, program string, args ...string) (string, int, error) {
	select {
	case db.helpers <- struct{}{}:
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
	defer func() { <-db.helpers }()

	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	var out bounded
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", 0, fmt.Errorf("%s: %w", program, ctx.Err())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return "", exit.ExitCode(), nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", program, err)
	}
	if out.over {
		return "", 0, fmt.Errorf("%s: more than %d bytes of output", program, maxHelperOutput)
	}
	return out.buf.String(), 0, nil
}

// bounded keeps the first maxHelperOutput bytes written to it and notes if there
// were more.
type bounded struct {
	buf  bytes.Buffer
	over bool
}

// Write takes all of p, so that the program does not block.
func (b *bounded) Write(p []byte) (int, error) {
	if room := maxHelperOutput - b.buf.Len(); len(p) > room {
		b.over = true
		b.buf.Write(p[:room])
	} else {
		b.buf.Write(p)
	}
	return len(p), nil
}
