package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opensmtpd/opensmtpd/internal/config"
	"github.com/opensmtpd/opensmtpd/internal/keep"
	"github.com/opensmtpd/opensmtpd/internal/mtasts"
	"github.com/opensmtpd/opensmtpd/internal/policy"
	"github.com/opensmtpd/opensmtpd/internal/proc/lookup"
	procqueue "github.com/opensmtpd/opensmtpd/internal/proc/queue"
	"github.com/opensmtpd/opensmtpd/internal/proto"
	"github.com/opensmtpd/opensmtpd/internal/queue"
	"github.com/opensmtpd/opensmtpd/internal/queue/codec"
	"github.com/opensmtpd/opensmtpd/internal/queue/fs"
	"github.com/opensmtpd/opensmtpd/internal/scheduler/ram"
	"github.com/opensmtpd/opensmtpd/internal/tables/cache"
	"github.com/opensmtpd/opensmtpd/internal/tables/db"
	"github.com/opensmtpd/opensmtpd/internal/tables/file"
	"github.com/opensmtpd/opensmtpd/internal/tables/passwd"
	tableprogram "github.com/opensmtpd/opensmtpd/internal/tables/program"
	"github.com/opensmtpd/opensmtpd/internal/tables/static"
	"github.com/opensmtpd/opensmtpd/internal/vfs"
	"github.com/opensmtpd/opensmtpd/mda"
	"github.com/opensmtpd/opensmtpd/mda/agent"
	"github.com/opensmtpd/opensmtpd/platform/diskspace"
	"github.com/opensmtpd/opensmtpd/table"
)

// tableBackends are the backends that read a file, by the word of smtpd.conf.
// Inline tables and the system's users are no files.
var tableBackends = map[string]func(path string, o static.Options) (table.Table, error){
	"file":   func(path string, o static.Options) (table.Table, error) { return file.Open(path, o) },
	"db":     func(path string, o static.Options) (table.Table, error) { return db.Open(path, o) },
	"passwd": func(path string, o static.Options) (table.Table, error) { return passwd.Open(path, o) },
}

// openTable opens a table of the configuration for the lookup process.
func openTable(ctx context.Context, t proto.Table, a lookup.Access) (table.Table, error) {
	tab, err := openBackend(ctx, t, a)
	if err == nil && t.TTL > 0 {
		tab = cache.New(tab, t.TTL, nil)
	}
	return tab, err
}

func openBackend(ctx context.Context, t proto.Table, a lookup.Access) (table.Table, error) {
	if t.Program {
		return tableprogram.Open(tableprogram.Options{Name: t.Name, Version: version, Start: a.Program, Warn: a.Warn}), nil
	}
	o := static.Options{
		Delim: t.Delim, Regex: t.Regex,
		OpenFile: func(string) (*os.File, error) { return a.File(context.WithoutCancel(ctx)) },
	}
	if t.Path == "" && t.Backend == "static" {
		kind := static.List
		entries := make([]static.Entry, len(t.Entries))
		for i, e := range t.Entries {
			entries[i] = static.Entry{Key: e.Key, Value: e.Value}
			if e.Value != "" {
				kind = static.Map
			}
		}
		if len(entries) == 0 {
			kind = static.Empty
		}
		return static.New(kind, entries, o)
	}
	backend := tableBackends[t.Backend]
	if backend == nil {
		return nil, fmt.Errorf("no table backend %q", t.Backend)
	}
	return backend(t.Path, o)
}

// tableKind tells the check of the configuration what a table file holds.
func tableKind(backend, path string) (config.TableKind, error) {
	switch backend {
	case "file", "static":
		k, err := file.Kind(path, false)
		if err != nil {
			return 0, err
		}
		return map[static.Kind]config.TableKind{static.Empty: config.Empty, static.List: config.List, static.Map: config.Map}[k], nil
	case "db", "passwd":
		o := static.Options{}
		t, err := tableBackends[backend](path, o)
		if err != nil {
			return 0, err
		}
		return config.Dynamic, t.Close()
	}
	return config.Dynamic, nil
}

// hasLabel tells the check of the configuration whether a table file has credentials
// for a label.
func hasLabel(backend, path, label string) (bool, error) {
	t, err := tableBackends[backend](path, static.Options{})
	if err != nil {
		return false, err
	}
	_, err = t.Lookup(context.Background(), table.Credentials, label)
	found := err == nil
	if errors.Is(err, table.ErrNotFound) {
		err = nil
	}
	return found, errors.Join(err, t.Close())
}

// openStore opens the spool.
func openStore(c proto.QueueConfig, synced func()) (queue.Store, error) {
	dir := c.Confine.Root
	o := fs.Options{
		MinFreeSpace: c.MinFreeSpace, MinFreeInodes: c.MinFreeInodes,
		Free: func() (space, inodes float64, err error) { return diskspace.Free(dir) },
	}
	// The codec is there even when it has nothing to do: it reads what was compressed
	// under an earlier configuration.
	coder, err := codec.New(map[string]codec.Compression{"gzip": codec.Gzip, "zstd": codec.Zstd}[c.Compression], c.Key)
	if err != nil {
		return nil, err
	}
	o.Codec = coder
	return fs.Open(vfs.Count(vfs.OS(dir), synced), o)
}

// openRecords opens the records that lookup keeps in the spool.
func openRecords(c proto.QueueConfig) map[proto.RecordKind]keep.Keeper {
	dir := filepath.Join(c.Confine.Root, "keep")
	return map[proto.RecordKind]keep.Keeper{
		proto.KeptPolicies:  keep.New(filepath.Join(dir, "mta-sts"), keep.Limits{Records: 10_000, Size: mtasts.MaxEntry}),
		proto.KeptTLSCounts: keep.New(filepath.Join(dir, "tlsrpt"), keep.Limits{Records: 16, Size: proto.MaxRecord}),
	}
}

// openSchedule makes the schedule.
func openSchedule(maxInFlight int) procqueue.Schedule {
	return ram.New(ram.Limits{MaxInFlight: maxInFlight})
}

// makeAgent makes the delivery agent of a worker.
func makeAgent(c proto.WorkerConfig) (mda.Agent, error) {
	s := agent.Spec{
		Path: c.Path, Junk: c.Junk, Dest: c.Dest, RcptTo: c.RcptTo, Command: c.Command, Wrapper: c.Wrapper,
		HostName: c.HostName, MailDir: c.MailDir, Libexec: c.Libexec, Shell: c.Shell, DefPath: c.DefPath,
		Delimiter: c.Delimiter, Timeout: c.Timeout,
	}
	switch policy.Method(c.Method) {
	case policy.Mbox:
		s.Method = agent.Mbox
	case policy.Maildir:
		s.Method = agent.Maildir
	case policy.LMTP:
		s.Method = agent.LMTP
	case policy.Command:
		s.Method = agent.Command
	case policy.ForwardOnly, policy.ExpandOnly:
		return nil, errors.New("the action only expands; it delivers nothing")
	default:
		return nil, fmt.Errorf("unknown delivery method %d", c.Method)
	}
	return agent.New(s)
}
