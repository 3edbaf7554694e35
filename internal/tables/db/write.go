package db

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opensmtpd/opensmtpd/internal/tables/static"
)

// WriteOptions say how a database is written.
type WriteOptions struct {
	Mode fs.FileMode // of a new file; an existing one keeps its mode; 0 means 0644

	// KeepCase stores keys as they are. Without it they are stored in lower case,
	// which all services but Regex want.
	KeepCase bool
}

// Write makes a database of the entries at path, in their order. A later entry of
// the same key replaces an earlier one. The file is written beside path, synced and
// renamed over it, so that a reader finds the old or the new one, whole.
func Write(path string, entries []static.Entry, o WriteOptions) error {
	mode := o.Mode.Perm()
	if mode == 0 {
		mode = 0o644
	}
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	err = writeTo(f, entries, o.KeepCase)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// writeTo writes the whole database.
func writeTo(f *os.File, entries []static.Entry, keepCase bool) error {
	w := bufio.NewWriterSize(f, 256<<10)
	l := layout{w: w}
	if err := l.write(make([]byte, headerSize)); err != nil {
		return err
	}
	last := make(map[string]int, len(entries))
	order := make([]string, 0, len(entries))
	for i, e := range entries {
		key := e.Key
		if !keepCase {
			key = strings.ToLower(key)
		}
		if _, dup := last[key]; !dup {
			order = append(order, key)
		}
		last[key] = i
	}
	for _, key := range order {
		if err := l.add(key, entries[last[key]].Value); err != nil {
			return err
		}
	}
	header, err := l.finish()
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.WriteAt(header, 0)
	return err
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Dump calls f for each entry of the database at path, in the order written, until
// f returns an error.
func Dump(path string, f func(key, value string) error) error {
	c, err := load(path, static.Options{})
	if err != nil {
		return err
	}
	defer c.close()
	return c.walk(func(r record) error { return f(r.key, r.value) })
}
