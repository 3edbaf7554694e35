package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opensmtpd/opensmtpd/platform"
)

// prepareSpool makes the directories of the spool, and sees to the owners and
// modes of those that exist:
//
//	spool      0711 root     root directory of the queue process
//	offline    1733 root     where sendmail drops mail while the daemon is down
//	temporary, incoming, queue, corrupt, journal, keep
//	           0700 _smtpq   made by the queue
//
// Everybody may put a file into offline, nobody but root may list it or read
// another's: no program needs a set-id bit for it.
func prepareSpool(paths platform.Paths, id identity) error {
	if err := os.MkdirAll(paths.Run, 0o755); err != nil {
		return err
	}
	if id.confine {
		if err := os.MkdirAll(paths.Empty, 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(paths.Spool, 0o711); err != nil {
		return err
	}
	offline := filepath.Join(paths.Spool, "offline")
	if err := os.MkdirAll(offline, 0o700); err != nil {
		return err
	}
	if !id.confine {
		return nil
	}
	// The queue process makes its own directories below a root directory that is
	// not its own; those that an earlier version left belong to it already.
	for _, name := range []string{"temporary", "incoming", "queue", "corrupt", "journal", "purge", "keep"} {
		dir := filepath.Join(paths.Spool, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, id.queue.UID, id.queue.GID); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{paths.Spool, 0o711}, {offline, os.ModeSticky | 0o733}} {
		if err := os.Chown(d.path, 0, 0); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
	return nil
}
