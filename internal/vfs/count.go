package vfs

import "io/fs"

// Count returns fsys with a function that is called before each wait for the disk:
// Sync and SyncData of a file, SyncDir of a directory.
func Count(fsys FS, synced func()) FS { return counted{fsys, synced} }

type counted struct {
	FS
	synced func()
}

func (c counted) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return countedFile{f, c.synced}, nil
}

func (c counted) SyncDir(name string) error {
	c.synced()
	return c.FS.SyncDir(name)
}

type countedFile struct {
	File
	synced func()
}

func (f countedFile) Sync() error {
	f.synced()
	return f.File.Sync()
}

func (f countedFile) SyncData() error {
	f.synced()
	return f.File.SyncData()
}
