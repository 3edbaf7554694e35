// Package vfs is the file operations of a spool: the few that a mail store needs,
// by names relative to one directory. OS does them on disk. Mem does them in
// memory, knows what a power cut would leave, and fails on demand; the crash
// suites of the stores run on it.
//
// An operation on a directory entry (create, rename, remove, link) is durable
// after SyncDir of its directory, the bytes of a file after Sync or SyncData of
// the file. Rename is atomic, also between two directories: syncing either makes
// it durable as a whole.
package vfs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FS is a directory tree. Names are slash-separated, relative, without "..". All
// methods may be called at the same time. Errors wrap those of package io/fs
// where these fit, and system errors such as syscall.ENOSPC.
type FS interface {
	// OpenFile opens a file with flags of package os. It follows no symbolic link
	// in the last element.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	// Rename replaces a file or an empty directory at the new name.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	Link(from, to string) error
	Stat(name string) (fs.FileInfo, error)
	// ReadDir lists a directory in no order.
	ReadDir(name string) ([]fs.DirEntry, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// File is an open file. ReadAt and WriteAt may be called at the same time.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Writer // appends behind the previous Write, from 0 on
	io.Closer
	Sync() error
	// SyncData makes the bytes and the size durable, but perhaps not times.
	SyncData() error
	Size() (int64, error) // bytes
	// OS returns a descriptor of the file that can be handed to another process,
	// positioned at 0. The File must not be used any more, not even closed; closing
	// the descriptor does.
	OS() (*os.File, error)
}

// Exists tells whether name exists.
func Exists(fsys FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if err == nil {
		return true, nil
	}
	if os.IsNotExist(err) {
		return false, nil
	}
	return false, err
}

// RemoveAll removes name and what is below it. A name that does not exist is no error.
func RemoveAll(fsys FS, name string) error {
	info, err := fsys.Stat(name)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		list, err := fsys.ReadDir(name)
		if err != nil {
			return err
		}
		for _, d := range list {
			if err := RemoveAll(fsys, name+"/"+d.Name()); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(name)
}

// MkdirAll makes name, and its parents below the root, where they are missing. It
// syncs the directory of each one it makes.
func MkdirAll(fsys FS, name string, perm fs.FileMode) error {
	if there, err := Exists(fsys, name); there || err != nil {
		return err
	}
	parent := filepath.ToSlash(filepath.Dir(name))
	if parent != "." {
		if err := MkdirAll(fsys, parent, perm); err != nil {
			return err
		}
	}
	if err := fsys.Mkdir(name, perm); err != nil && !os.IsExist(err) {
		return err
	}
	return fsys.SyncDir(parent)
}

// osFS is a directory on disk.
type osFS struct{ dir string }

// OS returns the tree below dir.
func OS(dir string) FS { return osFS{dir} }

// path returns the system's name of name. The directory belongs to the caller
// alone, so that nobody else can put a symbolic link in the way.
func (f osFS) path(op, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return f.dir + "/" + name, nil
}

func (f osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	p, err := f.path("open", name)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(p, flag|syscall.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	return osFile{file}, nil
}

func (f osFS) Mkdir(name string, perm fs.FileMode) error {
	p, err := f.path("mkdir", name)
	if err != nil {
		return err
	}
	return os.Mkdir(p, perm)
}

func (f osFS) Rename(from, to string) error {
	a, err := f.path("rename", from)
	if err != nil {
		return err
	}
	b, err := f.path("rename", to)
	if err != nil {
		return err
	}
	// Not os.Rename: it looks at the new name first, which costs a call.
	if err := syscall.Rename(a, b); err != nil {
		return &os.LinkError{Op: "rename", Old: a, New: b, Err: err}
	}
	return nil
}

func (f osFS) Remove(name string) error {
	p, err := f.path("remove", name)
	if err != nil {
		return err
	}
	return os.Remove(p)
}

func (f osFS) Link(from, to string) error {
	a, err := f.path("link", from)
	if err != nil {
		return err
	}
	b, err := f.path("link", to)
	if err != nil {
		return err
	}
	return os.Link(a, b)
}

func (f osFS) Stat(name string) (fs.FileInfo, error) {
	p, err := f.path("stat", name)
	if err != nil {
		return nil, err
	}
	return os.Lstat(p)
}

func (f osFS) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := f.path("readdir", name)
	if err != nil {
		return nil, err
	}
	d, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	list, err := d.ReadDir(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return list, err
}

func (f osFS) SyncDir(name string) error {
	p, err := f.path("sync", name)
	if err != nil {
		return err
	}
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// osFile is a file on disk.
type osFile struct{ *os.File }

func (f osFile) SyncData() error { return syncData(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) OS() (*os.File, error) { return f.File, nil }
