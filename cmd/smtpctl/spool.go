package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opensmtpd/opensmtpd/internal/control"
	"github.com/opensmtpd/opensmtpd/internal/envelope"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	spool "github.com/opensmtpd/opensmtpd/internal/queue/fs"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
)

// showSpool lists the spool of a daemon that is down, for who may read it; others
// are told that it is down. Nothing in the spool is changed.
func (p *program) showSpool(ctx context.Context, only envelope.MsgID, down error) error {
	dir := p.readableSpool()
	if dir == "" {
		return down
	}
	store, err := spool.Inspect(vfs.OS(dir), spool.Options{})
	if err != nil {
		return &localError{err}
	}
	defer store.Close()
	var page proto.ListReply
	failed := false
	err = store.Walk(ctx, func(e *envelope.Envelope, err error) error {
		switch {
		case err != nil:
			failed = true
			fmt.Fprintf(p.stderr, "%s: %s\n", p.name, oneLine(err.Error()))
		case only == 0 || e.ID.MsgID() == only:
			page.Entries = append(page.Entries, proto.ListEntry{Envelope: *e})
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &localError{err}
	}
	slices.SortFunc(page.Entries, func(a, b proto.ListEntry) int { return cmp.Compare(a.Envelope.ID, b.Envelope.ID) })
	if page.Corrupt, err = store.Corrupt(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &localError{err}
	}
	out := bufio.NewWriterSize(p.stdout, 64<<10)
	if err := p.writePage(out, page, only); err != nil {
		return &localError{err}
	}
	fmt.Fprintf(p.stderr, "%s: %v; this is what %s holds\n", p.name, control.ErrNotRunning, dir)
	if err := out.Flush(); err != nil {
		return &localError{err}
	}
	if failed {
		return errSilent
	}
	return nil
}

// readableSpool returns the first spool that may be read; "" for none, and when a
// socket was named, whose spool is not known.
func (p *program) readableSpool() string {
	if p.socket != "" {
		return ""
	}
	for _, dir := range p.spools() {
		if _, err := os.ReadDir(filepath.Join(dir, "journal")); err == nil {
			return dir
		}
	}
	return ""
}
